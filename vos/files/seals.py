"""Sealed JSON: a small file that records which job wrote it and for which run, with a digest of its content.

It stays plain JSON with one more top-level name, `seal`. A file that was edited, truncated, or copied from another run's folder is
detected. A seal is not a signature: it finds accidents and mix-ups, not forgeries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypedDict, TypeVar

from vos.errors import InputError
from vos.files.canonical import dumps
from vos.files.json_files import checked, parse_json

SEAL = "seal"
Kind = TypeVar("Kind")


class _Seal(TypedDict):
    job: str
    of: str
    sha256: str


def sealed(values: Mapping[str, Any], job: str, of: str) -> bytes:
    """Return the text of a sealed file.

    values  JSON, without the name `seal`
    job     the job that writes the file: "train"
    of      fingerprint of the run that the file belongs to
    """
    return dumps({**values, SEAL: {"job": job, "of": of, "sha256": _digest(values, job, of)}}).encode()


def unsealed(data: bytes, kind: type[Kind], path: str, job: str, of: str | None, repair: str) -> Kind:
    """Return the content of a sealed file, without its seal.

    kind    a TypedDict, or dict[str, Any]
    of      fingerprint of the run that the file must belong to, None for any
    repair  how to fix it, the end of the error line
    Raises InputError, naming `path`, if it is not JSON, has no seal, was changed, or belongs to another job or run.
    """
    values = checked(parse_json(data, path, repair, finite=False), dict[str, Any], path, repair)
    if SEAL not in values:
        raise InputError(
            f"{path}: has no seal: written by another program or by an earlier version of this one; {repair}"
        )
    seal = checked(values.pop(SEAL), _Seal, f"{path}: seal", repair)
    if seal["sha256"] != _digest(values, seal["job"], seal["of"]):
        raise InputError(f"{path}: was changed after it was written (its digest does not match); {repair}")
    if seal["job"] != job:
        raise InputError(f"{path}: written by jobs.{seal['job']}, not by jobs.{job}; {repair}")
    if of is not None and seal["of"] != of:
        raise InputError(
            f"{path}: belongs to another run (fingerprint {seal['of'][:12]}, this one's is {of[:12]}); {repair}"
        )
    return checked(values, kind, path, repair)


def is_sealed(data: bytes, job: str) -> bool:
    """Return whether this is a complete, unchanged file of a job, whatever the run."""
    try:
        unsealed(data, dict[str, Any], "", job, None, "")
    except InputError:
        return False
    return True


def _digest(values: Mapping[str, Any], job: str, of: str) -> str:
    return hashlib.sha256(dumps({**values, SEAL: {"job": job, "of": of}}).encode()).hexdigest()
