"""What a user would do, in minutes: adapt the student that ships to new videos, from a cache of a teacher, and score it before and after.

Three seeds are trained. A gain is claimed where it is larger than their spread.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipelines import tracking
from pipelines.cache.build import build_cache
from pipelines.delivery.segment import summary
from pipelines.evaluation import pictures
from pipelines.evaluation.evaluate import Evaluation, evaluate_model
from pipelines.evaluation.tables import method_table
from pipelines.runtime.output_folder import claimed_folder
from pipelines.runtime.session import ray_session
from pipelines.runtime.videos import data_fingerprint, index_videos
from pipelines.studies.sample import segment_sample
from pipelines.training.launch import train
from vos.config import (
    BUILTIN_DAVIS_TEACHER,
    BUILTIN_STUDENT,
    BUILTIN_STUDENTS,
    BUILTIN_TEACHER,
    CacheConfig,
    DemoConfig,
    EvaluateConfig,
    TrainConfig,
)
from vos.config.fields import identity
from vos.config.presets import preset
from vos.files.canonical import fingerprint
from vos.files.written import Written
from vos.inference.whole_video import segmented_span
from vos.media.images import frame_file

DEMO = "demo"
SHOWN = ("table.txt", "strip.png", "demo.gif")
BEFORE, AFTER, TEACHER = "student that ships", "the same, adapted", "teacher"
ARCHITECTURE = next(model for model, name in BUILTIN_STUDENTS.items() if name == BUILTIN_STUDENT)


def run_demo(config: DemoConfig) -> str:
    """Run the demo, print what it found, and return the lines of its end. Raises InputError for bad input."""
    began = time.monotonic()
    work = _work_folder(config)
    with claimed_folder(config, DEMO, "a demo", names=SHOWN, shared=True) as folder:
        # Ray is started once for all stages; each stage alone would start and stop its own.
        with ray_session(num_cpus=2 * config.workers + 2):
            results = {name: _evaluate(config, work, name, checkpoint) for name, checkpoint in _models(config, work)}
        with tracking.start_run("demo", f"demo-{config.preset}", config) as run:
            for name, result in results.items():
                slug = name.replace(",", "").replace(" ", "_")
                run.log_metrics({f"{slug}/{key}": value for key, value in result.metrics.items()})
            text = f"{method_table(results)}\n\n{_verdict(results)}"
            run.log_artifact(folder.write(SHOWN[0], f"{text}\n".encode()))
            paths = _draw(config, folder, results)
            for path in paths:
                run.log_artifact(path)
    shown = f"picture  {paths[0]}\nvideo    {paths[1]}\npages    {tracking.page_line()}"
    print(
        f"\n{text}\n\n{shown}\n\nthe student that ships on real moving pictures (python -m jobs.segment --sample):",
        flush=True,
    )
    sample = segment_sample(os.path.join(config.out, "sample"), config.overwrite)
    return f"{summary(sample.segmentation)}\npicture  {sample.picture}\n\ntook     {time.monotonic() - began:.0f} s"


def verdict(before: float, after: Sequence[float]) -> str:
    """What J&F before and after says, each in [0, 1]: a gain is claimed only where it exceeds the spread of the seeds."""
    gain, spread = statistics.mean(after) - before, max(after) - min(after)
    figures = f"{100 * before:.1f} before, {100 * statistics.mean(after):.1f} after ({len(after)} seeds, {100 * spread:.1f} apart)"
    if gain > spread:
        return f"J&F {figures}: adapting gained {100 * gain:.1f}"
    return f"J&F {figures}: no gain is claimed, since the difference is not larger than the spread of the seeds"


def _verdict(results: dict[str, Evaluation]) -> str:
    scores = {name: result.metrics.get("val/j_and_f") for name, result in results.items()}
    before, after = scores[BEFORE], [score for name, score in scores.items() if name.startswith(AFTER)]
    found = [score for score in after if score is not None]
    return "these videos have no ground truth to score" if before is None or not found else verdict(before, found)


def _work_folder(config: DemoConfig) -> str:
    """Where cache, checkpoints and masks go: one folder per data set and configuration, so that a demo on other video or with
    another seed never meets an earlier one's; the pictures and the table of the latest are in --out itself."""
    digest = fingerprint(identity(config), config.preset, data_fingerprint(index_videos(config.data, "val")))
    return os.path.join(config.out, digest[:8])


