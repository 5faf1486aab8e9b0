"""What the value of a flag may be: a number, a text, a path on this machine or an address, proven before any work is done."""

from __future__ import annotations

import math
import os
import re

from vos.errors import InputError
from vos.files.names import NOT_IN_A_NAME
from vos.redaction import has_secret, without_secret

STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
"""Schemes that results and caches may be at: those of pyarrow.fs."""
LARGEST = 2**31
"""Of whole numbers: what fits 31 bits is taken by every library here."""
NAME_BYTES, PATH_BYTES, KEY_BYTES = 255, 4095, 1024
"""Limits of Linux, for a name and a path, and of S3, for the name of an object."""
OWN_NAME_BYTES, OWN_PATH_BYTES = 64, 400
"""Kept free in what is written: temporary names (37 letters) and the files in a folder of ours."""
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_address(value: str) -> bool:
    """A URI, or a version in the registry (models:/NAME/3)."""
    return "://" in value or value.startswith("models:/")


def absolute(path: str, home: str, flag: str) -> str:
    """A path on this machine, from `home` where it is relative. Raises InputError for the folder of a user who does not exist."""
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
        user = path.partition("/")[0]
        if user == "~" or not os.path.lexists(os.path.join(home, user)):
            raise InputError(
                f"{flag} {path}: there is no user '{user[1:]}' on this machine; write the whole path, or ./{path}"
            )
    return os.path.normpath(os.path.join(home, expanded))


def check_number(flag: str, value: object) -> None:
    """Raise InputError for a number that is not finite, or beyond 31 bits."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{flag} {value}: give a finite number")
    if isinstance(value, int | float) and abs(value) >= LARGEST:
        raise InputError(
            f"{flag} {str(value)[:40] if abs(value) < 10**40 else 'of so many digits'}: use less than {LARGEST}"
        )


def check_text(flag: str, value: str) -> None:
    """Raise InputError for a value with control characters, or with bytes that are not UTF-8: no log, file or server takes it whole."""
    if bad := NOT_IN_A_NAME.search(value):
        kind = "bytes that are not UTF-8" if "\ud800" <= bad[0] <= "\udfff" else "a control character"
        raise InputError(
            f"{flag} {value[:200]}: holds {kind} ({bad[0]}); rename it, or make a link to it with a plain name"
        )


def check_secret(flag: str, value: str) -> None:
    """Raise InputError, without showing them, where an address holds a user, a password or a signature: addresses are saved, logged and
    printed."""
    if has_secret(value):
        raise InputError(
            f"{flag} {without_secret(value)}: leave user, password and keys out of addresses, which are saved and logged; give them by the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile: AWS_PROFILE)"
        )


def check_path(flag: str, path: str, written: bool) -> None:
    """Raise InputError for a name or path that is too long.

    written  it is written to: names that are put after it must fit too
    """
    names = path.encode("utf-8", "surrogateescape").split(b"/")
    room = NAME_BYTES - OWN_NAME_BYTES * written
    if (longest := max(map(len, names))) > room:
        raise InputError(f"{flag} {path[:60]}…: a name of {longest} bytes; use {room} at most")
    length, room = len(path.encode("utf-8", "surrogateescape")), PATH_BYTES - OWN_PATH_BYTES * written
    if length > room:
        raise InputError(f"{flag} {path[:60]}…: a path of {length} bytes; use {room} at most")


def check_address(flag: str, address: str, written: bool) -> None:
    """Raise InputError for an address that no store can have."""
    scheme, _, rest = address.partition("://")
    place, _, query = rest.partition("?")
    bucket, _, key = place.partition("/")
    shown = address if len(address) <= 160 else f"{address[:120]}…"
    problem = ""
    if scheme not in STORES:
        problem = f"'{scheme}' is no store that is known here"
    elif _ESCAPE.search(rest):
        problem = "a % that is not followed by two hexadecimal digits"
    elif scheme == "file":
        problem = "" if place.startswith("/") and len(place) > 1 else "it names no folder of this machine"
    elif not bucket and scheme not in ("hdfs", "viewfs"):
        problem = "it names no bucket"
    elif len(place.encode("utf-8", "replace")) > KEY_BYTES - OWN_PATH_BYTES * written:
        problem = f"it is longer than {KEY_BYTES - OWN_PATH_BYTES * written} bytes"
    elif "#" in rest or " " in bucket:
        problem = "'#' and spaces do not occur in a bucket's address"
    if problem:
        raise InputError(f"{flag} {shown}: {problem}; use a folder, s3://bucket/folder or file:///folder")
    if written and scheme == "file":
        check_path(flag, place, written)
    if query and not re.fullmatch(r"[^=&]+=[^&]*(&[^=&]+=[^&]*)*", query):
        raise InputError(
            f"{flag} {shown}: what follows '?' is no list of name=value; use s3://bucket/folder?region=NAME"
        )
