"""From shards and raw frames to batches: who takes which draw, what is read, and what is refused."""

import json
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.cache import schema
from pipelines.cache.manifest import data_of_cache, read_manifest, sealed
from pipelines.cache.manifest import write_manifest as make_manifest
from pipelines.cache.plan import ShardPlan, cache_identity, recipe_of
from pipelines.cache.read import CachedClips, DrawnClips, draws_of_step, prefetched
from pipelines.cache.teacher import receipt
from pipelines.runtime.videos import index_videos
from vos.config import CacheConfig, ClipConfig, DataConfig
from vos.data.clips import checksum, decode_clip, encode_clip, read_clip
from vos.data.draws import draw_clip
from vos.data.synthetic import synthetic_index, write_davis
from vos.data.transforms import to_tensor
from vos.distillation.encoding import dequantise
from vos.errors import InputError
from vos.files.canonical import dumps, to_dict
from vos.files.canonical import fingerprint as fingerprint_of

DATA = DataConfig(synthetic_videos=2, synthetic_frames=6, synthetic_height_px=48)
CLIP = ClipConfig(crop_px=32, max_skip_frames=2)
SHAPES = schema.Shapes(queries=2, samples=12, rank=3, objects=2, grid=8, factor="int8", logits="int8")
SHARDS = ((0, 6), (6, 1))
"""First draw and rows of the two shards."""
NUM_DRAWS = 7


def row(number: int, data: DataConfig = DATA, stored: bool = False) -> dict[str, Any]:
    """The row of a draw, with made-up targets."""
    random = np.random.default_rng(number)
    videos = index_videos(data, "train")
    draw = draw_clip(videos, CLIP, 0, number)
    clip = read_clip(next(video for video in videos if video.name == draw.video), draw, CLIP.crop_px)
    files = dict(zip(("frames", "labels"), encode_clip(clip), strict=True)) if stored else {}
    tensors = {name: (random.random(shape) * 60).astype(dtype) for name, (dtype, shape) in SHAPES.columns().items()}
    tensors["sample_label"] = random.integers(
        len(draw.objects) + 1, size=SHAPES.columns()["sample_label"][1], dtype=np.uint8
    )
    return {
        "draw": number,
        "record": json.dumps(draw.to_dict()),
        "num_objects": len(draw.objects),
        "clip_crc32": checksum(decode_clip(**files) if stored else clip),
        **tensors,
        **files,
    }


def identity_of(data: DataConfig = DATA, stored: bool = False) -> dict[str, Any]:
    settings = CacheConfig(clip=CLIP, draws=NUM_DRAWS, frames="store" if stored else "replay")
    identity = cache_identity(
        settings, index_videos(data, "train"), {"model": "none", "weights": "none"}, asdict(SHAPES)
    )
    return json.loads(dumps(identity))


def write_shard(path: Path, rows: list[dict[str, Any]], recipe: str = "") -> None:
    """recipe: of a cache of the videos DATA where it is left out."""
    path.write_bytes(schema.to_parquet(rows, SHAPES, {"recipe": recipe or recipe_of(identity_of())}))


def write_cache(folder: Path, data: DataConfig = DATA, stored: bool = False) -> Path:
    """A finished cache, written by hand; returns its folder."""
    (folder / "shards").mkdir(parents=True)
    identity, receipts = identity_of(data, stored), []
    for plan in (ShardPlan(place, first, count) for place, (first, count) in enumerate(SHARDS)):
        path = folder / "shards" / plan.file_name
        write_shard(path, [row(number, data, stored) for number in plan.draws], recipe_of(identity))
        receipts.append(receipt(plan, path.read_bytes()))
    make_manifest(str(folder), identity, to_dict(data), {}, receipts)
    return folder


