"""Make the clip of a draw from still images: integer arithmetic on bytes, so that every machine makes the same bytes.

A layer is sampled with its affine map and a smooth warp (a bicubic Bézier patch), its colours go through a table, and its soft edge mixes
it with the layers behind. Blur by motion is the mean of shifted copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np

from vos.data.crops import box_of
from vos.data.draw_records import BEND_POINTS, Affine, ClipDraw, Layer, Pose
from vos.data.videos import Video
from vos.errors import InputError
from vos.media import images

_COPIES = 5
"""Shifted copies whose mean is a blurred layer."""
_MARGIN_PX = 2
"""Empty pixels around a cut-out, over which its edge fades."""


def render(stills: Mapping[str, Video], draw: ClipDraw, crop_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames (T, crop, crop, 3) and labels (T, crop, crop) uint8 of a draw from stills.

    stills  by `ClipDraw.key_of` of their names
    Raises InputError if a file is damaged.
    """
    scene, *cut_outs = draw.layers
    frames = np.empty((len(scene.poses), crop_px, crop_px, 3), np.uint8)
    labels = np.empty(frames.shape[:3], np.uint8)
    still = stills[draw.key_of(scene.image)]
    image, mask = still.frame(0), still.mask(0)
    assert mask is not None, f"{still.name}: a still has a mask"
    table = np.zeros(256, np.uint8)
    table[list(draw.objects)] = np.arange(1, len(draw.objects) + 1)
    own = cv2.LUT(mask, table)
    for t, pose in enumerate(scene.poses):
        frames[t] = _blurred([_sampled(image, one, scene, pose, crop_px) for one in _shifted(pose)])
        nearest = images.affine_grid(
            pose.augmentation.affine, (crop_px, crop_px), nearest=True, bend=bend_of(scene, pose, crop_px), far=True
        )
        labels[t] = images.sample(own, nearest)
    for layer in cut_outs:
        sprite = _Sprite(stills[draw.key_of(layer.image)], layer.object_id)
        for t, pose in enumerate(layer.poses):
            colour, cover = sprite.shown(layer, pose, crop_px)
            if not cover.any():
                continue
            weight = cover[..., None].astype(np.uint16)
            frames[t] = (colour * weight + frames[t] * (255 - weight) + 127) // 255
            labels[t][cover >= 128] = layer.label
    return frames, labels


def layer_cover(still: Video, layer: Layer, t: int, crop_px: int) -> np.ndarray:
    """Return how much a cut-out covers each pixel of frame t, (crop, crop) uint8."""
    return _Sprite(still, layer.object_id).cover(layer, layer.poses[t], crop_px)


