"""The one exception for what a user can cause and repair, and how names from outside are shown."""

from vos.redaction import redact_all


def printable(text: str) -> str:
    """`text` on one line that a terminal shows as it stands: what is not printable (control characters, line ends, halves of
    characters, marks that turn the direction of writing) is escaped as in Python, `\\x1b`, `\\n`, `\\udcff`.

    Every name that comes from a file, a folder or a server goes through here on its way to a terminal. Doing it twice changes nothing.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line: what is wrong, where (file, row, flag) and how to repair it; secrets are taken out of it and it is made
    `printable` here, whatever addresses and names it quotes. A job prints it and exits with 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(redact_all(message)))


class NotFiniteError(InputError):
    """A training's loss or gradient is NaN or infinite: these hyper-parameters or clips will not do, and trying again mends nothing."""
