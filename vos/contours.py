"""The contour measure F of DAVIS: how much of two contours lies within a tolerance of each other.

Official definition (davis2017-evaluation, f_measure): a contour pixel differs from its right, lower or lower-right
neighbour; each contour is dilated by a disk of radius ceil(0.8 % of the image diagonal); precision and recall are the
shares of one contour that the other's dilation covers.

Contours are thin (a thousand pixels in four hundred thousand), so nothing is dilated here: they are kept as sorted
positions, all objects in one array, and "within the disk" is asked row by row with a binary search. That is exact, in
integers, at any radius. The cost: where nearly every pixel is contour, as in noise, a dilation would be as fast.
"""

from collections.abc import Sequence
from math import ceil, isqrt
from typing import NamedTuple

import cv2
import numpy as np


class _Grid(NamedTuple):
    """Where a pixel lies in the one array of positions: object's index * plane + y * stride + x.

    Between rows and between planes lie radius_px empty columns and rows, so that a search which leaves the image never
    meets a contour of the next row or object.
    """

    num_objects: int
    radius_px: int
    stride: int
    plane: int

    def count(self, positions: np.ndarray) -> np.ndarray:
        """(O,) how many positions each object has."""
        return np.bincount(positions // self.plane, minlength=self.num_objects)


def tolerance_px(height: int, width: int) -> int:
    """Radius of the matching disk in pixels: 0.8 % of the diagonal, rounded up (8 at 854x480)."""
    return ceil(0.008 * float(np.linalg.norm((height, width))))


def label_changes(labels: np.ndarray) -> np.ndarray:
    """Where the labels of a frame change: (H, W) uint8, contiguous -> sorted flat positions y * W + x.

    Holds every pixel whose label differs from its right, lower or lower-right neighbour, or from the next one in memory
    (which ends a run of equal labels). At the image's edges it also holds a few pixels that do not change.
    """
    H, W = labels.shape
    flat = labels.reshape(-1)
    inner = max(0, H * W - W - 1)  # the positions whose three neighbours lie further on in memory
    change = flat[:inner] ^ flat[1 : inner + 1]
    change |= flat[:inner] ^ flat[W : W + inner]
    change |= flat[:inner] ^ flat[W + 1 : W + 1 + inner]
    last_row = inner + 1 + np.flatnonzero(flat[inner + 1 : -1] != flat[inner + 2 :])
    return np.concatenate((np.flatnonzero(change != 0), [inner], last_row))


def contour_f(
    gt: np.ndarray, pred: np.ndarray, gt_changes: np.ndarray, pred_changes: np.ndarray, object_ids: Sequence[int]
) -> np.ndarray:
    """F of every object in one frame.

    gt, pred                  (H, W) uint8 labels, contiguous
    gt_changes, pred_changes  their label_changes
    returns                   (O,) float64 in [0, 1], in the order of object_ids. As in the official code, F is 1 where
                              neither mask has a contour (both absent, or both filling the frame), 0 where only one has.
    """
    H, W = gt.shape
    radius_px = tolerance_px(H, W)
    stride = W + radius_px
    grid = _Grid(len(object_ids), radius_px, stride, (H + radius_px) * stride)
    gt_contour = _contour_positions(gt, gt_changes, object_ids, grid)
    pred_contour = _contour_positions(pred, pred_changes, object_ids, grid)

    num_gt, num_pred = grid.count(gt_contour), grid.count(pred_contour)
    recall = 1 - grid.count(_far(gt_contour, pred_contour, grid)) / np.maximum(num_gt, 1)
    precision = 1 - grid.count(_far(pred_contour, gt_contour, grid)) / np.maximum(num_pred, 1)
    f = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return np.where((num_gt == 0) | (num_pred == 0), num_gt == num_pred, f)


def _contour_positions(
    labels: np.ndarray, changes: np.ndarray, object_ids: Sequence[int], grid: _Grid
) -> np.ndarray:
    """Sorted positions of the contour pixels of all objects."""
    H, W = labels.shape
    y = changes // W
    x = changes - y * W
    # Beyond the last row and column the edge is repeated, which is what the official border rule amounts to.
    right, below = changes + (x < W - 1), (y < H - 1) * W
    neighbours = labels.reshape(-1)[np.stack((changes, right, changes + below, right + below))]
    position = y * grid.stride + x
    contours = [np.empty(0, position.dtype)]
    for index, object_id in enumerate(object_ids):
        inside = (neighbours == object_id).sum(axis=0, dtype=np.uint8)
        contours.append(position[(inside > 0) & (inside < 4)] + index * grid.plane)
    return np.concatenate(contours)


def _far(contour: np.ndarray, other: np.ndarray, grid: _Grid) -> np.ndarray:
    """The positions of `contour` that have none of `other` within the disk."""
    candidate = _near_a_cell(contour, other, grid)
    far, left = contour[~candidate], contour[candidate]
    following = np.append(other, np.iinfo(other.dtype).max)
    for dy in sorted(range(-grid.radius_px, grid.radius_px + 1), key=abs):  # nearest rows first: most positions leave
        reach = isqrt(grid.radius_px**2 - dy**2)
        start = left + (dy * grid.stride - reach)
        left = left[following[np.searchsorted(other, start)] > start + 2 * reach]
        if not len(left):
            break
    return np.concatenate((far, left))


def _near_a_cell(contour: np.ndarray, other: np.ndarray, grid: _Grid) -> np.ndarray:
    """(N,) bool: false only for positions of `contour` that are certainly far from all of `other`.

    Cells of half a radius; whatever is more than two cells away is out of reach. It spares far positions the search
    through all rows of the disk.
    """
    side = (grid.radius_px + 1) // 2
    columns = grid.stride // side + 1
    occupied = np.zeros((grid.num_objects * grid.plane // grid.stride // side + 1, columns), np.uint8)
    occupied.reshape(-1)[_cells(other, grid.stride, side, columns)] = 1
    near = cv2.dilate(occupied, np.ones((5, 5), np.uint8))
    return near.reshape(-1)[_cells(contour, grid.stride, side, columns)] > 0


def _cells(positions: np.ndarray, stride: int, side: int, columns: int) -> np.ndarray:
    y = positions // stride
    return y // side * columns + (positions - y * stride) // side