def write_manifest(folder: Path, manifest: Any) -> None:
    """Seal it as one of its identity."""
    right = {"fingerprint": fingerprint_of(manifest["identity"]), "recipe": recipe_of(manifest["identity"])}
    (folder / schema.MANIFEST).write_bytes(sealed(manifest | right))


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
        factor = dequantise(wanted["factor"], wanted["factor_scale"], (1, 2)).transpose(0, 2, 1)
        np.testing.assert_array_equal(batch.targets.factor[place], factor)
        logits = dequantise(wanted["logits"], wanted["logit_scale"], (2, 3))
        np.testing.assert_array_equal(batch.targets.object_logits[place], logits)


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


def test_a_mirrored_clip_brings_mirrored_targets_and_its_neighbour_stays(untouched: CachedClips):
    batch = untouched.batch([0, 6])
    mirrored = batch.mirrored([True, False])
    assert batch.targets is not None and mirrored.targets is not None
    assert torch.equal(mirrored.frames[0], batch.frames[0].flip(-1))
    assert torch.equal(mirrored.labels[0], batch.labels[0].flip(-1))
    # What a sample is read from: the same cell of the mirrored map, in the same place of the list.
    before, after = batch.targets, mirrored.targets
    cells = torch.arange(before.boundary[0, 0].numel()).view(before.boundary.shape[2:])
    for query, index in enumerate(after.sample_index[0]):
        assert torch.equal(cells.flip(-1).flatten()[index], before.sample_index[0, query])
    assert torch.equal(after.object_logits[0], before.object_logits[0].flip(-1))
    assert torch.equal(after.boundary[0], before.boundary[0].flip(-1))
    assert torch.equal(after.factor, before.factor) and torch.equal(after.sample_label, before.sample_label)
    pairs = zip((mirrored.frames, mirrored.labels, *after), (batch.frames, batch.labels, *before), strict=True)
    assert all(torch.equal(new[1], old[1]) for new, old in pairs)
    again = mirrored.mirrored([True, False])
    assert again.targets is not None and torch.equal(again.targets.sample_index, before.sample_index)


