"""Names of videos and frames: they come from a user's lists and folders, and become names of folders and files here.

A name that cannot become a file name, or that leads out of its folder, is refused when it is read.
"""

from __future__ import annotations

import codecs
import re

from vos.errors import InputError
from vos.files.whole import read_regular

MAX_NAME_BYTES = 200
"""File systems accept 255; a suffix and the mark of an unfinished file are added."""
NOT_IN_A_NAME = re.compile(r"[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters, marks that change the writing direction, and surrogates (bytes that are not UTF-8)."""

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check_name(name: str, where: str) -> str:
    """Return `name` after checking that it is a plain name for a folder or file. Raises InputError that names `where` it was found."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise InputError(f"{where}: the name {name[:80]!r} leaves its folder; use plain folder names without slashes")
    if NOT_IN_A_NAME.search(name):
        raise InputError(f"{where}: the name {name[:80]!r} holds control characters or is not UTF-8; rename it")
    if len(name) > MAX_NAME_BYTES // 4 and len(name.encode()) > MAX_NAME_BYTES:
        raise InputError(f"{where}: the name {name[:40]}… is longer than {MAX_NAME_BYTES} bytes; shorten it")
    return name


def read_names(path: str, advice: str) -> list[str]:
    """Return the names in a text file, one per line, without blank lines and comments (lines that begin with "# ").

    The text is UTF-8, or UTF-16 if it begins with that mark; Windows' editors write both with a mark, which is skipped.
    Raises InputError if the file is absent, not a regular file, too large or not text, or if a line is not a plain name.
    """
    data = read_regular(path, "list_bytes", advice)
    try:
        lines = data.decode("utf-16" if data[:2] in _UTF_16 and len(data) > 2 else "utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8; {advice}") from None
    names = (line.strip() for line in lines)
    return [check_name(name, path) for name in names if name and name != "#" and not name.startswith("# ")]