def _stage(config: DemoConfig, kind: type[Any], **changes: Any) -> Any:
    """A stage's configuration: at the scale of real video where there is any, with what every stage shares and its own changes."""
    scale = "davis-cpu" if config.data.root and config.preset == "demo" else config.preset
    shared = {name: getattr(config, name) for name in ("data", "seed", "workers", "threads", "overwrite")}
    return replace(preset(kind, scale), **shared | changes)


def adaptation(config: DemoConfig, cache: str) -> TrainConfig:
    """The training that adapts the student that ships from a cache, but for its seed and folder."""
    # In this process: on two shared cores a second thread made these small steps no faster, and a trainer takes long to start.
    base = _stage(config, TrainConfig, workers=1, here=True, model=ARCHITECTURE, init=BUILTIN_STUDENT, cache=cache)
    return replace(base, steps=config.steps, optimiser=replace(base.optimiser, lr=config.lr))


def _models(config: DemoConfig, work: str) -> list[tuple[str, str]]:
    """Make the cache, adapt the student once for each seed; returns name and checkpoint of each row of the table."""
    # Each teacher has seen video of the one kind only.
    teacher = BUILTIN_DAVIS_TEACHER if config.data.root else BUILTIN_TEACHER
    adapted = adaptation(config, f"{work}/cache")  # first, so that it is checked before the teacher's work
    cache = _stage(config, CacheConfig, draws=config.draws, out=adapted.cache)
    build_cache(replace(cache, teacher=replace(cache.teacher, checkpoint=teacher)))
    models = [(BEFORE, BUILTIN_STUDENT)]
    for seed in range(config.seed, config.seed + config.seeds):
        name = f"{AFTER}, seed {seed}"
        models.append((name, train(replace(adapted, seed=seed, out=f"{work}/adapted-{seed}"), label=name).checkpoint))
    return [*models, (TEACHER, teacher)]


def _evaluate(config: DemoConfig, work: str, name: str, checkpoint: str) -> Evaluation:
    out = os.path.join(work, "evaluation", name.replace(",", "").replace(" ", "-"))
    one = _stage(config, EvaluateConfig, checkpoint=checkpoint, out=out, size_px=config.size_px)
    if name.startswith(AFTER):  # as fast as before: the same network
        one = replace(one, fps=replace(one.fps, sequences=0))
    return evaluate_model(one, label=name)


def _draw(config: DemoConfig, folder: Written, results: dict[str, Evaluation]) -> list[str]:
    """A strip and an animation of one sequence: the one in the middle of the first adapted student's ranking, neither its best nor its
    worst. Where nothing has ground truth, so that there is no ranking, the one in the middle by name.
    """
    by_name = {video.name: video for video in index_videos(config.data, "val")}
    first = results[f"{AFTER}, seed {config.seed}"]
    ranked = sorted(first.sequences, key=lambda row: row["j_and_f"])
    names = [row["sequence"] for row in ranked] or list(by_name)
    name = names[len(names) // 2]
    video = by_name[name]
    span = segmented_span(video, _stage(config, EvaluateConfig).max_frames)
    rows = {f"ground truth: {name}": "", BEFORE: results[BEFORE].masks, AFTER: first.masks}
    strip = frame_file(SHOWN[1], pictures.strip(video, rows, span))
    return [folder.write(SHOWN[1], strip), folder.write(SHOWN[2], pictures.animation(video, rows, span))]
