"""Adapt a student to a user's videos: labels -> cache -> training -> scores before and after, each stage in a folder of its own.

    OUT/labels        jobs.label: the teacher follows the first masks, forwards and backwards
    OUT/cache         jobs.cache over the kept frames
    OUT/student-SEED  jobs.train from that cache, with the teacher's outputs as the only target (w = 1)
    OUT/evaluation    the masks of the student before, and of each one after
    OUT/stages        what each stage gave and cost

Every stage resumes by itself; a finished one is not repeated. No true mask but an object's first one is learned from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict

from pipelines import storage, tracking
from pipelines.adaptation import sample
from pipelines.adaptation.scores import Score, held_out, score
from pipelines.cache.build import build_cache
from pipelines.labelling.build import build_labels
from pipelines.runtime.cpu_time import CpuMeter
from pipelines.runtime.models import load_model, weights_digest, working_size_px
from pipelines.runtime.output_folder import NOTHING, check_links, claim, identity_of, mark, output_folder
from pipelines.runtime.session import ray_session
from pipelines.runtime.videos import data_fingerprint, index_videos
from pipelines.training.launch import train
from vos.config import (
    BUILTIN_DAVIS_TEACHER,
    BUILTIN_TEACHER,
    AdaptConfig,
    CacheConfig,
    ClipConfig,
    DataConfig,
    EvaluateConfig,
    FpsConfig,
    LabelConfig,
    LabelTeacherConfig,
    TrainConfig,
)
from vos.config.fields import identity
from vos.config.presets import preset
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.canonical import fingerprint
from vos.files.written import Written

ADAPT, STAGES, RESULT = "adapt", "stages", "result.json"
REPAIR = "delete it and run jobs.adapt again"


class Stage(TypedDict):
    """What a finished stage gave and cost; only scoring gives scores."""

    cpu_s: float
    wall_s: float
    scores: list[Score]


@dataclass(frozen=True)
class Adaptation:
    """A finished adaptation. Scores are in [0, 1]; those after are of each seed."""

    before: list[Score]
    after: dict[int, list[Score]]
    stages: dict[str, Stage]
    students: dict[int, str]
    kept: int
    frames: int


def adapt(config: AdaptConfig) -> Adaptation:
    """Run or resume all stages. Raises InputError for bad input, before anything is written."""
    began = time.monotonic()
    if storage.is_uri(config.out):
        raise InputError(
            f"--out {config.out}: labels and masks are written to a local folder; choose one and copy it afterwards"
        )
    student, info = load_model(config.student)
    if info.get("role") != "student":
        raise InputError(
            f"--student {config.student}: is a {info.get('role') or 'network without a role'}; give a student"
        )
    videos = [] if config.sample else index_videos(config.data, config.split)
    teacher = config.teacher or (BUILTIN_TEACHER if videos and not videos[0].files() else BUILTIN_DAVIS_TEACHER)
    weights = {"teacher": weights_digest(load_model(teacher)[0]), "student": weights_digest(student)}
    with output_folder(config, ADAPT) as folder:
        if identity_of(folder) is None:
            mark(folder, NOTHING)
        check_links(folder)
        if config.sample:
            config = replace(config, data=sample.unpack(folder), split="train")
            videos = index_videos(config.data, config.split)
        whole = {**identity(config), **weights, "data": data_fingerprint(videos)}
        claim(folder, config, whole, "an adaptation")
        plan = _Plan(config, videos, teacher, info)
        with (
            CpuMeter() as meter,
            ray_session(num_cpus=2 * config.workers + 2),
            tracking.start_run("adapt", f"adapt-{fingerprint(whole)[:8]}", config) as run,
        ):
            result = _run_stages(_Stages(folder, meter, began), plan)
            run.log_metrics(_metrics(result))
            folder.write_json(RESULT, _as_json(result))
            run.log_dict(_as_json(result), RESULT)
    return result


class _Plan:
    """The configurations of all stages; they are checked when this is built."""

    def __init__(self, config: AdaptConfig, videos: list[Video], teacher: str, info: dict[str, Any]) -> None:
        self.config, self.videos, out = config, videos, config.out
        shared = {name: getattr(config, name) for name in ("threads", "overwrite", "debug")}
        self.size_px = working_size_px(config.size_px, info)
        self.label = LabelConfig(
            **shared,
            out=os.path.join(out, "labels"),
            workers=config.workers,
            data=config.data,
            split=config.split,
            teacher=LabelTeacherConfig(checkpoint=teacher),
            min_agreement=config.min_agreement,
            min_confidence=config.min_confidence,
            hold_out=config.hold_out,
        )
        labelled = DataConfig(root=self.label.out, kind="labels")
        base = preset(CacheConfig, "davis-cpu")
        self.cache = replace(
            base,
            **shared,
            out=os.path.join(out, "cache"),
            workers=config.workers,
            seed=config.seed,
            data=labelled,
            draws=config.draws,
            clip=ClipConfig(crop_px=config.crop_px or self._crop_px(), max_skip_frames=config.max_skip_frames),
            samples=512,
            teacher=replace(base.teacher, checkpoint=teacher),
        )
        student = preset(TrainConfig, "davis-cpu")
        self.train = replace(
            student,
            **shared,
            model=info["model"],
            init=config.student,
            cache=self.cache.out,
            data=labelled,
            steps=config.steps,
            batch=config.batch,
            loss=replace(student.loss, w=1.0),
            optimiser=replace(student.optimiser, lr=config.lr),
        )
        self.evaluate = EvaluateConfig(
            **shared,
            workers=config.workers,
            data=config.data,
            split=config.split,
            size_px=self.size_px,
            fps=FpsConfig(sequences=0),
        )

    def _crop_px(self) -> int:
        """Return three quarters of the size at which the student sees the smallest video, as in its own training."""
        smallest = min(min(video.size) for video in self.videos)
        seen = min(self.size_px, smallest) if self.size_px else smallest
        return max(32, round(0.75 * seen / 16) * 16)

    def evaluation(self, name: str, checkpoint: str) -> EvaluateConfig:
        return replace(self.evaluate, checkpoint=checkpoint, out=os.path.join(self.config.out, "evaluation", name))


class _Stages:
    """Runs stages, measures them and records what they gave. The time until the first one begins is a stage, too."""

    def __init__(self, folder: Written, meter: CpuMeter, began: float) -> None:
        self.done: dict[str, Stage] = {}
        self._folder, self._meter = folder, meter
        start = Stage(cpu_s=meter.seconds(), wall_s=time.monotonic() - began, scores=[])
        self.done["start"] = self._known("start") or self._record("start", start)

    def run(self, name: str, work: Callable[[], list[Score] | None], again: bool = True) -> Stage:
        """Run a stage, unless an earlier run finished it and `again` is off; returns its record.

        again  a finished stage runs again, to check what it made; its first record stays
        """
        known = self._known(name)
        if known is not None and not again:
            self.done[name] = known
            return known
        cpu_s, wall_s = self._meter.seconds(), time.monotonic()
        scores = work() or []
        new = Stage(cpu_s=self._meter.seconds() - cpu_s, wall_s=time.monotonic() - wall_s, scores=scores)
        self.done[name] = known or self._record(name, new)
        return self.done[name]

    def _known(self, name: str) -> Stage | None:
        return self._folder.read_json(f"{STAGES}/{name}.json", Stage, REPAIR)

    def _record(self, name: str, stage: Stage) -> Stage:
        self._folder.write_json(f"{STAGES}/{name}.json", stage)
        return stage


def _run_stages(stages: _Stages, plan: _Plan) -> Adaptation:
    config, made = plan.config, {}

    def label() -> None:
        made["labels"] = build_labels(plan.label).labels

    def fit(seed: int) -> None:
        out = os.path.join(config.out, f"student-{seed}")
        made[seed] = train(replace(plan.train, seed=seed, out=out), label=f"adapted, seed {seed}").checkpoint

    stages.run("label", label)
    stages.run("cache", lambda: build_cache(plan.cache) and None)
    held = held_out(plan.label.out)

    def scored(name: str, checkpoint: str) -> list[Score]:
        work = lambda: score(plan.evaluation(name, checkpoint), plan.videos, name, held)  # noqa: E731
        return stages.run(f"score-{name}", work, again=False)["scores"]

    before, after = scored("before", config.student), {}
    for seed in range(config.seed, config.seed + config.seeds):
        stages.run(f"train-{seed}", partial(fit, seed))
        after[seed] = scored(f"after-{seed}", made[seed])
    videos = made.pop("labels")["videos"]
    kept, frames = (sum(listed[name] for listed in videos) for name in ("kept", "frames"))
    return Adaptation(before, after, stages.done, made, kept, frames)


def gains(result: Adaptation) -> dict[str, list[float]]:
    """Return for each way of scoring J&F after minus before, one figure a seed."""
    before = {row["by"]: row["j_and_f"] for row in result.before}
    return {
        by: [row["j_and_f"] - first for rows in result.after.values() for row in rows if row["by"] == by]
        for by, first in before.items()
    }


def _metrics(result: Adaptation) -> dict[str, float]:
    found = {f"adapt/cpu_s/{name}": stage["cpu_s"] for name, stage in result.stages.items()}
    found |= {
        "adapt/cpu_s/all": sum(stage["cpu_s"] for stage in result.stages.values()),
        "adapt/kept_frames": result.kept,
    }
    for row in result.before:
        slug = row["by"].replace(" ", "_")
        found[f"adapt/{slug}/before"] = row["j_and_f"]
        gain = gains(result)[row["by"]]
        found[f"adapt/{slug}/gain"] = sum(gain) / len(gain)
    return found


def _as_json(result: Adaptation) -> dict[str, Any]:
    after = {str(seed): rows for seed, rows in result.after.items()}
    return {
        "before": result.before,
        "after": after,
        "stages": result.stages,
        "kept": result.kept,
        "frames": result.frames,
    }
