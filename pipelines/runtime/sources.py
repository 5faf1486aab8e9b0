"""Report a mixture of data sets: how much each source gives, as a table, as metrics, and as inputs of an MLflow run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypedDict

from pipelines.runtime.tables import table
from pipelines.runtime.videos import data_fingerprint
from pipelines.tracking import Run
from vos.config import DataConfig
from vos.data.mixtures import Mixture
from vos.data.stills import Still
from vos.data.videos import Video


class SourceDraws(TypedDict):
    """One source of a mixture: its name, how many videos (or images) it has, and its number of the draws."""

    name: str
    videos: int
    images: bool
    draws: int


def draws_of_sources(videos: Sequence[Video], seed: int, num_draws: int) -> list[SourceDraws]:
    """Return how many of the first `num_draws` draws each source of a mixture has; nothing for a single data set."""
    if not isinstance(videos, Mixture):
        return []
    counts = videos.counts(seed, num_draws)
    return [
        SourceDraws(
            name=source.name,
            videos=len(source.videos),
            images=isinstance(source.videos[0], Still),
            draws=counts[source.name],
        )
        for source in videos.sources
    ]


def announce_sources(sources: Sequence[SourceDraws], num_clips: int = 0) -> None:
    """Print, before a long job, a row per source: what it holds, its share of the clips, clips, and epochs (clips per video).

    num_clips  of a training, which repeats the draws (0 = each draw once)
    """
    if not sources:
        return
    metrics, rows = source_metrics(sources, num_clips), []
    for one in sources:
        share, epochs = (metrics[f"data/{one['name']}/{figure}"] for figure in ("share", "epochs"))
        held = f"{one['videos']:,} {'image' if one['images'] else 'video'}{'s' if one['videos'] > 1 else ''}"
        rows.append([one["name"], held, f"{100 * share:.1f} %", f"{epochs * one['videos']:,.0f}", f"{epochs:,.1f}"])
    first, *others = table(["source", "holds", "share", "clips", "epochs"], rows).splitlines()
    print("\n".join([f"data    {first}", *(f"        {line}" for line in others)]), file=sys.stderr)


def source_metrics(sources: Sequence[SourceDraws], num_clips: int = 0) -> dict[str, float]:
    """Return `data/SOURCE/share`, 0 to 1, and `data/SOURCE/epochs`, the clips of each video; nothing for a single data set.

    num_clips  of a training, which repeats the draws (0 = each draw once). An unfinished pass counts by the shares of a whole one.
    """
    total = sum(one["draws"] for one in sources)
    found: dict[str, float] = {}
    for one in sources:
        share = one["draws"] / total
        epochs = share * (num_clips or total) / one["videos"]
        found |= {f"data/{one['name']}/share": share, f"data/{one['name']}/epochs": epochs}
    return found


def log_sources(run: Run, data: DataConfig | None, split: str, videos: Sequence[Video], context: str) -> None:
    """Log each source of a mixture as an input of the run, by the fingerprint of its own content, and the tag `data.sources`.

    Nothing is logged for a single data set.
    """
    if data is None or not isinstance(videos, Mixture):
        return
    roots = {one.name: one.root for one in data.mixture}
    for source in videos.sources:
        place = roots.get(source.name) or f"synthetic://seed-{data.synthetic_seed}"
        profile: dict[str, Any] = {"videos": len(source.videos), "weight": source.weight}
        run.log_dataset(f"{source.name}-{split}", data_fingerprint(source.videos), place, profile, context)
    run.set_tags({"data.sources": " ".join(data.sources)})
