"""Damaged and hostile inputs for every reader of the project: `make fuzz`, or `python -m tests.fuzz --reader NAME`.

An input is a whole sample (a folder of files) with some of them changed. It is a function of (reader, seed, number) alone, so the same seed
gives the same inputs in any number of processes. What is accepted is compared with what the unchanged sample says, or with what a reader
that shares no code with the project's says of the changed files.
"""
