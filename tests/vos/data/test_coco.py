"""COCO instance annotations become masks: the same from polygons and from both kinds of run lengths, and hostile files are refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vos.config import ClipConfig
from vos.data.checking import check_video
from vos.data.clips import checksum, replay
from vos.data.coco import decode_runs
from vos.data.contents import fingerprint
from vos.data.datasets import load_index, notes_on
from vos.data.draws import draw_clip
from vos.data.mixtures import by_key
from vos.data.stills import Still
from vos.errors import InputError
from vos.media import images

H, W = 40, 60


def square(left: int, top: int, side: int) -> list[list[int]]:
    """A polygon that covers whole pixels, in COCO's coordinates."""
    right, bottom = left + side, top + side
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs_of(inside: np.ndarray) -> list[int]:
    flat = np.concatenate(([False], inside.T.ravel(), [False]))
    edges = np.flatnonzero(np.diff(flat.astype(int))).tolist()
    runs = np.diff([0, *edges, inside.size]).tolist()
    return runs[:-1] if runs[-1] == 0 else runs


def text_of(runs: list[int]) -> str:
    """COCO's text of run lengths: the inverse of `decode_runs`, one number at a time."""
    text = ""
    for place, run in enumerate(runs):
        number = run - runs[place - 2] if place > 2 else run
        while True:
            code, number = number & 31, number >> 5
            more = number != (-1 if code & 16 else 0)
            text += chr(48 + code + 32 * more)
            if not more:
                break
    return text


def write(
    root: Path, segmentations: list[Any], place: str = "annotations/instances_train2017.json", **change: Any
) -> Path:
    """One image per list of segmentations; `change` replaces names at the top of the JSON."""
    for number in range(len(segmentations)):
        draws = np.random.default_rng(number)
        image = draws.integers(0, 256, (H, W, 3), dtype=np.uint8)
        (root / "train2017").mkdir(parents=True, exist_ok=True)
        images.write_frame(str(root / f"train2017/{number:03d}.jpg"), image)
    listed = [{"id": n + 7, "file_name": f"{n:03d}.jpg", "height": H, "width": W} for n in range(len(segmentations))]
    every = [(n, one) for n, several in enumerate(segmentations) for one in several]
    annotations = [
        {"id": 100 + i, "image_id": n + 7, "segmentation": one, "iscrowd": 0} for i, (n, one) in enumerate(every)
    ]
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(json.dumps({"images": listed, "annotations": annotations} | change))
    return root


def masks(root: Path) -> list[np.ndarray]:
    found = [video.mask(0) for video in load_index(str(root), "coco")]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


def test_polygons_and_both_run_lengths_of_one_object_give_one_mask(tmp_path: Path):
    inside = np.zeros((H, W), bool)
    inside[5:25, 10:30] = True
    runs = runs_of(inside)
    kinds: list[Any] = [square(10, 5, 20), {"size": [H, W], "counts": runs}, {"size": [H, W], "counts": text_of(runs)}]
    of_polygon, of_list, of_text = masks(write(tmp_path, [[one] for one in kinds]))
    assert (of_list == inside).all() and (of_text == inside).all()
    assert (of_polygon > 0)[inside].all()
    assert of_polygon.sum() <= 22 * 22  # OpenCV also fills pixels that the edge touches


@pytest.mark.parametrize("seed", range(20))
def test_the_text_of_run_lengths_is_read_as_it_was_written(seed: int):
    draws = np.random.default_rng(seed)
    runs = [int(one) for one in draws.integers(0, 10 ** draws.integers(1, 7), draws.integers(1, 40))]
    assert decode_runs(text_of(runs), "x").tolist() == runs


def test_the_smaller_of_two_objects_is_in_front_and_ids_follow_the_annotations(tmp_path: Path):
    (labels,) = masks(write(tmp_path, [[square(20, 10, 10), square(10, 5, 25)]]))
    assert labels[15, 25] == 1 and labels[7, 12] == 2


def test_crowds_and_small_objects_are_left_out_and_the_largest_254_kept(tmp_path: Path):
    tiny, crowd = square(1, 1, 3), {"size": [H, W], "counts": [0, H * W]}
    many: list[Any] = [square(5 + n % 40, 5 + n % 20, 5) for n in range(255)]
    root = write(tmp_path, [[tiny, crowd, square(10, 5, 20)], [square(1, 1, 4), *many], []])
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    first, second = load_index(str(root), "coco")
    assert first.first_seen == {1: 0}
    labels = second.mask(0)
    assert labels is not None and labels[1, 1] == 0 and labels.max() == 254
    notes = " ".join(notes_on([first, second]))
    assert "1 of 3 images have no object" in notes and "256 objects; the 254 largest" in notes


