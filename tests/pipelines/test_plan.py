"""From a configuration to numbered draws in shards, and what a cache's identity depends on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.plan import cache_identity, identity_fingerprint, index_videos, plan_shards
from vos.config import CacheConfig, ClipConfig, DataConfig, TargetConfig, TeacherConfig
from vos.config_json import dumps
from vos.errors import InputError
from vos.synthetic import synthetic_index, write_davis

SHAPES = {"queries": 2, "samples": 8, "rank": 4, "objects": 2, "grid": 8}
DATA = DataConfig(synthetic_videos=12, synthetic_frames=5, synthetic_height_px=48)


def identity(config: CacheConfig, teacher: str = "digest", shapes: dict[str, int] = SHAPES) -> str:
    return identity_fingerprint(cache_identity(config, index_videos(config.data, "train"), teacher, shapes))


@pytest.mark.parametrize(("num_draws", "shard_draws"), [(1, 1), (10, 4), (12, 4), (3, 100), (1000, 7)])
def test_the_shards_hold_every_draw_once_in_order(num_draws: int, shard_draws: int):
    plans = plan_shards(num_draws, shard_draws)
    assert [number for plan in plans for number in plan.draws] == list(range(num_draws))
    assert all(len(plan.draws) == plan.num_draws <= shard_draws for plan in plans)
    assert all(plan.num_draws == shard_draws for plan in plans[:-1])


def test_the_names_of_shards_are_distinct_and_sort_like_their_numbers():
    names = [plan.file_name for plan in plan_shards(2500, 2)]
    assert sorted(set(names)) == names


def test_a_larger_plan_begins_with_the_full_shards_of_a_smaller_one():
    assert plan_shards(100, 8)[:12] == plan_shards(96, 8)


# Videos.


def test_without_a_root_the_videos_are_synthetic_and_no_video_is_in_two_splits():
    train, val = index_videos(DATA, "train"), index_videos(DATA, "val")
    assert (len(train), len(val)) == (12, 2)
    assert {video.size for video in train + val} == {(48, 72)}
    assert not {video.name for video in train} & {video.name for video in val}


def test_the_kind_synthetic_needs_no_root_and_reads_none(tmp_path: Path):
    data = replace(DATA, kind="synthetic", root=str(tmp_path / "absent"))
    assert index_videos(data, "train") == index_videos(DATA, "train")


@pytest.mark.parametrize("kind", ["davis2016", "davis2017", "youtubevos", "folder"])
def test_a_kind_of_real_video_without_a_root_is_refused_instead_of_made_up(kind: Any):
    with pytest.raises(InputError, match="--data.root"):
        index_videos(replace(DATA, kind=kind), "train")


def test_a_missing_root_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="absent"):
        index_videos(DataConfig(root=str(tmp_path / "absent")), "train")


# Identity.

BASE = CacheConfig(draws=10, data=DATA)


@pytest.mark.parametrize(
    "changed",
    [
        {"out": "/elsewhere"},
        {"workers": 4},
        {"threads": 4},
        {"debug": True},
        {"preset": "paper"},
        {"teacher": TeacherConfig(checkpoint="/the/same/weights/elsewhere")},
        {"data": replace(DATA, kind="synthetic")},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_changes_no_byte_of_the_cache_is_not_in_its_identity(changed: dict[str, Any]):
    assert identity(replace(BASE, **changed)) == identity(BASE)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"draws": 11},
        {"shard_draws": 3},
        {"clip": ClipConfig(flip=False)},
        {"clip": ClipConfig(colour=0.2)},
        {"target": TargetConfig(samples=100)},
        {"target": TargetConfig(boundary_radius_px=3)},
        {"teacher": TeacherConfig(top_k=10)},
        {"data": replace(DATA, synthetic_seed=1)},
        {"data": replace(DATA, synthetic_videos=13)},
        {"data": replace(DATA, synthetic_frames=6)},
        {"data": replace(DATA, synthetic_height_px=64)},
    ],
    ids=str,
)
def test_what_changes_the_content_of_the_cache_changes_its_identity(changed: dict[str, Any]):
    assert identity(replace(BASE, **changed)) != identity(BASE)


def test_other_weights_and_other_shapes_are_another_cache():
    assert len({identity(BASE), identity(BASE, teacher="other"), identity(BASE, shapes=SHAPES | {"rank": 5})}) == 3


def test_an_identity_read_back_from_its_file_has_the_same_fingerprint():
    made = cache_identity(BASE, index_videos(DATA, "train"), "digest", SHAPES)
    assert identity_fingerprint(json.loads(dumps(made))) == identity_fingerprint(made)


def test_a_data_set_that_was_moved_is_the_same_and_one_that_was_changed_is_not(tmp_path: Path):
    write_davis(synthetic_index(2, 3, (48, 64)), str(tmp_path / "here"), "train")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = (replace(BASE, data=DataConfig(root=str(tmp_path / name))) for name in ("here", "there"))
    assert identity(here) == identity(there)
    with open(next((tmp_path / "there/JPEGImages/480p").rglob("*.jpg")), "ab") as file:
        file.write(b"\0")
    assert identity(here) != identity(there)
