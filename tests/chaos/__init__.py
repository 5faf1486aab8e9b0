"""Commands that kill and damage on purpose; their short versions are among the tests."""
