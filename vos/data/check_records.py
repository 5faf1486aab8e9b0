"""Records of videos that were read completely without a fault, keyed by the fingerprint of their contents.

Records are in the user's private cache folder, beside the files of `vos.data.contents`. If one byte changes, the
fingerprint changes and has no record.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TypedDict

from vos.data.checking import VERSION
from vos.data.contents import FORM
from vos.errors import InputError
from vos.files.limits import limit
from vos.files.seals import sealed, unsealed
from vos.files.whole import code_cache, read_regular, write_atomic

JOB = "check"
LIMITS = ("image_bytes", "image_pixels", "jpeg_work")
"""Limits in force during a check: with lower ones, a job may refuse a file that passed."""


class Record(TypedDict):
    """version of the check; date in UTC, YYYY-MM-DD; number of frames and masks; warnings; limits in force."""

    version: int
    date: str
    files: int
    warnings: list[str]
    limits: dict[str, int]


def purpose_of(split: str) -> str:
    """Return the use of a split: clips are drawn from the videos of train, those of other splits are segmented."""
    return "clips" if split == "train" else "segmenting"


def remember(fingerprint: str, split: str, files: int, warnings: Sequence[str]) -> Record:
    """Record that the videos of a fingerprint (`vos.data.contents`) have no fault. Raises InputError if it cannot be written."""
    limits = {name: limit(name) for name in LIMITS}
    date = time.strftime("%Y-%m-%d", time.gmtime())
    record = Record(version=VERSION, date=date, files=files, warnings=list(warnings), limits=limits)
    place, of = _place(fingerprint, split)
    write_atomic(place, sealed(record, JOB, of), sync=False)
    return record


def recall(fingerprint: str, split: str) -> Record | None:
    """Return the record of the videos of a fingerprint; None if this version has not checked them or found a fault."""
    if not fingerprint.startswith(FORM):  # covers names and sizes only
        return None
    place, of = _place(fingerprint, split)
    try:
        record = unsealed(read_regular(place, "json_bytes", ""), Record, place, JOB, of, "")
        lowered = any(limit(name) < record["limits"].get(name, 0) for name in LIMITS)
    except InputError:
        return None
    return None if lowered or record["version"] != VERSION else record


def forget(fingerprint: str, split: str) -> None:
    """Remove the record of these videos, if any: a fault appeared after the check, for example on a failing disk."""
    with suppress(FileNotFoundError):
        os.remove(_place(fingerprint, split)[0])


def _place(fingerprint: str, split: str) -> tuple[str, str]:
    """Return the path of a record and the value of `of` in its seal."""
    of = f"{purpose_of(split)} {fingerprint}"
    name = hashlib.blake2b(of.encode(), digest_size=16).hexdigest()
    return os.path.join(code_cache("checks"), f"{name}.json"), of
