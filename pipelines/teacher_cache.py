"""Plan -> teacher -> shards -> manifest: the teacher runs once, on Ray Data actors, and what it says is kept.

One row of the Ray data set is one planned shard. An actor loads the teacher once, turns the shard's draws into rows and writes the whole
file (temporary name, fsync, rename); only a small receipt travels back. So a shard's bytes depend on nothing but the plan, a kill
loses only the shards in work, and a second run does just what is missing. The manifest, written last, makes the cache complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines import schema, storage, tracking
from pipelines.actors import run_on_actors
from pipelines.models import load_model, weights_digest
from pipelines.plan import ShardPlan, cache_identity, identity_fingerprint, index_videos, plan_shards
from pipelines.progress import progress_bar
from pipelines.session import ray_session, set_threads
from vos.config import CacheConfig
from vos.config_json import differences, dumps, to_dict
from vos.datasets import Video
from vos.errors import InputError


@dataclass(frozen=True)
class CacheResult:
    """A finished cache."""

    fingerprint: str
    rows: int
    shards: int
    mebibytes: float


def build_cache(config: CacheConfig) -> CacheResult:
    """Build the cache, or finish one that was interrupted. Raises InputError for bad input and for a folder that holds another cache."""
    videos = index_videos(config.data, "train")
    model, info = load_model(config.teacher.checkpoint)
    shapes = schema.Shapes.of(config.clip, config.target, model.decoder.pred.in_channels)
    identity = cache_identity(config, videos, weights_digest(model), dataclasses.asdict(shapes))
    fingerprint = identity_fingerprint(identity)
    folder = storage.join(config.out, "shards")
    storage.make_folder(folder)
    _claim_folder(config, identity)

    plans = plan_shards(config.draws, config.shard_draws)
    receipts = {
        plan.number: receipt for plan in plans if (receipt := _receipt_of_file(folder, plan, fingerprint)) is not None
    }
    missing = [plan for plan in plans if plan.number not in receipts]
    with tracking.start_run("cache", f"cache-{fingerprint[:8]}", config, {"cache.fingerprint": fingerprint}) as run:
        if missing:
            for receipt in _run_teacher(
                config, videos, shapes, fingerprint, missing, done=config.draws - sum(p.num_draws for p in missing)
            ):
                receipts[receipt["number"]] = receipt
        shards = [receipts[plan.number] for plan in plans]
        data = to_dict(config.data)
        manifest = {"fingerprint": fingerprint, "identity": identity, "data": data, "teacher": info, "shards": shards}
        storage.write_bytes(storage.join(config.out, schema.MANIFEST), dumps(manifest).encode())
        size = sum(shard["bytes"] for shard in shards)
        run.log_metrics(
            {"cache/rows": config.draws, "cache/mib": size / 2**20, "cache/kib_per_draw": size / 1024 / config.draws}
        )
    return CacheResult(fingerprint, config.draws, len(plans), size / 2**20)


def _claim_folder(config: CacheConfig, identity: dict[str, Any]) -> None:
    """Say whose folder this is before any work; refuse one that holds a cache of another configuration."""
    path = storage.join(config.out, "identity.json")
    try:
        old = json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        old = None
    except ValueError:
        raise InputError(f"{path}: not JSON; delete the folder or choose another --out") from None
    if old is not None and old != json.loads(dumps(identity)):
        changed = "; ".join(differences(old, json.loads(dumps(identity))))
        raise InputError(
            f"{config.out}: holds a cache of another configuration ({changed}); choose another --out or delete it"
        )
    storage.write_bytes(path, dumps(identity).encode())
    storage.write_bytes(storage.join(config.out, "config.json"), dumps(config).encode())


def _receipt_of_file(folder: str, plan: ShardPlan, fingerprint: str) -> dict[str, Any] | None:
    """The receipt of a shard that an earlier run finished, None when it is absent, unreadable or of another cache."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = storage.read_bytes(storage.join(folder, plan.file_name))
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        file.read()  # the footer alone does not show that a page is damaged
    except (OSError, pa.ArrowException):
        return None
    metadata = file.schema_arrow.metadata or {}
    if metadata.get(b"fingerprint") != fingerprint.encode() or file.metadata.num_rows != plan.num_draws:
        return None
    return _receipt(plan, data)


