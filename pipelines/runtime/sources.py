"""Report a mixture of data sets: what each source is asked for and gives, as a table, as metrics and as inputs of an MLflow run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypedDict

from pipelines.runtime.tables import table
from pipelines.runtime.videos import data_fingerprint
from pipelines.tracking import Run
from vos.config import DataConfig
from vos.data.mixtures import Mixture
from vos.data.stills import Still
from vos.data.videos import Video


class SourceDraws(TypedDict):
    """One source of a mixture. `share` is asked for; `draws` are the source's own, of those counted."""

    name: str
    share: float
    videos: int
    images: bool
    draws: int


def draws_of_sources(videos: Iterable[Video], seed: int, num_draws: int) -> list[SourceDraws]:
    """Return what each source of a mixture gives to the first `num_draws` draws; nothing for a single data set."""
    if not isinstance(videos, Mixture):
        return []
    counts = videos.counts(seed, num_draws)
    return [
        SourceDraws(
            name=source.name,
            share=share,
            videos=len(source.videos),
            images=isinstance(source.videos[0], Still),
            draws=counts[source.name],
        )
        for source, share in zip(videos.sources, videos.shares, strict=True)
    ]


def source_table(sources: list[SourceDraws], num_clips: int = 0) -> str:
    """Return a table with a row per source: its share asked and drawn, clips, and epochs (clips for each video or image).

    num_clips  of a training, which takes the draws in whole passes and, in its last pass, in their shares (0 = each draw once)
    """
    total = sum(one["draws"] for one in sources)
    rows = []
    for one in sources:
        clips = one["draws"] * (num_clips or total) / total
        held = f"{one['videos']} {'images' if one['images'] else 'videos'}"
        shares = f"{100 * one['share']:.1f} %", f"{100 * one['draws'] / total:.1f} %"
        rows.append([one["name"], held, *shares, f"{clips:.0f}", f"{clips / one['videos']:.1f}"])
    return table(["source", "holds", "asked", "drawn", "clips", "epochs"], rows)


def announce_sources(sources: list[SourceDraws], num_clips: int = 0) -> None:
    """Print the table to stderr before a long job; nothing for a single data set."""
    if sources:
        print(source_table(sources, num_clips), file=sys.stderr)


def source_metrics(sources: list[SourceDraws], num_clips: int) -> dict[str, float]:
    """Return `data/SOURCE/share` (drawn, 0 to 1) and `data/SOURCE/epochs` of a training with so many clips."""
    total = sum(one["draws"] for one in sources)
    found: dict[str, float] = {}
    for one in sources:
        share = one["draws"] / total
        found |= {f"data/{one['name']}/share": share, f"data/{one['name']}/epochs": share * num_clips / one["videos"]}
    return found


def log_sources(run: Run, data: DataConfig, split: str, videos: Iterable[Video], context: str) -> None:
    """Log each source of a mixture as an input of the run, by its fingerprint, and the tag `data.sources`."""
    if not isinstance(videos, Mixture):
        return
    roots = {one.name: one.root for one in data.mixture}
    for source in videos.sources:
        root = roots.get(source.name) or f"synthetic://seed-{data.synthetic_seed}"
        profile = {"videos": len(source.videos), "weight": source.weight}
        run.log_dataset(f"{source.name}-{split}", data_fingerprint(source.videos), root, profile, context)
    run.set_tags({"data.sources": " ".join(data.sources)})
