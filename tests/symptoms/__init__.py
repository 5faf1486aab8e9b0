"""What people's files and clusters do to the product: one test for each kind of fault that somebody has met, with its right outcome.

The inputs are made in code. A fault of a kind listed here is repaired as a kind, so each module tries several inputs of it.
"""
