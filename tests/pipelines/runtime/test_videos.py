"""What a long job says at its start of the data that it reads."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipelines import tracking
from pipelines.runtime.videos import announce_check
from vos.config import DataConfig
from vos.data import check_records, contents
from vos.data.contents import fingerprint
from vos.data.datasets import load_index
from vos.data.synthetic import synthetic_index, write_davis
from vos.errors import InputError


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Four videos of five frames in DAVIS layout, in both splits."""
    for split in ("train", "val"):
        write_davis(synthetic_index(4, 5, (48, 64)), str(tmp_path / "DAVIS"), split)
    return tmp_path / "DAVIS"


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own; files count as changed long ago."""
    monkeypatch.setenv("MOBILEVOS_CACHE", str(tmp_path / "memory"))
    monkeypatch.setattr(contents, "RACY_S", -1e9)


@pytest.fixture
def said(davis: Path, store: str, ray_cluster: None, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a job on the data and returns its line about it, and the tag of its MLflow run."""

    def run(job: str, *argv: str) -> tuple[str, str]:
        capfd.readouterr()
        assert import_module(f"jobs.{job}").main(["--preset", "smoke", *argv]) == 0
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("data    ")]
        assert len(lines) <= 1
        client = mlflow.MlflowClient(tracking.store_uri())
        experiments = [one.experiment_id for one in client.search_experiments()]
        (newest,) = client.search_runs(experiments, max_results=1, order_by=["attributes.start_time DESC"])
        return "".join(lines), newest.data.tags.get("data.checked", "")

    return run


@pytest.fixture
def announced_by_the_search(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str, str], str]:
    """What a search says before its first trial; it ends there."""

    def run(cache: str, out: str) -> str:
        def stop(*_: object) -> None:
            raise InputError("before the first trial")

        monkeypatch.setattr("pipelines.search.search.run_trials", stop)
        capfd.readouterr()
        argv = ["--preset", "smoke", "--cache", cache, "--val-videos", "1", "--out", out]
        assert import_module("jobs.tune").main(argv) == 2
        first, last = capfd.readouterr().err.splitlines()
        assert last == "error: before the first trial"
        return first

    return run


def test_long_jobs_say_at_their_start_whether_the_data_was_checked(
    davis: Path, said: Any, announced_by_the_search: Callable[[str, str], str], tmp_path: Path
):
    data = ("--data.root", str(davis), "--data.kind", "davis2017")
    cache, teach = ("--draws", "2", "--clip.crop-px", "32", *data), ("--role", "teacher", "--steps", "1", *data)
    unchecked = (
        "data    not checked; this job would stop at the first damaged file; check first: "
        f"python -m jobs.check --data.root {davis} --data.kind davis2017"
    )
    assert said("cache", *cache, "--out", str(tmp_path / "c1")) == (unchecked, "false")
    assert import_module("jobs.check").main([*data, "--out", str(tmp_path / "check")]) == 0
    record = check_records.recall(fingerprint(load_index(str(davis))), "train")
    assert record is not None
    checked = f"data    checked on {record['date']}: no faults"
    assert said("cache", *cache, "--out", str(tmp_path / "c2")) == (checked, "true")
    small = ("--steps", "1", "--batch", "1", "--here")
    student = ("--cache", str(tmp_path / "c2"), *small)
    assert said("train", *student, "--out", str(tmp_path / "s1")) == (checked, "true")
    assert announced_by_the_search(str(tmp_path / "c2"), str(tmp_path / "search")) == checked
    path = davis / "Annotations/480p/train-0-00000/00004.png"
    path.write_bytes(path.read_bytes() + b"\0")  # one byte more, which no reader minds
    assert said("train", *teach, *small[2:], "--model", "teacher-small", "--out", str(tmp_path / "t")) == (
        unchecked,
        "false",
    )


def test_a_job_on_synthetic_video_says_nothing_of_it(said: Any, tmp_path: Path):
    assert said("cache", "--draws", "2", "--out", str(tmp_path / "cache")) == ("", "")


def test_the_line_is_shell_code_for_any_folder_name(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    announce_check(DataConfig(root=str(tmp_path / "a b'c")), "c1-" + "0" * 64)
    assert shlex.split(capfd.readouterr().err.partition("check first: ")[2])[-1] == f"{tmp_path}/a b'c"


def test_of_videos_that_are_named_by_sizes_alone_nothing_is_said(capfd: pytest.CaptureFixture[str]):
    """Caches from before contents were read: whether these are the checked files cannot be told."""
    announce_check(DataConfig(root="/data"), "0" * 64)
    assert capfd.readouterr() == ("", "")
