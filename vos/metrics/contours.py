"""The contour measure F of DAVIS: agreement of two contours within a tolerance.

Official definition (davis2017-evaluation, f_measure): a contour pixel differs from its right, lower or lower-right
neighbour; each contour is dilated by a disk of radius ceil(0.8 % of the image diagonal); precision and recall are the
shares of one contour that the other's dilation covers.

For speed, labels are compared once for all objects, and only the few pixels where they change are used afterwards. Both
contours of an object are bits of one small canvas. It is dilated once, row by row of the disk, and longer rows are
built from shorter ones. The result is exact at any radius.
"""

from collections.abc import Sequence
from math import ceil, isqrt

import numpy as np

_GT, _PRED = np.uint8(1), np.uint8(2)
# Work is done in pieces below 128 KB: larger arrays get fresh pages from the system each time, which on a busy machine
# takes longer than the work itself (label_changes: 0.69 ms whole, 0.16 ms in bands).
_BAND_BYTES = 100_000


def tolerance_px(height: int, width: int) -> int:
    """Return the radius of the matching disk in pixels: 0.8 % of the diagonal, rounded up (8 at 854x480)."""
    return ceil(0.008 * float(np.linalg.norm((height, width))))


def label_changes(labels: np.ndarray) -> np.ndarray:
    """Return where the labels of a frame change: (H, W) uint8, contiguous -> sorted flat positions y * W + x.

    These are all pixels whose label differs from the right, lower or lower-right neighbour, or from the next pixel in
    memory (the end of a run of equal labels). At the image's edges a few unchanged pixels are included.
    """
    H, W = labels.shape
    flat = labels.reshape(-1)
    inner = max(0, H * W - W - 1)  # the positions whose three neighbours come later in memory
    changes = []
    for start in range(0, inner, _BAND_BYTES):
        num = min(_BAND_BYTES, inner - start)
        band = flat[start : start + num + W + 1]
        sideways = band[:-1] ^ band[1:]
        differs = sideways[:num] | sideways[W:]  # in this row, and in the one below
        differs |= band[:num] ^ band[W : W + num]
        changes.append(np.flatnonzero(differs != 0) + start)
    last_row = inner + 1 + np.flatnonzero(flat[inner + 1 : -1] != flat[inner + 2 :])
    return np.concatenate((*changes, [inner], last_row))


def contour_f(
    gt: np.ndarray, pred: np.ndarray, gt_changes: np.ndarray, pred_changes: np.ndarray, object_ids: Sequence[int]
) -> np.ndarray:
    """Return F of every object in one frame.

    gt, pred                  (H, W) uint8 labels, contiguous
    gt_changes, pred_changes  their label_changes
    returns                   (O,) float64 in [0, 1], in the order of object_ids. As in the official code, F is 1 if
                              neither mask has a contour (both absent, or both filling the frame), 0 if only one has.
    """
    width, radius_px = gt.shape[1], tolerance_px(*gt.shape)
    gt_contours = _contours(gt, gt_changes, object_ids)
    pred_contours = _contours(pred, pred_changes, object_ids)
    pairs = zip(gt_contours, pred_contours, strict=True)
    return np.array([_f_measure(*pair, width, radius_px) for pair in pairs])


def _contours(labels: np.ndarray, changes: np.ndarray, object_ids: Sequence[int]) -> list[np.ndarray]:
    """Return the contour of every object, as sorted flat positions."""
    H, W = labels.shape
    # Beyond the last row and column the edge is repeated, which is equivalent to the official border rule.
    right, below = changes + (changes % W < W - 1), (changes < (H - 1) * W) * W
    flat = labels.reshape(-1)
    here, at_right, at_below, at_diagonal = flat[changes], flat[right], flat[changes + below], flat[right + below]
    contours = []
    for object_id in object_ids:
        inside = here == object_id
        differs = (inside ^ (at_right == object_id)) | (inside ^ (at_below == object_id))
        contours.append(changes[differs | (inside ^ (at_diagonal == object_id))])
    return contours


def _f_measure(gt_contour: np.ndarray, pred_contour: np.ndarray, width: int, radius_px: int) -> float:
    if not len(gt_contour) or not len(pred_contour):
        return float(len(gt_contour) == len(pred_contour))
    num_gt_matched, num_pred_matched = _num_matched(gt_contour, pred_contour, width, radius_px)
    precision, recall = num_pred_matched / len(pred_contour), num_gt_matched / len(gt_contour)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _num_matched(gt_contour: np.ndarray, pred_contour: np.ndarray, width: int, radius_px: int) -> tuple[int, int]:
    """Count the positions of each contour that have a position of the other contour within the disk."""
    y, x = np.divmod(np.concatenate((gt_contour, pred_contour)), width)
    y -= y.min()
    x -= x.min()
    # The canvas spans both contours. Empty columns between its rows, and empty rows around it, prevent a dilated pixel
    # from wrapping around to the other side.
    stride = int(x.max()) + 1 + radius_px
    size, margin = (int(y.max()) + 1) * stride, radius_px * stride + radius_px
    canvas = np.zeros(size + 2 * margin, np.uint8)
    position = y * stride + x
    in_gt, in_pred = position[: len(gt_contour)], position[len(gt_contour) :]
    canvas[in_gt + margin] = _GT
    canvas[in_pred + margin] |= _PRED
    near = _dilate(canvas, size, margin, stride, radius_px)
    return int(np.count_nonzero(near[in_gt] & _PRED)), int(np.count_nonzero(near[in_pred] & _GT))


def _dilate(canvas: np.ndarray, size: int, margin: int, stride: int, radius_px: int) -> np.ndarray:
    """Return (size,) uint8: the bits of canvas[margin:] within the disk around each position. The canvas is overwritten."""
    near = np.zeros(size, np.uint8)
    run, spare, length = canvas, np.empty_like(canvas), 1  # run[i] holds the bits of canvas[i : i + length]
    for dy in range(radius_px, -1, -1):  # the disk's rows become longer towards its middle
        reach = isqrt(radius_px**2 - dy**2)
        while length < 2 * reach + 1:
            step = min(length, 2 * reach + 1 - length)
            longer = np.bitwise_or(run[:-step], run[step:], out=spare[: len(run) - step])
            run, spare, length = longer, run, length + step
        for row in {dy, -dy}:
            start = margin + row * stride - reach
            near |= run[start : start + size]
    return near
