"""The protocol folds as data: choices on folds of the training videos, the curve over labelled videos, and the final models.

    first       first-teacher, first-student-sS, first-mobilenetv2-s1: on stills alone; all others below begin with their weights
    fold F      teacher-before-F, plain-before-F      the recipe of docs/results.md
                teacher-F, plain-F, cache-F, both-F   the new recipe
    final       teacher, cache, both-sS, plain-sS, plain-longer-sS, both-mobilenetv2-s1: trained on all training videos
    patience    cache-patient-1, both-patient-1: a longer schedule with stronger augmentation, on the first fold
    curve       teacher-nN, labels-nN, cache-nN, both-nN-sS, plain-nN-sS: masks of N training videos, one mask of each other one

Only the final models see a validation sequence: each is scored on them once. All others are scored on the videos that their fold holds
out; the curve's are those of the first fold. A distilled and a plain student of a comparison have the same seed, steps and number of clips.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from pipelines.studies.davis.plan import EVALUATION_MINUTES, LONGER, study
from pipelines.studies.protocols.planned import TEACHER, Planned, Videos
from pipelines.studies.unseen.recipes import recipe_of
from vos.config import (
    CacheConfig,
    EvaluateConfig,
    MemoryConfig,
    TrainConfig,
)
from vos.config.presets import preset

SEEDS = (1, 2, 3)
JUDGE = 1
"""The fold whose held-out videos score the curve."""
WIDE = "both-mobilenetv2"
FIRST_TEACHER, FIRST_STUDENT, FIRST_WIDE = "first-teacher", "first-student", "first-mobilenetv2"
LABEL_FRAMES = 70
"""Frames of a video, for the forecast."""


def plan(name: str = "davis-cpu") -> list[Planned]:
    """Return every run of the protocol under a preset, in order of importance, each after the runs that it needs.

    Raises InputError for a preset without a recipe.
    """
    return list(Plan(name).runs())


class Plan:
    """The protocol under a preset."""

    def __init__(self, name: str) -> None:
        self.recipe, self.before = recipe_of(name), study(name)
        alone = {"here": True, "workers": 1, "threads": 1}
        self.teacher = replace(self.recipe.teacher, role="teacher", **alone)
        self.student = replace(self.recipe.student, **alone)
        cache = replace(preset(CacheConfig, name), workers=1, threads=1)
        self.cache = replace(cache, clip=self.recipe.student.clip, teacher=self.recipe.looks)
        self.evaluate = self.before.evaluate
        self.mixture = Videos(fold_videos=self.recipe.fold_videos, davis=self.recipe.davis, stills=self.recipe.stills)

    def runs(self) -> Iterator[Planned]:
        yield from self._first()
        for fold in range(1, self.recipe.folds + 1):
            yield from self._fold(fold)
        yield from self._final()
        for count in self.recipe.labelled:
            yield from self._curve(count)
        yield from self._patient()

    def _first(self) -> Iterator[Planned]:
        """Yield the trainings on stills alone. They are scored on the first fold's videos, of which they see none."""
        alone = replace(self.mixture, fold=JUDGE, davis=0.0, stills=1.0)
        yield self._teacher(FIRST_TEACHER, self.recipe.first_teacher_steps, alone, begin="")
        for seed in SEEDS:
            yield self._student(f"{FIRST_STUDENT}-s{seed}", alone, self.recipe.first_student_steps, seed, begin="")
        yield self._student(
            f"{FIRST_WIDE}-s1", alone, self.recipe.first_student_steps, model=self.recipe.wide, begin=""
        )

    def _fold(self, fold: int) -> Iterator[Planned]:
        own, steps = replace(self.mixture, fold=fold), self.recipe.student.steps
        today = Videos(fold=fold, fold_videos=self.recipe.fold_videos)
        known = {one.name: one for one in self.before.runs()}
        for name, of in (
            (f"teacher-before-{fold}", TEACHER),
            (f"plain-before-{fold}", f"full-{self.before.main}-plain-s1"),
        ):
            old = known[of]
            assert old.evaluation is not None
            yield replace(old, name=name, videos=today, evaluation=replace(old.evaluation, checkpoint=name))
        yield self._teacher(f"teacher-{fold}", self.recipe.teacher.steps, own)
        yield self._student(f"plain-{fold}", own, steps)
        yield self._cache(f"cache-{fold}", f"teacher-{fold}", own, steps)
        yield self._student(f"both-{fold}", own, steps, cache=f"cache-{fold}")

    def _final(self) -> Iterator[Planned]:
        own, steps = self.mixture, self.recipe.student.steps
        yield self._teacher(TEACHER, self.recipe.teacher.steps, own)
        yield self._cache("cache", TEACHER, own, steps)
        for seed in SEEDS:
            yield self._student(f"both-s{seed}", own, steps, seed, cache="cache")
            yield self._student(f"plain-s{seed}", own, steps, seed)
        for seed in SEEDS:
            yield self._student(f"plain-longer-s{seed}", own, math.ceil(LONGER * steps), seed, clips_of=steps)
        yield self._student(f"{WIDE}-s1", own, steps, cache="cache", model=self.recipe.wide, begin=FIRST_WIDE)

    def _curve(self, count: int) -> Iterator[Planned]:
        """Yield the runs with the masks of `count` videos. Where all are labelled there is nothing more to label."""
        known, steps = replace(self.mixture, fold=JUDGE, labelled=count), self.recipe.curve_student_steps
        teacher, labels, cache = (f"{what}-n{count}" for what in ("teacher", "labels", "cache"))
        yield self._teacher(teacher, self.recipe.curve_teacher_steps, known)
        own, made = known, ()
        if count < max(self.recipe.labelled):
            others = Videos(fold=JUDGE, fold_videos=self.recipe.fold_videos, labelled=count, others=True)
            yield self._labels(labels, teacher, others, max(self.recipe.labelled) - count)
            share = self.recipe.davis * self.recipe.unlabelled
            own, made = replace(known, labels=labels, davis=known.davis - share, unlabelled=share), (labels,)
        yield self._cache(cache, teacher, own, steps, made)
        for seed in SEEDS:
            yield self._student(f"both-n{count}-s{seed}", own, steps, seed, cache=cache, needs=made)
            yield self._student(f"plain-n{count}-s{seed}", known, steps, seed)

    def _patient(self) -> Iterator[Planned]:
        """Yield the student of a long schedule, in which every clip is new and strongly augmented, and its cache."""
        own, steps = replace(self.mixture, fold=JUDGE), math.ceil(self.recipe.patience * self.recipe.student.steps)
        made = self._cache(f"cache-patient-{JUDGE}", f"teacher-{JUDGE}", own, steps)
        assert isinstance(made.job, CacheConfig)
        yield replace(made, job=replace(made.job, clip=self.recipe.patient))
        yield self._student(f"both-patient-{JUDGE}", own, steps, cache=made.name)

    def _teacher(self, name: str, steps: int, videos: Videos, begin: str = FIRST_TEACHER) -> Planned:
        job = _begun(replace(self.teacher, steps=steps), begin)
        # Its memory also holds the previous frame, as in training and in the cache (DECISIONS 47).
        memory = MemoryConfig(kind="infinite", top_k=self.evaluate.memory.top_k, include_last=True)
        size_px = self.recipe.teacher_px or self.evaluate.size_px
        scored = replace(self._scored(name), memory=memory, size_px=size_px)
        minutes = self._minutes(job.model, steps) + 2 * EVALUATION_MINUTES
        return Planned(name, "teacher", job, minutes, (job.init,) if job.init else (), scored, videos)

    def _student(
        self,
        name: str,
        videos: Videos,
        steps: int,
        seed: int = 1,
        cache: str = "",
        needs: Iterable[str] = (),
        clips_of: int = 0,
        model: str = "",
        begin: str = FIRST_STUDENT,
    ) -> Planned:
        """Return a student, distilled from `cache` or plain on as many clips.

        begin     the training on stills with whose weights of this seed it begins; "" begins with ImageNet weights
        clips_of  steps for which there are clips, if not `steps`; later ones see the first clips again
        """
        model = model or self.student.model
        job = replace(self.student, model=model, seed=seed, steps=steps)
        job = _begun(job, begin and f"{begin}-s{seed}")
        if cache:
            job = replace(job, cache=cache)
        else:
            loss = replace(job.loss, kd=0.0, representation=0.0)
            job = replace(job, draws=self._draws(clips_of or steps), draw_seed=self.cache.seed, loss=loss)
        needed = ((cache, *needs) if cache else ()) + ((job.init,) if job.init else ())
        return Planned(
            name, "student", job, self._minutes(model, steps), needed, self._scored(name, gate=self.recipe.gate), videos
        )

    def _cache(self, name: str, teacher: str, videos: Videos, steps: int, needs: Iterable[str] = ()) -> Planned:
        draws = self._draws(steps)
        job = replace(self.cache, draws=draws, teacher=replace(self.cache.teacher, checkpoint=teacher))
        return Planned(name, "cache", job, draws * self.recipe.draw_s / 60 + 0.5, (teacher, *needs), None, videos)

    def _labels(self, name: str, teacher: str, videos: Videos, count: int) -> Planned:
        how, size_px = self.recipe.labels, self.recipe.teacher_px or self.evaluate.size_px
        job = replace(how, teacher=replace(how.teacher, checkpoint=teacher), size_px=size_px)
        return Planned(name, "labels", job, count * LABEL_FRAMES * self.recipe.label_s / 60, (teacher,), None, videos)

    def _draws(self, steps: int) -> int:
        """Return the clips of a training that sees each of them once."""
        return steps * self.student.batch

    def _scored(self, checkpoint: str, gate: float = 0.0) -> EvaluateConfig:
        memory = MemoryConfig(top_k=self.evaluate.memory.top_k, gate=gate)
        return replace(self.evaluate, checkpoint=checkpoint, memory=memory)

    def _minutes(self, model: str, steps: int) -> float:
        return steps * self.recipe.step_s.get(model, 0.1) / 60 + EVALUATION_MINUTES


def _begun(job: TrainConfig, first: str) -> TrainConfig:
    """Return a training that begins with the weights of another one, if any, whose normalisation stays as frozen as it was."""
    if not first:
        return job
    return replace(
        job, init=first, trunk_weights="", freeze_batch_norm=job.freeze_batch_norm or bool(job.trunk_weights)
    )
