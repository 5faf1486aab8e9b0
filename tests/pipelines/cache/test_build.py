"""The cache is a function of its configuration: not of workers, kills, or what was there before."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.cache.build import build_cache
from pipelines.cache.manifest import read_manifest
from pipelines.cache.read import CachedClips
from pipelines.storage import only_writer
from vos.config import CacheConfig
from vos.errors import InputError
from vos.files.written import LEDGER


def shard_digests(folder: str) -> dict[str, str]:
    shards = Path(folder, "shards")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(shards.iterdir())}


def file_digests(folder: str) -> dict[str, str]:
    """Every file of a cache, also the lists beside the shards; `.written` is in the order in which files were made."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.name != LEDGER)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_workers_write_the_same_files_as_one(cache: str, cache_config: CacheConfig, tmp_path: Path) -> None:
    teacher = replace(cache_config.teacher, workers=2)
    build_cache(replace(cache_config, teacher=teacher, out=str(tmp_path)))
    assert file_digests(str(tmp_path)) == file_digests(cache)


def test_a_finished_cache_is_left_as_it_is(cache: str, cache_config: CacheConfig) -> None:
    before = file_digests(cache)
    result = build_cache(cache_config)
    assert result.draws_made == 0 and result.manifest == read_manifest(cache)
    assert file_digests(cache) == before


def test_the_manifest_describes_the_files_that_are_there(cache: str) -> None:
    manifest = read_manifest(cache)
    assert {shard["file"]: shard["sha256"] for shard in manifest["shards"]} == shard_digests(cache)
    rows = [
        row for shard in manifest["shards"] for row in range(shard["first_draw"], shard["first_draw"] + shard["rows"])
    ]
    assert rows == list(range(10))


def test_damaged_shards_are_made_again_and_the_others_left_alone(
    cache: str, cache_config: CacheConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    half = tmp_path / "shards" / f"shard-000001.parquet.{'0a' * 16}.tmp"
    half.write_bytes(b"what a killed writer left")
    build_cache(config)
    said = capsys.readouterr().err
    assert "notes.txt" in said and "shard-000000.parquet: damaged" in said and "shard-000002.parquet: damaged" in said
    assert shards[1].stat().st_mtime_ns == untouched
    assert stranger.read_text() == "mine" and not half.exists()
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
    cache: str, cache_config: CacheConfig, tmp_path: Path, killed_when: Callable[..., None]
) -> None:
    out = str(tmp_path / "cache")
    first = Path(out, "shards", "shard-000000.parquet")
    # In the middle: after its first shard, before its manifest.
    killed_when(["jobs.cache", "--preset", "smoke", "--draws", "10", "--out", out], first.exists)
    for path in first.parent.glob("*.parquet"):
        assert pq.ParquetFile(path).metadata.num_rows > 0
    with pytest.raises(InputError, match="absent or unfinished"):
        read_manifest(out)
    build_cache(replace(cache_config, out=out))
    assert {k: v for k, v in shard_digests(out).items() if k.endswith(".parquet")} == shard_digests(cache)


def test_an_extended_cache_is_the_one_that_would_have_been_built_at_once(
    cache: str, cache_config: CacheConfig, tmp_path: Path
) -> None:
    small = replace(cache_config, draws=6, out=str(tmp_path))
    build_cache(small)
    before = CachedClips(str(tmp_path), small.data)  # somebody trains from it meanwhile
    with pytest.raises(InputError, match="holds a cache of 6 draws; add --extend to extend it to 10"):
        build_cache(replace(small, draws=10))
    result = build_cache(replace(small, draws=10, extend=True))
    assert result.draws_made == 6  # the last shard was a short one, so its two draws are made again
    assert file_digests(str(tmp_path)) == file_digests(cache)
    assert before.batch([5]).draws == [5]
    with pytest.raises(InputError, match="draws: 10 -> 6"):
        build_cache(small)


def test_extending_what_is_not_there_is_refused(cache_config: CacheConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cache to extend"):
        build_cache(replace(cache_config, out=str(tmp_path), extend=True))


def test_a_second_writer_is_refused_and_the_lock_ends_with_the_first(cache_config: CacheConfig, tmp_path: Path) -> None:
    code = (
        "import sys; from pipelines.storage import only_writer\n"
        "with only_writer(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is writing here"):
            build_cache(replace(cache_config, out=str(tmp_path)))
        other.kill()
    with only_writer(str(tmp_path)):
        pass


def test_a_full_disk_stops_the_build_and_says_how_much_is_missing(
    ray_cluster: None, cache: str, cache_config: CacheConfig, tmp_path: Path
) -> None:
    """One shard fits on it, the others do not; with more room the same command finishes."""
    room = max(path.stat().st_size for path in Path(cache, "shards").iterdir()) // 1024 * 2 + 16
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mount.stderr.strip()}")
    config = replace(cache_config, out=str(tmp_path))
    try:
        with pytest.raises(InputError) as refusal:
            build_cache(config)
        message = str(refusal.value)
        assert "the disk is full" in message and "MiB more" in message and "\n" not in message
        kept = shard_digests(str(tmp_path))
        assert kept and kept.items() <= shard_digests(cache).items()
        subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path)], check=True)
        build_cache(config)
        assert shard_digests(str(tmp_path)) == shard_digests(cache)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_sampled_labels_are_the_labels_of_the_replayed_clip(cache: str, cache_config: CacheConfig) -> None:
    from vos.distillation.clip_forward import grid_labels

    batch = CachedClips(cache, cache_config.data).batch(list(range(10)))
    assert batch.targets is not None
    flat = grid_labels(batch.labels[:, 1:]).flatten(2).long()
    assert flat.gather(2, batch.targets.sample_index).equal(batch.targets.sample_label)
