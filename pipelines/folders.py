"""Whose folder an --out is: a result of one configuration is never mixed with another's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines import storage, tracking
from vos.config import JobConfig
from vos.config_json import differences, dumps
from vos.errors import InputError

RUN = "run.json"


def claim_folder(config: JobConfig, identity: dict[str, Any], what: str) -> bool:
    """Say whose `config.out` is, before any work; returns whether it was this very one's before.

    identity  JSON of all that decides the outcome
    what      of what, in words: "a training"
    Raises InputError, naming what differs, for the folder of another one.
    """
    old, new = read_json(storage.join(config.out, "identity.json")), json.loads(dumps(identity))
    if old is not None and old != new:
        changed = "; ".join(differences(old, new))
        raise InputError(
            f"{config.out}: holds {what} with another configuration ({changed}); choose another --out or delete it"
        )
    storage.write_bytes(storage.join(config.out, "identity.json"), dumps(identity).encode())
    storage.write_bytes(storage.join(config.out, "config.json"), dumps(config).encode())
    return old is not None


@contextmanager
def folder_run(config: JobConfig, experiment: str, name: str, tags: dict[str, str]) -> Iterator[tracking.Run]:
    """The MLflow run of what is made in `config.out`: however often it was interrupted, it is one run."""
    before = run_id_of(config.out)
    with tracking.start_run(experiment, name, config, tags, resume=before) as run:
        storage.write_bytes(storage.join(config.out, RUN), dumps({"run_id": run.run_id}).encode())
        yield run


def run_id_of(folder: str) -> str:
    """The MLflow run that a folder's result belongs to, "" before there is one."""
    return (read_json(storage.join(folder, RUN)) or {}).get("run_id", "")


def read_json(path: str) -> Any:
    """What a small file of ours holds; None where there is none, or one that was never finished."""
    try:
        return json.loads(storage.read_bytes(path))
    except (FileNotFoundError, ValueError):
        return None
