"""Which videos were read whole and found without a fault, remembered by the fingerprint of their contents.

A record lies in the user's private cache folder beside what `vos.data.contents` keeps there. One changed byte makes
another fingerprint, of which there is no record.
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
"""Of what was read: under smaller ones, a job may refuse what passed."""


class Record(TypedDict):
    """version of the check; date in UTC, YYYY-MM-DD; number of frames and masks; warnings; the limits that were in force."""

    version: int
    date: str
    files: int
    warnings: list[str]
    limits: dict[str, int]


def purpose_of(split: str) -> str:
    """What the videos of a split are for: clips must be drawn from those of train, the others are segmented."""
    return "clips" if split == "train" else "segmenting"


def remember(fingerprint: str, split: str, files: int, warnings: Sequence[str]) -> Record:
    """Write down that the videos of a fingerprint (`vos.data.contents`) have no fault. Raises InputError where it cannot be written."""
    limits = {name: limit(name) for name in LIMITS}
    date = time.strftime("%Y-%m-%d", time.gmtime())
    record = Record(version=VERSION, date=date, files=files, warnings=list(warnings), limits=limits)
    place, of = _place(fingerprint, split)
    write_atomic(place, sealed(record, JOB, of), sync=False)
    return record


def recall(fingerprint: str, split: str) -> Record | None:
    """What a check of this version found of the videos of a fingerprint; None where there was none, or where it found a fault."""
    if not fingerprint.startswith(FORM):  # of names and sizes alone
        return None
    place, of = _place(fingerprint, split)
    try:
        record = unsealed(read_regular(place, "json_bytes", ""), Record, place, JOB, of, "")
        lowered = any(limit(name) < record["limits"].get(name, 0) for name in LIMITS)
    except InputError:
        return None
    return None if lowered or record["version"] != VERSION else record


def forget(fingerprint: str, split: str) -> None:
    """Remove the record of these videos, if there is one: a fault was found where none had been, as a failing disk makes it."""
    with suppress(FileNotFoundError):
        os.remove(_place(fingerprint, split)[0])


def _place(fingerprint: str, split: str) -> tuple[str, str]:
    """Path of a record, and what its seal says that it is of."""
    of = f"{purpose_of(split)} {fingerprint}"
    name = hashlib.blake2b(of.encode(), digest_size=16).hexdigest()
    return os.path.join(code_cache("checks"), f"{name}.json"), of
