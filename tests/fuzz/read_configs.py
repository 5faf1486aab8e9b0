"""Configurations: saved files and whole command lines, for every job."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from tests.fuzz.byte_mutations import any_bytes
from tests.fuzz.cases import Files, Mutation, NotTellableError, Reader
from tests.fuzz.json_mutations import json_changes
from vos.config import (
    CacheConfig,
    CheckConfig,
    EvaluateConfig,
    ExportConfig,
    ReportConfig,
    SegmentConfig,
    TrainConfig,
    TuneConfig,
    VerifyConfig,
)
from vos.config.command_line import parse_config
from vos.config.fields import leaves
from vos.config.presets import preset
from vos.files.canonical import dumps

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
JOBS: dict[str, Any] = {
    cls.__name__.removesuffix("Config").lower(): cls
    for cls in (
        TrainConfig,
        CacheConfig,
        CheckConfig,
        EvaluateConfig,
        TuneConfig,
        SegmentConfig,
        ExportConfig,
        ReportConfig,
        VerifyConfig,
    )
}


def config_samples(folder: Path) -> dict[str, Files]:
    return {
        name: {"config.json": dumps(preset(cls, "smoke")).encode(), "job.txt": name.encode()}
        for name, cls in JOBS.items()
    }


def _plain(config: Any) -> Any:
    """JSON-like values of a configuration, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def read_config(folder: Path) -> Any:
    cls = JOBS[(folder / "job.txt").read_text()]
    os.environ["MOBILEVOS_HOME"] = str(folder)
    config = parse_config(cls, "fuzz", ["--config", str(folder / "config.json")])
    return _shown(config, folder)


def config_by_others(folder: Path) -> Any:
    """Every value of the file, over the preset's, where its type is the field's."""
    cls = JOBS[(folder / "job.txt").read_text()]
    values = json.loads(
        (folder / "config.json").read_bytes(), object_pairs_hook=_once, parse_constant=_no, parse_int=_integer
    )
    assert isinstance(values, dict)
    if any(isinstance(value, str) and value.startswith("~") for value in values.values()):
        raise NotTellableError  # the home of a user: what it is, only the system knows
    os.environ["MOBILEVOS_HOME"] = str(folder)
    default = preset(cls, values.get("preset"))
    return _shown(_merged(default, values), folder)


def _merged(default: Any, values: dict[str, Any]) -> Any:
    hints, changes = get_type_hints(type(default)), {}
    for name, value in values.items():
        current = getattr(default, name)
        if dataclasses.is_dataclass(current):
            value = _merged(current, value)
        elif get_origin(hints[name]) is not None and isinstance(current, tuple):
            kinds = [
                float if float in get_args(hints[name]) else one for one in get_args(hints[name]) if one is not Ellipsis
            ]
            assert isinstance(value, list) and all(
                isinstance(item, str if str in kinds else int | float) for item in value
            )
            assert not any(isinstance(item, bool) for item in value)
            value = tuple(float(item) if float in kinds else item for item in value)
        elif isinstance(current, float):
            assert isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            value = float(value)
        else:
            assert type(value) is type(current), name
            if isinstance(value, str):
                assert not CONTROL.search(value), "control characters"
        changes[name] = value
    return dataclasses.replace(default, **changes)


def _paths(config: Any) -> set[str]:
    return {name.rpartition(".")[2] for name, _, mark in leaves(config) if mark.path}


def _shown(config: Any, folder: Path) -> Any:
    """Paths from the folder, whether absolute already or not."""

    def path(value: str) -> str:
        if value.startswith("~") or "://" in value or value.startswith("models:/"):
            return value
        return os.path.relpath(os.path.join(str(folder), value), str(folder)) if value else value

    paths = _paths(config)

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner, key) for key, inner in value.items()}
        if name in paths and isinstance(value, str):
            return path(value)
        if name in paths:
            return [path(one) for one in value]
        return value

    return walk(_plain(config), "")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a name twice"
    return dict(pairs)


def _integer(text: str) -> int:
    assert len(text) <= 20
    return int(text)


def _no(text: str) -> Any:
    raise ValueError(text)


CONFIGS: dict[str, Mutation] = {
    **any_bytes(lambda name: name == "config.json"),
    **{name: change for name, change in json_changes(lambda name: name == "config.json").items()},
}
for _name in ("exchange", "splice", "special file", "other kind"):  # they would take job.txt too
    CONFIGS.pop(_name)
CONFIGS |= {f"{name} 2": CONFIGS[name] for name in ("json value", "json values", "json text")}
READERS = [Reader("config file", config_samples, read_config, config_by_others, CONFIGS, 2.5)]
