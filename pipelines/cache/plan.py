"""Plan a cache: group numbered clip draws into shards, and compute the cache's identity. No frame is decoded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.cache.schema import VERSION
from pipelines.runtime.videos import data_fingerprint
from vos.config import CacheConfig
from vos.config.fields import identity
from vos.data.videos import Video
from vos.files.canonical import fingerprint


@dataclass(frozen=True)
class ShardPlan:
    """One shard. Its place in the plan decides its name and its draws; the order in which shards finish does not."""

    number: int
    first_draw: int
    num_draws: int

    @property
    def file_name(self) -> str:
        return f"shard-{self.number:06d}.parquet"

    @property
    def draws(self) -> range:
        return range(self.first_draw, self.first_draw + self.num_draws)


def plan_shards(num_draws: int, shard_draws: int) -> list[ShardPlan]:
    """Return shards of `shard_draws` consecutive draws; the last one may be shorter."""
    starts = range(0, num_draws, shard_draws)
    return [ShardPlan(i, first, min(shard_draws, num_draws - first)) for i, first in enumerate(starts)]


def cache_identity(
    config: CacheConfig, videos: list[Video], teacher: dict[str, str], shapes: Mapping[str, object]
) -> dict[str, Any]:
    """Return everything that decides the bytes of the cache, as JSON.

    teacher  architecture and digest of the weights; their path is not part of the identity
    """
    settings = identity(config)
    return {
        **settings,
        "schema_version": VERSION,
        "data": data_fingerprint(videos),
        "teacher": {**settings["teacher"], **teacher},
        "shapes": shapes,
    }


def recipe_of(identity: dict[str, Any]) -> str:
    """Return the fingerprint of everything that decides a row. The number of draws does not, so a cache can grow."""
    return fingerprint({name: value for name, value in identity.items() if name != "draws"})
