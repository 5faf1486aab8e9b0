"""Where a clip is cut out of a frame: the middle of each object, a random crop around one of them, random colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from vos.config import ClipConfig
from vos.data.draw_records import Affine, Rgb
from vos.data.videos import Video

_OFF_CENTRE = (
    0.35  # Largest distance of the chosen object from the crop's centre, as a share of its side, in x and in y.
)


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def part(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Spot:
    """The point of an object that is farthest from its edge, and the object's bounding box."""

    object_id: int
    x: int
    y: int
    depth_px: int
    box: Box


class Placement(NamedTuple):
    """A crop around one object of a frame.

    affine  from crop pixels to the frame's
    target  the object
    large   the objects that do not vanish at this zoom, or the largest one
    """

    affine: Affine
    target: Spot
    large: tuple[Spot, ...]


def box_of(inside: np.ndarray) -> Box:
    """Return the bounding box of (H, W) bool; empty if nothing is inside."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return Box(0, 0, 0, 0)
    return Box(int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1))


@lru_cache(maxsize=1 << 16)
def spots_of(video: Video, index: int) -> tuple[Spot, ...]:
    """Return the middle of every object in an annotated frame; none where it shows no object. Cached per process."""
    labels = video.mask(index)
    assert labels is not None, f"{video.name}: frame {index} is listed as annotated"
    spots = []
    for object_id in np.flatnonzero(np.bincount(labels.ravel())):
        if object_id == 0:
            continue
        inside = labels == object_id
        box = box_of(inside)
        # L1 distance, with a border of background: whole numbers, so every machine finds the same point.
        padded = np.pad(inside[box.part], 1).astype(np.uint8)
        depth = cv2.distanceTransform(padded, cv2.DIST_L1, 3, dstType=cv2.CV_8U)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        spots.append(Spot(int(object_id), int(box.left + x), int(box.top + y), int(depth.max()), box))
    return tuple(spots)


def placed(rng: Generator, clip: ClipConfig, size: tuple[int, int], spots: Sequence[Spot]) -> Placement:
    """Return a crop with a random zoom around one of the objects of a frame (H, W)."""
    zoom = rng.uniform(clip.scale_min, clip.scale_max) * clip.crop_px / min(size)
    # An object thinner than a crop pixel can vanish under nearest sampling: take one only if there is no other.
    large = [spot for spot in spots if spot.depth_px * zoom >= 1.0] or [max(spots, key=lambda spot: spot.depth_px)]
    target = large[int(rng.integers(len(large)))]
    return Placement(crop_around(rng, clip, size, target, zoom), target, tuple(large))


def objects_in(rng: Generator, clip: ClipConfig, placement: Placement) -> tuple[int, ...]:
    """Return the ids of a clip's objects, ascending: the target, and others in the crop up to `clip.max_objects`."""
    affine, target, large = placement
    others = [spot for spot in large if spot is not target and is_inside(affine, spot, clip.crop_px)]
    chosen = [target, *(others[i] for i in rng.permutation(len(others))[: clip.max_objects - 1])]
    return tuple(sorted(spot.object_id for spot in chosen))


def crop_around(rng: Generator, clip: ClipConfig, size: tuple[int, int], target: Spot, zoom: float) -> Affine:
    """Return the map from crop to source pixels that shows the target in the middle part of the crop."""
    turn = math.radians(rng.uniform(-clip.rotate_deg, clip.rotate_deg))
    shear = math.tan(math.radians(rng.uniform(-clip.shear_deg, clip.shear_deg)))
    mirror = -1.0 if rng.random() < 0.5 and clip.flip else 1.0
    at_x, at_y = rng.uniform(-_OFF_CENTRE, _OFF_CENTRE, 2) * clip.crop_px
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom
    # source = rotation @ shear @ mirror @ (crop - middle) / zoom + centre
    a, b = cosine * mirror, cosine * shear - sine
    d, e = sine * mirror, sine * shear + cosine
    half = clip.crop_px / 2
    centre_x, centre_y = target.x - (a * at_x + b * at_y), target.y - (d * at_x + e * at_y)
    # Keep the crop within the frame if it fits; centre it if it is larger.
    kept_x = _clamp(centre_x, (abs(a) + abs(b)) * half, size[1])
    kept_y = _clamp(centre_y, (abs(d) + abs(e)) * half, size[0])
    middle = (clip.crop_px - 1) / 2
    for x, y in ((kept_x, kept_y), (centre_x, centre_y)):
        affine = (a, b, x - (a + b) * middle, d, e, y - (d + e) * middle)
        if is_inside(affine, target, clip.crop_px):
            return affine
    raise AssertionError("the unclamped crop holds its target")


def _clamp(centre: float, extent: float, side: int) -> float:
    """Move an interval of half-length `extent` into the pixels 0..side-1, or to their middle if it is longer."""
    if 2 * extent >= side:
        return (side - 1) / 2
    return min(max(centre, extent - 0.5), side - 0.5 - extent)


def is_inside(affine: Sequence[float], spot: Spot, crop_px: int) -> bool:
    """Return whether a spot is in the crop, with a margin of 2 % of its side."""
    a, b, c, d, e, f = affine
    determinant = a * e - b * d
    x = (e * (spot.x - c) - b * (spot.y - f)) / determinant
    y = (a * (spot.y - f) - d * (spot.x - c)) / determinant
    margin = 0.02 * crop_px
    return margin <= x <= crop_px - 1 - margin and margin <= y <= crop_px - 1 - margin


def colours(rng: Generator, strength: float) -> tuple[Rgb, Rgb]:
    """Draw gain and offset per channel from contrast about mid-grey, brightness (in units of 128) and a gain per channel.

    Contrast and brightness are within +- strength, the channel gains within half of it.
    """
    contrast, brightness = 1 + rng.uniform(-strength, strength, 2)
    gain = contrast * (1 + rng.uniform(-strength, strength, 3) / 2)
    offset = float(128 * (1 - contrast) + 128 * (brightness - 1))
    return (float(gain[0]), float(gain[1]), float(gain[2])), (offset, offset, offset)
