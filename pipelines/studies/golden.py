"""Generate the weights and inputs behind the golden numbers. Each tensor is a function of its name, so no file is needed.

The official implementations were run on these tensors. The functions are here, because a folder of golden numbers is only data: no code
in it is executed.
"""

from __future__ import annotations

import zlib

import numpy as np


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a parameter or buffer by its name: standard normal divided by the square root of the fan-in, BatchNorm near the identity."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    draws = np.random.default_rng([zlib.crc32(name.encode()), 0])
    if name.endswith("running_var") or (len(shape) < 2 and name.endswith("weight")):
        return draws.uniform(0.5, 1.5, shape).astype(np.float32)
    values = draws.standard_normal(shape)
    if name.endswith("running_mean") or len(shape) < 2:
        return (0.1 * values).astype(np.float32)
    gain = 0.25 if name.startswith("key_proj") else 1.0  # larger keys would overflow the affinity's exponential
    return (gain * values / np.sqrt(int(np.prod(shape[1:])))).astype(np.float32)


def frames(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """Return (T, 3, H, W) float32 frames: blocks of 8 pixels plus noise."""
    draws = np.random.default_rng([7, seed])
    blocks = draws.standard_normal((count, 3, height // 8 + 2, width // 8 + 2)).astype(np.float32)
    large = blocks.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
    return np.ascontiguousarray(large + 0.2 * draws.standard_normal(large.shape).astype(np.float32))


def first_mask(num_objects: int, height: int, width: int) -> np.ndarray:
    """Return (H, W) uint8 labels: rectangles along the diagonal, later ones over earlier ones."""
    labels = np.zeros((height, width), np.uint8)
    for index in range(num_objects):
        top = height * (1 + 2 * index) // (2 * num_objects + 2)
        left = width * (1 + index) // (num_objects + 2)
        labels[top : top + height // 3, left : left + width // 3] = index + 1
    return labels
