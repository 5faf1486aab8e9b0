"""Commands that are printed to be copied: quoted, so that a POSIX shell reads back the same words."""

from __future__ import annotations

import shlex

JOB = ("python", "-m")


def command(*words: str) -> str:
    """Return a shell command of these words, on one line and in printable characters."""
    return " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """Return a word quoted for a POSIX shell, unchanged where it needs no quotes.

    Characters that a terminal does not show, line ends among them, are written as `$'\\x1b'`, which bash, zsh and newer shells read.
    """
    if word.isprintable():
        return shlex.quote(word)
    shown = "".join(_escaped(one) for one in word)
    return f"$'{shown}'"


def _escaped(one: str) -> str:
    if one in "'\\":
        return f"\\{one}"
    if one.isprintable():
        return one
    return "".join(f"\\x{byte:02x}" for byte in one.encode(errors="surrogateescape"))
