"""Measure the cost and the savings of the cache against work without it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from pipelines import storage
from pipelines.cache import schema
from pipelines.cache.build import blueprint
from pipelines.cache.read import CachedClips, prefetched, targets_of
from pipelines.cache.teacher import Teacher, Work, row_of
from pipelines.runtime.actors import run_on_actors
from pipelines.studies.benchmarks.rows import built, median, seconds, stepped
from vos.config import BenchmarkConfig, CacheConfig, ClipConfig, TeacherConfig, TrainConfig
from vos.data.transforms import to_tensor
from vos.distillation.training_step import TrainingStep
from vos.models import build
from vos.models.checkpoint import save_checkpoint
from vos.published.bounds import Figure, slug

SHARD_DRAWS = 2
RANKS = (16, 32, 48, 64, 96, 128)


def _cache_config(config: BenchmarkConfig, name: str, **changes: Any) -> CacheConfig:
    base = CacheConfig(
        out=os.path.join(config.out, name),
        draws=config.draws,
        shard_draws=SHARD_DRAWS,
        clip=ClipConfig(crop_px=config.crop_px),
        samples=config.samples,
        data=config.data,
        seed=config.seed,
        teacher=TeacherConfig(checkpoint=config.teacher),
    )
    return replace(base, **changes)


def _teacher(config: CacheConfig) -> Teacher:
    plan = blueprint(config)
    return Teacher(config, plan.videos, plan.shapes, plan.recipe)


def _sizes(config: BenchmarkConfig) -> Iterator[Figure]:
    """Measure bytes and error of every rank and dtype on the same outputs of the teacher."""
    cache = _cache_config(config, "sizes")
    plan = blueprint(cache)
    teacher = Teacher(cache, plan.videos, plan.shapes, plan.recipe)
    looks = [(work, *teacher.look(work)) for work in teacher.read_ahead(range(min(config.draws, 16)))]
    best: tuple[float, float] | None = None
    for dtype in ("int8", "fp16"):
        for rank in RANKS:
            shapes = replace(plan.shapes, rank=min(rank, config.samples), factor=dtype)
            sizes, errors = zip(*(_size_and_error(cache, shapes, *look) for look in looks), strict=True)
            kib, worst = statistics.mean(sizes) / 1024, max(errors)
            if worst <= 0.01 and (best is None or kib < best[0]):
                best = kib, worst
            name = f"rank {rank} {dtype}"
            ends = min(sizes) / 1024, max(sizes) / 1024
            yield Figure(f"{name}: KiB/draw", kib, low=ends[0], high=ends[1])
            yield Figure(f"{name}: error %", 100 * statistics.mean(errors), low=100 * min(errors), high=100 * worst)
    kib, worst = best or (float("nan"), float("nan"))
    objects = statistics.mean(work.draw.num_objects for work, _, _ in looks)
    how = f"smallest of the curve with at most 1 % error on its worst draw ({100 * worst:.2f} %); {objects:.1f} objects per clip"
    yield Figure("KiB/draw at <= 1 % error", kib, "<=", 128, how, kib, kib)


def _size_and_error(
    config: CacheConfig, shapes: schema.Shapes, work: Work, logits: torch.Tensor, features: torch.Tensor
) -> tuple[float, float]:
    row = row_of(work, logits, features, config, shapes)
    data = schema.to_parquet([row] * 16, shapes, {})  # 16 rows, as in a usual shard, share the footer
    return len(data) / 16, float(row["factor_error"].max())


def _throughput(config: BenchmarkConfig) -> Iterator[Figure]:
    """Compare draws per second of the job's single actor with bare forwards over the same clips in memory."""
    for name in dict.fromkeys((config.online_teacher, config.teacher)):
        cache = _cache_config(config, f"throughput-{slug(os.path.basename(name))}", teacher=_options(config, name))
        teacher = _teacher(cache)
        works = list(teacher.read_ahead(range(cache.draws)))
        teacher.look(works[0])
        ratios = []
        for _ in range(config.rounds):
            bare = len(works) / sum(seconds(teacher.look, work) for work in works)
            ratios.append(_job_rate(cache, 1) / bare)
        how = "draws/s of one actor after its first shard (decoding, targets, Parquet, fsync included) / forwards of clips in memory"
        yield median(f"cache job / bare forwards ({os.path.basename(name)})", ratios, ">=", 0.95, how)


