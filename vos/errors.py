"""The one exception for what a user can cause and mend."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line: what is wrong, where (file, row, flag) and how to mend it. A job prints it and exits with 2.
    """


class NotFiniteError(InputError):
    """A training's loss or gradient is NaN or infinite: these hyper-parameters or clips will not do, and trying again mends nothing."""
