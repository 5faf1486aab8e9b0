"""From shards and raw frames to batches: who takes which draw, what is read, and what is refused."""

import json
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import schema
from pipelines.cached_clips import (
    Batch,
    CachedClips,
    DrawnClips,
    data_of_cache,
    draws_of_step,
    prefetched,
    read_manifest,
)
from pipelines.plan import index_videos
from vos.clips import read_clip
from vos.config import ClipConfig, DataConfig
from vos.config_json import to_dict
from vos.datasets import fingerprint
from vos.draws import draw_clip
from vos.errors import InputError
from vos.synthetic import synthetic_index, write_davis
from vos.transforms import to_tensor

DATA = DataConfig(synthetic_videos=2, synthetic_frames=6, synthetic_height_px=48)
CLIP = ClipConfig(crop_px=32, max_skip_frames=2)
SHAPES = schema.Shapes(queries=2, samples=12, rank=3, objects=2, grid=8)
SHARDS = ((0, 6), (6, 1))
"""First draw and rows of the two shards: the first has two row groups."""
NUM_DRAWS = 7


def row(number: int, data: DataConfig = DATA) -> dict[str, Any]:
    """The row of a draw, with made-up targets."""
    random = np.random.default_rng(number)
    draw = draw_clip(index_videos(data, "train"), CLIP, 0, number)
    tensors = {name: (random.random(shape) * 60).astype(dtype) for name, (dtype, shape) in SHAPES.columns().items()}
    return {"draw": number, "record": json.dumps(draw.to_dict()), "num_objects": len(draw.objects), **tensors}


def write_cache(folder: Path, data: DataConfig = DATA) -> Path:
    """A finished cache, written by hand; returns its folder."""
    (folder / "shards").mkdir(parents=True)
    shards = []
    for place, (first, count) in enumerate(SHARDS):
        name = f"shard-{place:06d}.parquet"
        rows = [row(number, data) for number in range(first, first + count)]
        (folder / "shards" / name).write_bytes(schema.to_parquet(rows, SHAPES, {}))
        shards.append({"number": place, "file": name, "first_draw": first, "rows": count})
    digest = fingerprint(index_videos(data, "train"))
    identity = {"schema_version": schema.VERSION, "clip": to_dict(CLIP), "data": digest}
    write_manifest(folder, {"fingerprint": "f", "identity": identity, "data": to_dict(data), "shards": shards})
    return folder