def _job_rate(config: CacheConfig, actors: int) -> float:
    """Return draws per second of the Ray Data job while all actors work, so without each actor's first and last shard."""
    plan = blueprint(config)
    folder = storage.join(config.out, "shards")
    storage.make_folder(folder)
    arguments = {"config": config, "videos": plan.videos, "shapes": plan.shapes, "recipe": plan.recipe}
    items = [asdict(one) for one in plan.plans]
    for _ in run_on_actors(items, Teacher, arguments, actors):
        pass
    # Times of the complete files, since results reach the driver in groups.
    done = sorted(os.stat(os.path.join(folder, one.file_name)).st_mtime for one in plan.plans)
    first, last = actors - 1, len(done) - actors
    return (last - first) * SHARD_DRAWS / (done[last] - done[first])


def _actors(config: BenchmarkConfig) -> Iterator[Figure]:
    cache = _cache_config(config, "actors", draws=2 * config.draws)
    ratios = [1 / _job_rate(cache, 1) * _job_rate(cache, 2) for _ in range(config.rounds)]
    how = f"draws/s, one thread each, {os.cpu_count()} cores, between the first and the last shards"
    yield median("2 actors / 1", ratios, ">=", 1.8, how)


def _options(config: BenchmarkConfig, name: str, context_frames: int = 0) -> TeacherConfig:
    """Return a teacher by its checkpoint, or by its architecture with random weights, which take the same time."""
    if name != config.online_teacher:
        return TeacherConfig(checkpoint=name, context_frames=context_frames)
    folder = os.path.join(config.out, f"random-{name}")
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    save_checkpoint(folder, build(name), {"role": "teacher"})
    return TeacherConfig(checkpoint=folder, context_frames=context_frames)


def _steps(config: BenchmarkConfig) -> Iterator[Figure]:
    """Compare a student's step with cached targets, with an online teacher, and without a teacher."""
    for context in (0, 5):
        options = _options(config, config.online_teacher, context)
        cache = built(_cache_config(config, f"steps-{context}", draws=12, teacher=options))
        teacher, source = _teacher(cache), CachedClips(cache.out, cache.data)
        plain_source = CachedClips(cache.out, cache.data, with_targets=False)
        steps = 2 * config.rounds
        train = TrainConfig(model=config.student, steps=1000, batch=1)
        torch.manual_seed(0)
        take = TrainingStep(build(config.student).train(), train)

        def cached(step: int, source: CachedClips, take: TrainingStep = take) -> None:
            stepped(take, step, source.batch([step % 12]))

        def online(
            step: int, teacher: Teacher = teacher, take: TrainingStep = take, cache: CacheConfig = cache
        ) -> None:
            work = teacher.work(step % 12)
            frames, labels = to_tensor(work.clip.frames)[None], torch.from_numpy(work.clip.labels)[None]
            targets = targets_of([teacher.row(work)], cache.clip.crop_px // schema.GRID_STRIDE)
            take(step, frames, labels, torch.tensor([work.draw.num_objects]), targets, [step])

        cached(0, source)
        against_online, against_plain = [], []
        for step in range(steps):
            with_cache = seconds(cached, step, source)
            against_online.append(seconds(online, step) / with_cache)
            against_plain.append(with_cache / seconds(cached, step, plain_source))
        how = f"{config.online_teacher} teacher, {config.student} student, {config.crop_px} px, 1 clip of 3 frames, reading included"
        yield median(f"online step / cached step, {context} context frames", against_online, ">=", 5, how)
        yield median(f"cached step / plain step, {context} context frames", against_plain, "<=", 1.1)
    yield _waiting(config, take, source)


def _waiting(config: BenchmarkConfig, take: TrainingStep, source: CachedClips) -> Figure:
    shares = []
    steps = 4 * config.rounds + 2
    batches = prefetched(source, range(steps), 1, 0, 0, 1)
    for step in range(steps):
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        stepped(take, step, batch)
        shares.append(100 * waited / (time.monotonic() - began))
    del shares[:2]  # the first ones fill the queue
    how = "time in the loader's next() / time of the whole step, reading ahead in a thread"
    return median("waiting for clips and targets, % of a step", shares, "<=", 5, how)


MEASURES = (_sizes, _throughput, _actors, _steps)