@pytest.mark.parametrize("with_targets", [True, False])
def test_every_second_pass_is_mirrored_where_that_is_asked_for(untouched: CachedClips, with_targets: bool):
    source = CachedClips(untouched.folder, DATA, with_targets)
    batch = 8  # of 7 draws: every batch holds clips of two passes
    steps = range(5)
    plain = [one for item in prefetched(source, steps, batch, 3, 0, 1) for one in item.frames]
    mirrored = [one for item in prefetched(source, steps, batch, 3, 0, 1, mirror=True) for one in item.frames]
    for position, (before, after) in enumerate(zip(plain, mirrored, strict=True)):
        assert torch.equal(after, before.flip(-1) if position // NUM_DRAWS % 2 else before)


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
    write_shard(shard(cache), rows)
    assert str(shard(cache)) in refusal_of(cache, 0, with_targets)


def test_a_shard_of_other_draws_is_noticed(cache: Path):
    write_shard(shard(cache, 1), [row(3)])
    message = refusal_of(cache, 6)
    assert str(shard(cache, 1)) in message and "3" in message and "6" in message


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_a_shard_with_fewer_rows_than_the_manifest_says_is_named(cache: Path, rows: int):
    write_shard(shard(cache), [row(number) for number in range(rows)])
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


def test_a_shard_of_another_cache_is_noticed(cache: Path):
    write_shard(shard(cache), [row(number) for number in range(6)], recipe="another")
    assert "another cache" in refusal_of(cache, 0)


def test_any_flipped_bit_is_noticed_before_a_target_is_read(cache: Path, tmp_path: Path):
    """Compression does not notice most of them: the numbers would only be other numbers."""
    data = shard(cache, 1).read_bytes()
    for place in np.linspace(0, len(data) - 1, 40).astype(int):
        copied = Path(shutil.copytree(cache, tmp_path / f"flipped-{place}"))
        flipped = bytearray(data)
        flipped[place] ^= 16
        shard(copied, 1).write_bytes(flipped)
        assert str(shard(copied, 1)) in refusal_of(copied, 6)


def test_damage_to_a_page_after_the_first_look_at_a_shard_is_noticed_too(cache: Path):
    source = CachedClips(str(cache), DATA)
    source.batch([0])
    data = bytearray(shard(cache).read_bytes())
    group = pq.ParquetFile(shard(cache)).metadata.row_group(3)
    places = {group.column(i).path_in_schema.split(".")[0]: group.column(i) for i in range(group.num_columns)}
    page = places["factor"]
    data[page.dictionary_page_offset + page.total_compressed_size - 2] ^= 16
    shard(cache).write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        source.batch([3])


def test_a_shard_that_has_grown_since_serves_an_earlier_manifest(cache: Path):
    write_shard(shard(cache, 1), [row(number) for number in (6, 7, 8)])
    assert CachedClips(str(cache), DATA).batch([6]).draws == [6]


def test_a_cache_at_a_uri_is_read_to_its_last_draw_also_after_it_was_extended(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for last in (6, 8):
        write_shard(shard(cache, 1), [row(number) for number in range(6, last + 1)])
        identity, plans = identity_of() | {"draws": last + 1}, (ShardPlan(0, 0, 6), ShardPlan(1, 6, last - 5))
        receipts = [receipt(plan, shard(cache, plan.number).read_bytes()) for plan in plans]
        make_manifest(str(cache), identity, to_dict(DATA), {}, receipts)
        assert CachedClips(f"file://{cache}", DATA).batch([0, last]).draws == [0, last]


# Clips.


def test_a_clip_that_is_not_what_the_teacher_saw_is_refused(cache: Path):
    rows = [row(number) for number in range(6)]
    rows[2]["clip_crc32"] ^= 1
    write_shard(shard(cache), rows)
    assert CachedClips(str(cache), DATA).batch([1]).draws == [1]
    message = refusal_of(cache, 2)
    assert "draw 2" in message and "not the clip that the teacher saw" in message


def test_stored_frames_need_no_videos(tmp_path: Path):
    videos = tmp_path / "videos"
    write_davis(synthetic_index(2, 6, (48, 72)), str(videos), "train")
    cache = write_cache(tmp_path / "cache", DataConfig(root=str(videos)), stored=True)
    shutil.rmtree(videos)
    batch = CachedClips(str(cache), DATA).batch([0, 6])
    wanted = decode_clip(*(row_of(cache, 6)[name] for name in ("frames", "labels")))
    assert torch.equal(batch.frames[1], to_tensor(wanted.frames))
    np.testing.assert_array_equal(batch.labels[1], wanted.labels)
    assert torch.equal(CachedClips(str(cache), DATA, with_targets=False).batch([0, 6]).frames, batch.frames)


def row_of(cache: Path, number: int) -> dict[str, Any]:
    return next(
        one for place in (0, 1) for one in schema.read_rows(str(shard(cache, place)), []) if one["draw"] == number
    )


def test_a_cache_without_logits_says_so_before_it_is_read_for_them(cache: Path):
    manifest = read_manifest(str(cache))
    manifest["identity"]["logits"] = manifest["identity"]["shapes"]["logits"] = "none"
    write_manifest(cache, manifest)
    with pytest.raises(InputError, match=r"no logits.*--loss.kd 0"):
        CachedClips(str(cache), DATA, need_logits=True)
    CachedClips(str(cache), DATA, with_targets=False, need_logits=True)


@pytest.mark.parametrize("stages", [1, 3, 5])
def test_an_epoch_goes_through_the_gap_curriculum_stage_by_stage(stages: int):
    taken = [draw for step in range(17) for draw in draws_of_step(step, 17, 2, 4, stages=stages)]
    for epoch in (taken[:17], taken[17:]):
        assert sorted(epoch) == list(range(17))
        assert [draw % stages for draw in epoch] == sorted(draw % stages for draw in epoch)


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
        ('{"schema_version": 99}', "newer"),
        ('{"identity": {"schema_version": 1}}', "version 1"),
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


def test_any_single_changed_byte_of_a_manifest_is_noticed(cache: Path):
    path = cache / schema.MANIFEST
    text = path.read_bytes()
    for place in range(0, len(text), 7):
        changed = bytearray(text)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(InputError, match=schema.MANIFEST):
            read_manifest(str(cache))


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
