"""Score a mixture of data sets: sequences are named SOURCE/NAME, so that equal names of two sources stay apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

from vos.data.mixtures import Mixture
from vos.data.synthetic import SyntheticVideo
from vos.data.videos import FolderVideo, Video
from vos.metrics.scores import SequenceScore, merge


@dataclass(frozen=True)
class _Renamed(SyntheticVideo):
    label: str = ""

    @property
    def name(self) -> str:
        return self.label


def named_by_source(videos: Sequence[Video]) -> list[Video]:
    """Return the videos; those of a mixture are named SOURCE/NAME, and the sources take turns, so that the first few are of all."""
    if not isinstance(videos, Mixture):
        return list(videos)
    own = [[_renamed(video, f"{source.name}/{video.name}") for video in source.videos] for source in videos.sources]
    return [video for video in chain.from_iterable(zip_longest(*own)) if video is not None]


def _renamed(video: Any, name: str) -> Video:
    if isinstance(video, FolderVideo):
        return replace(video, name=name)
    return _Renamed(video.split, video.seed, video.number, video.num_frames, video.size, name)


def score_metrics(scores: Sequence[SequenceScore]) -> dict[str, float]:
    """Return `val/j_and_f`, `val/j`, `val/f` over all sequences, and `val/SOURCE/j_and_f`, … for each source of a mixture."""
    ordered = sorted(scores, key=lambda score: score.sequence)
    groups = {"val": ordered}
    for score in ordered:
        source, slash, _ = score.sequence.partition("/")
        if slash:
            groups.setdefault(f"val/{source}", []).append(score)
    found: dict[str, float] = {}
    for name, group in groups.items():
        summary = merge(group).summary()
        found |= {f"{name}/{short}": summary[long] for short, long in _FIGURES}
    return found


_FIGURES = (("j_and_f", "j_and_f"), ("j", "j_mean"), ("f", "f_mean"))


def sources_scored(metrics: dict[str, float]) -> list[str]:
    """Return the sources that have scores of their own."""
    parts = [name.split("/") for name in metrics]
    return [part[1] for part in parts if len(part) == 3 and (part[0], part[2]) == ("val", "j_and_f")]
