"""The protocol of the results as data: every run, and the runs that it needs.

The two runs of a comparison differ in one setting. Their students start with the same weights (a function of the seed) and take the same
clips in the same order (one cache, or caches of equally many draws from one seed), for the same number of steps. The plain student makes
the cache's draws itself, so its record stays valid with another teacher. Caches, checkpoints and weights are names, not paths, so a plan
is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from pipelines.cache.schema import GRID_STRIDE
from pipelines.studies.protocols.planned import PRETRAINED, SEARCH, TEACHER, Planned
from vos.config import (
    CacheConfig,
    EvaluateConfig,
    FactorConfig,
    LossConfig,
    MemoryConfig,
    TeacherConfig,
    TrainConfig,
    TuneConfig,
)
from vos.config.presets import preset

FULL_STEPS = 1900
"""Steps of a full training under davis-cpu."""
LONGER = 1.1
"""Factor on the steps of the plain student with a distilled student's CPU time: the largest allowed cost of a cached step.
The page reports the measured ratio."""
LONG = 2.5
"""Factor on the steps of the longest students, with the same clips, mirrored on every second pass, or with as many more clips."""
REPEATS = 4
"""Factor on how often the students that measure the cost of repetition see each clip."""
MAIN_CACHE, LONG_CACHE, SHORT_CACHE, REPEAT_CACHE = "cache-main", "cache-long", "cache-short", "cache-repeat"

LOSSES = {"plain": (False, False), "logits": (True, False), "repr": (False, True), "both": (True, True)}
"""Whether the distillation of logits and of the representation are on."""
W = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (0.5, 1.0, 4.0, 8.0)
BEST_TEMPERATURE = 4.0
"""The best one over the ablation's two seeds."""
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the cached samples: 64, 128, 256 and 512 of 1024."""
MEMORIES = ("first", "recent", "infinite")

LENGTHS = {"": 1, "-half": 0.5, "-longer": LONGER, "-long": LONG, "-fresh": LONG}
"""Length of a training in full trainings: `-long` on the main cache's clips, mirrored on every second pass, `-fresh` on new ones."""

Row = tuple[str, str, Mapping[str, object]]
"""Students of one family: its name, the loss, and the other arguments of `Study._student`."""


@dataclass(frozen=True)
class Scale:
    """The size of the protocol under a preset."""

    short: int
    full: int
    """steps"""
    teacher: Mapping[str, object]
    """fields of its TrainConfig"""
    students: Mapping[str, str]
    """{label: architecture}; all ablations use the first"""
    teacher_px: int = 0
    """shorter side at which the teacher is scored, 0 for the students' size"""
    pretrained: bool = False
    """whether MobileNetV2 trunks start with ImageNet weights"""
    epochs: int = 1
    """passes of a full training over the main cache"""
    step_s: Mapping[str, float] = field(default_factory=dict)
    """CPU seconds of a step, by architecture, for the forecast"""
    draw_s: float = 0.05
    """CPU seconds of the teacher for a draw"""


TINY = {"noaspp": "mobilevos-tiny", "mobilenetv2": "mobilevos-tiny", "resnet18": "mobilevos-tiny"}
PUBLISHED = {
    "noaspp": "mobilevos-mobilenetv2-noaspp",
    "mobilenetv2": "mobilevos-mobilenetv2",
    "resnet18": "mobilevos-resnet18",
}
STEP_S = dict(zip((*PUBLISHED.values(), "teacher-mobilenetv2"), (0.6, 0.7, 1.3, 0.8), strict=True))
DAVIS_TEACHER = {
    "model": "teacher-mobilenetv2",
    "steps": 4500,
    "seed": 1,
    "optimiser": replace(preset(TrainConfig, "davis-cpu").optimiser, ema=0.995),
    "checkpoint_every": 300,
    "half": True,  # the published weights are then those that made the caches
}
SCALES = {
    "smoke": Scale(4, 6, {"model": "teacher-small", "steps": 4}, TINY),
    "demo": Scale(150, 300, {"model": "teacher-small", "steps": 300}, TINY),
    "paper": Scale(30_000, 150_000, {"model": "stcn", "steps": 150_000}, PUBLISHED, pretrained=True, epochs=4),
    "davis-cpu": Scale(400, FULL_STEPS, DAVIS_TEACHER, PUBLISHED, 432, pretrained=True, step_s=STEP_S, draw_s=0.5),
}
EVALUATION_MINUTES = 1.5


