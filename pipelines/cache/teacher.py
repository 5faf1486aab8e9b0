"""Run the frozen teacher: a clip draw in, a row of the cache out. Used by the actors, the forecast and the verification."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines import storage
from pipelines.cache import schema
from pipelines.cache.plan import ShardPlan
from pipelines.runtime.models import load_model
from pipelines.runtime.session import set_threads
from vos.config import CacheConfig
from vos.data.clips import Clip, checksum, decode_clip, encode_clip, pasted_video, read_context, replay
from vos.data.draw_records import ClipDraw
from vos.data.draws import draw_clip, viewing_order, with_context
from vos.data.mixtures import by_key
from vos.data.transforms import to_tensor
from vos.data.videos import Video
from vos.distillation.clip_forward import ClipSegmenter, Context, grid_labels
from vos.distillation.targets import query_targets
from vos.distillation.views import segment_views, views_of
from vos.errors import InputError


@dataclass(frozen=True)
class Work:
    """One draw with its pixels, the input of the teacher."""

    draw: ClipDraw
    clip: Clip
    context: Clip | None
    stored: dict[str, list[bytes]]
    """columns of --frames store"""


class Teacher:
    """Loads the teacher once. A call turns a planned shard into a file and a receipt; `row` turns a draw into a row."""

    def __init__(self, config: CacheConfig, videos: list[Video], shapes: schema.Shapes, recipe: str) -> None:
        set_threads(config.threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, _ = load_model(config.teacher.checkpoint)
        self._segmenter = ClipSegmenter(model, infinite=True, top_k=config.teacher.top_k).to(self._device).eval()
        self._segmenter.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stub lacks it
        self._views = views_of(config.teacher.scales, config.teacher.flip)
        self._config, self._shapes, self._recipe = config, shapes, recipe
        self._videos = videos
        self._by_key = by_key(videos)
        self.forwards = 0
        """Clips on which the network has run so far; each view of a clip counts."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Make and write one shard; returns its receipt, a function of its bytes, and `cpu_s`, the CPU seconds used."""
        plan, began = ShardPlan(**item), time.process_time()
        rows = [self.row(work) for work in self.read_ahead(plan.draws)]
        data = schema.to_parquet(rows, self._shapes, shard_metadata(plan, self._recipe))
        storage.write_bytes(storage.join(self._config.out, "shards", plan.file_name), data)
        return {"receipt": receipt(plan, data), "cpu_s": time.process_time() - began}

    def read_ahead(self, numbers: Iterable[int]) -> Iterator[Work]:
        """Yield the clips of these draws; the next one is decoded while the teacher runs on this one."""
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for number in numbers:
                ready, ahead = ahead, reader.submit(self.work, number)
                if ready is not None:
                    yield ready.result()
            if ahead is not None:
                yield ahead.result()

    def work(self, number: int) -> Work:
        """Draw and read one clip, and the context frames beside it."""
        config, options = self._config, self._config.teacher
        draw = draw_clip(self._videos, config.clip, config.seed, number)
        video, true_masks = self._by_key[draw.video_key], options.context_masks == "true"
        if options.context_frames and not draw.layers:
            draw = with_context(draw, video, config.clip, options.context_frames, annotated_only=true_masks)
        clip = replay(self._by_key, draw, config.clip.crop_px)
        stored: dict[str, list[bytes]] = {}
        if config.frames == "store":  # the teacher must see the student's pixels, and JPEG changes them
            stored["frames"], stored["labels"] = encode_clip(clip)
            clip = decode_clip(stored["frames"], stored["labels"])
        context = None
        if draw.context:
            pasted = pasted_video(self._by_key, draw)
            context = read_context(video, draw, config.clip.crop_px, true_masks, pasted)
        return Work(draw, clip, context, stored)

    @torch.inference_mode()
    def look(self, work: Work) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the teacher's outputs for one clip: object logits (Q, O, h, w) and features (Q, O, Cd, h, w), on the CPU.

        O counts the objects of this clip. Clips run one by one, so that a row never depends on its neighbours.
        """
        self.forwards += len(self._views)
        device, context = self._device, None
        if work.context is not None:
            labels = torch.from_numpy(work.context.labels)[None].to(device)
            context = Context(
                to_tensor(work.context.frames)[None].to(device),
                labels if self._config.teacher.context_masks == "true" else None,
                viewing_order(work.draw),
            )
        count = work.draw.num_objects
        logits, features = segment_views(
            self._segmenter,
            self._views,
            to_tensor(work.clip.frames)[None].to(device),
            torch.from_numpy(work.clip.labels[:1]).to(device),
            torch.tensor([count], device=device),
            count,
            context,
        )
        return logits[0].float().cpu(), features[0].float().cpu()

    def row(self, work: Work) -> dict[str, Any]:
        """Return the row of one draw. Raises InputError, naming the draw, where the teacher's output is not finite."""
        logits, features = self.look(work)
        for q, frame in enumerate(work.draw.frames[1:]):
            if not (logits[q].isfinite().all() and features[q].isfinite().all()):
                raise InputError(
                    f"draw {work.draw.number} ({work.draw.video}, frame {frame}): the teacher's output is not finite; "
                    f"check {self._config.teacher.checkpoint} and this frame; finished shards are kept"
                )
        return row_of(work, logits, features, self._config, self._shapes)


def row_of(
    work: Work, logits: torch.Tensor, features: torch.Tensor, config: CacheConfig, shapes: schema.Shapes
) -> dict[str, Any]:
    """Return the row of the teacher's outputs (`Teacher.look`) for one draw."""
    draw = work.draw
    absent = (0, 0, 0, 0, 0, shapes.objects - draw.num_objects)
    queries = [
        query_targets(
            labels,
            torch.nn.functional.pad(logits[q], absent),
            features[q],
            samples=shapes.samples,
            radius_px=config.boundary_radius_px,
            seed=(config.seed, draw.number, q),
            rank=shapes.rank,
            factor_dtype=shapes.factor,
            logits=shapes.logits,
            sampling=config.sampling,
        )
        for q, labels in enumerate(grid_labels(torch.from_numpy(work.clip.labels[1:])).numpy())
    ]
    return {
        "draw": draw.number,
        "record": json.dumps(draw.to_dict(), sort_keys=True),
        "num_objects": draw.num_objects,
        "clip_crc32": checksum(work.clip),
        **{name: np.stack([query[name] for query in queries]) for name in queries[0]},
        **work.stored,
    }


def shard_metadata(plan: ShardPlan, recipe: str) -> dict[str, str]:
    """Return the metadata in a shard's footer."""
    return {"recipe": recipe, "schema_version": str(schema.VERSION), "shard": str(plan.number)}


def receipt(plan: ShardPlan, data: bytes) -> dict[str, Any]:
    """Return the manifest's entry of a shard, computed from its bytes alone."""
    rows = schema.read_rows(pa.BufferReader(data), [], schema.ERROR_COLUMNS)
    errors = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {
        "number": plan.number,
        "file": plan.file_name,
        "first_draw": plan.first_draw,
        "rows": plan.num_draws,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "factor_error_mean": float(errors["factor_error"].mean()),
        "factor_error_max": float(errors["factor_error"].max()),
        "logit_error_max": float(errors["logit_error"].max()) if "logit_error" in errors else 0.0,
        "columns": schema.column_bytes(data),
    }
