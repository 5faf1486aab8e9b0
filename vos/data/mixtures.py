"""A mixture of data sets: which source a draw takes, and the videos that are held out of a training.

The source of a draw depends on (weights, seed, draw number) alone. After every block of `BLOCK` draws each source has had its share of all
draws so far to within one draw; within a block the order is random. The draws of one source are numbered among themselves, so that each
of its passes takes every video once, as without a mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from vos.data.videos import Video
from vos.errors import InputError

BLOCK = 256
"""Draws of a block."""
_SOURCE_STREAM, _FOLD_SEED = 2, 0


@dataclass(frozen=True)
class Source:
    """One data set of a mixture. weight  its share of the draws, relative to the other weights"""

    name: str
    weight: float
    videos: tuple[Video, ...]


class Place(NamedTuple):
    """The source of a draw, and the number of the draw among those of this source."""

    source: Source
    number: int


class Mixture(list[Video]):
    """The videos of several sources. It is a list of all of them for code that draws nothing."""

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__(video for source in sources for video in source.videos)
        self.sources = tuple(sources)

    def __reduce__(self) -> tuple[type[Mixture], tuple[tuple[Source, ...]]]:
        return Mixture, (self.sources,)

    @property
    def shares(self) -> tuple[float, ...]:
        """Each source's share of the draws; they sum to 1."""
        total = sum(source.weight for source in self.sources)
        return tuple(source.weight / total for source in self.sources)

    def place(self, seed: int, number: int) -> Place:
        """Return where draw `number` comes from."""
        block, offset = divmod(number, BLOCK)
        order, before = _block(self.shares, seed, block)
        source = int(order[offset])
        return Place(self.sources[source], before[source] + int((order[:offset] == source).sum()))

    def counts(self, seed: int, num_draws: int) -> dict[str, int]:
        """Return how many of the first `num_draws` draws each source has."""
        blocks, rest = divmod(num_draws, BLOCK)
        order, before = _block(self.shares, seed, blocks)
        return {source.name: before[i] + int((order[:rest] == i).sum()) for i, source in enumerate(self.sources)}


@lru_cache(maxsize=256)
def _block(shares: tuple[float, ...], seed: int, block: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the sources of the draws of one block, (BLOCK,) integers, and how many draws each source has before it."""
    edges = np.cumsum((0.0, *shares))
    edges[-1] = 1.0  # the sum of the shares may differ from 1 by rounding
    before, after = (_until(edges, one * BLOCK) for one in (block, block + 1))
    order = np.repeat(np.arange(len(shares)), after - before)
    order = np.random.default_rng([_SOURCE_STREAM, seed, block]).permutation(order)
    return order, tuple(int(one) for one in before)


def _until(edges: np.ndarray, draws: int) -> np.ndarray:
    """Return how many of the first `draws` draws each source has: its share, rounded so that the numbers sum to `draws`.

    They never fall with `draws` from block to block, since no share is below 1 / BLOCK (`vos.config.sources.LEAST_SHARE`).
    """
    return np.diff(np.floor(edges * draws + 0.5).astype(np.int64))


def by_key(videos: Sequence[Video]) -> dict[str, Video]:
    """Return the videos by name, or by SOURCE/NAME for a mixture: the keys of `ClipDraw.video_key`."""
    if isinstance(videos, Mixture):
        return {f"{source.name}/{video.name}": video for source in videos.sources for video in source.videos}
    return {video.name: video for video in videos}


def fold_of(videos: Sequence[Video], fold: int, size: int, held_out: bool) -> list[Video]:
    """Return the videos of fold 1, 2, … if `held_out`, else all others.

    Folds are consecutive parts of a fixed random order of the names, so that they do not overlap and no score has a part in them.
    Raises InputError if there is no such fold, or nothing is left to learn from.
    """
    names = sorted(video.name for video in videos)
    most = (len(names) - 1) // size
    if not 1 <= fold <= most:
        raise InputError(
            f"--data.fold {fold} --data.fold-videos {size}: {len(names)} videos have {most} folds of {size}; use 1 to {most}"
            if most
            else f"--data.fold {fold} --data.fold-videos {size}: there are only {len(names)} videos; lower --data.fold-videos"
        )
    order = np.random.default_rng(_FOLD_SEED).permutation(len(names))
    chosen = {names[i] for i in order[size * (fold - 1) : size * fold]}
    return [video for video in videos if (video.name in chosen) == held_out]
