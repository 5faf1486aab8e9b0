"""Clips drawn from still images: what they show, that their bytes are those of the record, and extreme images."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vos.config import ClipConfig
from vos.data.clips import Clip, checksum, replay
from vos.data.draw_records import ClipDraw
from vos.data.draws import draw_clip
from vos.data.mixtures import by_key
from vos.data.stills import index_stills
from vos.data.videos import Video

PINNED = 3622091747
CLIP = ClipConfig(crop_px=64, max_objects=3)


def refuse(fault: Exception) -> None:
    raise fault


def write_still(root: Path, name: str, labels: np.ndarray, seed: int = 0) -> None:
    """Write an image of noise in large cells, and its mask; PNG both, so that no decoder decides a byte."""
    rng = np.random.default_rng([seed, *labels.shape])
    height, width = labels.shape
    cells = (
        rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8).repeat(8, 0).repeat(8, 1)[:height, :width]
    )
    for folder, pixels in (("JPEGImages", cells), ("Annotations", labels)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / folder / f"{name}.png"), pixels)


def blocks(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return labels with object k + 1 in the k-th box (top, left, height, width)."""
    labels = np.zeros((height, width), np.uint8)
    for number, (top, left, high, wide) in enumerate(boxes, 1):
        labels[top : top + high, left : left + wide] = number
    return labels


def indexed(root: Path) -> list[Video]:
    return list(index_stills(str(root), "train", refuse))


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    root = tmp_path_factory.mktemp("stills")
    write_still(root, "one", blocks(90, 120, (20, 30, 40, 50)), 1)
    write_still(root, "two", blocks(120, 90, (10, 10, 50, 40), (70, 40, 40, 40)), 2)
    write_still(root, "three", blocks(100, 100, (5, 5, 40, 40), (5, 55, 40, 40), (55, 20, 40, 60)), 3)
    return indexed(root)


def clip_of(stills: list[Video], draw: ClipDraw, crop_px: int) -> Clip:
    return replay(by_key(stills), draw, crop_px)


def test_a_record_decides_the_bytes(stills: list[Video]):
    """The number is the same on every machine and in every process."""
    crc = 0
    for number in range(6):
        draw = draw_clip(stills, CLIP, 7, number)
        clip = clip_of(stills, draw, 64)
        assert checksum(clip) == checksum(
            clip_of(stills[::-1], ClipDraw.from_dict(json.loads(json.dumps(draw.to_dict()))), 64)
        )
        crc = zlib.crc32(checksum(clip).to_bytes(4, "big"), crc)
    assert crc == PINNED


@pytest.mark.parametrize(
    ("num_frames", "crop_px", "max_objects"), [(2, 32, 1), (3, 96, 3), (8, 64, 1), (3, 64, 2), (2, 384, 3)]
)
def test_first_frames_show_every_object_and_no_label_is_foreign(
    stills: list[Video], num_frames: int, crop_px: int, max_objects: int
):
    clip = replace(CLIP, num_frames=num_frames, crop_px=crop_px, max_objects=max_objects, compose=0.7)
    for number in range(6 if crop_px > 100 else 24):
        draw = draw_clip(stills, clip, 1, number)
        found = clip_of(stills, draw, crop_px)
        assert found.frames.shape == (num_frames, crop_px, crop_px, 3) and found.labels.shape == found.frames.shape[:3]
        assert 1 <= draw.num_objects <= max_objects
        assert set(np.unique(found.labels[0])) >= set(range(1, draw.num_objects + 1))
        assert found.labels.max() <= draw.num_objects


def test_without_composing_a_clip_has_one_layer(stills: list[Video]):
    assert all(len(draw_clip(stills, replace(CLIP, compose=0.0), 0, n).layers) == 1 for n in range(20))


