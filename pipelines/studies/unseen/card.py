"""The card of a model of docs/unseen.md, from its record."""

from __future__ import annotations

from pipelines.studies.protocols.planned import TEACHER, Planned
from pipelines.studies.protocols.records import Record
from pipelines.studies.protocols.ship import CURVES, worst_of
from pipelines.studies.unseen.licences import licences
from vos.config import BUILTIN_DAVIS_TEACHER, EvaluateConfig, TrainConfig


def card(label: str, planned: Planned, evaluation: EvaluateConfig, record: Record) -> str:
    """Return the README.md beside the weights."""
    job, videos = planned.job, planned.videos
    assert isinstance(job, TrainConfig) and videos is not None
    figures = {name: f"{100 * value:.1f}" for name, value in record["figures"].items()}
    sequences = sorted(row["sequence"] for row in record["sequences"])
    teacher = planned.name == TEACHER
    last = " and the most recent one" if evaluation.memory.include_last else ""
    infinite = f"infinite memory (scored with every {evaluation.memory.every}th frame{last})"
    flags = " --memory.kind infinite" * teacher + " --memory.include-last" * evaluation.memory.include_last
    how = f"distilled from the cached outputs of `{BUILTIN_DAVIS_TEACHER}`" if job.cache else "without a teacher"
    trunk = "ImageNet weights of its trunk" if job.trunk_weights else "random weights"
    trunk = f"the weights of `{job.init}`, which had learned from still images alone" if job.init else trunk
    mixture = f"DAVIS ({videos.davis:.0%} of the clips)" + (
        f" and still images ({videos.stills:.0%})" if videos.stills else ""
    )
    lines = [
        f"# {label}",
        "",
        f"`{record['model']}`, {record['parameters'] / 1e6:.2f} M parameters in float16, "
        f"{infinite if teacher else 'first + recent memory'}. Written by `python -m jobs.report --ship {planned.name}`.",
        "",
        f"- **Training**: {record['steps']} steps of {job.batch} clips, {how}, from {trunk}, seed {planned.seed}, on all training "
        f"sequences of {mixture}: `python -m jobs.report --only {planned.name} --data.root DAVIS --data.kind davis2016 "
        "--stills STILLS --docs runs/mine/unseen --out runs/mine --trunk-weights WEIGHTS` (docs/experiments.md).",
        "- **Input**: RGB frames, 0 to 255; `vos.Engine` normalises them (ImageNet's mean and deviation). `size_px` in "
        f"`model.json`, {evaluation.size_px}, is the shorter side at which it was scored and at which `jobs.segment` uses it.",
        f"- **J&F {figures['j_and_f']}** (J {figures['j']}, F {figures['f']}) on {len(sequences)} validation sequences of DAVIS-2016 "
        f"({', '.join(sequences)}). Its settings were chosen on folds of the training sequences; it was scored on these once, one "
        f"seed. The record: `docs/unseen/runs/{planned.name}.json`; what it is compared with: `docs/unseen.md`. Again: "
        f"`python -m jobs.evaluate --preset davis-cpu --data.root DAVIS --data.kind davis2016 --checkpoint {label} --size-px "
        f"{evaluation.size_px}{flags} --out runs/again` (the mean over these sequences, of a whole DAVIS).",
        f"- **Known failures**: {worst_of(record)}; the picture shows when. Expect it to lose objects that look like their "
        "surroundings, thin parts and fast motion.",
        "- **Licences** of the data sets that these weights were made from; all of them apply:",
        *(f"    - {one}" for one in licences(videos, bool(job.init), bool(job.trunk_weights or job.init or job.cache))),
        "",
        f"![J over time of each sequence]({CURVES})",
    ]
    return "\n".join(lines) + "\n"