def test_clips_are_drawn_from_them_and_replayed_and_their_identity_is_that_of_the_objects(tmp_path: Path):
    clip = ClipConfig(crop_px=32, compose=1.0)
    stills = load_index(str(write(tmp_path / "a", [[square(10, 5, 20)], [square(15, 8, 12)]])), "coco")
    assert all(isinstance(one, Still) and not check_video(one, True).faults for one in stills)
    draw = draw_clip(stills, clip, 0, 1)
    assert checksum(replay(by_key(stills), draw, 32)) == checksum(replay(by_key(stills), draw, 32))
    others = load_index(str(write(tmp_path / "b", [[square(10, 5, 20)], [square(15, 8, 13)]])), "coco")
    same = load_index(str(write(tmp_path / "c", [[square(10, 5, 20)], [square(15, 8, 12)]])), "coco")
    assert fingerprint(stills) == fingerprint(same) != fingerprint(others)


@pytest.mark.parametrize(
    "place", ["annotations.json", "instances.json", "_annotations.coco.json", "annotations/instances_mine.json"]
)
def test_annotations_are_found_in_the_usual_places(tmp_path: Path, place: str):
    root = write(tmp_path, [[square(10, 5, 20)]], place)
    (root / "train2017").rename(root / "images")
    assert len(load_index(str(root), "coco")) == 1


SIZE = [H, W]
HOSTILE: dict[str, tuple[Any, str]] = {
    "no segmentation": (None, "holds null"),
    "a line": ([[1, 2, 3, 4]], "3 or more corners"),
    "words": ([["a", "b", "c", "d", "e", "f"]], "3 or more corners"),
    "ragged": ([[1, [2], 3, 4, 5, 6]], "3 or more corners"),
    "objects": ([{"x": 1}], "3 or more corners"),
    "runs too long": ({"size": SIZE, "counts": [1, 2**62]}, "do not sum"),
    "negative runs": ({"size": SIZE, "counts": [-5, H * W + 5]}, "do not sum"),
    "other size": ({"size": [W, H], "counts": [0, H * W]}, "its mask has"),
    "no text of COCO's": ({"size": SIZE, "counts": "\u00e9~~"}, "no text of COCO's"),
    "unfinished text": ({"size": SIZE, "counts": "ooo"}, "no text of COCO's"),
    "empty text": ({"size": SIZE, "counts": ""}, "no text of COCO's"),
    "far too long a number": ({"size": SIZE, "counts": "o" * 40 + "0"}, "no text of COCO's"),
    "too small": (square(1, 1, 2), "no object of 16 pixels"),
    "nothing": ([], "no object of 16 pixels"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_segmentation_that_cannot_be_is_one_line(tmp_path: Path, name: str):
    given, message = HOSTILE[name]
    with pytest.raises(InputError, match=message) as caught:
        load_index(str(write(tmp_path, [[given]])), "coco")
    assert "\n" not in str(caught.value) and "instances_train2017.json" in str(caught.value)


def _damage_image(root: Path) -> None:
    (root / "train2017/000.jpg").write_bytes((root / "train2017/000.jpg").read_bytes()[:-40])


def _name_outside(root: Path) -> None:
    path = root / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace("000.jpg", "../../000.jpg"))


def _resize(root: Path) -> None:
    images.write_frame(str(root / "train2017/000.jpg"), np.zeros((H, W + 1, 3), np.uint8))


def _second_file(root: Path) -> None:
    (root / "annotations/instances_train2014.json").write_text("{}")


def _drop_image(root: Path) -> None:
    path = root / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace('"image_id": 7', '"image_id": 70'))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_damage_image, "000.jpg"),
        (_name_outside, "not in|leaves its folder"),
        (_resize, "pixels, but"),
        (_second_file, "2 files fit the split 'train'"),
        (_drop_image, "image 70, which 'images' lacks"),
    ],
)
def test_a_spoilt_data_set_is_one_line(tmp_path: Path, spoil: Callable[[Path], None], message: str):
    root = write(tmp_path, [[square(10, 5, 20)]])
    spoil(root)
    with pytest.raises(InputError, match=message):
        load_index(str(root), "coco")


def test_a_list_of_images_without_objects_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="lists no object"):
        load_index(str(write(tmp_path, [[square(10, 5, 20)]], annotations=[])), "coco")


def test_many_images_are_indexed_in_about_the_time_of_their_files(tmp_path: Path):
    root = write(tmp_path, [[square(10, 5, 20)]])
    image = {"id": 0, "file_name": "000.jpg", "height": H, "width": W}
    copies = 2000
    for number in range(copies):
        (root / f"train2017/c{number}.jpg").hardlink_to(root / "train2017/000.jpg")
    listed = [image | {"id": n, "file_name": f"c{n}.jpg"} for n in range(copies)]
    annotations = [{"id": n, "image_id": n % copies, "segmentation": square(10, 5, 20)} for n in range(7 * copies)]
    path = root / "annotations/instances_train2017.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations}))
    began = time.process_time()
    assert len(load_index(str(root), "coco")) == copies
    assert time.process_time() - began < 5
