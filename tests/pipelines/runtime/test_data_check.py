"""jobs.check: every fault of a data set in one run, remembered where there is none."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.runtime import data_check
from pipelines.runtime.data_check import CheckActor, DataCheck, check_data, summary
from vos.config import CheckConfig, DataConfig
from vos.data import check_records, contents, stills
from vos.data.checking import Findings
from vos.data.contents import fingerprint
from vos.data.datasets import load_index
from vos.data.synthetic import synthetic_index, write_davis
from vos.media.images import write_frame, write_mask


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of five frames in DAVIS layout, in both splits."""
    root = tmp_path_factory.mktemp("davis") / "DAVIS"
    for split in ("train", "val"):
        write_davis(synthetic_index(4, 5, (48, 64)), str(root), split)
    return root


@pytest.fixture
def davis(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "DAVIS"))


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own; files count as changed long ago."""
    monkeypatch.setenv("MOBILEVOS_CACHE", str(tmp_path / "memory"))
    monkeypatch.setattr(contents, "RACY_S", -1e9)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The actors in this process, without Ray; the names of the videos that they read."""
    seen: list[str] = []

    def read(config: CheckConfig, videos: Any, missing: list[int]) -> Iterator[dict[str, Any]]:
        actor = CheckActor(videos, config.split == "train", 1)
        for number in reversed(missing):  # they come in any order
            seen.append(videos[number].name)
            yield json.loads(json.dumps(actor({"number": number})))

    monkeypatch.setattr(data_check, "_read", read)
    return seen


def file(davis: Path, kind: str, video: int, index: int) -> Path:
    ending = "jpg" if kind == "JPEGImages" else "png"
    return davis / kind / "480p" / f"train-0-{video:05d}" / f"{index:05d}.{ending}"


def mask(davis: Path, video: int, index: int) -> Path:
    return file(davis, "Annotations", video, index)


def config(davis: Path, **changes: Any) -> CheckConfig:
    return CheckConfig(**{"data": DataConfig(root=str(davis)), "out": str(davis.parent / "check"), **changes})


def later_object(path: Path) -> bytes:
    """A mask gets an object that its video's first mask lacks; returns what it was."""
    before = path.read_bytes()
    labels = np.zeros((48, 64), np.uint8)
    labels[10:30, 10:30] = 77
    write_mask(str(path), labels)
    return before


def damage(davis: Path) -> list[Path]:
    """Faults of four kinds in three videos; the damaged files."""
    later_object(mask(davis, 0, 3))
    mask(davis, 1, 2).unlink()
    truncated = file(davis, "JPEGImages", 1, 4)
    truncated.write_bytes(truncated.read_bytes()[:-30])
    write_mask(str(mask(davis, 3, 1)), np.ones((24, 32), np.uint8))
    return sorted([mask(davis, 0, 3), mask(davis, 1, 2), truncated, mask(davis, 3, 1)])


