"""Make training batches from shards and raw frames, for any rank of any world size.

Position p of a training is draw `permutation(seed, p // n)[p % n]`. So every draw is taken exactly once per epoch, the global batch does
not depend on the number of workers, and a training can be resumed at any step without saved state.
"""

from __future__ import annotations

import functools
import hashlib
import os
import queue
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pipelines import storage
from pipelines.cache import schema
from pipelines.cache.manifest import data_of_cache, read_manifest, shapes_of, shard_path
from pipelines.cache.row_checks import check_clip, check_row, check_videos
from pipelines.runtime.sources import SourceDraws, draws_of_sources
from vos.config import ClipConfig, DataConfig
from vos.config.as_json import from_dict
from vos.data.clips import Clip, checksum, decode_clip, replay
from vos.data.draw_records import ClipDraw
from vos.data.draws import draw_clip
from vos.data.mixtures import by_key
from vos.data.transforms import to_tensor
from vos.data.videos import Video
from vos.distillation.losses import Targets
from vos.errors import InputError
from vos.files.canonical import fingerprint
from vos.files.whole import private_folder, read_regular

READER_ENDS_S = 5.0
"""Longest wait for the thread that reads ahead, which ends after its current batch."""


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

    def mirrored(self, chosen: list[bool]) -> Batch:
        """Return the batch with the chosen clips and their targets mirrored left to right."""
        if not any(chosen):
            return self
        flags = torch.tensor(chosen)

        def flipped(images: Tensor) -> Tensor:
            return torch.where(flags.view(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)

        targets = self.targets
        if targets is not None:
            width = targets.boundary.shape[-1]
            index = targets.sample_index
            other_side = index + width - 1 - 2 * (index % width)
            targets = targets._replace(
                sample_index=torch.where(flags.view(-1, 1, 1), other_side, index),
                object_logits=flipped(targets.object_logits),
                boundary=flipped(targets.boundary),
            )
        return Batch(self.draws, flipped(self.frames), flipped(self.labels), self.num_objects, targets)


class ClipSource(Protocol):
    """A source of numbered clips, with or without teacher targets."""

    clip: ClipConfig
    num_draws: int

    @property
    def teacher_forwards(self) -> int:
        """Clips on which a teacher has run so far. A search over one cache must leave it at zero."""
        ...

    def batch(self, numbers: list[int]) -> Batch: ...


class DrawnClips:
    """Clips drawn from the videos on the fly, without a teacher."""

    teacher_forwards = 0

    def __init__(self, videos: list[Video], clip: ClipConfig, seed: int, num_draws: int) -> None:
        self.clip, self.num_draws = clip, num_draws
        self.videos, self._seed = videos, seed
        self._by_key = by_key(videos)

    def sources(self) -> list[SourceDraws]:
        """Return the draws of each source of a mixture; nothing for a single data set."""
        return draws_of_sources(self.videos, self._seed, self.num_draws)

    def batch(self, numbers: list[int]) -> Batch:
        draws = [draw_clip(self.videos, self.clip, self._seed, number) for number in numbers]
        clips = [replay(self._by_key, draw, self.clip.crop_px) for draw in draws]
        return collate(numbers, clips, [draw.num_objects for draw in draws], None)


class CachedClips:
    """The draws of a finished teacher cache, replayed, with the teacher's targets.

    with_targets  False replays the same clips without reading the targets, for a student without distillation
    need_logits   True raises InputError for a cache without logits
    Each shard is checked when it is first read. Each replayed clip is checked to be the one that the teacher saw.
    Raises InputError when the cache is absent, unfinished, of another schema version, or of other videos.
    """

    def __init__(self, folder: str, data: DataConfig, with_targets: bool = True, need_logits: bool = False) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        identity = self.manifest["identity"]
        if need_logits and with_targets and identity["logits"] == "none":
            raise InputError(
                f"{folder}: this cache holds no logits; train with --loss.kd 0, or build one with --logits int8"
            )
        self.clip = from_dict(ClipConfig, identity["clip"], ClipConfig(), f"{folder}/{schema.MANIFEST}")
        self._shapes = shapes_of(self.manifest, f"{folder}/{schema.MANIFEST}")
        self.num_draws = sum(shard["rows"] for shard in self.manifest["shards"])
        self._with_targets = with_targets
        self._stored = identity["frames"] == "store"
        self.data, videos = (None, []) if self._stored else data_of_cache(folder, self.manifest, data)
        """The data set whose videos the clips are read from, None where the cache stores the frames."""
        self.videos = videos
        """The videos, with their sources where they are a mixture; none where the cache stores the frames."""
        self._videos = by_key(videos)
        self._starts = [shard["first_draw"] for shard in self.manifest["shards"]]
        clip_columns = ("draw", "record", "num_objects", "clip_crc32") + (("frames", "labels") if self._stored else ())
        self._columns = None if with_targets else clip_columns

    @property
    def teacher_forwards(self) -> int:
        return 0

    def sources(self) -> list[SourceDraws]:
        """Return the draws of each source of a mixture; nothing for a single data set."""
        return self.manifest.get("sources", [])

    def batch(self, numbers: list[int]) -> Batch:
        rows, clips = zip(*(self.row_and_clip(number) for number in numbers), strict=True)
        targets = targets_of(list(rows), self.clip.crop_px // schema.GRID_STRIDE) if self._with_targets else None
        return collate(numbers, list(clips), [row["num_objects"] for row in rows], targets)

    def row_and_clip(self, number: int) -> tuple[dict[str, Any], Clip]:
        """Return the stored row of one draw, and its clip."""
        row, shard = self._row(number)
        origin = f"{shard}: draw {number}"
        draw = check_row(row, self._shapes, origin)
        return row, self._replay(row, draw, origin)

    def _replay(self, row: dict[str, Any], draw: ClipDraw, origin: str) -> Clip:
        if self._stored:
            clip = decode_clip(row["frames"], row["labels"], origin)
            check_clip(clip, draw, self._shapes, origin)
        else:
            check_videos(draw, self._videos, origin)
            clip = replay(self._videos, draw, self.clip.crop_px)
        if checksum(clip) != row["clip_crc32"]:
            raise InputError(
                f"{self.folder}: draw {draw.number} ({draw.video}, frames {draw.frames}) is not the clip that the teacher saw; "
                "the video's files or the image library have changed: restore them, or rebuild the cache with jobs.cache"
            )
        return clip

    def _row(self, number: int) -> tuple[dict[str, Any], str]:
        """Return the stored row of a draw, and the path of its shard."""
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        offset = number - self._starts[place]
        entry = self.manifest["shards"][place]
        shard = shard_path(self.folder, entry["file"])
        path = _intact_shard(shard, self.manifest["recipe"], entry["sha256"], self._shapes, _stamp(shard))
        try:
            row = schema.read_rows(path, [offset // schema.ROW_GROUP_ROWS], self._columns)[
                offset % schema.ROW_GROUP_ROWS
            ]
        except schema.READ_ERRORS as error:
            raise _damaged(shard, " ".join(str(error).split())) from None
        if row.get("draw") != number:
            raise _damaged(shard, f"row {offset} holds draw {row.get('draw')}, not {number}")
        return row, shard


def prove_shard(path: str, recipe: str, sha256: str = "", shapes: schema.Shapes | None = None, stamp: str = "") -> str:
    """Return the local path of a shard after checking that no byte of it has changed.

    A shard on an object store is first copied to the system's temporary folder, once per machine.
    sha256  of the file that the manifest lists; an earlier copy of another file is replaced
    shapes  of its columns; a shard that declares others is not read
    stamp   distinguishes versions of the file for the cached variant of this function
    Raises InputError naming the shard, or the folder of the copies when it is not this user's.
    """
    try:
        path_here = _copy_here(path, recipe, sha256) if storage.is_uri(path) else path
        data = read_regular(path_here, "shard_bytes", "run jobs.cache again with the same flags to rebuild it")
        damage = schema.damage_of(data, shapes)
        if not damage and schema.metadata_of(data).get("recipe") != recipe:
            damage = "it belongs to another cache"
    except OSError as error:
        path_here, damage = path, " ".join(str(error).split())
    if damage:
        raise _damaged(path, damage)
    return path_here


_intact_shard = functools.lru_cache(1 << 16)(prove_shard)
"""Checks a shard once per process, and again when its file has changed."""


def _stamp(path: str) -> str:
    if storage.is_uri(path):
        return ""  # the local copy is read, which only this user can write
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def _copy_here(path: str, recipe: str, sha256: str) -> str:
    parent = os.path.join(tempfile.gettempdir(), f"mobilevos-shards-{os.getuid()}")
    folder = os.path.join(parent, recipe)
    for one in (parent, folder):
        private_folder(one, close_open=True)
    target = os.path.join(folder, f"{fingerprint(path)[:16]}.parquet")
    if not os.path.exists(target) or not _is_copy(storage.read_bytes(target), sha256):
        # The copy may differ from the listed file: a shard that has grown since also serves an earlier manifest, as in a local folder.
        storage.write_bytes(target, storage.read_bytes(path))
    return target


def _is_copy(data: bytes, sha256: str) -> bool:
    return hashlib.sha256(data).hexdigest() == sha256 if sha256 else not schema.damage_of(data)


def _damaged(path: str, reason: str) -> InputError:
    return InputError(
        f"{path}: damaged or missing shard ({reason}); run jobs.cache again with the same flags to repair it"
    )


def collate(numbers: list[int], clips: list[Clip], num_objects: list[int], targets: Targets | None) -> Batch:
    """Return clips of one size as a batch."""
    frames = torch.stack([to_tensor(clip.frames) for clip in clips])
    labels = torch.stack([torch.from_numpy(clip.labels) for clip in clips])
    return Batch(numbers, frames, labels, torch.tensor(num_objects), targets)


def targets_of(rows: list[dict[str, Any]], grid: int) -> Targets:
    """Return the targets of a batch from rows, as stored or as the teacher makes them; the grid has `grid` x `grid` cells."""

    def stacked(arrays: list[np.ndarray], dtype: type[np.generic]) -> Tensor:
        return torch.from_numpy(np.stack(arrays).astype(dtype, copy=False))

    return Targets(
        stacked([row["sample_index"] for row in rows], np.int64),
        stacked([row["sample_label"] for row in rows], np.int64),
        stacked([schema.factor_of(row) for row in rows], np.float32),
        stacked([schema.logits_of(row) for row in rows], np.float32),
        stacked([schema.boundary_of(row, grid) for row in rows], np.float32),
    )


def draws_of_step(
    step: int, num_draws: int, batch: int, seed: int, rank: int = 0, world: int = 1, stages: int = 1
) -> list[int]:
    """Return the draw numbers of `rank` at `step`: its part of the global batch, which does not depend on `world`.

    stages   of the gap curriculum (`ClipConfig.stages`): an epoch takes all draws of one stage before those of the next
    """
    passes = [divmod(position, num_draws) for position in _positions(step, batch, rank, world)]
    return [int(_order(seed, epoch, num_draws, stages)[place]) for epoch, place in passes]


def _positions(step: int, batch: int, rank: int, world: int) -> range:
    share = batch // world
    return range(step * batch + rank * share, step * batch + (rank + 1) * share)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_draws: int, stages: int) -> np.ndarray:
    shuffled = np.random.default_rng([seed, epoch]).permutation(num_draws)
    return shuffled[np.argsort(shuffled % stages, kind="stable")]


def prefetched(
    source: ClipSource, steps: range, batch: int, seed: int, rank: int, world: int, mirror: bool = False
) -> Iterator[Batch]:
    """Yield one rank's batches of `steps`, decoded in a thread while the network runs (image decoding releases the GIL).

    mirror   mirror the clips on every second pass over the draws
    """
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
                numbers = draws_of_step(step, source.num_draws, batch, seed, rank, world, source.clip.stages)
                clips = source.batch(numbers)
                if mirror:
                    again = [p // source.num_draws % 2 == 1 for p in _positions(step, batch, rank, world)]
                    clips = clips.mirrored(again)
                put(clips)
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
        # Python ends a thread that is still in native code at its exit, and the C++ frames there then abort the process.
        thread.join(READER_ENDS_S)
