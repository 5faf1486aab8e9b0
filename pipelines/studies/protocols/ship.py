"""Put a model of the results into the package: its weights as float16, and a card from its record."""

from __future__ import annotations

import os
from typing import Any, TypedDict

from pipelines import storage
from pipelines.runtime.models import load_model
from pipelines.runtime.output_folder import CONFIG, existing
from pipelines.studies.protocols import records as records_of
from pipelines.studies.protocols.planned import TEACHER
from pipelines.studies.protocols.protocol import Protocol
from pipelines.studies.protocols.records import Record
from pipelines.studies.protocols.site import Site
from pipelines.training import state as training_state
from pipelines.training.loop import TRAIN
from vos.config import BUILTIN_DAVIS_TEACHER, BUILTIN_STUDENTS, ReportConfig, TrainConfig
from vos.config.sources import split_paths
from vos.errors import InputError
from vos.models.builtin import BUILTIN

CARD, CURVES = "README.md", "j-over-time.png"
WORST = 2
"""Number of sequences that a card lists as failures."""


class _Config(TypedDict):
    data: dict[str, Any]


def ship(protocol: Protocol, config: ReportConfig) -> str:
    """Put the model of a finished run into the package; returns the line to print.

    Raises InputError where there is no such run, for a model that learned from a part of the videos or has no place in the package, and
    for a student whose teacher is not the one in the package.
    """
    name, every = config.ship, protocol.plan(config.preset)
    if not protocol.real_video(config.preset):
        raise InputError(
            f"--ship {name} --preset {config.preset}: only models trained on real video are shipped; use davis-cpu"
        )
    records = records_of.valid(every, records_of.read_all(config.docs))
    planned = next((one for one in every if one.name == name and name in records), None)
    if planned is None or not isinstance(planned.job, TrainConfig):
        raise InputError(f"--ship {name}: no finished training of this name; python -m jobs.report --list shows them")
    label = BUILTIN_DAVIS_TEACHER if name == TEACHER else BUILTIN_STUDENTS.get(planned.job.model, "")
    if not label or (planned.kind == "teacher") != (name == TEACHER) or (planned.videos and planned.videos.fold):
        raise InputError(
            f"--ship {name}: a {planned.job.model} of this run has no place in the package; ship {TEACHER}, or a student of one of "
            f"{', '.join(BUILTIN_STUDENTS)} that learned from all training videos"
        )
    site = Site(protocol, config, {}, {}, records)
    if planned.job.cache and not site.teacher_ships():
        raise InputError(f"--ship {name}: its teacher is not the one in the package; --ship {TEACHER} first")
    if not site.is_here(planned):
        raise InputError(
            f"--ship {name}: {site.place(name)} does not hold the training of its record; ship it on the machine where it was made"
        )
    model, info = load_model(site.place(name))
    assert planned.evaluation is not None, "every training of a plan is scored"
    description = {**_origin(info, site.place(name)), "run": site.run_of(name), "size_px": planned.evaluation.size_px}
    files = training_state.model_files(model, description, half=True)
    curves = os.path.join(site.scored(planned), "pages", CURVES)
    if not os.path.exists(curves):
        raise InputError(
            f"--ship {name}: {curves} does not exist; ship it from the --out folder in which it was scored"
        )
    files[CURVES] = storage.read_bytes(curves)
    files[CARD] = protocol.card(label, planned, planned.evaluation, records[name]).encode()
    for file, data in files.items():
        storage.write_bytes(os.path.join(BUILTIN[label], file), data)
    return f"shipped  {BUILTIN[label]}"


def _origin(info: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return a checkpoint's description of its training, without paths of this machine.

    folder  of the training, whose config.json records the videos also where the cache decided them
    """
    repair = "ship it from the --out folder in which it was trained"
    data = (
        info["config"].get("data")
        or (existing(folder, TRAIN).read_json(CONFIG, _Config, repair) or {"data": {}})["data"]
    )
    data = {**data, "root": os.path.basename(data["root"])}
    if sources := data.get("sources"):
        data["sources"] = ["".join(map(os.path.basename, split_paths(one))) for one in sources]
    config = {**info["config"], "data": data, "trunk_weights": os.path.basename(info["config"]["trunk_weights"])}
    return {**{key: info[key] for key in ("role", "cache", "commit", "step")}, "config": config}


def worst_of(record: Record) -> str:
    """Return the sequences that a card lists as failures, with their J&F in percent."""
    ranked = sorted(record["sequences"], key=lambda row: row["j_and_f"])
    return " and ".join(f"{row['sequence']} ({100 * row['j_and_f']:.0f})" for row in ranked[:WORST])
