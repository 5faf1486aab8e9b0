"""What a run read: teacher caches and videos, named to MLflow by the fingerprint of their content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.plan import data_fingerprint
from pipelines.tracking import Run
from vos.config import DataConfig
from vos.datasets import Video


def log_cache(run: Run, folder: str, manifest: dict[str, Any], context: str) -> None:
    """A finished teacher cache."""
    profile = {"rows": manifest["draws"], "shards": len(manifest["shards"]), "bytes": manifest["bytes"]}
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