def plan(name: str = "davis-cpu") -> list[Planned]:
    """Return every run of the protocol under a preset, in order of importance, each after the runs that it needs."""
    return list(study(name).runs())


@cache
def study(name: str) -> Study:
    return Study(name)


class Study:
    """The protocol under a preset: its configurations, the varied settings, and its runs."""

    def __init__(self, name: str) -> None:
        self.name, self.scale = name, SCALES[name]
        self.main, *self.others = self.scale.students
        self.train = replace(preset(TrainConfig, name), here=True, workers=1, threads=1)
        self.cache = replace(preset(CacheConfig, name), workers=1, threads=1)
        evaluate = preset(EvaluateConfig, name)
        # Speed is measured by jobs.benchmark fps on an idle machine; beside other runs it has no meaning.
        self.evaluate = replace(evaluate, workers=1, threads=1, fps=replace(evaluate.fps, sequences=0))
        usual = self.train.loss
        self.light_kd, self.heavy_kd, self.heavy_repr = usual.kd / 8, 4 * usual.kd, 10 * usual.representation
        """other weights of the logits' KL (light: under davis-cpu 1, a fifth of cross-entropy at the end) and of |S| x L_repr"""
        self.dense_samples = min(2 * self.cache.samples, (self.cache.clip.crop_px // GRID_STRIDE) ** 2)
        """twice the sampled pixels, at most all"""
        self.quarter = self.sampled(1 / 4)
        self.as_large = f"size{self.scale.teacher_px}" if self.scale.teacher_px else ""
        """name of the students that see frames as large as their teacher does; "" where all of them do"""

    def sampled(self, share: float) -> str:
        """Return the name of runs with a share of the cached samples: n256 of 1024."""
        return f"n{round(share * self.cache.samples)}"

    def runs(self) -> Iterator[Planned]:
        yield self._teacher()
        yield self._cache(MAIN_CACHE)
        yield from self._students((1, 2, 3), self._full("plain"), self._full("both"))
        yield from self._students((1, 2, 3), self._full("both", name=f"kd{self.light_kd:g}", kd=self.light_kd))
        yield from self._students((1, 2, 3), self._full("both", "-half"))
        yield self._cache(LONG_CACHE)
        yield from self._students((1,), self._full("plain", "-fresh"), self._full("both", "-fresh"))
        yield from self._students((1, 2, 3), self._full("plain", "-long"), self._full("both", "-long"))
        yield from self._students((1,), *(self._full(loss, label=label) for label in self.others for loss in LOSSES))
        yield from self._students((1,), self._full("logits"), self._full("repr"))
        for seed in (1, 2, 3):
            yield from (self._memory(kind, loss, seed) for loss in ("plain", "both") for kind in MEMORIES)
        if self.as_large:
            yield from (self._as_large(loss) for loss in ("plain", "both"))
        yield self._cache(REPEAT_CACHE)
        repeated: dict[str, object] = {"steps": self.scale.full, "cache": REPEAT_CACHE}
        yield from self._students((1, 2), *((f"repeat-{loss}", loss, repeated) for loss in ("plain", "both")))
        yield from self._short()
        yield self._search()
        yield from self._students((1, 2, 3), self._full("plain", "-longer"))
        # More seeds where two or three do not decide.
        yield from self._students((3, 4), self._tempered(BEST_TEMPERATURE))
        yield from self._students((3, 4), ("short-truemasks", "both", {"cache": "cache-truemasks"}))
        yield from self._students((4, 5), *self._sampling("short", self.scale.short))

    def _short(self) -> Iterator[Planned]:
        """Yield the ablations, on one student at the short length. All caches have equally many draws, so their order is the same."""
        half, longer = self.scale.short // 2, math.ceil(LONGER * self.scale.short)
        yield self._cache(SHORT_CACHE)
        yield from self._students(range(1, 6), ("short-plain", "plain", {}), ("short-both", "both", {}))
        yield from self._students((1, 2, 3), ("half-both", "both", {"steps": half}))
        yield from self._students(range(1, 6), ("longer-plain", "plain", {"steps": longer}))
        yield from self._students(range(1, 6), self._weighted(self.light_kd))
        yield self._cache("cache-uniform", sampling="uniform")
        sampling = [*self._sampling("short", self.scale.short), *self._sampling("half", half)]
        yield from self._students((1, 2, 3), *sampling)
        yield self._cache("cache-fp32", factor=FactorConfig(rank=0, dtype="fp32"), logits="fp16")
        yield from self._students((1, 2, 3), ("short-fp32", "both", {"cache": "cache-fp32"}))
        yield from self._students((1, 2), ("short-online", "both", {"online": True}))
        rows: list[Row] = [(f"short-w{w:g}", "both", {"w": w}) for w in W]
        rows += [self._tempered(temperature) for temperature in TEMPERATURES]
        rows += [(f"short-{self.sampled(one)}", "both", {"density": one}) for one in SHARES if one != 1 / 4]
        rows += [("short-rank16", "both", {"rank": min(16, self.cache.factor.rank)}), self._weighted(self.heavy_kd)]
        rows += [(f"short-repr{self.heavy_repr:g}", "both", {"representation": self.heavy_repr})]
        yield from self._students((1, 2), *rows)
        teacher, dense = self.cache.teacher, f"n{self.dense_samples}"
        for label, changes in {
            dense: {"samples": self.dense_samples},
            "fp16": {"factor": replace(self.cache.factor, dtype="fp16")},
            "context0": {"teacher": replace(teacher, context_frames=0)},
            "context2": {"teacher": replace(teacher, context_frames=2)},
            "truemasks": {"teacher": replace(teacher, context_masks="true")},
        }.items():
            yield self._cache(f"cache-{label}", **changes)
            yield from self._students((1, 2), (f"short-{label}", "both", {"cache": f"cache-{label}"}))

    def _full(self, loss: str, length: str = "", label: str = "", name: str = "", **changes: object) -> Row:
        label = label or self.main
        fields = {"steps": math.ceil(LENGTHS[length] * self.scale.full), "label": label, "mirror": length == "-long"}
        cache = LONG_CACHE if length == "-fresh" else MAIN_CACHE
        return f"full-{label}-{name or loss}{length}", loss, {**fields, "cache": cache, **changes}

    def _weighted(self, kd: float) -> Row:
        return f"short-kd{kd:g}", "both", {"kd": kd}

    def _tempered(self, temperature: float) -> Row:
        return f"short-tau{temperature:g}", "both", {"temperature": temperature}

    def _sampling(self, length: str, steps: int) -> list[Row]:
        """Return students with a quarter of the samples: boundary samples first, and uniform ones."""
        uniform: dict[str, object] = {"steps": steps, "density": 1 / 4, "cache": "cache-uniform"}
        boundary = {**uniform, "cache": SHORT_CACHE}
        return [(f"{length}-{self.quarter}", "both", boundary), (f"{length}-uniform", "both", uniform)]

    def _students(self, seeds: Iterable[int], *rows: Row) -> Iterator[Planned]:
        for seed in seeds:
            for family, loss, fields in rows:
                yield self._student(family, loss, seed, **fields)  # type: ignore[arg-type]

    def _student(
        self,
        family: str,
        loss: str,
        seed: int,
        steps: int = 0,
        cache: str = SHORT_CACHE,
        label: str = "",
        online: bool = False,
        mirror: bool = False,
        **changes: object,
    ) -> Planned:
        name, model, usual = f"{family}-s{seed}", self.scale.students[label or self.main], self.train.loss
        kd, representation = LOSSES[loss]
        weights = replace(usual, kd=usual.kd * kd, representation=usual.representation * representation)
        weights = replace(weights, **changes)  # type: ignore[arg-type]
        steps = steps or self.scale.short
        job, needs = replace(self.train, model=model, seed=seed, steps=steps, loss=weights, mirror=mirror), ()
        if loss == "plain":
            job = replace(job, draws=self._draws(cache), draw_seed=self.cache.seed, clip=self.cache.clip)
        else:
            job, needs = replace(job, cache=cache, teacher_online=online), (cache, *([TEACHER] if online else []))
        if self.scale.pretrained and "mobilenetv2" in model:
            job = replace(job, trunk_weights=PRETRAINED)
        elif self.scale.pretrained:  # this trunk has no ImageNet weights, so all its layers start from random ones
            rates = replace(job.optimiser, query_trunk_scale=1.0, value_trunk_scale=1.0)
            job = replace(job, optimiser=rates, freeze_early=False)
        minutes = steps * self._step_s(model) * (1.4 if online else 1) / 60 + EVALUATION_MINUTES
        return Planned(name, "student", job, minutes, needs, self._scored(name))

    def _teacher(self) -> Planned:
        job = replace(self.train, role="teacher", loss=LossConfig(), **self.scale.teacher)  # type: ignore[arg-type]
        job = replace(job, trunk_weights=PRETRAINED if self.scale.pretrained and job.model != "stcn" else "")
        minutes = self._step_s(job.model) * job.steps / 60 + 3 * EVALUATION_MINUTES
        # Its memory also holds the previous frame, as in training and in the cache (DECISIONS 47).
        memory = MemoryConfig(kind="infinite", top_k=self.evaluate.memory.top_k, include_last=True)
        size_px = self.scale.teacher_px or self.evaluate.size_px
        return Planned(TEACHER, "teacher", job, minutes, (), self._scored(TEACHER, memory=memory, size_px=size_px))

    def _draws(self, cache: str) -> int:
        """Return a cache's number of draws, which together with its seed decides the clips and their order."""
        clips = math.ceil(self.scale.full * self.train.batch / self.scale.epochs)
        draws = {MAIN_CACHE: clips, LONG_CACHE: math.ceil(LONG * clips), REPEAT_CACHE: math.ceil(clips / REPEATS)}
        return draws.get(cache, self.scale.short * self.train.batch)

    def _cache(self, name: str, teacher: TeacherConfig | None = None, **changes: object) -> Planned:
        draws, teacher = self._draws(name), replace(teacher or self.cache.teacher, checkpoint=TEACHER)
        job = replace(self.cache, draws=draws, teacher=teacher, **changes)  # type: ignore[arg-type]
        return Planned(name, "cache", job, draws * self.scale.draw_s / 60 + 0.5, (TEACHER,))

    def _search(self) -> Planned:
        """Return a search with jobs.tune at the short length. It chooses no setting, since its trials use the development sequences."""
        weights = PRETRAINED if self.scale.pretrained else ""
        train = replace(self.train, steps=self.scale.short, trunk_weights=weights)
        job = replace(preset(TuneConfig, self.name), cache=SHORT_CACHE, concurrent=1, threads=1, train=train)
        # Half of the trials are stopped early.
        minutes = 0.6 * job.trials * (self.scale.short * self._step_s(job.train.model) / 60 + EVALUATION_MINUTES)
        return Planned(SEARCH, "search", job, minutes, (SHORT_CACHE,))

    def _memory(self, kind: str, loss: str, seed: int) -> Planned:
        student = f"full-{self.main}-{loss}-s{seed}"
        memory = replace(self.evaluate.memory, kind=kind, include_last=kind == "infinite")
        job = self._scored(student, memory=memory)
        return Planned(f"memory-{kind}-{loss}-s{seed}", "evaluation", job, EVALUATION_MINUTES, (student,))

    def _as_large(self, loss: str) -> Planned:
        """Return the evaluation of a student that sees frames as large as its teacher does."""
        student = f"full-{self.main}-{loss}-fresh-s1"
        job = self._scored(student, size_px=self.scale.teacher_px)
        minutes = EVALUATION_MINUTES * (self.scale.teacher_px / self.evaluate.size_px) ** 2
        return Planned(f"{self.as_large}-{loss}-fresh-s1", "evaluation", job, minutes, (student,))

    def _scored(self, checkpoint: str, **changes: object) -> EvaluateConfig:
        memory = MemoryConfig(top_k=self.evaluate.memory.top_k)
        return replace(replace(self.evaluate, checkpoint=checkpoint, memory=memory), **changes)  # type: ignore[arg-type]

    def _step_s(self, model: str) -> float:
        return self.scale.step_s.get(model, 0.1)
