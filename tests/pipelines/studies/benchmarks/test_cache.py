"""The benchmark of the cache runs, and its rows say what they are. Speed itself is never a test."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cache.manifest import read_manifest
from pipelines.runtime.output_folder import mark
from pipelines.runtime.session import set_threads
from pipelines.studies.benchmarks.benchmark import measure
from pipelines.studies.benchmarks.cache import _cache_config, _sizes
from pipelines.studies.benchmarks.rows import built, emptied, median
from vos.config import BenchmarkConfig, TrainConfig
from vos.config.presets import preset
from vos.errors import InputError
from vos.files.written import Written
from vos.published.bounds import Figure


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkConfig:
    return replace(preset(BenchmarkConfig, "smoke"), out=str(tmp_path_factory.mktemp("benchmark")))


def test_more_columns_take_more_bytes_and_leave_less_error_until_there_are_no_more(config: BenchmarkConfig):
    set_threads(1)
    rows = {row.name: row for row in _sizes(config)}
    for dtype in ("int8", "fp16"):
        errors = [rows[f"rank {rank} {dtype}: error %"].value for rank in (16, 32, 48, 64)]
        sizes = [rows[f"rank {rank} {dtype}: KiB/draw"].value for rank in (16, 32, 48, 64)]
        # Where no columns are left the errors are equal, up to the last bits of their sums.
        assert all(more <= fewer * (1 + 1e-6) for fewer, more in zip(errors, errors[1:], strict=False))
        assert sizes == sorted(sizes)
    assert rows["rank 64 int8: KiB/draw"].value < rows["rank 64 fp16: KiB/draw"].value
    assert rows["rank 64 int8: error %"].value > rows["rank 64 fp16: error %"].value
    smallest = rows["KiB/draw at <= 1 % error"]
    assert smallest.met and smallest.value <= rows["rank 64 int8: KiB/draw"].value


def test_another_size_is_built_beside_what_an_earlier_benchmark_built(config: BenchmarkConfig, ray_cluster: None):
    caches = [
        built(_cache_config(replace(config, samples=samples), "beside", draws=1)) for samples in (config.samples, 32)
    ]
    assert len({read_manifest(cache.out)["fingerprint"] for cache in caches}) == 2
    assert built(_cache_config(config, "beside", draws=1)) == caches[0]


def test_what_was_measured_is_kept_where_a_later_measure_fails(
    config: BenchmarkConfig, ray_cluster: None, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def first(_: BenchmarkConfig) -> Iterator[Figure]:
        yield median("first", [1.0, 3.0], ">=", 1)

    def second(_: BenchmarkConfig) -> Iterator[Figure]:
        raise InputError("nothing left")
        yield

    monkeypatch.setattr("pipelines.studies.benchmarks.cache.MEASURES", (first, second))
    with pytest.raises(InputError, match="nothing left"):
        measure(replace(config, out=str(tmp_path)))
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    about = {"name": "first", "value": 2.0, "low": 1.0, "high": 3.0}
    assert row == about | {"target": ">= 1", "met": True, "how": ""}


def test_what_is_timed_begins_in_an_empty_folder_named_by_its_configuration_alone(tmp_path: Path):
    job = replace(preset(TrainConfig, "smoke"), out=str(tmp_path / "timed"))
    first, other = emptied(job, "train"), emptied(replace(job, steps=9), "train")
    assert emptied(job, "train").out == first.out != other.out
    mark(Written(first.out, "train"), {})
    (Path(first.out) / "checkpoint").write_text("of the time before")
    assert not Path(emptied(job, "train").out).exists()
    Path(first.out).mkdir()
    (Path(first.out) / "a photograph").write_text("of the user's")
    with pytest.raises(InputError, match="identity.json"):
        emptied(job, "train")
    assert (Path(first.out) / "a photograph").exists()


@pytest.mark.slow
def test_the_command_writes_every_row_of_its_table(
    ray_cluster: None, config: BenchmarkConfig, capsys: pytest.CaptureFixture[str]
):
    from jobs.benchmark import main

    assert main(["cache", "--preset", "smoke", "--out", config.out]) == 0
    rows = json.loads(Path(config.out, "rows.json").read_text())
    printed = capsys.readouterr().out
    assert {"value", "target", "how", "low", "high"} <= rows[0].keys()
    assert all(row["name"] in printed and row["low"] <= row["value"] <= row["high"] for row in rows)
    assert {row["target"] for row in rows if row["target"]} == {"<= 128", ">= 0.95", ">= 1.8", ">= 5", "<= 1.1", "<= 5"}
