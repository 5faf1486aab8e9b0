"""The card of a model of docs/results.md, from its record."""

from __future__ import annotations

from pipelines.studies.protocols.planned import TEACHER, Planned
from pipelines.studies.protocols.records import Record
from pipelines.studies.protocols.ship import CURVES, worst_of
from vos.config import BUILTIN_DAVIS_TEACHER, EvaluateConfig, TrainConfig

POOR = 0.6
"""J&F below which a card advises against its model."""


def card(label: str, planned: Planned, evaluation: EvaluateConfig, record: Record) -> str:
    """Return the README.md beside the weights."""
    job = planned.job
    assert isinstance(job, TrainConfig)
    figures = {name: f"{100 * value:.1f}" for name, value in record["figures"].items()}
    sequences = sorted(row["sequence"] for row in record["sequences"])
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
        f"`python -m jobs.report --protocol validation --ship {planned.name}`.{warning if poor else ''}",
        "",
        f"- **Training**: {record['steps']} steps of {job.batch} clips{mirrored} {how}, on the training sequences of DAVIS, from {trunk}, "
        f"seed {planned.seed}: `python -m jobs.report --protocol validation --only {planned.name} --data.root DAVIS --data.kind davis2016 "
        f"--docs runs/mine/results --out runs/mine{weights}` (docs/experiments.md).",
        "- **Input**: RGB frames, 0 to 255; `vos.Engine` normalises them (ImageNet's mean and deviation). `size_px` in "
        f"`model.json`, {evaluation.size_px}, is the shorter side at which it was scored and at which `jobs.segment` uses it.",
        f"- **J&F {figures['j_and_f']}** (J {figures['j']}, F {figures['f']}) on {len(sequences)} validation sequences of DAVIS-2016 "
        f"({', '.join(sequences)}) that it was not trained on, but on which settings of the protocol were "
        "chosen; one seed. The record: "
        f"`docs/results/runs/{planned.name}.json`; what it is compared with: `docs/results.md`. Again: "
        f"`python -m jobs.evaluate --preset davis-cpu --data.root DAVIS --data.kind davis2016 --checkpoint {label} --size-px "
        f"{evaluation.size_px}{flags} --out runs/again` (the mean over these sequences, of a whole DAVIS).",
        f"- **Known failures**: {worst_of(record)}; the picture shows when. It knows 30 videos, so expect it to lose objects that look "
        "like their surroundings, thin parts and fast motion; it was trained on one object a clip, so expect several that touch to be "
        "mixed up (these two were not measured).",
        "- **Licence**: DAVIS is for research, non-commercial use, with attribution (Perazzi et al. 2016, Pont-Tuset et al. 2017); "
        "these weights were made from it.",
        "",
        f"![J over time of each sequence]({CURVES})",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
