"""The benchmark of the start: real starts, in turns. Speed itself is never a test."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.studies.benchmarks import start
from pipelines.studies.benchmarks.start import Start, first_masks
from vos.config import BenchmarkConfig
from vos.config.presets import preset
from vos.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with the video, smaller and shorter."""
    monkeypatch.setattr(start, "SIZE", (48, 64))
    monkeypatch.setattr(start, "FRAMES", 4)
    start._write_video(str(tmp_path))
    return str(tmp_path)


def test_a_start_is_timed_up_to_its_first_mask_and_ended(folder: str):
    found = start._start(folder, "eager", f"{folder}/cache")
    assert found.seconds > 0.1 and found.cpu_seconds > 0.1


def test_a_job_that_writes_no_mask_is_named_with_what_it_said(folder: str):
    Path(folder, "clip.mp4").unlink()
    with pytest.raises(InputError, match=r"wrote no mask: .*clip\.mp4"):
        start._start(folder, "eager", f"{folder}/cache")


def test_kinds_take_turns_and_only_warm_ones_share_a_cache(monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[str, str]] = []

    def timed(folder: str, runtime: str, cache: str) -> Start:
        calls.append((runtime, os.path.relpath(cache, folder)))
        return Start(float(len(calls)), 1.0)

    monkeypatch.setattr(start, "_start", timed)
    monkeypatch.setattr(start, "_write_video", lambda _: None)
    rows = list(first_masks(replace(preset(BenchmarkConfig, "smoke"), rounds=2)))
    assert [runtime for runtime, _ in calls] == ["openvino", *["auto", "openvino", "auto"] * 2]
    caches = [cache for _, cache in calls]
    assert caches[0] == caches[3] == caches[6] == "warm" and len(set(caches)) == 5
    assert [(row.name, row.value) for row in rows[:3]] == [
        ("s to the first mask, cold", 3.5),
        ("s to the first mask, cold, --runtime openvino", 4.5),
        ("s to the first mask, warm", 5.5),
    ]
    assert [row.target for row in rows] == ["<= 5", "", "<= 5", "", "", ""] and rows[0].met and not rows[2].met