@lru_cache(maxsize=16)
def bend_of(layer: Layer, pose: Pose, crop_px: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the displacements of a smooth warp along x and y, (crop, crop) float64 crop pixels; None without a warp.

    Outside of the layer's box the values at its edge are continued. Sums and products are element by element, in one order, so that they
    have the same bits everywhere.
    """
    if not pose.bend:
        return None
    left, top, side = layer.box
    steps = np.arange(crop_px, dtype=np.float64)
    across, down = (_bernstein(np.clip((steps - start) / side, 0.0, 1.0)) for start in (left, top))
    points = np.array(pose.bend, np.float64).reshape(2, BEND_POINTS, BEND_POINTS) / 16
    along_x, along_y = (_weighted(down, [_weighted(across, row) for row in one]) for one in points)
    return along_x, along_y


def _weighted(weights: list[np.ndarray], values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum of weights[i] times values[i], which are numbers, or rows of an image with a weight for each of its lines."""
    total: np.ndarray | None = None
    for weight, value in zip(weights, values, strict=True):
        term = weight * value if np.ndim(value) == 0 else weight[:, None] * value[None, :]
        total = term if total is None else total + term
    assert total is not None
    return total


def _bernstein(u: np.ndarray) -> list[np.ndarray]:
    """Return the four cubic Bernstein polynomials of u in [0, 1]."""
    v = 1.0 - u
    return [v * v * v, 3.0 * (u * (v * v)), 3.0 * (u * u * v), u * u * u]


class _Sprite:
    """An object cut out of its image, with an empty margin."""

    def __init__(self, still: Video, object_id: int) -> None:
        mask = still.mask(0)
        assert mask is not None, f"{still.name}: a still has a mask"
        inside = mask == object_id
        box = box_of(inside)
        if not box.height:
            raise InputError(
                f"{still.name}: a clip takes its object {object_id}, which its mask no longer shows; draw the clips again from these files"
            )
        self._still, self._part, self._start = still, box.part, (box.left - _MARGIN_PX, box.top - _MARGIN_PX)
        self._inside = cv2.copyMakeBorder(
            inside[box.part].astype(np.uint8) * 255, *[_MARGIN_PX] * 4, borderType=cv2.BORDER_CONSTANT, value=0
        )
        self._colour: np.ndarray | None = None

    def cover(self, layer: Layer, pose: Pose, crop_px: int) -> np.ndarray:
        return _blurred([self._sampled(self._inside, one, layer, pose, crop_px) for one in _shifted(pose)])

    def shown(self, layer: Layer, pose: Pose, crop_px: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the object's colours (crop, crop, 3) and how much it covers each pixel (crop, crop), uint8."""
        cover = self.cover(layer, pose, crop_px)
        if not cover.any():
            return np.empty(0, np.uint8), cover
        if self._colour is None:
            part = np.ascontiguousarray(self._still.frame(0)[self._part])
            self._colour = cv2.copyMakeBorder(part, *[_MARGIN_PX] * 4, borderType=cv2.BORDER_REPLICATE)
        middle = pose.augmentation.affine
        colour = self._sampled(self._colour, middle, layer, pose, crop_px)
        return cv2.LUT(colour, _colours_of(pose)), cover

    def _sampled(self, pixels: np.ndarray, affine: Affine, layer: Layer, pose: Pose, crop_px: int) -> np.ndarray:
        a, b, c, d, e, f = affine
        there = (a, b, c - self._start[0], d, e, f - self._start[1])
        return _taken(pixels, there, bend_of(layer, pose, crop_px), crop_px, reflect=False)


def _sampled(image: np.ndarray, affine: Affine, layer: Layer, pose: Pose, crop_px: int) -> np.ndarray:
    found = _taken(image, affine, bend_of(layer, pose, crop_px), crop_px, reflect=True)
    return cv2.LUT(found, _colours_of(pose))


def _taken(
    pixels: np.ndarray, affine: Affine, bend: tuple[np.ndarray, np.ndarray] | None, crop_px: int, reflect: bool
) -> np.ndarray:
    """Sample pixels bilinearly, after whole blocks were averaged where they shrink by 2 or more."""
    a, b, _, d, e, _ = affine
    times = min(max(1, int(abs(a * e - b * d) ** 0.5)), *pixels.shape[:2])
    reduced = images.averaged_affine(affine, times)
    grid = images.affine_grid(reduced, (crop_px, crop_px), nearest=False, bend=bend, far=True)
    return images.sample(images.averaged(pixels, times), grid, reflect=reflect)


def _shifted(pose: Pose) -> list[Affine]:
    """Return the affine maps of the copies whose mean is the blurred layer: one without blur."""
    a, b, c, d, e, f = pose.augmentation.affine
    if pose.blur == (0, 0):
        return [pose.augmentation.affine]
    moves = [(place / (_COPIES - 1) - 0.5) for place in range(_COPIES)]
    return [
        (a, b, c + a * x + b * y, d, e, f + d * x + e * y)
        for x, y in ((pose.blur[0] * move, pose.blur[1] * move) for move in moves)
    ]


def _blurred(copies: list[np.ndarray]) -> np.ndarray:
    if len(copies) == 1:
        return copies[0]
    total = np.zeros(copies[0].shape, np.uint16)
    for one in copies:
        total += one
    return ((total + len(copies) // 2) // len(copies)).astype(np.uint8)


def _colours_of(pose: Pose) -> np.ndarray:
    return images.colour_table(pose.augmentation.gain, pose.augmentation.offset)
