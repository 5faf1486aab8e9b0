"""Forecast the time and the size of labels from a short measurement on the first frames of a video, and sum up finished labels."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

from pipelines.labelling.build import Blueprint, LabelResult, blueprint
from pipelines.labelling.teacher import following
from pipelines.runtime.models import load_model
from pipelines.runtime.session import set_threads
from pipelines.runtime.tables import table
from vos.config import LabelConfig
from vos.data.videos import Video
from vos.inference.labelling import label_video
from vos.media.images import mask_png
from vos.printed import JOB, command

CALIBRATION_S = 20.0
LEAST_FRAMES = 3


def plan_labels(config: LabelConfig) -> str:
    """Run the teacher for about 20 seconds on the start of the video in the middle of the list; returns the forecast as text.

    Nothing is written. Raises InputError wherever labelling would.
    """
    design = blueprint(config)
    set_threads(config.threads)
    model, info = load_model(config.teacher.checkpoint)
    video = design.videos[len(design.videos) // 2]
    how = replace(following(config, info), check_every=LEAST_FRAMES)  # so that the check is a part of what is measured
    began, size = time.process_time(), 0
    measured = 0
    stop = time.monotonic() + CALIBRATION_S
    for frame in label_video(model.eval(), video, how, every=config.masks == "all"):
        size += len(mask_png(frame.labels)) + frame.confidence.size // 8
        measured += 1
        if measured > LEAST_FRAMES and time.monotonic() > stop:
            break
    per_frame = (time.process_time() - began) / measured
    frames = sum(map(_frames, design.videos))
    cpu_s = (
        per_frame
        * sum(_frames(one) * one.size[0] * one.size[1] for one in design.videos)
        / (video.size[0] * video.size[1])
    )
    return _plan_text(config, design, frames, measured, cpu_s, size / measured * frames)


def _frames(video: Video) -> int:
    return video.num_frames - min(video.first_seen.values())


def _plan_text(config: LabelConfig, design: Blueprint, frames: int, measured: int, cpu_s: float, size: float) -> str:
    counts = sorted({1, 2, 4, 8, config.workers})
    times = ", ".join(f"{cpu_s / count / 60:.1f} min on {count}" for count in counts if count <= len(design.videos))
    given = sum(
        len(video.annotated if config.masks == "all" else set(video.first_seen.values())) for video in design.videos
    )
    return "\n".join(
        [
            f"plan      {len(design.videos)} videos, {frames} frames, {given} given masks read; about {size / 2**20:.0f} MiB",
            f"teacher   {design.teacher['model']}: {cpu_s / 60:.1f} min of CPU, forwards and backwards (measured on {measured} frames)",
            f"workers   {times} (a core each; estimate, without Ray's start)",
        ]
    )


def summary(config: LabelConfig, result: LabelResult) -> str:
    """Return the job's printed result: what is kept of each video, and the next command."""
    videos = result.labels["videos"]
    shown = list(itertools.islice(videos, 20))
    rows = [
        [one["name"], str(one["frames"]), str(one["kept"]), f"{100 * one['kept'] / one['frames']:.0f} %"]
        for one in shown
    ]
    frames, kept = sum(one["frames"] for one in videos), sum(one["kept"] for one in videos)
    rows.append([f"all {len(videos)} videos", str(frames), str(kept), f"{100 * kept / frames:.0f} %"])
    lines = [
        table(["video", "frames", "kept", "share"], rows),
        "",
        f"labels  {config.out}  ({kept} of {frames} frames are kept; {len(result.lost)} videos lost)",
        f"spent   {result.teacher_cpu_s:.1f} CPU-seconds of the teacher on {result.videos_made} new videos",
        f"look    {command(*JOB, 'jobs.label', '--out', config.out, '--show', '4')}",
        "next    "
        + command(*JOB, "jobs.cache", "--data.root", config.out, "--data.kind", "labels", "--out", "runs/cache"),
    ]
    return "\n".join(lines)
