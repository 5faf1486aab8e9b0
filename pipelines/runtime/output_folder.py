"""Whose folder an --out is: one job's, for one identity, and nothing that is not its own is replaced, deleted or believed there.

    OUT/identity.json   the job and all that decides its outcome, sealed: the mark of a folder that is ours
    OUT/config.json     the configuration of the last command, for --config
    OUT/.written        which files the job wrote (`vos.files.written`)

A folder is used when it is new, empty, or carries this job's mark; a lost or damaged mark never makes a folder a new one.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from pipelines import storage, tracking
from vos.config import JobConfig
from vos.errors import InputError
from vos.files.canonical import differences, dumps, fingerprint, to_dict
from vos.files.json_files import checked, parse_json
from vos.files.seals import unsealed
from vos.files.written import LEDGER, Written

IDENTITY, CONFIG, RUN = "identity.json", "config.json", "run.json"
NOTHING: dict[str, Any] = {}
"""The identity of a folder that is marked and in which nothing was begun yet."""
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")
"""What a killed writer leaves."""
Kind = TypeVar("Kind")


class Identity(TypedDict):
    identity: dict[str, Any]


class _Run(TypedDict):
    run_id: str


@contextmanager
def output_folder(config: JobConfig, job: str, wait_s: float = 0) -> Iterator[Written]:
    """`config.out`, made and held by this process, after it was found to be new, empty or this job's.

    wait_s  how long to wait for another process that writes there
    Raises InputError, before anything is written, for a folder with other content, and for one that another process holds.
    """
    folder = check_folder(config, job)
    storage.make_folder(config.out)
    with storage.only_writer(config.out, wait_s):
        yield folder


def check_folder(config: JobConfig, job: str) -> Written:
    """`config.out`, found to be new, empty or this job's. Raises InputError where it is not; nothing is written."""
    folder = Written(config.out, job, overwrite=config.overwrite, files=storage.FILES)
    _check_own(folder)
    return folder


def existing(path: str, job: str) -> Written:
    """The folder of a run that has begun, to read from. Raises InputError where it is no folder of this job."""
    folder = Written(path, job, files=storage.FILES)
    identity = _identity(folder)
    if identity is None:
        raise InputError(f"{folder.root}/{IDENTITY}: does not exist; name the --out of a jobs.{job} of this version")
    folder.of = fingerprint(identity)
    return folder


def identity_of(folder: Written) -> dict[str, Any] | None:
    """The identity that a folder is marked with, None for a new one, or, with --overwrite, where it cannot be believed."""
    try:
        return _identity(folder)
    except InputError:
        if folder.overwrite:
            return None
        raise


def claim(folder: Written, config: JobConfig, identity: dict[str, Any], what: str, replaces: bool = False) -> bool:
    """Mark the folder, before any work; returns whether it was this very identity's before.

    identity  JSON of all that decides the outcome
    what      of what, in words: "a training"
    replaces  what another identity of this job left is replaced
    Raises InputError, naming what differs, for the folder of another one.
    """
    old, new = identity_of(folder), json.loads(dumps(identity))
    if old not in (None, NOTHING, new) and not (replaces or folder.overwrite):
        changed = "; ".join(differences(old, new))
        raise InputError(
            f"{config.out}: holds {what} with another configuration ({changed}); choose another --out or delete it"
        )
    mark(folder, new)
    folder.write_json(CONFIG, to_dict(config))
    return old == new


def check_links(folder: Written) -> None:
    """Raise InputError where a folder below is a link to elsewhere: for jobs that let others work there."""
    for name in storage.list_folders(folder.root):
        folder.path(f"{name}/-")


def mark(folder: Written, identity: dict[str, Any]) -> None:
    """Write down whose folder this is. From here on its sealed files are those of `identity`."""
    folder.of = fingerprint(identity)
    folder.write_json(IDENTITY, Identity(identity=identity))


@dataclass(frozen=True)
class OutputFile:
    """A single file that a flag names, such as --csv: replaced where this job wrote it as it is (`.written` beside it says so)."""

    path: str
    job: str
    overwrite: bool

    def check(self) -> None:
        """Raise InputError, before any work, where another file stands there."""
        self._folder().check([self._name])

    def write(self, data: bytes) -> str:
        return self._folder().write(self._name, data)

    def record(self, path: str) -> None:
        """Say that a file that is about to get this name, at `path` until then, is this job's."""
        with open(path, "rb") as file:
            self._folder().record({self._name: hashlib.file_digest(file, "sha256").hexdigest()})

    def _folder(self) -> Written:
        parent = posixpath.dirname(self.path) or "."
        return Written(parent, self.job, overwrite=self.overwrite, files=storage.FILES)

    @property
    def _name(self) -> str:
        return posixpath.basename(self.path)


@contextmanager
def folder_run(
    folder: Written, config: JobConfig, experiment: str, name: str, tags: dict[str, str]
) -> Iterator[tracking.Run]:
    """The MLflow run of what is made in a folder: however often it was interrupted, it is one run."""
    with tracking.start_run(experiment, name, config, tags, resume=run_id_of(folder)) as run:
        folder.write_json(RUN, _Run(run_id=run.run_id))
        yield run


def run_id_of(folder: Written) -> str:
    """The MLflow run that a folder's result belongs to, "" before there is one."""
    found = folder.read_json(RUN, _Run, "delete it to continue in a new MLflow run")
    return "" if found is None else found["run_id"]


def read_plain(path: str, kind: type[Kind], repair: str) -> Kind | None:
    """What a JSON file without a seal holds, None where there is none. Raises InputError where it is damaged or of another kind."""
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        return None
    return checked(parse_json(data, path, repair), kind, path, repair)


def _identity(folder: Written) -> dict[str, Any] | None:
    path = folder.path(IDENTITY)
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).lower().split())
        raise InputError(f"{path}: cannot be read ({reason}); choose another --out") from None
    repair = "it says whose folder this is: restore it, choose another --out, or give --overwrite"
    identity = unsealed(data, Identity, path, folder.job, None, repair)["identity"]
    return unsealed(data, Identity, path, folder.job, fingerprint(identity), repair)["identity"]


def _check_own(folder: Written) -> None:
    if identity_of(folder) is not None or folder.overwrite:
        return
    names = (name for name in storage.list_all(folder.root) if name not in (storage.LOCK, LEDGER))
    if found := [name for name in names if not _TEMPORARY.fullmatch(name)]:
        listed = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise InputError(
            f"{folder.root}: holds files that this job did not write ({listed}) and no {IDENTITY} that says otherwise; "
            "choose another --out or give --overwrite"
        )
