"""Put a model of the results into the package: its weights as float16, and a card from its record."""

from __future__ import annotations

import os
from typing import Any, TypedDict

from pipelines import storage
from pipelines.runtime.models import load_model
from pipelines.runtime.output_folder import CONFIG, existing
from pipelines.studies.davis import records as records_of
from pipelines.studies.davis.plan import SCALES, TEACHER, Planned, plan
from pipelines.studies.davis.records import Record
from pipelines.studies.davis.site import Site
from pipelines.training import state as training_state
from pipelines.training.loop import TRAIN
from vos.config import BUILTIN_DAVIS_TEACHER, BUILTIN_STUDENTS, EvaluateConfig, ReportConfig, TrainConfig
from vos.errors import InputError
from vos.models.builtin import BUILTIN

CARD, CURVES = "README.md", "j-over-time.png"
WORST = 2
"""Number of sequences that a card lists as failures."""
POOR = 0.6
"""J&F below which a card advises against its model."""


class _Config(TypedDict):
    data: dict[str, Any]


def ship(config: ReportConfig) -> str:
    """Put the model of a finished run into the package; returns the line to print.

    Raises InputError where there is no such run, and for a student whose teacher is not the one in the package.
    """
    name, every = config.ship, plan(config.preset)
    if not SCALES[config.preset].pretrained:
        raise InputError(
            f"--ship {name} --preset {config.preset}: only models trained on real video are shipped; use davis-cpu"
        )
    records = records_of.valid(every, records_of.read_all(config.docs))
    planned = next((one for one in every if one.name == name and name in records), None)
    if planned is None or not isinstance(planned.job, TrainConfig):
        raise InputError(f"--ship {name}: no finished training of this name; python -m jobs.report --list shows them")
    site = Site(config, "", {}, records)
    if planned.job.cache and not site.teacher_ships():
        raise InputError(f"--ship {name}: its teacher is not the one in the package; --ship {TEACHER} first")
    if not site.is_here(planned):
        raise InputError(
            f"--ship {name}: {site.place(name)} does not hold the training of its record; ship it on the machine where it was made"
        )
    model, info = load_model(site.place(name))
    assert planned.evaluation is not None, "every training of a plan is scored"
    label = BUILTIN_DAVIS_TEACHER if name == TEACHER else BUILTIN_STUDENTS[planned.job.model]
    description = {**_origin(info, site.place(name)), "run": site.run_of(name), "size_px": planned.evaluation.size_px}
    files = training_state.model_files(model, description, half=True)
    curves = os.path.join(site.scored(planned), "pages", CURVES)
    if not os.path.exists(curves):
        raise InputError(
            f"--ship {name}: {curves} does not exist; ship it from the --out folder in which it was scored"
        )
    files[CURVES] = storage.read_bytes(curves)
    files[CARD] = card(label, planned, planned.evaluation, records[name]).encode()
    for file, data in files.items():
        storage.write_bytes(os.path.join(BUILTIN[label], file), data)
    return f"shipped  {BUILTIN[label]}"


def card(label: str, planned: Planned, evaluation: EvaluateConfig, record: Record) -> str:
    """Return the README.md beside the weights."""
    job = planned.job
    assert isinstance(job, TrainConfig)
    figures = {name: f"{100 * value:.1f}" for name, value in record["figures"].items()}
    ranked = sorted(record["sequences"], key=lambda row: row["j_and_f"])
    worst = " and ".join(f"{row['sequence']} ({100 * row['j_and_f']:.0f})" for row in ranked[:WORST])
    last = " and the most recent one" if evaluation.memory.include_last else ""
    infinite = f"infinite memory (scored with every {evaluation.memory.every}th frame{last})"
    memory = infinite if planned.name == TEACHER else "first + recent memory"
    flags = (
        " --memory.kind infinite" * (planned.name == TEACHER)
        + " --memory.include-last" * evaluation.memory.include_last
    )
    targets = [what for what, weight in (("logits", job.loss.kd), ("L_repr", job.loss.representation)) if weight]
    how = f"with the cached words of `{BUILTIN_DAVIS_TEACHER}` ({' and '.join(targets)})" if job.cache else "plainly"
    mirrored = " (seen again, they are mirrored every second time)" * job.mirror
    # A cache has a teacher, and the teacher ImageNet weights.
    weights = " --trunk-weights mobilenet_v2.safetensors" if job.trunk_weights or job.cache else ""
    poor = record["figures"]["j_and_f"] < POOR
    warning = "\n\n**Not for use**: it loses most objects. A beginning for `jobs.train --init`, to go on with your own videos."
    trunk = "a MobileNetV2 with ImageNet weights" if job.trunk_weights else "random weights"
    lines = [
        f"# {label}",
        "",
        f"`{record['model']}`, {record['parameters'] / 1e6:.2f} M parameters in float16, {memory}. Written by "
        f"`python -m jobs.report --ship {planned.name}`.{warning if poor else ''}",
        "",
        f"- **Training**: {record['steps']} steps of {job.batch} clips{mirrored} {how}, on the training sequences of DAVIS, from {trunk}, "
        f"seed {planned.seed}: `python -m jobs.report --only {planned.name} --data.root DAVIS --data.kind davis2016 "
        f"--docs runs/mine/results --out runs/mine{weights}` (docs/experiments.md).",
        "- **Input**: RGB frames, 0 to 255; `vos.Engine` normalises them (ImageNet's mean and deviation). `size_px` in "
        f"`model.json`, {evaluation.size_px}, is the shorter side at which it was scored and at which `jobs.segment` uses it.",
        f"- **J&F {figures['j_and_f']}** (J {figures['j']}, F {figures['f']}) on {len(ranked)} validation sequences of DAVIS-2016 "
        f"({', '.join(sorted(row['sequence'] for row in ranked))}) that it was not trained on, but on which settings of the protocol were "
        "chosen; one seed. The record: "
        f"`docs/results/runs/{planned.name}.json`; what it is compared with: `docs/results.md`. Again: "
        f"`python -m jobs.evaluate --preset davis-cpu --data.root DAVIS --data.kind davis2016 --checkpoint {label} --size-px "
        f"{evaluation.size_px}{flags} --out runs/again` (the mean over these sequences, of a whole DAVIS).",
        f"- **Known failures**: {worst}; the picture shows when. It knows 30 videos, so expect it to lose objects that look like their "
        "surroundings, thin parts and fast motion; it was trained on one object a clip, so expect several that touch to be mixed up (these "
        "two were not measured).",
        "- **Licence**: DAVIS is for research, non-commercial use, with attribution (Perazzi et al. 2016, Pont-Tuset et al. 2017); "
        "these weights were made from it.",
        "",
        f"![J over time of each sequence]({CURVES})",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


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
    config = {**info["config"], "data": data, "trunk_weights": os.path.basename(info["config"]["trunk_weights"])}
    return {**{key: info[key] for key in ("role", "cache", "commit", "step")}, "config": config}
