"""From shards and raw frames to training batches, for any rank of any world.

Position p of training is draw `permutation(seed, p // n)[p % n]`: every draw exactly once per epoch, the same global batch whatever the
number of workers, and any step can be the first, so nothing has to be saved to resume.
"""

from __future__ import annotations

import functools
import json
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pipelines import schema, storage
from pipelines.plan import index_videos
from vos.clips import read_clip
from vos.config import ClipConfig, DataConfig
from vos.config_json import from_dict
from vos.datasets import Video
from vos.datasets import fingerprint as data_fingerprint
from vos.draws import ClipDraw, draw_clip
from vos.errors import InputError
from vos.objective import Targets
from vos.transforms import to_tensor


@dataclass(frozen=True)
class Batch:
    """B clips of T frames; `targets` is None without distillation."""

    draws: list[int]
    frames: Tensor
    """(B, T, 3, H, W) float32 normalised"""
    labels: Tensor
    """(B, T, H, W) uint8"""
    num_objects: Tensor
    """(B,) int64"""
    targets: Targets | None

    def to(self, device: torch.device) -> Batch:
        targets = Targets(*(part.to(device) for part in self.targets)) if self.targets else None
        return Batch(self.draws, self.frames.to(device), self.labels.to(device), self.num_objects.to(device), targets)


class ClipSource(Protocol):
    """Something that numbered clips, with or without teacher targets, come from."""

    clip: ClipConfig
    num_draws: int

    def batch(self, numbers: list[int]) -> Batch: ...


class DrawnClips:
    """Clips drawn from the videos on the fly, without a teacher."""

    def __init__(self, videos: list[Video], clip: ClipConfig, seed: int, num_draws: int) -> None:
        self.clip, self.num_draws = clip, num_draws
        self._videos, self._seed = videos, seed
        self._by_name = {video.name: video for video in videos}

    def batch(self, numbers: list[int]) -> Batch:
        draws = [draw_clip(self._videos, self.clip, self._seed, number) for number in numbers]
        return _collate(self._by_name, draws, self.clip, None)


class CachedClips:
    """The draws of a finished teacher cache, replayed, with the teacher's targets beside them.

    with_targets False replays the same clips without reading the targets: the plain student of a comparison.
    Raises InputError when the cache is absent, unfinished, of another schema version, or of other videos.
    """

    def __init__(self, folder: str, data: DataConfig, with_targets: bool = True) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.clip = from_dict(
            ClipConfig, self.manifest["identity"]["clip"], ClipConfig(), f"{folder}/{schema.MANIFEST}"
        )
        self.num_draws = sum(shard["rows"] for shard in self.manifest["shards"])
        self._with_targets = with_targets
        _, videos = data_of_cache(folder, self.manifest, data)
        self._videos = {video.name: video for video in videos}
        self._starts = [shard["first_draw"] for shard in self.manifest["shards"]]

    def batch(self, numbers: list[int]) -> Batch:
        rows = [self._row(number) for number in numbers]
        draws = [ClipDraw.from_dict(json.loads(row["record"])) for row in rows]
        return _collate(self._videos, draws, self.clip, rows if self._with_targets else None)

    def _row(self, number: int) -> dict[str, Any]:
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        offset = number - self._starts[place]
        path = storage.join(self.folder, "shards", self.manifest["shards"][place]["file"])
        columns = None if self._with_targets else ("draw", "record", "num_objects")
        group, inner = divmod(offset, schema.ROW_GROUP_ROWS)
        rows = _row_group(path, group, columns)
        found = rows[inner]["draw"] if inner < len(rows) else "nothing"
        if found != number:
            raise InputError(
                f"{path}: row {offset} holds {found}, not draw {number}; delete it and run jobs.cache again"
            )
        return rows[inner]


