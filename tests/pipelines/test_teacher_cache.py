"""The cache is a function of its configuration: not of workers, kills, or what was there before."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.cached_clips import CachedClips, read_manifest
from pipelines.teacher_cache import build_cache
from vos.clips import read_clip
from vos.config import CacheConfig, ClipConfig
from vos.draws import ClipDraw
from vos.errors import InputError
from vos.transforms import to_tensor


def shard_digests(folder: str) -> dict[str, str]:
    shards = Path(folder, "shards")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(shards.iterdir())}


def test_two_workers_write_the_same_bytes_as_one(cache: str, cache_config: CacheConfig, tmp_path: Path) -> None:
    build_cache(replace(cache_config, workers=2, out=str(tmp_path)))
    assert shard_digests(str(tmp_path)) == shard_digests(cache)
    assert read_manifest(str(tmp_path))["shards"] == read_manifest(cache)["shards"]


def test_the_manifest_describes_the_files_that_are_there(cache: str) -> None:
    manifest = read_manifest(cache)
    assert {shard["file"]: shard["sha256"] for shard in manifest["shards"]} == shard_digests(cache)
    rows = [
        row for shard in manifest["shards"] for row in range(shard["first_draw"], shard["first_draw"] + shard["rows"])
    ]
    assert rows == list(range(10))


def test_damaged_shards_are_made_again_and_the_others_left_alone(
    cache: str, cache_config: CacheConfig, tmp_path: Path
) -> None:
    config = replace(cache_config, out=str(tmp_path))
    build_cache(config)
    shards = sorted((tmp_path / "shards").iterdir())
    untouched = shards[1].stat().st_mtime_ns
    flipped = bytearray(shards[0].read_bytes())
    flipped[len(flipped) // 3] ^= 16
    shards[0].write_bytes(flipped)
    shards[2].write_bytes(shards[2].read_bytes()[:1000])
    stranger = tmp_path / "shards" / "notes.txt"
    stranger.write_text("mine")
    build_cache(config)
    assert shards[1].stat().st_mtime_ns == untouched
    assert stranger.read_text() == "mine"
    stranger.unlink()
    assert shard_digests(str(tmp_path)) == shard_digests(cache)


def test_a_cache_of_another_configuration_is_refused_with_the_difference(cache: str, cache_config: CacheConfig) -> None:
    before = shard_digests(cache)
    with pytest.raises(InputError, match=r"seed: 0 -> 5.*choose another --out"):
        build_cache(replace(cache_config, seed=5))
    with pytest.raises(InputError, match=r"clip\.max_skip_frames: 3 -> 4"):
        build_cache(replace(cache_config, clip=replace(cache_config.clip, max_skip_frames=4)))
    assert shard_digests(cache) == before


def test_a_killed_build_leaves_no_half_shard_and_the_next_run_completes_it(
    cache: str, cache_config: CacheConfig, tmp_path: Path
) -> None:
    out = str(tmp_path / "cache")
    command = [sys.executable, "-m", "jobs.cache", "--preset", "smoke", "--draws", "10", "--out", out]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = Path(out, "shards", "shard-000000.parquet")
    while not first.exists():  # kill it in the middle: after its first shard, before its manifest
        assert process.poll() is None, "the build ended before its first shard"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for path in first.parent.glob("*.parquet"):
        assert pq.ParquetFile(path).metadata.num_rows > 0
    with pytest.raises(InputError, match="absent or unfinished"):
        read_manifest(out)
    build_cache(replace(cache_config, out=out))
    assert {k: v for k, v in shard_digests(out).items() if k.endswith(".parquet")} == shard_digests(cache)


def test_a_replayed_clip_is_the_clip_that_the_teacher_saw(cache: str, cache_config: CacheConfig) -> None:
    source = CachedClips(cache, cache_config.data)
    batch = source.batch([9, 0, 4])
    assert batch.draws == [9, 0, 4]
    clip_config = ClipConfig(**read_manifest(cache)["identity"]["clip"])
    videos = {video.name: video for video in source._videos.values()}
    table = pq.read_table(Path(cache, "shards", "shard-000002.parquet"))
    draw = ClipDraw.from_dict(json.loads(table.column("record")[1].as_py()))
    assert draw.number == 9
    clip = read_clip(videos[draw.video], draw, clip_config.crop_px)
    assert batch.frames[0].equal(to_tensor(clip.frames))
    assert (batch.labels[0].numpy() == clip.labels).all()
    assert batch.targets is not None and batch.targets.factor.isfinite().all()


def test_the_sampled_labels_are_the_labels_of_the_replayed_clip(cache: str, cache_config: CacheConfig) -> None:
    from vos.segmentation import grid_labels

    batch = CachedClips(cache, cache_config.data).batch(list(range(10)))
    assert batch.targets is not None
    flat = grid_labels(batch.labels[:, 1:]).flatten(2).long()
    assert flat.gather(2, batch.targets.sample_index).equal(batch.targets.sample_label)


def test_the_videos_of_a_cache_need_not_be_named_again_but_changed_ones_are_refused(
    cache: str, cache_config: CacheConfig, tmp_path: Path
) -> None:
    other = replace(cache_config.data, synthetic_seed=1)
    assert CachedClips(cache, other).batch([3]).frames.equal(CachedClips(cache, cache_config.data).batch([3]).frames)
    manifest = read_manifest(cache)
    manifest["data"]["synthetic_seed"] = 2
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="no longer those that this cache was made from"):
        CachedClips(str(tmp_path), other)
