"""The kill command itself, short: `python -m tests.chaos.cache --kills 100 --flips 1000` is the whole of it."""

import random
import shutil
from pathlib import Path

import pytest

from tests.chaos import cache as chaos


def test_flipped_bytes_are_all_noticed(cache: str, tmp_path: Path):
    copied = Path(shutil.copytree(cache, tmp_path / "cache"))
    assert chaos.flip_bytes(150, random.Random(0), copied) == []


def test_a_lost_a_doubled_and_a_changed_shard_would_be_reported(cache: str, tmp_path: Path):
    copied = Path(shutil.copytree(cache, tmp_path / "cache"))
    assert chaos.compare(copied, Path(cache)) == []
    shards = sorted((copied / "shards").iterdir())
    shards[0].replace(shards[1])
    shutil.copy(shards[2], copied / "shards" / "shard-000009.parquet")
    said = "; ".join(chaos.compare(copied, Path(cache)))
    assert "4 rows lost" in said and "2 rows doubled" in said and "other files" in said and "other bytes" in said


@pytest.mark.slow
def test_kills_of_driver_actor_and_worker_leave_the_cache_as_an_undisturbed_build_makes_it():
    assert chaos.main(["--kills", "3", "--flips", "20", "--draws", "120"]) == 0