def write_manifest(folder: Path, manifest: Any) -> None:
    (folder / schema.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> CachedClips:
    return CachedClips(str(write_cache(tmp_path_factory.mktemp("cached") / "cache")), DATA)


# Which draws a step takes.


@pytest.mark.parametrize(
    ("num_draws", "batch", "world"), [(1, 1, 1), (12, 4, 2), (10, 4, 1), (10, 4, 4), (7, 6, 3), (24, 24, 2), (5, 8, 2)]
)
def test_every_epoch_takes_every_draw_exactly_once(num_draws: int, batch: int, world: int):
    steps = num_draws * 3  # a whole number of epochs: 3 * batch of them
    taken = [
        draw
        for step in range(steps)
        for rank in range(world)
        for draw in draws_of_step(step, num_draws, batch, 0, rank, world)
    ]
    for epoch in range(len(taken) // num_draws):
        assert sorted(taken[epoch * num_draws : (epoch + 1) * num_draws]) == list(range(num_draws))
    assert Counter(taken) == dict.fromkeys(range(num_draws), 3 * batch)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
def test_the_ranks_together_take_the_same_global_batch_whatever_their_number(world: int):
    for step in range(9):
        shares = [draws_of_step(step, 30, 12, 5, rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        assert [draw for share in shares for draw in share] == draws_of_step(step, 30, 12, 5)


def test_another_seed_and_another_epoch_take_another_order():
    first, second = ([draws_of_step(step, 40, 40, seed)] for step, seed in ((0, 0), (1, 0)))
    assert first != second != [draws_of_step(0, 40, 40, 1)] != first


def test_any_step_can_be_the_first():
    late = draws_of_step(1000, 17, 4, 0)
    for step in (3, 999, 0):
        draws_of_step(step, 17, 4, 0)
    assert draws_of_step(1000, 17, 4, 0) == late


# Batches.


def test_a_batch_holds_the_clips_and_targets_of_its_draws_in_the_order_asked(untouched: CachedClips):
    numbers = [6, 0, 5, 5]
    batch = untouched.batch(numbers)
    assert batch.draws == numbers and batch.targets is not None
    videos = {video.name: video for video in index_videos(DATA, "train")}
    for place, number in enumerate(numbers):
        draw = draw_clip(list(videos.values()), CLIP, 0, number)
        clip = read_clip(videos[draw.video], draw, CLIP.crop_px)
        assert torch.equal(batch.frames[place], to_tensor(clip.frames))
        np.testing.assert_array_equal(batch.labels[place], clip.labels)
        assert batch.num_objects[place] == len(draw.objects) >= batch.labels[place].max()
        wanted = row(number)
        np.testing.assert_array_equal(batch.targets.sample_index[place], wanted["sample_index"])
        np.testing.assert_array_equal(batch.targets.sample_label[place], wanted["sample_label"])
        np.testing.assert_array_equal(batch.targets.factor[place], wanted["factor"].astype(np.float32))
        np.testing.assert_array_equal(batch.targets.object_logits[place], wanted["logits"].astype(np.float32))


def test_without_targets_the_same_clips_are_replayed(untouched: CachedClips):
    plain = CachedClips(untouched.folder, DATA, with_targets=False)
    assert plain.num_draws == untouched.num_draws == NUM_DRAWS
    one, other = plain.batch([1, 6]), untouched.batch([1, 6])
    assert one.targets is None
    assert torch.equal(one.frames, other.frames) and torch.equal(one.labels, other.labels)
    assert one.draws == other.draws and torch.equal(one.num_objects, other.num_objects)


def test_the_clips_are_those_of_the_cache_not_of_the_flags(untouched: CachedClips):
    assert untouched.clip == CLIP


def test_clips_drawn_on_the_fly_are_those_that_a_cache_of_the_same_seed_holds(untouched: CachedClips):
    drawn = DrawnClips(index_videos(DATA, "train"), CLIP, 0, NUM_DRAWS).batch([0, 6])
    replayed = untouched.batch([0, 6])
    assert drawn.targets is None
    assert torch.equal(drawn.frames, replayed.frames) and torch.equal(drawn.labels, replayed.labels)


def test_a_batch_moves_to_a_device_with_everything_in_it(untouched: CachedClips):
    batch = untouched.batch([0])
    moved = batch.to(torch.device("meta"))
    assert moved.targets is not None and moved.draws == batch.draws
    assert {part.device.type for part in (moved.frames, moved.labels, moved.num_objects, *moved.targets)} == {"meta"}


# Shards that are not as they were written.


def shard(cache: Path, place: int = 0) -> Path:
    return cache / "shards" / f"shard-{place:06d}.parquet"


def refusal_of(cache: Path, number: int, with_targets: bool = True) -> str:
    with pytest.raises(InputError) as refusal:
        CachedClips(str(cache), DATA, with_targets).batch([number])
    assert "\n" not in str(refusal.value) and "jobs.cache" in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("with_targets", [True, False])
def test_rows_in_another_order_are_noticed(cache: Path, with_targets: bool):
    rows = [row(number) for number in (1, 0, 2, 3, 4, 5)]
    shard(cache).write_bytes(schema.to_parquet(rows, SHAPES, {}))
    assert str(shard(cache)) in refusal_of(cache, 0, with_targets)


def test_a_shard_of_other_draws_is_noticed(cache: Path):
    shard(cache, 1).write_bytes(schema.to_parquet([row(3)], SHAPES, {}))
    message = refusal_of(cache, 6)
    assert str(shard(cache, 1)) in message and "3" in message and "6" in message


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_a_shard_with_fewer_rows_than_the_manifest_says_is_named(cache: Path, rows: int):
    shard(cache).write_bytes(schema.to_parquet([row(number) for number in range(rows)], SHAPES, {}))
    assert str(shard(cache)) in refusal_of(cache, 5)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_shard_is_named(cache: Path, keep: float):
    data = shard(cache).read_bytes()
    shard(cache).write_bytes(data[: int(keep * len(data))])
    assert str(shard(cache)) in refusal_of(cache, 0)


def test_a_missing_shard_is_named(cache: Path):
    shard(cache).unlink()
    assert str(shard(cache)) in refusal_of(cache, 0)


def test_a_shard_with_overwritten_bytes_is_named(cache: Path):
    data = bytearray(shard(cache).read_bytes())
    data[len(data) // 8 : len(data) // 3] = bytes(len(data) // 3 - len(data) // 8)
    shard(cache).write_bytes(data)
    assert str(shard(cache)) in refusal_of(cache, 0)


def test_a_flipped_bit_never_changes_a_target_unnoticed(cache: Path, tmp_path: Path):
    """Compression does not notice most of them: the numbers would only be other numbers."""
    intact = CachedClips(str(cache), DATA).batch([6]).targets
    assert intact is not None
    data = shard(cache, 1).read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    unnoticed = []
    for place in np.linspace(4, footer - 1, 40).astype(int):
        copied = Path(shutil.copytree(cache, tmp_path / f"flipped-{place}"))
        flipped = bytearray(data)
        flipped[place] ^= 16
        shard(copied, 1).write_bytes(flipped)
        try:
            batch = CachedClips(str(copied), DATA).batch([6])
        except InputError:
            continue
        assert batch.targets is not None
        if not all(torch.equal(one, other) for one, other in zip(batch.targets, intact, strict=True)):
            unnoticed.append(int(place))
    assert unnoticed == []


# Manifests and videos.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "absent or unfinished"),
        ("", "not a cache manifest"),
        ("{", "not a cache manifest"),
        ("[]", "not a cache manifest"),
        ("7", "not a cache manifest"),
        ("{}", "not a cache manifest"),
        ('{"identity": {}}', "not a cache manifest"),
        ('{"identity": {"schema_version": 99}}', "99"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named_in_one_line(cache: Path, text: str | None, said: str):
    path = cache / schema.MANIFEST
    path.unlink()
    if text is not None:
        path.write_text(text)
    for use in (read_manifest, lambda folder: CachedClips(folder, DATA)):
        with pytest.raises(InputError) as refusal:
            use(str(cache))
        message = str(refusal.value)
        assert message.startswith(str(path)) and said in message and "\n" not in message


@pytest.mark.parametrize("part", ["data", "shards", "identity"])
def test_a_manifest_without_one_of_its_parts_is_named_in_one_line(cache: Path, part: str):
    manifest = read_manifest(str(cache))
    del manifest[part]
    write_manifest(cache, manifest)
    with pytest.raises(InputError, match=schema.MANIFEST):
        CachedClips(str(cache), DATA)


def test_the_videos_of_the_cache_are_found_without_repeating_its_flags(cache: Path):
    other = replace(DATA, synthetic_videos=5)
    found, videos = data_of_cache(str(cache), read_manifest(str(cache)), other)
    assert found == DATA and videos == index_videos(DATA, "train")


def test_videos_that_have_moved_are_found_by_the_flag(tmp_path: Path):
    before, after = tmp_path / "before", tmp_path / "after"
    write_davis(synthetic_index(2, 6, (48, 72)), str(before), "train")
    cache = write_cache(tmp_path / "cache", DataConfig(root=str(before)))
    before.rename(after)
    data = DataConfig(root=str(after))
    found, _ = data_of_cache(str(cache), read_manifest(str(cache)), data)
    assert found == data
    assert CachedClips(str(cache), data).batch([0]).draws == [0]
    with pytest.raises(InputError, match="before"):
        CachedClips(str(cache), DATA)


def test_a_cache_of_other_videos_is_refused(cache: Path):
    manifest = read_manifest(str(cache))
    manifest["identity"]["data"] = "0" * 64
    write_manifest(cache, manifest)
    with pytest.raises(InputError) as refusal:
        CachedClips(str(cache), DATA)
    assert str(cache) in str(refusal.value) and "\n" not in str(refusal.value)


# Reading ahead.


class Source:
    """Numbered batches without pixels; raises at a draw."""

    clip = CLIP
    num_draws = 50

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[list[int]] = []
        self._changed = threading.Condition()
        self.fails_at = fails_at

    def was_asked(self, times: int, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.asked) >= times, timeout_s)

    def batch(self, numbers: list[int]) -> Batch:
        with self._changed:
            self.asked.append(numbers)
            self._changed.notify_all()
        if len(self.asked) - 1 == self.fails_at:
            raise InputError("frame 3 is damaged")
        return Batch(numbers, torch.empty(0), torch.empty(0), torch.empty(0), None)


def ended(before: set[threading.Thread], seconds: float = 3.0) -> bool:
    """Whether every thread that was started since is gone within some seconds."""
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(seconds)
    return not any(thread.is_alive() for thread in started)


def test_batches_come_in_the_order_of_the_steps_from_any_step_on():
    batches = list(prefetched(Source(), range(3, 30), batch=6, seed=1, rank=1, world=2))
    assert [batch.draws for batch in batches] == [draws_of_step(step, 50, 6, 1, 1, 2) for step in range(3, 30)]


def test_no_steps_give_no_batches():
    assert list(prefetched(Source(), range(5, 5), 4, 0, 0, 1)) == []


def test_an_error_of_the_reading_thread_is_raised_where_its_batch_was_due():
    taken = []
    with pytest.raises(InputError, match="frame 3"):
        for batch in prefetched(Source(fails_at=4), range(10), 2, 0, 0, 1):
            taken.append(batch)
    assert len(taken) == 4


def test_reading_runs_ahead_by_a_few_batches_and_no_more():
    source = Source()
    batches = prefetched(source, range(100), 2, 0, 0, 1)
    next(batches)
    assert source.was_asked(times=2, timeout_s=5)
    assert not source.was_asked(times=6, timeout_s=0.3)
    del batches


@pytest.mark.parametrize("taken", [1, 5])
def test_the_reading_thread_ends_when_nobody_listens_any_more(taken: int):
    before = set(threading.enumerate())
    batches = prefetched(Source(), range(1000), 2, 0, 0, 1)
    for _ in range(taken):
        next(batches)
    del batches
    assert ended(before)


def test_the_reading_thread_ends_also_with_an_error_that_nobody_came_for():
    before = set(threading.enumerate())
    source = Source(fails_at=3)
    batches = prefetched(source, range(1000), 2, 0, 0, 1)
    next(batches)
    assert source.was_asked(times=4, timeout_s=5)  # two batches wait in the queue, the error behind them
    del batches
    assert ended(before)


def test_the_reading_thread_ends_with_its_steps():
    before = set(threading.enumerate())
    assert len(list(prefetched(Source(), range(4), 2, 0, 0, 1))) == 4
    assert ended(before)