def test_composed_clips_have_distractors_and_objects_that_return(stills: list[Video]):
    clip = replace(CLIP, compose=1.0, num_frames=4)
    returned, distracted = False, False
    for number in range(60):
        draw = draw_clip(stills, clip, 0, number)
        labels = clip_of(stills, draw, 64).labels
        for one in range(1, draw.num_objects + 1):
            there = (labels == one).any((1, 2))
            returned |= bool(there[0] and not there[1:-1].all() and there[-1])
        alone = [layer for layer in draw.layers[1:] if not layer.label]
        if alone and not distracted:
            bare = replace(draw, layers=tuple(layer for layer in draw.layers if layer not in alone))
            before = clip_of(stills, bare, 64).labels
            assert ((labels == before) | (labels == 0)).all(), "an unlabelled layer only hides"
            distracted = bool((labels != before).any())
    assert returned and distracted


def test_a_warp_of_zeros_is_no_warp(stills: list[Video]):
    for number in range(6):
        draw = draw_clip(stills, CLIP, 3, number)
        made = []
        for bend in ((), (0,) * 32):
            layers = tuple(
                replace(layer, poses=tuple(replace(pose, bend=bend) for pose in layer.poses)) for layer in draw.layers
            )
            made.append(checksum(clip_of(stills, replace(draw, layers=layers), 64)))
        assert made[0] == made[1] != checksum(clip_of(stills, draw, 64))


def test_blur_mixes_the_colours_and_leaves_the_labels_of_the_scene(stills: list[Video]):
    draw = draw_clip(stills, replace(CLIP, compose=0.0), 0, 0)

    def blurred(x: int, y: int) -> Clip:
        poses = tuple(replace(pose, blur=(x, y)) for pose in draw.layers[0].poses)
        return clip_of(stills, replace(draw, layers=(replace(draw.layers[0], poses=poses),)), 64)

    still, moved = blurred(0, 0), blurred(9, -4)
    np.testing.assert_array_equal(still.labels, moved.labels)
    assert np.diff(moved.frames.astype(int), axis=2).std() < 0.9 * np.diff(still.frames.astype(int), axis=2).std()


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((16, 16), (4, 4, 8, 8)),
        ((16, 16), (8, 8, 1, 1)),
        ((4000, 700), (100, 20, 3800, 600)),
        ((700, 4000), (350, 1500, 1, 1)),
        ((16, 1500), (0, 0, 16, 1500)),
        ((2000, 24), (10, 11, 1900, 1)),
    ],
)
def test_extreme_images_and_objects_make_clips(tmp_path: Path, size: tuple[int, int], box: tuple[int, int, int, int]):
    write_still(tmp_path, "extreme", blocks(*size, box))
    write_still(tmp_path, "usual", blocks(60, 80, (20, 20, 30, 30)))
    stills = indexed(tmp_path)
    for number, crop_px in enumerate((32, 32, 96, 96)):
        clip = replace(CLIP, crop_px=crop_px, num_frames=3, compose=number % 2)
        draw = draw_clip(stills, clip, 0, number)
        found = clip_of(stills, draw, crop_px)
        assert found.labels.max() <= draw.num_objects


def test_long_clips_of_large_crops_stay_within_what_can_be_sampled(stills: list[Video]):
    """A path of many frames leads far away; positions end where OpenCV's do."""
    clip = replace(CLIP, crop_px=1024, num_frames=40, compose=1.0)
    draw = draw_clip(stills, clip, 0, 0)
    far = tuple(
        replace(pose, augmentation=replace(pose.augmentation, affine=(1e6, 0.0, 1e6, 0.0, 1e-6, -1e6)))
        for pose in draw.layers[-1].poses[:2]
    )
    layers = (
        *(replace(layer, poses=layer.poses[:2]) for layer in draw.layers[:-1]),
        replace(draw.layers[-1], poses=far),
    )
    short = replace(draw, frames=(0, 0), layers=layers)
    assert clip_of(stills, short, 1024).frames.shape == (2, 1024, 1024, 3)
