"""What a run read: teacher caches and videos, named to MLflow by the fingerprint of their content."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.manifest import read_manifest
from pipelines.plan import index_videos
from pipelines.tracking import Run
from vos.config import DataConfig
from vos.datasets import Video
from vos.datasets import fingerprint as data_fingerprint


def log_training_inputs(run: Run, cache: str, data: DataConfig) -> None:
    """The teacher cache of a training, or the videos of one that has none."""
    if cache:
        log_cache(run, cache, "training")
    else:
        log_videos(run, data, "train", index_videos(data, "train"), "training")


def log_cache(run: Run, folder: str, context: str) -> None:
    """A finished teacher cache. Raises InputError where there is none."""
    manifest = read_manifest(folder)
    shards = manifest["shards"]
    profile = {
        "rows": sum(shard["rows"] for shard in shards),
        "shards": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
    }
    run.log_dataset("teacher-cache", manifest["fingerprint"], folder, profile, context)


def log_videos(run: Run, data: DataConfig, split: str, videos: Sequence[Video], context: str) -> str:
    """The videos of a split; returns their fingerprint, which is also the run's tag `data.fingerprint`."""
    digest = data_fingerprint(videos)
    profile = {"videos": len(videos), "frames": sum(video.num_frames for video in videos)}
    synthetic = not data.root or data.kind == "synthetic"
    name = f"synthetic-{split}" if synthetic else f"{data.kind if data.kind != 'auto' else 'videos'}-{split}"
    run.log_dataset(
        name, digest, f"synthetic://seed-{data.synthetic_seed}" if synthetic else data.root, profile, context
    )
    run.set_tags({"data.fingerprint": digest})
    return digest
