"""Evaluate a mixture of data sets: which of its sequences are scored, under which names, and the scores of each source.

A sequence of a mixture is named SOURCE/NAME, so that equal names of two sources stay apart in masks, tables and pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from pipelines.runtime.videos import index_videos, say_once
from vos.config import DataConfig
from vos.data.datasets import ONLY_FOR_TRAINING
from vos.data.mixtures import Mixture
from vos.data.synthetic import SyntheticVideo
from vos.data.videos import FolderVideo, Video
from vos.errors import InputError
from vos.metrics.davis import merge
from vos.metrics.scores import SequenceScore

_FIGURES = {"j_and_f": "j_and_f", "j": "j_mean", "f": "f_mean"}
"""Name of a metric -> its name in a summary of scores."""


@dataclass(frozen=True)
class _Renamed(SyntheticVideo):
    """A synthetic video under another name."""

    label: str

    @property
    def name(self) -> str:
        return self.label


def index_sequences(data: DataConfig, split: str) -> list[Video]:
    """Return the sequences of a split that can be scored: of a mixture, those of its sources of videos.

    Weights decide no score, so each source then has the weight 1. Raises InputError if no source is left.
    """
    if not data.mixture:
        return index_videos(data, split)
    spelled = [(text, one) for text, one in zip(data.sources, data.mixture, strict=True) if one.weight]
    left_out = [one.name for _, one in spelled if one.kind in ONLY_FOR_TRAINING]
    kept = tuple(text for text, one in spelled if one.kind not in ONLY_FOR_TRAINING)
    if not kept:
        raise InputError(
            f"--data.sources {' '.join(data.sources)}: none of them has videos that can be scored; add a source of videos"
        )
    if left_out:
        say_once(f"{', '.join(left_out)}: for training only, not scored")
    found = index_videos(replace(data, sources=kept), split)
    assert isinstance(found, Mixture), "a configuration with sources gives a mixture"
    return Mixture([replace(source, weight=1.0) for source in found.sources])


def named_by_source(videos: Sequence[Video]) -> list[Video]:
    """Return the videos; those of a mixture are named SOURCE/NAME and take turns, so that the first few are of all sources."""
    if not isinstance(videos, Mixture):
        return list(videos)
    own = [[_renamed(video, f"{source.name}/{video.name}") for video in source.videos] for source in videos.sources]
    return [video for video in chain.from_iterable(zip_longest(*own)) if video is not None]


def _renamed(video: Video, name: str) -> Video:
    if isinstance(video, FolderVideo):
        return replace(video, name=name)
    assert isinstance(video, SyntheticVideo), f"{video.name}: only files and synthetic videos are scored"
    return _Renamed(video.split, video.seed, video.number, video.num_frames, video.size, name)


def score_metrics(scores: Sequence[SequenceScore]) -> dict[str, float]:
    """Return `val/j_and_f`, `val/j`, `val/f` over all sequences; of a mixture also `val/SOURCE/j_and_f`, … of each source."""
    groups: dict[str, list[SequenceScore]] = {"val": []}
    for score in sorted(scores, key=lambda score: score.sequence):
        source, slash, _ = score.sequence.partition("/")
        groups["val"].append(score)
        if slash:
            groups.setdefault(f"val/{source}", []).append(score)
    found: dict[str, float] = {}
    for name, group in groups.items():
        summary = merge(group).summary()
        found |= {f"{name}/{figure}": summary[long] for figure, long in _FIGURES.items()}
    return found


def sources_scored(metrics: dict[str, float]) -> list[str]:
    """Return the names of the sources that have scores of their own among the metrics."""
    parts = [name.split("/") for name in metrics]
    return sorted(part[1] for part in parts if len(part) == 3 and (part[0], part[2]) == ("val", "j_and_f"))
