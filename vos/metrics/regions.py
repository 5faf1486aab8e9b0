"""The region measure J of DAVIS: intersection over union, for all objects of a frame at once."""

from collections.abc import Sequence

import numpy as np


def region_j(
    gt: np.ndarray, pred: np.ndarray, gt_changes: np.ndarray, pred_changes: np.ndarray, object_ids: Sequence[int]
) -> np.ndarray:
    """Return J of every object in one frame.

    gt, pred                  (H, W) uint8 labels, contiguous
    gt_changes, pred_changes  their vos.metrics.contours.label_changes
    returns                   (O,) float64 in [0, 1], in the order of object_ids; 1 if both masks are empty

    Both labels are constant between two changes, so pixels are counted as lengths of such runs.
    """
    num_objects = len(object_ids)
    ends = np.concatenate((gt_changes, pred_changes, [gt.size - 1]))
    ends.sort(kind="stable")  # merges two sorted parts; an end that occurs twice gives a run of length 0
    lengths = np.diff(ends, prepend=-1)
    index = np.full(256, num_objects)
    index[list(object_ids)] = np.arange(num_objects)
    cell = index[gt.reshape(-1)[ends]] * (num_objects + 1) + index[pred.reshape(-1)[ends]]
    pixels = np.bincount(cell, weights=lengths, minlength=(num_objects + 1) ** 2)
    pixels = pixels.reshape(
        num_objects + 1, num_objects + 1
    )  # [true object, predicted object]; the last index is all other labels
    intersection = pixels.diagonal()[:-1]
    union = pixels.sum(axis=1)[:-1] + pixels.sum(axis=0)[:-1] - intersection
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))