def test_the_job_lists_every_fault_at_once_and_exits_with_2_and_with_0_once_they_are_repaired(
    davis: Path, pristine: Path, ray_cluster: None, capfd: pytest.CaptureFixture[str]
):
    """Through real actors; the index alone would stop at the first file."""
    job, out = import_module("jobs.check"), davis.parent / "check"
    argv = ["--data.root", str(davis), "--out", str(out), "--workers", "2"]
    damaged = damage(davis)
    assert job.main(argv) == 2
    said = capfd.readouterr()
    lines = (out / "faults.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(map(str, damaged))
    for line in lines:
        assert f"fault    {line}\n" in said.out
    assert "faults: 4, warnings: 0" in said.out and "checked  on" not in said.out
    assert re.search(r"read +39 files in [\d.]+ s, [\d,]+ files/s", said.out)
    assert re.search(r"check: 100%.*39/39", said.err), "a bar of files"

    for path in damaged:
        shutil.copyfile(pristine / path.relative_to(davis), path)
    assert job.main(argv) == 0
    said = capfd.readouterr().out
    assert (out / "faults.txt").read_text() == "" and f"checked  on {time.strftime('%Y-%m-%d', time.gmtime())}" in said
    assert "read     30 files" in said and "10 read by an earlier check" in said, "one video had no fault before"
    assert job.main(argv) == 0 and "read     0 files" in capfd.readouterr().out


def test_the_list_does_not_depend_on_the_order_in_which_videos_are_read(
    davis: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch
):
    damage(davis)
    first = check_data(config(davis))
    text = (davis.parent / "check/faults.txt").read_bytes()
    again = check_data(config(davis, workers=1, again=True))
    assert first.faults == again.faults and (davis.parent / "check/faults.txt").read_bytes() == text


def test_what_was_read_before_an_interruption_is_not_read_again(
    davis: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch
):
    whole = data_check._read

    def interrupted(*arguments: Any) -> Iterator[dict[str, Any]]:
        for number, answer in enumerate(whole(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(data_check, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_data(config(davis))
    monkeypatch.setattr(data_check, "_read", whole)
    inline.clear()
    found = check_data(config(davis))
    assert inline == ["train-0-00001", "train-0-00000"] and found.checked_on and found.files_read == 20
    inline.clear()
    assert check_data(config(davis)).checked_on and inline == []
    assert check_data(config(davis, again=True)).checked_on and len(inline) == 4


def state(davis: Path, split: str = "train") -> bool:
    videos = load_index(str(davis), split=split)
    return check_records.recall(fingerprint(videos), split) is not None


def test_one_changed_byte_of_one_mask_makes_the_data_not_checked_again_and_only_that_video_is_read(
    davis: Path, inline: list[str]
):
    check_data(config(davis))
    assert state(davis)
    inline.clear()
    path = mask(davis, 2, 4)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 9] ^= 1
    path.write_bytes(data)
    assert not state(davis)
    found = check_data(config(davis))
    assert inline == ["train-0-00002"] and not state(davis) and not found.checked_on
    (fault,) = found.faults
    assert fault.startswith(f"{path}: this PNG file is damaged")
    data[data.index(b"IDAT") + 9] ^= 1
    path.write_bytes(data)
    assert state(davis), "the bytes that were checked"


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    davis: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch
):
    def changed(video: Any, for_clips: bool) -> Any:
        found = check_video(video, for_clips)
        if video.name == "train-0-00001":
            later_object(mask(davis, 1, 3))
        return found

    check_video = data_check.check_video
    monkeypatch.setattr(data_check, "check_video", changed)
    found = check_data(config(davis))
    assert found.faults == () and not found.checked_on and not state(davis)


def test_a_record_is_of_one_purpose_one_version_and_the_limits_in_force(
    davis: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch
):
    check_data(config(davis, split="val"))
    assert state(davis, "val") and not state(davis), "clips were not asked for"
    check_data(config(davis))
    assert state(davis)
    monkeypatch.setenv("MOBILEVOS_MAX_JPEG_WORK", "3_000".replace("_", ""))
    assert not state(davis), "a job may refuse now what was read then"
    monkeypatch.delenv("MOBILEVOS_MAX_JPEG_WORK")
    monkeypatch.setattr(check_records, "VERSION", check_records.VERSION + 1)
    assert not state(davis)


def test_a_fault_that_appears_in_unchanged_files_ends_what_was_remembered(
    davis: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch
):
    """A failing disk changes no file's time; --again finds it."""
    check_data(config(davis))
    monkeypatch.setattr(data_check, "check_video", lambda video, _: Findings((f"{video.name}: rotten",), ()))
    assert check_data(config(davis)).checked_on
    assert not check_data(config(davis, again=True)).checked_on and not state(davis)
    inline.clear()
    check_data(config(davis))
    assert len(inline) == 4


@pytest.mark.parametrize("damage", [b"", b"{}", b"[", b"edit"])
def test_a_damaged_or_edited_record_is_none(damage: bytes, davis: Path, inline: list[str], tmp_path: Path):
    check_data(config(davis))
    for path in (tmp_path / "memory" / "checks").iterdir():
        path.write_bytes(path.read_bytes().replace(b'"files": ', b'"files": 1') if damage == b"edit" else damage)
    assert not state(davis)
    assert check_data(config(davis)).checked_on and state(davis)


def test_warnings_are_remembered_with_the_record(davis: Path, inline: list[str]):
    shutil.copyfile(mask(davis, 0, 0), mask(davis, 0, 9))
    found = check_data(config(davis))
    assert found.checked_on and len(found.warnings) == 1 and found.warnings[0].startswith(str(mask(davis, 0, 9)))
    assert check_data(config(davis)).warnings == found.warnings
    assert (davis.parent / "check/warnings.txt").read_text() == f"{found.warnings[0]}\n"
    assert "warning  " in summary(found)


def test_synthetic_video_is_read_and_not_remembered(tmp_path: Path, inline: list[str]):
    data = DataConfig(synthetic_videos=2, synthetic_frames=3, synthetic_height_px=48)
    found = check_data(CheckConfig(data=data, out=str(tmp_path / "check")))
    assert (found.files_read, found.faults, found.checked_on) == (12, (), "")
    assert not (tmp_path / "memory/checks").exists()


def test_at_most_200_lines_are_printed_and_no_video_hides_the_others():
    faults = tuple(
        sorted(f"/d/v{video:03d}/{index:05d}.png: gone; bring it" for video in range(60) for index in range(9))
    )
    text = summary(DataCheck(faults, (), 60, 0, 540, 540, 1.0, "", "out"))
    shown = [line for line in text.splitlines() if line.startswith("fault  ")]
    assert len(shown) == 201 and "/d/v039/" in text and "and 340 more, in out/faults.txt" in shown[-1]


@pytest.fixture
def stills_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four still images of one object each."""
    monkeypatch.setattr(stills, "RACY_S", -1e9)
    labels = np.zeros((32, 48), np.uint8)
    labels[8:24, 8:32] = 1
    for name in ("ant", "bee", "cat", "dog"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        write_frame(str(tmp_path / f"stills/JPEGImages/{name}.jpg"), pixels)
        write_mask(str(tmp_path / f"stills/Annotations/{name}.png"), labels)
    return tmp_path / "stills"


def test_a_mixture_is_checked_source_by_source_and_images_are_counted_apart(
    davis: Path, stills_root: Path, inline: list[str]
):
    data = DataConfig(sources=(f"davis2017={davis}:0.5", f"stills={stills_root}:0.5"))
    found = check_data(config(davis, data=data))
    assert (found.videos, found.images, found.files, found.faults) == (4, 4, 4 * 10 + 4 * 2, ())
    assert "4 videos, 4 still images, 48 frames and masks" in summary(found) and found.checked_on
    spoilt = stills_root / "Annotations/bee.png"
    write_mask(str(spoilt), np.zeros((32, 48), np.uint8))
    truncated = file(davis, "JPEGImages", 1, 4)
    truncated.write_bytes(truncated.read_bytes()[:-30])
    again = check_data(config(davis, data=data))
    assert len(again.faults) == 2 and not again.checked_on
    assert any(str(spoilt) in line for line in again.faults) and any(str(truncated) in line for line in again.faults)


def test_still_images_alone_are_not_called_videos(stills_root: Path, davis: Path, inline: list[str]):
    found = check_data(config(davis, data=DataConfig(root=str(stills_root), kind="stills")))
    assert "data     4 still images, 8 frames and masks" in summary(found)
