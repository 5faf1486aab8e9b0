"""From a configuration to numbered draws in shards, and what a cache's identity depends on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.cache.plan import cache_identity, plan_shards, recipe_of
from pipelines.runtime.videos import index_videos
from vos.config import CacheConfig, DataConfig, fields
from vos.config.as_json import from_dict
from vos.data.synthetic import synthetic_index, write_davis
from vos.errors import InputError
from vos.files.canonical import dumps, fingerprint, to_dict

SHAPES = {"queries": 2, "samples": 8, "rank": 4, "objects": 2, "grid": 8}
DATA = DataConfig(synthetic_videos=12, synthetic_frames=5, synthetic_height_px=48)


def identity(config: CacheConfig, weights: str = "digest", shapes: dict[str, int] = SHAPES) -> str:
    teacher = {"model": "teacher-small", "weights": weights}
    return fingerprint(cache_identity(config, index_videos(config.data, "train"), teacher, shapes))


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


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Every field of a configuration as its flag says it."""
    names = []
    for name, value in values.items():
        names += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
    return names


ANOTHER = {
    "sampling": "uniform",
    "clip.crop_px": 64,
    "clip.flip": False,
    "clip.paste": 0.5,
    "clip.scale_max": 2.0,
    "clip.skip_curriculum": [1, 2],
    "data.kind": "synthetic",
    "data.root": "",
    "factor.dtype": "fp16",
    "frames": "store",
    "logits": "none",
    "preset": "paper",
    "teacher.context_masks": "true",
    "data.sources": ["synthetic=:1"],
    "teacher.scales": [0.75],
}
"""Another value of the fields that are not numbers or texts of any kind."""


def changed(config: CacheConfig, field: str) -> CacheConfig:
    """The configuration with this one field changed."""
    *groups, name = field.split(".")
    value: Any = to_dict(config)
    for part in field.split("."):
        value = value[part]
    if field in ANOTHER:
        value = ANOTHER[field]
    elif isinstance(value, bool):
        value = not value
    else:
        value = value + "x" if isinstance(value, str) else value / 2 if isinstance(value, float) else value + 1
    nested: Any = {name: value}
    for group in reversed(groups):
        nested = {group: nested}
    return from_dict(CacheConfig, nested, config, "test")


@pytest.mark.parametrize("field", leaves(to_dict(BASE)))
def test_every_field_changes_the_identity_or_is_marked_as_deciding_nothing(field: str):
    # Of the data, what counts is the videos: the fields that say where they are do not change them.
    mark = {name: mark for name, _, mark in fields.leaves(BASE)}[field]
    cosmetic = field in ("data.root", "data.kind", "data.fold_videos", "data.skip_damaged") or not (
        mark.decides or field.startswith("data.")
    )
    assert (identity(changed(BASE, field)) == identity(BASE)) == cosmetic


def test_the_usual_sampling_is_not_named_so_that_older_caches_stay_the_same():
    videos = index_videos(DATA, "train")
    assert "sampling" not in cache_identity(BASE, videos, {}, {})
    assert cache_identity(replace(BASE, sampling="uniform"), videos, {}, {})["sampling"] == "uniform"


def test_other_weights_and_other_shapes_are_another_cache():
    assert len({identity(BASE), identity(BASE, weights="other"), identity(BASE, shapes=SHAPES | {"rank": 5})}) == 3


def test_the_recipe_of_a_row_does_not_depend_on_how_many_there_are():
    videos = index_videos(DATA, "train")
    small, large, other = (
        cache_identity(replace(BASE, **change), videos, {}, {}) for change in ({}, {"draws": 99}, {"seed": 1})
    )
    assert recipe_of(small) == recipe_of(large) != recipe_of(other)
    assert fingerprint(small) != fingerprint(large)


def test_an_identity_read_back_from_its_file_has_the_same_fingerprint():
    made = cache_identity(BASE, index_videos(DATA, "train"), {"weights": "digest"}, SHAPES)
    assert fingerprint(json.loads(dumps(made))) == fingerprint(made)


def test_a_data_set_that_was_moved_is_the_same_and_one_that_was_changed_is_not(tmp_path: Path):
    write_davis(synthetic_index(2, 3, (48, 64)), str(tmp_path / "here"), "train")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = (replace(BASE, data=DataConfig(root=str(tmp_path / name))) for name in ("here", "there"))
    assert identity(here) == identity(there)
    with open(next((tmp_path / "there/JPEGImages/480p").rglob("*.jpg")), "ab") as file:
        file.write(b"\0")
    assert identity(here) != identity(there)
