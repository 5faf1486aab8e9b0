"""Pure image functions between files and network: normalise frames, resize frames and labels."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_tensor(frames: np.ndarray) -> Tensor:
    """Convert frames to the networks' input: ImageNet-normalised tensors.

    frames   (T, H, W, 3) uint8 RGB
    returns  (T, 3, H, W) float32, (x / 255 - mean) / std
    """
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3, f"{frames.shape} {frames.dtype}"
    # Permute the bytes, not the floats: the arithmetic then runs over contiguous memory, 3x as fast.
    channels_first = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return channels_first.to(torch.float32).mul_(1 / (255 * std)).sub_(mean / std)


def short_side_size(size: tuple[int, int], short_px: int) -> tuple[int, int]:
    """Return (H, W) scaled so that the shorter side is `short_px`; the longer one is rounded to a pixel."""
    height, width = size
    scale = short_px / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a frame (H, W, 3) uint8 to `size` = (height, width): area average if it shrinks (no aliasing), else bilinear."""
    if frame.shape[:2] == size:
        return frame
    shrinks = size[0] * size[1] < frame.shape[0] * frame.shape[1]
    return cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize labels (H, W) uint8 to `size` = (height, width) by the nearest pixel, so that no new index appears."""
    if labels.shape == size:
        return labels
    return cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def size_that_keeps(labels: np.ndarray, number: int, above_px: int) -> int:
    """Return the smallest shorter side above `above_px` at which `resize_labels` leaves a pixel of an object; 0 if only the full size does.

    labels  (H, W) integers that hold `number`
    """
    inside = labels == number
    y, x = np.nonzero(inside)
    rows, columns = (np.arange(length, dtype=np.float32) for length in labels.shape)
    for short_px in range(above_px + 1, min(labels.shape)):
        height, width = short_side_size((labels.shape[0], labels.shape[1]), short_px)
        kept_y = _sampled(rows, height, y.min(), y.max())
        kept_x = _sampled(columns, width, x.min(), x.max())
        if inside[np.ix_(kept_y, kept_x)].any():
            return short_px
    return 0


def _sampled(places: np.ndarray, length: int, low: int, high: int) -> np.ndarray:
    """Return the places between low and high that `resize_labels` reads along one side."""
    read = cv2.resize(places[:, None], (1, length), interpolation=cv2.INTER_NEAREST_EXACT)[:, 0].astype(np.intp)
    return read[(read >= low) & (read <= high)]
