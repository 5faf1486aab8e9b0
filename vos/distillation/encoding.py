"""Number formats of the cache: int8 with a scale, or float16 and float32."""

from __future__ import annotations

import numpy as np

LEVELS = 127
FLOATS = {"fp16": np.float16, "fp32": np.float32}


def quantise(values: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Quantise to symmetric int8: values ~ q * scale, rounded to nearest, half to even.

    values  float array; one scale for each position along the axes that are not in `axes`
    returns q int8 of the same shape, scale float32 without `axes` (1 if all values are 0)
    """
    largest = np.abs(values).max(axis=axes, keepdims=True)
    scale = np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)
    return np.rint(values / scale).clip(-LEVELS, LEVELS).astype(np.int8), scale.squeeze(axes)


def dequantise(q: np.ndarray, scale: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Invert `quantise`, up to half a step: float32."""
    return q.astype(np.float32) * np.expand_dims(np.asarray(scale, np.float32), axes)


def stored_as(
    values: np.ndarray, dtype: str, axes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return (stored array, scale, array as read back) of a float array as int8, fp16 or fp32; floats have no scale."""
    if dtype == "int8":
        stored, scale = quantise(values, axes)
        return stored, scale, dequantise(stored, scale, axes)
    stored = values.astype(FLOATS[dtype])
    return stored, None, stored.astype(np.float32)
