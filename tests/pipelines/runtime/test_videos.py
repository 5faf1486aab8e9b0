"""What a long job says at its start of the data that it reads."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from pipelines import tracking
from pipelines.runtime.videos import announce_check, index_videos, say_once
from vos.config import DataConfig
from vos.data import check_records, contents
from vos.data.contents import fingerprint
from vos.data.datasets import load_index
from vos.data.synthetic import synthetic_index, write_davis
from vos.errors import InputError
from vos.media.images import write_frame, write_mask


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


@pytest.fixture
def images_of_three(tmp_path: Path) -> Path:
    """Three still images, of which one has no object."""
    labels = np.zeros((32, 48), np.uint8)
    for name in ("ant", "bee", "cat"):
        labels[8:24, 8:32] = name != "bee"
        write_frame(str(tmp_path / f"stills/JPEGImages/{name}.jpg"), np.zeros((32, 48, 3), np.uint8))
        write_mask(str(tmp_path / f"stills/Annotations/{name}.png"), labels)
    return tmp_path / "stills"


@pytest.mark.parametrize("mixed", [False, True])
def test_a_damaged_image_stops_a_job_unless_it_may_be_skipped_and_is_then_counted(
    images_of_three: Path, mixed: bool, capfd: pytest.CaptureFixture[str]
):
    where: dict[str, Any] = (
        {"sources": (f"stills={images_of_three}", "synthetic=")}
        if mixed
        else {"root": str(images_of_three), "kind": "stills"}
    )
    with pytest.raises(InputError, match=r"bee.png: .* shows no object.*; --data.skip-damaged leaves out"):
        index_videos(DataConfig(**where), "train")
    say_once.cache_clear()
    found = index_videos(DataConfig(**where, skip_damaged=True), "train")
    assert [one.name for one in found][:2] == ["ant", "cat"] and "bee" not in {one.name for one in found}
    said = capfd.readouterr().err
    assert "note    1 of 3 images are skipped: " in said and "bee.png" in said


def test_a_source_of_which_nothing_can_be_read_is_refused(images_of_three: Path):
    for name in ("ant", "cat"):
        (images_of_three / f"Annotations/{name}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"all 3 images have a fault, the first is .*ant.png"):
        index_videos(DataConfig(root=str(images_of_three), kind="stills", skip_damaged=True), "train")


@pytest.mark.parametrize("kind", ["stills", "coco"])
def test_still_images_have_no_split_but_train(images_of_three: Path, kind: Any):
    with pytest.raises(InputError, match=r"for training only and has no split 'val'; give videos"):
        index_videos(DataConfig(root=str(images_of_three), kind=kind), "val")
