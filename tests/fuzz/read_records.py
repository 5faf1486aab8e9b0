"""Small files of ours: the identity of an output folder, the records of results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipelines.runtime.output_folder import check_folder, claim
from pipelines.studies.protocols.records import FORMAT, read_all
from tests.fuzz.cases import Files, Reader
from tests.fuzz.json_mutations import json_file_mutations, strict
from tests.fuzz.seals import sealed_mutations, unsealed
from vos.config import TrainConfig
from vos.config.presets import preset

IDENTITY = {"model": "mobilevos-tiny", "steps": 4, "loss": {"kd": 1.0}, "seed": 0}


def training_in(folder: Path) -> TrainConfig:
    config = preset(TrainConfig, "smoke")
    object.__setattr__(config, "out", str(folder))
    return config


def identity_samples(folder: Path) -> dict[str, Files]:
    read_identity(out := folder / "training")
    return {"a training": {name: (out / name).read_bytes() for name in ("identity.json", "config.json")}}


def read_identity(folder: Path) -> bool:
    """Whether the folder is this training's: a folder that says anything else is never taken."""
    config = training_in(folder)
    return claim(check_folder(config, "train"), config, IDENTITY, "a training")


def identity_by_others(folder: Path) -> bool:
    path = folder / "identity.json"
    if not os.path.lexists(path):
        assert not os.path.lexists(folder / "config.json"), "a folder of other files was taken"
        return False
    assert unsealed(path.read_bytes(), "train")["identity"] == IDENTITY, (
        "a folder whose identity.json does not say this training was taken"
    )
    return True


def record_samples(folder: Path) -> dict[str, Files]:
    common: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": "ab" * 16,
        "made_from": {},
        "data": {"train": "cd" * 16},
        "config": {"steps": 4, "out": "x"},
    }
    figures = {"j_and_f": 0.5, "j": 0.4, "f": 0.6}
    training = {
        **common,
        "name": "plain-1",
        "kind": "train",
        "mlflow_run": "e" * 32,
        "figures": figures,
        "seed": 1,
        "steps": 4,
    }
    cache = {**common, "name": "cache", "kind": "cache", "cache": "f" * 32, "draws": 24, "bytes": 1000}
    return {
        "two": {
            "runs/plain-1.json": json.dumps(training, indent=1).encode(),
            "runs/cache.json": json.dumps(cache, indent=1).encode(),
        }
    }


def read_records(folder: Path) -> Any:
    return read_all(str(folder))


def records_by_others(folder: Path) -> Any:
    found = {}
    for path in sorted((folder / "runs").glob("*.json")):
        record = strict(path.read_bytes())
        assert (
            record["format"] == FORMAT and isinstance(record["format"], int) and not isinstance(record["format"], bool)
        )
        for name, kind in (
            ("name", str),
            ("kind", str),
            ("fingerprint", str),
            ("made_from", dict),
            ("data", dict),
            ("config", dict),
        ):
            assert isinstance(record[name], kind), name
        found[path.stem] = record
    return found


READERS = [
    Reader(
        "identity",
        identity_samples,
        read_identity,
        identity_by_others,
        {**json_file_mutations("identity.json"), **sealed_mutations(".none")},
        1,
    ),
    Reader("records", record_samples, read_records, records_by_others, json_file_mutations(".json"), 1),
]
