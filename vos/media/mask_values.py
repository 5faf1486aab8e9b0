"""Whether the values of a mask are object ids, or shades of one object with soft edges.

A mask may be drawn with an antialiased brush, resized with interpolation, blurred, or stored as JPEG on its way. Its values
are then shades of one object. The reverse occurs too: many objects, tiny ones among them, with 255 as void. The number of
values cannot tell these apart, so this module looks at shapes:

  area      pixels in squares of 5x5 pixels of one value; objects consist of them, edges have hardly any
  contact   soft edges lie between the bright inside and the background; void lies outside of the objects
  between   a pixel of an edge has a brighter and a darker pixel beside it, one of a small object has not both
  compact   a tiny object is one piece; noise of JPEG and thin lines along edges are not

It takes a few milliseconds, so data sets ask only for a video's first masks, and there only if a value of 64 or more stands
beside other values.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

BRIGHT = 64
"""The inside of a soft object is at least this bright. Lower values are ids."""
NEARLY_WHITE = 250
"""JPEG turns 255 into values from here on."""
_DARK = 4
"""JPEG turns 0 into values up to here."""
_SQUARE, _BESIDE = np.ones((5, 5), np.uint8), np.ones((3, 3), np.uint8)
_TINY_PX = 8
"""Longest side of an object without an area."""
_MANY_SHADES = 8
"""From so many edge values on, edges between several objects are not objects of their own."""
_MOST_SHADED = 0.4
"""Largest share of a mask that may consist of shades, outside of areas; photographs and gradients have more."""


class Shades(NamedTuple):
    """threshold: pixels from this value on are the object, 0 if the values are ids; problem: why neither is the case, or ""."""

    threshold: int
    problem: str = ""


IDS = Shades(0)


def shades_of(labels: np.ndarray) -> Shades:
    """Return whether a mask (H, W) uint8 shows ids or shades of one object. A mask of 0 and one other value has ids.

    `problem` is set for photographs, gradients, and several objects with soft edges between them.
    """
    counts = np.bincount(labels.reshape(-1), minlength=256)
    base = int(counts[: _DARK + 1].argmax())
    many = np.count_nonzero(counts) > 2 * _DARK
    if base and (counts[0] or many) and counts[NEARLY_WHITE:].any():
        areas = _areas(labels)
        if not (areas & (labels == 0)).any() and (many or (areas & (labels >= NEARLY_WHITE)).any()):
            # JPEG turned most of the background into `base`.
            dark = labels <= base
            shades = _shades(np.where(dark, 0, labels).astype(np.uint8))
            return shades if shades.threshold or not (dark | (labels >= NEARLY_WHITE)).all() else Shades(128)
    return _shades(labels)


def _shades(labels: np.ndarray) -> Shades:
    counts = np.bincount(labels.reshape(-1), minlength=256)
    values = np.flatnonzero(counts[1:]) + 1
    if len(values) < 2 or values[-1] < BRIGHT:
        return IDS
    painted = int(counts[1:].sum())
    white = int(counts[NEARLY_WHITE:].sum())
    # The inside: what is nearly white, else the most frequent bright value, with what JPEG makes of it.
    top = 255 if white >= painted // 20 else BRIGHT + int(counts[BRIGHT:].argmax())
    inside_from = NEARLY_WHITE if top >= NEARLY_WHITE else top - 5 - top // 40
    shades = Shades(top // 2 + 1)
    if not counts[1:inside_from].any():
        return shades if values[-1] - values[0] <= 255 - NEARLY_WHITE + 3 and top >= NEARLY_WHITE else IDS
    part = _painted_part(labels)
    inside, edge = part >= inside_from, (part > 0) & (part < inside_from)
    own = _areas(part)
    if (~own & (part > 0)).sum() > _MOST_SHADED * labels.size:
        return Shades(0, f"{len(values)} values without areas of their own look like a photograph or very soft edges")
    between = (part > 0) & (cv2.dilate(part, _BESIDE) > part) & (cv2.erode(part, _BESIDE) < part)
    brighter = part > top + 5 + top // 40
    if (own & brighter).sum() > (own & inside).sum() / 20:  # what is inside has areas of several values
        return _with_edges(part, part > 0, own, between)
    between &= edge
    inside_dark, inside_edge, edge_dark = _contacts(part, inside, edge)
    num_edge, num_inside = int(edge.sum()), int(inside.sum())
    encloses = edge_dark > inside_edge / 5 and inside_edge > 0.75 * (inside_edge + inside_dark)
    if (own & edge).sum() > num_edge / 2:
        if encloses and num_inside > num_edge and np.unique(part[edge]).size == 1:
            return shades  # a wide edge of one value, as a trimap has
        return _with_edges(part, edge, own, between)
    if not edge_dark:
        return IDS  # all other values are within what is white: tiny objects in rings of void
    if not encloses and between.sum() < 0.6 * num_edge and _compact(part, edge):
        return IDS
    return shades


def void_stands_apart(labels: np.ndarray, void: int) -> bool:
    """Return whether void is rather an object: beside values as bright as one paints, with much of what is painted, touching none of it."""
    is_void = (labels == void).astype(np.uint8)
    if (
        labels[labels > 0].min() < BRIGHT
        or 3 * int(is_void.sum()) < np.count_nonzero(labels)
        or not cv2.erode(is_void, _SQUARE).any()
    ):
        return False
    beside = cv2.dilate(is_void, _BESIDE) > is_void
    return not labels[beside].any()


def _areas(labels: np.ndarray) -> np.ndarray:
    """Return which pixels are in a square of 5x5 pixels of one value, (H, W) bool."""
    centres = (cv2.erode(labels, _SQUARE) == cv2.dilate(labels, _SQUARE)).astype(np.uint8)
    return cv2.dilate(centres, _SQUARE) > 0


def _painted_part(labels: np.ndarray) -> np.ndarray:
    """Return the box of the nonzero pixels with a margin of one pixel, where the frame has one."""
    left, top, width, height = cv2.boundingRect(labels)
    return np.ascontiguousarray(labels[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1])


def _contacts(part: np.ndarray, inside: np.ndarray, edge: np.ndarray) -> tuple[int, int, int]:
    """Return how many pairs of neighbours are inside and background, inside and edge, edge and background."""
    kinds = np.where(inside, 4, np.where(edge, 2, 1)).astype(np.uint8)
    pairs = np.bincount(np.concatenate([(kinds[1:] | kinds[:-1]).ravel(), (kinds[:, 1:] | kinds[:, :-1]).ravel()]))
    pairs = np.pad(pairs, (0, 8))
    return int(pairs[5]), int(pairs[6]), int(pairs[3])


def _with_edges(part: np.ndarray, edge: np.ndarray, own: np.ndarray, between: np.ndarray) -> Shades:
    """Return IDS for areas of several values, and a problem if there are soft edges between these areas."""
    counts, in_areas = (np.bincount(part[which], minlength=256) for which in (edge, edge & own))
    thin = np.flatnonzero(counts * (in_areas * 2 < counts))
    num_between = np.bincount(part[between], minlength=256)[thin].sum()
    if len(thin) >= _MANY_SHADES and num_between > 0.6 * counts[thin].sum():
        return Shades(0, f"{len(thin)} values occur only at the edges of areas and look like soft edges")
    return IDS


def _compact(part: np.ndarray, edge: np.ndarray) -> bool:
    """Return whether the values below the inside are tiny objects: one or two compact pieces each."""
    scattered = 0
    for value in np.unique(part[edge]):
        number, _, boxes, _ = cv2.connectedComponentsWithStats((part == value).astype(np.uint8), connectivity=8)
        width, height, area = boxes[1:, cv2.CC_STAT_WIDTH], boxes[1:, cv2.CC_STAT_HEIGHT], boxes[1:, cv2.CC_STAT_AREA]
        compact = (np.maximum(width, height) <= _TINY_PX) & (2 * area >= width * height) & (area > 1)
        scattered += int(area[~compact].sum()) if number <= 3 else int(area.sum())
        if 5 * scattered > edge.sum():
            return False
    return True