@functools.lru_cache(maxsize=64)
def _row_group(path: str, group: int, columns: tuple[str, ...] | None) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pa.BufferReader(storage.read_bytes(path)) if storage.is_uri(path) else path
        # Compression does not notice most flipped bits: the checksum of each page does.
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            if group >= file.metadata.num_row_groups:
                return []
            return schema.rows_of(file.read_row_group(group, columns=list(columns) if columns else None))
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: damaged or missing shard ({reason}); run jobs.cache again with the same flags to mend it"
        ) from None


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a finished cache. Raises InputError when it is absent, unreadable or of another version."""
    path = storage.join(folder, schema.MANIFEST)
    try:
        manifest = json.loads(storage.read_bytes(path))
        version = manifest["identity"]["schema_version"]
        damaged = version == schema.VERSION and not (
            isinstance(manifest["data"], dict) and isinstance(manifest["shards"], list) and manifest["fingerprint"]
        )
    except FileNotFoundError:
        raise InputError(
            f"{path}: this teacher cache is absent or unfinished; build or resume it: python -m jobs.cache --out {folder}"
        ) from None
    except (ValueError, KeyError, TypeError):
        damaged, version = True, None
    if damaged:
        raise InputError(f"{path}: not a cache manifest; delete it and run jobs.cache again with the same flags")
    if version != schema.VERSION:
        raise InputError(
            f"{path}: schema version {version}, this program reads {schema.VERSION}; make the cache again with this version"
        )
    return manifest


def data_of_cache(folder: str, manifest: dict[str, Any], data: DataConfig) -> tuple[DataConfig, list[Video]]:
    """The data set that a cache was made from, and its videos: `data` if it is that one, else what the manifest names.

    So no --data flag has to be repeated after jobs.cache, and one is enough where the videos have moved.
    Raises InputError when neither holds those videos.
    """
    recorded = from_dict(DataConfig, manifest["data"], DataConfig(), f"{folder}/{schema.MANIFEST}")
    for candidate in (data, recorded):
        try:
            videos = index_videos(candidate, "train")
        except InputError:
            if candidate is recorded:
                raise
            continue
        if data_fingerprint(videos) == manifest["identity"]["data"]:
            if candidate is recorded and data.root:
                print(f"note: {folder} was not made from {data.root}: its own videos are used", file=sys.stderr)
            return candidate, videos
    raise InputError(
        f"{folder}: the videos in {recorded.root or 'the synthetic data set'} are no longer those that this cache was made from; "
        "give --data.root of the unchanged ones, or make the cache again"
    )


def _collate(
    videos: dict[str, Video], draws: list[ClipDraw], clip: ClipConfig, rows: list[dict[str, Any]] | None
) -> Batch:
    clips = [read_clip(videos[draw.video], draw, clip.crop_px) for draw in draws]
    frames = torch.stack([to_tensor(item.frames) for item in clips])
    labels = torch.stack([torch.from_numpy(item.labels) for item in clips])
    num_objects = torch.tensor([len(draw.objects) for draw in draws])
    targets = None
    if rows is not None:

        def stacked(name: str, dtype: type[np.generic]) -> Tensor:
            return torch.from_numpy(np.stack([row[name] for row in rows]).astype(dtype))

        targets = Targets(
            stacked("sample_index", np.int64),
            stacked("sample_label", np.int64),
            stacked("factor", np.float32),
            stacked("logits", np.float32),
            _unpacked(stacked("boundary", np.uint8), clip.crop_px // schema.GRID_STRIDE),
        )
    return Batch([draw.number for draw in draws], frames, labels, num_objects, targets)


def _unpacked(bits: Tensor, side: int) -> Tensor:
    """Packed boundary masks (B, Q, bytes) -> (B, Q, h, w) float32."""
    cells = np.unpackbits(bits.numpy(), axis=-1, count=side * side)
    return torch.from_numpy(cells.reshape(*bits.shape[:2], side, side)).float()


def draws_of_step(step: int, num_draws: int, batch: int, seed: int, rank: int = 0, world: int = 1) -> list[int]:
    """Draw numbers that `rank` of `world` takes at `step`: its part of the global batch, which does not depend on `world`."""
    share = batch // world
    positions = range(step * batch + rank * share, step * batch + (rank + 1) * share)
    return [int(_permutation(seed, position // num_draws, num_draws)[position % num_draws]) for position in positions]


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_draws: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_draws)


def prefetched(source: ClipSource, steps: range, batch: int, seed: int, rank: int, world: int) -> Iterator[Batch]:
    """The batches of `steps` for one rank, decoded by a thread while the network works (image decoding releases the GIL)."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in steps:
                if stop.is_set():
                    return
                put(source.batch(draws_of_step(step, source.num_draws, batch, seed, rank, world)))
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
