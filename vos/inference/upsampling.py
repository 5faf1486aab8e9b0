"""Upsampling of probabilities from the working size to the frame's size."""

from __future__ import annotations

import cv2
import numpy as np

UPSAMPLING = ("bilinear", "edge")


def enlarge(prob: np.ndarray, size: tuple[int, int], guide: np.ndarray | None = None) -> np.ndarray:
    """Upsample probabilities to a larger size.

    prob     (O + 1, h, w) float32, background first
    size     (H, W)
    guide    (H, W, 3) uint8 RGB: follow this frame's edges with a fast guided filter (He & Sun 2015): a local linear model of the
             frame's brightness is fitted at the small size and applied at the large one; None: bilinear
    returns  (O + 1, H, W) float32, in [0, 1], summing to 1
    """
    height, width = size
    large = np.empty((len(prob), height, width), np.float32)
    if guide is None:
        for index, one in enumerate(prob):
            cv2.resize(one, (width, height), dst=large[index], interpolation=cv2.INTER_LINEAR)
        return large
    grey = cv2.cvtColor(guide, cv2.COLOR_RGB2GRAY).astype(np.float32) * (1 / 255)
    small_grey = cv2.resize(grey, prob.shape[:0:-1], interpolation=cv2.INTER_AREA)
    for index in range(1, len(prob)):
        large[index] = _guided(prob[index], small_grey, grey)
    np.clip(large[1:], 0, 1, out=large[1:])
    total = large[1:].sum(0)
    large[1:] /= np.maximum(total, 1)
    large[0] = 1 - np.minimum(total, 1)
    return large


def _guided(
    prob: np.ndarray, small_grey: np.ndarray, grey: np.ndarray, radius: int = 1, eps: float = 1e-3
) -> np.ndarray:
    """Model prob as a * brightness + b in each window; radius in pixels of the small size, eps in squared brightness."""
    window = (2 * radius + 1, 2 * radius + 1)
    mean_grey, mean_prob = cv2.blur(small_grey, window), cv2.blur(prob, window)
    covariance = cv2.blur(small_grey * prob, window) - mean_grey * mean_prob
    variance = cv2.blur(small_grey * small_grey, window) - mean_grey * mean_grey
    a = covariance / (variance + eps)
    b = mean_prob - a * mean_grey
    size = grey.shape[::-1]
    large_a = cv2.resize(cv2.blur(a, window), size, interpolation=cv2.INTER_LINEAR)
    large_b = cv2.resize(cv2.blur(b, window), size, interpolation=cv2.INTER_LINEAR)
    return large_a * grey + large_b
