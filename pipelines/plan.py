"""From a configuration and a video index to numbered clip draws, grouped into shards. No frame is decoded here."""

from __future__ import annotations

from dataclasses import dataclass

from vos.config import CacheConfig, DataConfig
from vos.config_json import fingerprint
from vos.datasets import Video, load_index
from vos.datasets import fingerprint as data_fingerprint
from vos.errors import InputError
from vos.synthetic import synthetic_index


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its place in the plan decides its name and its draws, never the order in which work arrives."""

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
    """Shards of `shard_draws` consecutive draws; the last one may be shorter."""
    starts = range(0, num_draws, shard_draws)
    return [ShardPlan(i, first, min(shard_draws, num_draws - first)) for i, first in enumerate(starts)]


def index_videos(data: DataConfig, split: str) -> list[Video]:
    """The videos of a split: of `data.root`, or synthetic ones where there is no root.

    Raises InputError for a missing or damaged data set.
    """
    if data.root and data.kind != "synthetic":
        return load_index(data.root, data.kind, split)
    if data.kind not in ("auto", "synthetic"):
        raise InputError(f"--data.kind {data.kind}: where is it? Give its folder with --data.root")
    height = data.synthetic_height_px
    videos = data.synthetic_videos if split == "train" else max(2, data.synthetic_videos // 6)
    return list(
        synthetic_index(videos, data.synthetic_frames, (height, height * 3 // 2), seed=data.synthetic_seed, split=split)
    )


def cache_identity(
    config: CacheConfig, videos: list[Video], teacher_digest: str, shapes: dict[str, int]
) -> dict[str, object]:
    """Everything that decides the bytes of the cache, as JSON. Workers, threads, folders and flags of display are not in it."""
    from pipelines.schema import VERSION
    from vos.config_json import to_dict

    return {
        "schema_version": VERSION,
        "data": data_fingerprint(videos),
        "seed": config.seed,
        "draws": config.draws,
        "shard_draws": config.shard_draws,
        "clip": to_dict(config.clip),
        "target": to_dict(config.target),
        "teacher": {"weights": teacher_digest, "top_k": config.teacher.top_k},
        "shapes": shapes,
    }


def identity_fingerprint(identity: dict[str, object]) -> str:
    return fingerprint(identity)
