"""The forecast of a cache, and the truth beside it."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cache.build import CacheResult
from pipelines.cache.forecast import PLAN_FILE, _spread, amount, duration, plan_and_truth, plan_cache
from pipelines.cache.manifest import read_manifest
from vos.config import CacheConfig
from vos.errors import InputError


def test_the_forecast_of_a_small_cache_is_its_size_to_the_byte(cache: str, cache_config: CacheConfig, tmp_path: Path):
    """Fewer draws than the calibration has time for: all of them are measured."""
    config = replace(cache_config, out=str(tmp_path))
    plan, text = plan_cache(config)
    manifest = read_manifest(cache)
    assert (plan.draws, plan.shards, plan.sampled_draws) == (10, 3, 10)
    assert abs(plan.bytes - manifest["bytes"]) <= 0.01 * manifest["bytes"]
    assert {name: size for name, size in plan.column_bytes.items() if name != "footer"} == manifest["column_bytes"]
    assert plan.factor_error_max == manifest["quantisation"]["factor_error_max"]
    assert plan.teacher_cpu_s > 0 and "online" in text and "N x N" in text
    assert {path.name for path in tmp_path.iterdir()} <= {PLAN_FILE, "identity.json", ".lock", ".written"}, "no shard"
    result = CacheResult(manifest["fingerprint"], manifest, draws_made=10, teacher_cpu_s=plan.teacher_cpu_s)
    compared = plan_and_truth(config, result)
    assert "teacher CPU" in compared and "+0.0 %" in compared
    assert "teacher CPU" not in plan_and_truth(config, replace(result, draws_made=4))


def test_a_forecast_of_another_cache_or_none_is_not_compared(cache: str, cache_config: CacheConfig, tmp_path: Path):
    manifest = read_manifest(cache)
    result = CacheResult(manifest["fingerprint"], manifest, 10, 1.0)
    config = replace(cache_config, out=str(tmp_path))
    assert plan_and_truth(config, result) == ""
    (tmp_path / PLAN_FILE).write_text(json.dumps({"recipe": "another"}))
    assert plan_and_truth(config, result) == ""
    (tmp_path / PLAN_FILE).write_text("{")
    assert plan_and_truth(config, result) == ""


def test_planning_refuses_what_building_refuses(cache_config: CacheConfig, tmp_path: Path):
    teacher = replace(cache_config.teacher, checkpoint=str(tmp_path / "absent"))
    with pytest.raises(InputError, match="absent"):
        plan_cache(replace(cache_config, teacher=teacher, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("draws", [1, 2, 3, 10, 97, 400])
def test_the_draws_that_are_measured_are_all_different_and_spread_over_the_cache(draws: int):
    assert sorted(_spread(draws)) == list(range(draws))
    first = sorted(itertools.islice(_spread(draws), 8))
    gaps = [b - a for a, b in itertools.pairwise([-1, *first, draws])]
    assert draws < 20 or max(gaps) <= draws / 3


def test_amounts_and_durations_are_written_for_people():
    assert [amount(size) for size in (0, 1023, 2048, 5.5 * 2**30)] == ["0 B", "1023 B", "2.0 KiB", "5.5 GiB"]
    assert [duration(s) for s in (1.25, 180, 3 * 3600, 96 * 3600)] == ["1.2 s", "3.0 min", "3.0 h", "4.0 days"]