def _receipt(plan: ShardPlan, data: bytes) -> dict[str, Any]:
    return {
        "number": plan.number,
        "file": plan.file_name,
        "first_draw": plan.first_draw,
        "rows": plan.num_draws,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _run_teacher(
    config: CacheConfig, videos: list[Video], shapes: schema.Shapes, fingerprint: str, plans: list[ShardPlan], done: int
):
    """Receipts of the missing shards, as they come."""
    with ray_session(num_cpus=2 * config.workers + 2):
        arguments = {"config": config, "videos": videos, "shapes": shapes, "fingerprint": fingerprint}
        items = [dataclasses.asdict(plan) for plan in plans]
        with progress_bar("teacher", config.draws, "draw", done) as bar:
            for receipt in run_on_actors(items, TeacherActor, arguments, config.workers):
                bar.update(receipt["rows"])
                yield receipt


class TeacherActor:
    """Loads the teacher once; each call turns one planned shard into a file."""

    def __init__(self, config: CacheConfig, videos: list[Video], shapes: schema.Shapes, fingerprint: str) -> None:
        import torch

        from vos.segmentation import ClipSegmenter

        set_threads(config.threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, _ = load_model(config.teacher.checkpoint)
        self._teacher = ClipSegmenter(model, infinite=True, top_k=config.teacher.top_k).to(self._device).eval()
        self._config, self._shapes, self._fingerprint = config, shapes, fingerprint
        self._videos = videos
        self._by_name = {video.name: video for video in videos}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        plan = ShardPlan(**item)
        rows = [self.row(number) for number in plan.draws]
        metadata = {"fingerprint": self._fingerprint, "schema_version": str(schema.VERSION), "shard": str(plan.number)}
        data = schema.to_parquet(rows, self._shapes, metadata)
        storage.write_bytes(storage.join(self._config.out, "shards", plan.file_name), data)
        return _receipt(plan, data)

    def row(self, number: int) -> dict[str, Any]:
        """The row of one draw. One clip at a time, so that a row never depends on its neighbours."""
        import torch

        from vos.clips import read_clip
        from vos.draws import draw_clip
        from vos.segmentation import grid_labels
        from vos.targets import query_targets
        from vos.transforms import to_tensor

        config = self._config
        draw = draw_clip(self._videos, config.clip, config.seed, number)
        clip = read_clip(self._by_name[draw.video], draw, config.clip.crop_px)
        labels = torch.from_numpy(clip.labels)
        with torch.inference_mode():
            output = self._teacher(
                to_tensor(clip.frames)[None].to(self._device),
                labels[None, 0].to(self._device),
                torch.tensor([len(draw.objects)], device=self._device),
                config.clip.max_objects,
            )
        queries = [
            query_targets(
                grid_labels(labels[q + 1]).numpy(),
                output.object_logits[0, q].float().cpu(),
                output.features[0, q].float().cpu(),
                samples=self._shapes.samples,
                rank=self._shapes.rank,
                radius_px=config.target.boundary_radius_px,
                seed=(config.seed * 1_000_003 + number) * 64 + q,
            )
            for q in range(self._shapes.queries)
        ]
        for q, query in enumerate(queries):
            if not (np.isfinite(query["factor"]).all() and np.isfinite(query["logits"]).all()):
                raise InputError(
                    f"draw {number} ({draw.video}, query frame {q + 1}): the teacher's output is not finite; "
                    f"finished shards are kept: check {config.teacher.checkpoint}"
                )
        record = json.dumps(draw.to_dict(), sort_keys=True)
        stacked = {name: np.stack([query[name] for query in queries]) for name in queries[0]}
        return {"draw": number, "record": record, "num_objects": len(draw.objects), **stacked}
