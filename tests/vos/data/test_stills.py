"""Still images are indexed with their faults, each one clear line before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from vos.data import stills
from vos.data.checking import check_video
from vos.data.datasets import load_index
from vos.data.stills import Still
from vos.errors import InputError
from vos.media import images

H, W = 32, 48
NAMES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own; files count as changed long ago."""
    monkeypatch.setenv("MOBILEVOS_CACHE", str(tmp_path / "memory"))
    monkeypatch.setattr(stills, "RACY_S", -1e9)


def labels_with(*objects: int) -> np.ndarray:
    labels = np.zeros((H, W), np.uint8)
    for place, number in enumerate(objects):
        labels[4:20, 4 + 12 * place : 14 + 12 * place] = number
    return labels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        draws = np.random.default_rng(number)
        folder = tmp_path / "stills"
        images.write_frame(str(folder / f"JPEGImages/{name}.jpg"), draws.integers(0, 256, (H, W, 3), dtype=np.uint8))
        images.write_mask(str(folder / f"Annotations/{name}.png"), labels_with(1, 2, 255))
    return tmp_path / "stills"


def mask(root: Path, name: str = "bee") -> Path:
    return root / f"Annotations/{name}.png"


def test_every_image_with_a_mask_is_a_still_and_255_is_background(root: Path):
    images.write_frame(str(root / "JPEGImages/dog.jpg"), np.zeros((H, W, 3), np.uint8))
    found = load_index(str(root), "stills")
    assert [one.name for one in found] == list(NAMES)
    assert all(one.first_seen == {1: 0, 2: 0} and one.num_frames == 1 for one in found)
    assert all(not check_video(one, True).faults for one in found)


def test_a_list_names_the_images_and_a_split_has_its_own(root: Path):
    (root / "list.txt").write_text("bee\nant\n")
    (root / "few.txt").write_text("cat\n")
    assert [one.name for one in load_index(str(root), "stills")] == ["ant", "bee"]
    assert [one.name for one in load_index(str(root), "stills", "few")] == ["cat"]


def _no_object(root: Path) -> None:
    images.write_mask(str(mask(root)), labels_with(255))


def _other_size(root: Path) -> None:
    images.write_mask(str(mask(root)), labels_with(1)[:, :-2])


def _large_ids(root: Path) -> None:
    labels = labels_with(1).astype(np.uint16)
    labels[0, 0] = 300
    cv2.imwrite(str(mask(root)), labels)


def _colour(root: Path) -> None:
    cv2.imwrite(str(mask(root)), np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8))


def _truncated(root: Path) -> None:
    path = root / "JPEGImages/bee.jpg"
    path.write_bytes(path.read_bytes()[:-40])


def _missing(root: Path) -> None:
    (root / "list.txt").write_text("ant\nbee\ncat\n")
    mask(root).unlink()


def _link_out(root: Path) -> None:
    path = root / "JPEGImages/bee.jpg"
    path.rename(root.parent / "bee.jpg")
    os.symlink(root.parent / "bee.jpg", path)


FAULTS: dict[Callable[[Path], None], str] = {
    _no_object: "bee.png: the mask of bee shows no object; paint one, or drop the image",
    _other_size: "bee.png: 46x32 pixels, but",
    _large_ids: "bee.png: .*(255|16 bit)",
    _colour: "bee.png: a colour picture, not a mask",
    _truncated: "bee.jpg",
    _missing: "bee: this mask is missing",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda one: one.__name__)
def test_a_fault_is_one_line_and_the_other_images_stay(root: Path, spoil: Callable[[Path], None]):
    assert len(load_index(str(root), "stills")) == 3  # remembered as faultless until a file changes
    spoil(root)
    with pytest.raises(InputError, match=FAULTS[spoil]) as caught:
        load_index(str(root), "stills")
    assert "\n" not in str(caught.value)
    told: list[InputError] = []
    assert [one.name for one in load_index(str(root), "stills", tell=told.append)] == ["ant", "cat"]
    assert len(told) == 1 and re.search(FAULTS[spoil], str(told[0]))


def test_a_link_that_leads_out_is_refused_unless_allowed(root: Path, monkeypatch: pytest.MonkeyPatch):
    _link_out(root)
    with pytest.raises(InputError, match="leads out of the data folder"):
        load_index(str(root), "stills")
    monkeypatch.setenv("MOBILEVOS_OUTSIDE_LINKS", "1")
    assert len(load_index(str(root), "stills")) == 3


@pytest.mark.parametrize("emptied", ["JPEGImages", "Annotations"])
def test_a_folder_without_images_or_masks_is_refused(root: Path, emptied: str):
    for path in (root / emptied).iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no image with a mask"):
        load_index(str(root), "stills")
    (root / emptied).rmdir()
    with pytest.raises(InputError, match="no such folder"):
        load_index(str(root), "stills")


def test_masks_without_a_fault_are_not_decoded_again(root: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    read_mask = images.read_mask
    monkeypatch.setattr(images, "read_mask", lambda path: read.append(path) or read_mask(path))
    for expected in (3, 3):
        load_index(str(root), "stills")
        assert len(read) == expected
    images.write_mask(str(mask(root)), labels_with(3))
    load_index(str(root), "stills")
    assert len(read) == 6


def test_a_full_check_finds_pixels_that_do_not_decode(root: Path):
    (still,) = (one for one in load_index(str(root), "stills") if one.name == "bee")
    assert isinstance(still, Still)
    _no_object(root)
    assert "shows no object" in check_video(still, True).faults[0]
    data = bytearray((root / "JPEGImages/bee.jpg").read_bytes())
    (root / "JPEGImages/bee.jpg").write_bytes(bytes(data[: len(data) // 2]))
    assert any("bee.jpg" in fault for fault in check_video(still, True).faults)
