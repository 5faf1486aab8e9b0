"""Claim an output folder (--out) for one job and one identity, so that no unrelated file is replaced, deleted or trusted.

    OUT/identity.json   the mark: the job and every setting that decides its outcome, sealed
    OUT/config.json     the configuration of the last command, for --config
    OUT/.written        which files the job wrote (`vos.files.written`)

A folder is used when it is new, empty, or carries this job's mark. A folder whose mark is lost or damaged is not treated as new.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from pipelines import storage, tracking
from vos.config import JobConfig
from vos.config.fields import identity
from vos.errors import InputError
from vos.files.canonical import differences, dumps, fingerprint, to_dict
from vos.files.json_files import checked, parse_json
from vos.files.seals import unsealed
from vos.files.written import LEDGER, Written

IDENTITY, CONFIG, RUN = "identity.json", "config.json", "run.json"
NOTHING: dict[str, Any] = {}
"""The identity of a marked folder in which no work has started."""
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")
"""The name of a temporary file that a killed writer leaves."""
Kind = TypeVar("Kind")


class Identity(TypedDict):
    identity: dict[str, Any]


class _Run(TypedDict):
    run_id: str


@contextmanager
def output_folder(config: JobConfig, job: str, wait_s: float = 0) -> Iterator[Written]:
    """Make and lock `config.out`, after a check that it is new, empty or this job's.

    wait_s  how long to wait for another process that writes there
    Raises InputError, before anything is written, for a folder with other content and for one that another process holds.
    """
    folder = check_folder(config, job)
    storage.make_folder(config.out)
    with storage.only_writer(config.out, wait_s):
        yield folder


@contextmanager
def claimed_folder(
    config: JobConfig,
    job: str,
    what: str,
    *,
    names: Iterable[str] = (),
    of: dict[str, Any] | None = None,
    shared: bool = False,
    wait_s: float = 0,
) -> Iterator[Written]:
    """Open a job's output folder: make, lock, check and mark it before any work.

    what    what the folder holds, for the error message: "a training"
    names   files that the job writes; an unrelated file with such a name is an error
    of      the identity; None takes the configuration's, and then a result of another identity is replaced
    shared  whether other processes write below the folder; then links there are refused
    wait_s  how long to wait for another process that writes there
    Raises InputError, before anything is written, for a folder or a file that is not this job's.
    """
    with output_folder(config, job, wait_s) as folder:
        if shared:
            check_links(folder)
        folder.check(names)
        claim(folder, config, identity(config) if of is None else of, what, replaces=of is None)
        yield folder


def check_folder(config: JobConfig, job: str) -> Written:
    """Check that `config.out` is new, empty or this job's, without writing. Raises InputError where it is not."""
    folder = Written(config.out, job, overwrite=config.overwrite, files=storage.FILES)
    _check_own(folder)
    return folder


def existing(path: str, job: str) -> Written:
    """Return the folder of a run that has started, to read from. Raises InputError where it is no folder of this job."""
    folder = Written(path, job, files=storage.FILES)
    found = _identity(folder)
    if found is None:
        raise InputError(f"{folder.root}/{IDENTITY}: does not exist; name the --out of a jobs.{job} of this version")
    folder.of = fingerprint(found)
    return folder


def identity_of(folder: Written) -> dict[str, Any] | None:
    """Return the identity in a folder's mark, None for a new folder or, with --overwrite, for a damaged mark."""
    try:
        return _identity(folder)
    except InputError:
        if folder.overwrite:
            return None
        raise


def claim(folder: Written, config: JobConfig, identity: dict[str, Any], what: str, replaces: bool = False) -> bool:
    """Mark the folder before any work; returns whether it already had this identity.

    identity  JSON of every setting that decides the outcome
    what      what the folder holds, for the error message: "a training"
    replaces  whether a result of another identity of this job may be replaced
    Raises InputError, which lists the differences, for the folder of another identity.
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
    """Raise InputError where a folder below is a link to elsewhere; for jobs in whose folder other processes write."""
    for name in storage.list_folders(folder.root):
        folder.path(f"{name}/-")


def mark(folder: Written, identity: dict[str, Any]) -> None:
    """Write the folder's mark. From here on its sealed files belong to `identity`."""
    folder.of = fingerprint(identity)
    folder.write_json(IDENTITY, Identity(identity=identity))


@dataclass(frozen=True)
class OutputFile:
    """A single output file that a flag names, such as --csv.

    It is replaced only where `.written` beside it records that this job wrote it and it has not changed since.
    """

    path: str
    job: str
    overwrite: bool

    def check(self) -> None:
        """Raise InputError, before any work, where an unrelated file has this name."""
        self._folder().check([self._name])

    def write(self, data: bytes) -> str:
        return self._folder().write(self._name, data)

    def record(self, path: str) -> None:
        """Record the file at `path`, which is about to be renamed to this name, as this job's."""
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
    """Start or resume the folder's MLflow run; an interrupted job continues in the same run."""
    with tracking.start_run(experiment, name, config, tags, resume=run_id_of(folder)) as run:
        folder.write_json(RUN, _Run(run_id=run.run_id))
        yield run


def run_id_of(folder: Written) -> str:
    """Return the id of the MLflow run that a folder's result belongs to, "" before there is one."""
    found = folder.read_json(RUN, _Run, "delete it to continue in a new MLflow run")
    return "" if found is None else found["run_id"]


def read_plain(path: str, kind: type[Kind], repair: str) -> Kind | None:
    """Return the content of an unsealed JSON file, None where it is absent. Raises InputError where it is damaged or of another kind."""
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
    repair = "it records which job owns this folder: restore it, choose another --out, or give --overwrite"
    identity = unsealed(data, Identity, path, folder.job, None, repair)["identity"]
    return unsealed(data, Identity, path, folder.job, fingerprint(identity), repair)["identity"]


def _check_own(folder: Written) -> None:
    if identity_of(folder) is not None or folder.overwrite:
        return
    names = (name for name in storage.list_all(folder.root) if name not in (storage.LOCK, LEDGER))
    if found := [name for name in names if not _TEMPORARY.fullmatch(name)]:
        listed = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise InputError(
            f"{folder.root}: holds files that this job did not write ({listed}) and no {IDENTITY} of this job; "
            "choose another --out or give --overwrite"
        )
