"""The exception for errors that a user can cause and fix, and how names from outside are shown."""

from vos.redaction import redact_all


def printable(text: str) -> str:
    """Return `text` on one line, safe for a terminal.

    Characters that are not printable are escaped as in Python: `\\x1b`, `\\n`, `\\udcff`. They are control characters, line ends,
    surrogates and marks that change the writing direction. Every name from a file, folder or server passes through this function
    before it is shown. Applying it twice changes nothing.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


MOST_LETTERS = 580
"""Longest error line, in characters: it may quote the content of a file or flag, which may be megabytes."""
_END_LETTERS = 150


def shortened(text: str) -> str:
    """Return `text` without its middle if it is too long for an error line. Its end is kept: it tells how to fix the error."""
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[: MOST_LETTERS - _END_LETTERS - 3]} … {text[-_END_LETTERS:]}"


class InputError(ValueError):
    """A value, file or address given by the user is wrong.

    The message is one line: what is wrong, where (file, row, flag) and how to fix it. It is redacted, made `printable` and
    `shortened` here. A job prints it and exits with 2.
    """

    def __init__(self, message: str) -> None:
        # Redact first: half a secret would not be recognised. Shorten before escaping too: escaping a million characters takes a second.
        super().__init__(shortened(printable(shortened(redact_all(message)))))


class NotFiniteError(InputError):
    """The loss or gradient is NaN or infinite. Retrying does not help: change the hyper-parameters or the clips."""
