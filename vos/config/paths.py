"""Checks of flag values before any work: numbers, text, local paths and addresses."""

from __future__ import annotations

import math
import os
import re

from vos.errors import InputError
from vos.files.names import NOT_IN_A_NAME
from vos.redaction import has_secret, without_secret

STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
"""Schemes of addresses for results and caches: those of pyarrow.fs."""
LARGEST = 2**31
"""Bound of numbers: every library here accepts 31 bits."""
NAME_BYTES, PATH_BYTES, KEY_BYTES = 255, 4095, 1024
"""Limits of Linux for a name and a path, and of S3 for an object key."""
OWN_NAME_BYTES, OWN_PATH_BYTES = 64, 400
"""Bytes reserved for temporary names (37 characters) and for the files that are written in the folder."""
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_address(value: str) -> bool:
    """Return whether a value is a URI or a registry version (models:/NAME/3)."""
    return "://" in value or value.startswith("models:/")


def absolute(path: str, home: str, flag: str) -> str:
    """Return a local path as absolute; a relative one starts at `home`. Raises InputError for ~USER of an unknown user."""
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
    """Raise InputError for a value with control characters or with bytes that are not UTF-8."""
    if bad := NOT_IN_A_NAME.search(value):
        kind = "bytes that are not UTF-8" if "\ud800" <= bad[0] <= "\udfff" else "a control character"
        raise InputError(
            f"{flag} {value[:200]}: holds {kind} ({bad[0]}); rename it, or make a link to it with a plain name"
        )


def check_secret(flag: str, value: str) -> None:
    """Raise InputError if an address holds a user, a password or a signature; the message hides them.

    Addresses are saved, logged and printed.
    """
    if has_secret(value):
        raise InputError(
            f"{flag} {without_secret(value)}: leave user, password and keys out of addresses, which are saved and logged; set them in the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile: AWS_PROFILE)"
        )


def check_path(flag: str, path: str, written: bool) -> None:
    """Raise InputError for a name or path that is too long.

    written  results are written there, so room is reserved for the names of files in it
    """
    names = path.encode("utf-8", "surrogateescape").split(b"/")
    room = NAME_BYTES - OWN_NAME_BYTES * written
    if (longest := max(map(len, names))) > room:
        raise InputError(f"{flag} {path[:60]}…: a name of {longest} bytes; use {room} at most")
    length, room = len(path.encode("utf-8", "surrogateescape")), PATH_BYTES - OWN_PATH_BYTES * written
    if length > room:
        raise InputError(f"{flag} {path[:60]}…: a path of {length} bytes; use {room} at most")


def check_address(flag: str, address: str, written: bool) -> None:
    """Raise InputError for an address that no supported store can have."""
    scheme, _, rest = address.partition("://")
    place, _, query = rest.partition("?")
    bucket, _, key = place.partition("/")
    shown = address if len(address) <= 160 else f"{address[:120]}…"
    problem = ""
    if scheme not in STORES:
        problem = f"'{scheme}' is not a supported store"
    elif _ESCAPE.search(rest):
        problem = "a % is not followed by two hexadecimal digits"
    elif scheme == "file":
        problem = "" if place.startswith("/") and len(place) > 1 else "it has no absolute path"
    elif not bucket and scheme not in ("hdfs", "viewfs"):
        problem = "it has no bucket"
    elif len(place.encode("utf-8", "replace")) > KEY_BYTES - OWN_PATH_BYTES * written:
        problem = f"it is longer than {KEY_BYTES - OWN_PATH_BYTES * written} bytes"
    elif "#" in rest or " " in bucket:
        problem = "'#' and spaces are not allowed in a bucket's address"
    if problem:
        raise InputError(f"{flag} {shown}: {problem}; use a folder, s3://bucket/folder or file:///folder")
    if written and scheme == "file":
        check_path(flag, place, written)
    if query and not re.fullmatch(r"[^=&]+=[^&]*(&[^=&]+=[^&]*)*", query):
        raise InputError(
            f"{flag} {shown}: the text after '?' is not a list of name=value; use s3://bucket/folder?region=NAME"
        )
