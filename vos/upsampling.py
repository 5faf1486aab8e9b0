"""From the network's working size to the frame's size."""

from __future__ import annotations

import cv2
import numpy as np

UPSAMPLING = ("bilinear", "edge")


def enlarge(prob: np.ndarray, frame: np.ndarray | None, upsampling: str) -> np.ndarray:
    """Probabilities at the size of a frame.

    prob        (O + 1, h, w) float32, background first
    frame       (H, W, 3) uint8 RGB
    upsampling  "bilinear", or "edge": a fast guided filter (He & Sun 2015), whose local linear model of the frame's brightness is fitted at
                the small size and applied at the large one, so that contours move to the frame's edges
    returns     (O + 1, H, W) float32, in [0, 1], summing to 1
    """
    assert frame is not None, "kept by the engine wherever the sizes differ"
    height, width = frame.shape[:2]
    large = np.empty((len(prob), height, width), np.float32)
    if upsampling == "bilinear":
        for index, one in enumerate(prob):
            cv2.resize(one, (width, height), dst=large[index], interpolation=cv2.INTER_LINEAR)
        return large
    guide = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) * (1 / 255)
    small_guide = cv2.resize(guide, prob.shape[:0:-1], interpolation=cv2.INTER_AREA)
    for index in range(1, len(prob)):
        large[index] = _guided(prob[index], small_guide, guide)
    np.clip(large[1:], 0, 1, out=large[1:])
    total = large[1:].sum(0)
    large[1:] /= np.maximum(total, 1)
    large[0] = 1 - np.minimum(total, 1)
    return large


def _guided(
    prob: np.ndarray, small_guide: np.ndarray, guide: np.ndarray, radius: int = 2, eps: float = 1e-3
) -> np.ndarray:
    """prob is explained as a * guide + b in each window; radius in pixels of the small size, eps in squared brightness."""
    window = (2 * radius + 1, 2 * radius + 1)
    mean_guide, mean_prob = cv2.blur(small_guide, window), cv2.blur(prob, window)
    covariance = cv2.blur(small_guide * prob, window) - mean_guide * mean_prob
    variance = cv2.blur(small_guide * small_guide, window) - mean_guide * mean_guide
    a = covariance / (variance + eps)
    b = mean_prob - a * mean_guide
    size = guide.shape[::-1]
    large_a = cv2.resize(cv2.blur(a, window), size, interpolation=cv2.INTER_LINEAR)
    large_b = cv2.resize(cv2.blur(b, window), size, interpolation=cv2.INTER_LINEAR)
    return large_a * guide + large_b
