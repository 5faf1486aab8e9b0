"""Measure a training step of a mixture of data sets against one of its first source alone: `jobs.benchmark mixture`."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from pipelines.cache.read import DrawnClips
from pipelines.runtime.videos import index_videos
from pipelines.studies.benchmarks.rows import Measure, median, stepped
from pipelines.training.loop import new_model
from vos.config import BenchmarkConfig, TrainConfig
from vos.config.presets import preset
from vos.data.datasets import raise_fault
from vos.data.mixtures import Mixture, Source
from vos.data.stills import index_stills
from vos.data.videos import Video
from vos.distillation.training_step import TrainingStep
from vos.media.images import write_frame, write_mask
from vos.published.bounds import Figure

BATCH, WARM_UP = 2, 1
"""Clips of a step, and steps of each side that are not measured."""


def steps_of_a_mixture(config: BenchmarkConfig) -> Iterator[Figure]:
    """Compare processor time per step, with the making of its clips. Both sides take turns, step by step, in this process.

    Clips are those of the preset davis-cpu, in the size of --crop-px. Without --data.sources the mixture is one half each of the videos
    of --data.root and of their first frames as stills.
    """
    steps = max(1, config.draws // BATCH)
    with tempfile.TemporaryDirectory() as place:
        mixture = _mixture(config, place)
        first = mixture.sources[0]
        clip = replace(preset(TrainConfig, "davis-cpu").clip, crop_px=config.crop_px)
        chosen = TrainConfig(model=config.student, clip=clip, batch=BATCH, seed=config.seed)
        chosen = replace(chosen, steps=WARM_UP + config.rounds * steps)
        sides = [_Side(chosen, videos) for videos in (mixture, list(first.videos))]
        times = [[side.step(step) for side in sides] for step in range(chosen.steps)][WARM_UP:]
    mixed, alone = zip(*times, strict=True)
    parts = [slice(number * steps, (number + 1) * steps) for number in range(config.rounds)]
    ratios = [sum(one.whole_s for one in mixed[part]) / sum(one.whole_s for one in alone[part]) for part in parts]
    shares = ", ".join(
        f"{source.name} {100 * share:.0f} %" for source, share in zip(mixture.sources, mixture.shares, strict=True)
    )
    how = (
        f"{config.student}, {config.crop_px} px, batch {BATCH}, {clip.max_objects} object, no teacher, clips made in the step, "
        f"{steps} steps a round and side, {config.rounds} rounds, one thread; {shares}"
    )
    for name, side in (("the mixture", mixed), (f"{first.name} alone", alone)):
        yield median(f"CPU s of a step of {name}", [one.whole_s for one in side])
        yield median(f"CPU s of its clips, {name}", [one.clips_s for one in side])
    yield median(f"CPU of a step, mixture / {first.name} alone", ratios, "<=", 1.1, how)


class _Spent(NamedTuple):
    """Processor seconds of a step: of its clips, and of the whole step."""

    clips_s: float
    whole_s: float


class _Side:
    def __init__(self, config: TrainConfig, videos: list[Video]) -> None:
        self._clips = DrawnClips(videos, config.clip, config.seed, config.steps * BATCH)
        self._take = TrainingStep(new_model(config), config)

    def step(self, step: int) -> _Spent:
        began = time.process_time()
        batch = self._clips.batch(list(range(step * BATCH, (step + 1) * BATCH)))
        made = time.process_time()
        stepped(self._take, step, batch)
        return _Spent(made - began, time.process_time() - began)


def _mixture(config: BenchmarkConfig, place: str) -> Mixture:
    """Return the mixture of --data.sources, or one with stills that are written to the folder `place`."""
    videos = index_videos(config.data, "train")
    if isinstance(videos, Mixture):
        return videos
    for video in videos:
        index = video.annotated[0]
        labels = video.mask(index)
        assert labels is not None, "an annotated frame has a mask"
        write_frame(os.path.join(place, f"images/{video.name}.jpg"), video.frame(index))
        write_mask(os.path.join(place, f"masks/{video.name}.png"), labels)
    stills = tuple(index_stills(place, "train", raise_fault))
    return Mixture([Source("videos", 0.5, tuple(videos)), Source("stills", 0.5, stills)])


MEASURES: Sequence[Measure] = (steps_of_a_mixture,)
