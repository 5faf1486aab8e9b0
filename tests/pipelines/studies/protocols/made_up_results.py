"""Records that nobody measured, for tests of what is built from records: in the form that the queue writes, with scores by a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

import numpy as np

from pipelines.runtime.output_folder import mark
from pipelines.search.trials import Trial
from pipelines.studies.protocols import records as results_records
from pipelines.studies.protocols.planned import Planned
from pipelines.studies.protocols.records import Record
from pipelines.training.launch import Outcome
from vos.config import TrainConfig, TuneConfig
from vos.files.canonical import to_dict
from vos.files.written import Written

SEQUENCES = ("bear", "boat", "bus", "camel")
DATA = {"train": "digest of the training videos", "val": "digest of the others"}
WITH_STILLS = {**DATA, "stills": "digest of the stills"}
Score = Callable[[Planned, int], float]
"""(run, place of the sequence) -> J&F, 0 to 1"""


def noisy(planned: Planned, place: int) -> float:
    """Distilled students are 4 points better than plain ones, longer trainings better than short ones; some noise."""
    noise = np.random.default_rng([planned.seed, place, len(planned.name)]).normal() / 200
    level = 0.72 + 0.12 * planned.name.startswith(("full", "memory", "size")) - 0.03 * planned.name.startswith("half")
    if planned.kind == "teacher":
        return 0.9 + 0.01 * place
    return level - 0.02 * place + noise + 0.04 * ("plain" not in planned.name)


def trials(job: TuneConfig) -> list[Trial]:
    """What a search of this size may have found: J&F grows with density, every third trial was stopped half-way."""
    draw = np.random.default_rng(job.seed)
    made = []
    for number in range(job.trials):
        parameters = {name: draw.uniform(low, high) for name, (low, high) in job.space.ranges().items()}
        stopped = number % 3 == 2
        steps = job.train.steps // (2 if stopped else 1)
        score = 0.7 + parameters["density"] / 10 - stopped / 20
        made.append(Trial(f"trial{number}", parameters, job.seed, score, steps, "stopped" if stopped else "finished"))
    return made


def finished_training(path: str, job: TrainConfig, run_id: str) -> None:
    """The files by which a finished training is known, without its model."""
    folder = Written(path, "train")
    mark(folder, {"steps": job.steps})
    folder.write_json("config.json", to_dict(job))
    folder.write_json("result.json", Outcome(run_id=run_id, version="", metrics={}, sha256={}))


def record(planned: Planned, records: dict[str, Record], score: Score) -> Record:
    """One record, made from those before it."""
    made = results_records.about(planned, records, WITH_STILLS if planned.videos else DATA)
    made["commit"] = "0" * 40
    if planned.kind == "cache":
        return made | {
            "cache": f"content of {planned.name}",
            "draws": 800,
            "bytes": 2**26,
            "teacher_cpu_s": 600.0,
            "draws_made": 800,
            "quantisation": {},
        }
    if planned.kind == "labels":
        made |= {"labels": f"content of {planned.name}", "labelled_frames": 400, "kept_frames": 300}
        return made | {"labelled_videos": 8, "lost": [], "teacher_cpu_s": 90.0, "videos_made": 8}
    if isinstance(planned.job, TuneConfig):
        return made | {"trials": [asdict(trial) for trial in trials(planned.job)]}
    sequences = []
    for place, name in enumerate(SEQUENCES):
        j_and_f = score(planned, place)
        sequences.append({"sequence": name, "j_and_f": j_and_f, "j": j_and_f + 0.01, "f": j_and_f - 0.01, "frames": 50})
    figures = {key: float(np.mean([row[key] for row in sequences])) for key in ("j_and_f", "j", "f")}
    made |= {"model": "some network", "parameters": 1_894_312, "figures": figures, "sequences": sequences}
    if isinstance(planned.job, TrainConfig):
        per_step = 0.96 + 0.04 * bool(planned.job.loss.kd) + 0.36 * planned.job.teacher_online
        steps = planned.job.steps
        made |= {"steps": steps, "cpu_s": steps * per_step, "cpu_s_per_step": per_step, "wall_s": steps * 2.0}
        made["mlflow_run"] = f"run of {planned.name}"
    return made


def records_of(plan: Iterable[Planned], score: Score = noisy) -> dict[str, Record]:
    """Records of all these runs; each one's needs stand before it."""
    made: dict[str, Record] = {}
    for planned in plan:
        made[planned.name] = record(planned, made, score)
    return made
