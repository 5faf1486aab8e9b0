"""The whole way in minutes: teacher -> cache -> two students from one start, with and without distillation -> scores and pictures."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from pipelines import tracking
from pipelines.cache.build import build_cache
from pipelines.evaluation import pictures
from pipelines.evaluation import tables as report
from pipelines.evaluation.evaluate import COPY, Evaluation, evaluate_model
from pipelines.runtime.models import load_model
from pipelines.runtime.output_folder import check_links, claim, output_folder
from pipelines.runtime.session import ray_session
from pipelines.runtime.videos import data_fingerprint, index_videos
from pipelines.training.launch import train
from vos.config import (
    BUILTIN_STUDENT,
    BUILTIN_TEACHER,
    CacheConfig,
    DemoConfig,
    EvaluateConfig,
    TeacherConfig,
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
STUDENT, PLAIN, TEACHER = "student, distilled", "student, plain", "teacher"
SHIPPED, COPIED = "student that ships", "first mask repeated"


def run_demo(config: DemoConfig) -> str:
    """Run the demo and return what it prints at the end. Raises InputError for bad input."""
    began = time.monotonic()
    work = _work_folder(config)
    with output_folder(config, DEMO) as folder:
        check_links(folder)
        folder.check(SHOWN)
        claim(folder, config, identity(config), "a demo", replaces=True)
        # Ray is started once for all stages; each stage alone would start and stop its own.
        with ray_session(num_cpus=2 * config.workers + 2):
            checkpoints = _checkpoints(config, work)
            results = {name: _evaluate(config, work, name, checkpoint) for name, checkpoint in checkpoints.items()}
        with tracking.start_run("demo", f"demo-{config.preset}", config) as run:
            for name, result in results.items():
                slug = name.replace(",", "").replace(" ", "_")
                run.log_metrics({f"{slug}/{key}": value for key, value in result.metrics.items()})
            table = report.method_table(results)
            run.log_artifact(folder.write(SHOWN[0], f"{table}\n".encode()))
            paths = _draw(config, folder, results)
            for path in paths:
                run.log_artifact(path)
    shown = f"picture  {paths[0]}\nvideo    {paths[1]}\npages    {tracking.page_line()}"
    return f"\n{table}\n\n{shown}\ntook     {time.monotonic() - began:.0f} s"


def _work_folder(config: DemoConfig) -> str:
    """Where cache, checkpoints and masks go: one folder per data set and configuration, so that a demo on other video or with
    another seed never meets an earlier one's; the pictures and the table of the latest are in --out itself."""
    digest = fingerprint(identity(config), data_fingerprint(index_videos(config.data, "val")))
    return os.path.join(config.out, digest[:8])


def _common(config: DemoConfig) -> dict[str, Any]:
    """What every stage takes from the demo's own configuration."""
    return {name: getattr(config, name) for name in ("data", "seed", "workers", "threads", "overwrite")}


def _checkpoints(config: DemoConfig, work: str) -> dict[str, str]:
    """Make the cache and the two students; returns the checkpoint of each row of the table."""
    base = replace(preset(TrainConfig, config.preset), **_common(config))
    teacher = BUILTIN_TEACHER
    if config.data.root:
        # The built-in teacher has only seen synthetic video: give it a first look at the user's own.
        tuned = replace(base, role="teacher", model="teacher-small", init=BUILTIN_TEACHER, steps=config.teacher_steps)
        teacher = train(replace(tuned, out=f"{work}/teacher"), label=TEACHER).checkpoint
    cache = replace(preset(CacheConfig, config.preset), **_common(config), draws=config.draws, out=f"{work}/cache")
    cache = replace(cache, teacher=TeacherConfig(checkpoint=teacher))
    build_cache(cache)
    student = replace(base, steps=config.steps, cache=cache.out)
    plain = replace(student, out=f"{work}/plain", loss=replace(base.loss, kd=0.0, representation=0.0))
    distilled = replace(student, out=f"{work}/distilled", loss=base.loss)
    return {
        COPIED: COPY,
        PLAIN: train(plain, label=PLAIN).checkpoint,
        STUDENT: train(distilled, label=STUDENT).checkpoint,
        TEACHER: teacher,
        SHIPPED: BUILTIN_STUDENT,
    }


def _evaluate(config: DemoConfig, work: str, name: str, checkpoint: str) -> Evaluation:
    out = os.path.join(work, "evaluation", name.replace(",", "").replace(" ", "-"))
    one = replace(preset(EvaluateConfig, config.preset), **_common(config), checkpoint=checkpoint, out=out)
    if name == SHIPPED:  # at the size that it was made for; the others were trained for the demo's
        one = replace(one, size_px=load_model(checkpoint)[1]["size_px"])
    return evaluate_model(one, label=name)


def _draw(config: DemoConfig, folder: Written, results: dict[str, Evaluation]) -> list[str]:
    """A strip and an animation of one sequence: the one in the middle of the student's ranking, neither its best nor its worst.

    Where nothing has ground truth, so that there is no ranking, the one in the middle by name.
    """
    by_name = {video.name: video for video in index_videos(config.data, "val")}
    ranked = sorted(results[STUDENT].sequences, key=lambda row: row["j_and_f"])
    names = [row["sequence"] for row in ranked] or list(by_name)
    name = names[len(names) // 2]
    video = by_name[name]
    span = segmented_span(video, preset(EvaluateConfig, config.preset).max_frames)
    rows = {f"ground truth: {name}": "", TEACHER: results[TEACHER].masks, STUDENT: results[STUDENT].masks}
    strip = frame_file(SHOWN[1], pictures.strip(video, rows, span))
    return [folder.write(SHOWN[1], strip), folder.write(SHOWN[2], pictures.animation(video, rows, span))]
