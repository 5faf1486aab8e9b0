"""Turning and mirroring of decoded frames, as players do it: cameras store frames as they come and record how to show them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_TOLERANCE_DEG = 1.0


class Orientation(NamedTuple):
    """How to show a frame: rows and columns are exchanged first, then mirrored.

    residue_deg  the part of the turn that is not a multiple of 90 degrees; it is not carried out
    """

    is_transposed: bool = False
    flips_columns: bool = False
    flips_rows: bool = False
    residue_deg: float = 0.0

    def upright(self, array: np.ndarray) -> np.ndarray:
        """Return an array (H, W, ...) as it is to be shown, contiguous."""
        shown = array.swapaxes(0, 1) if self.is_transposed else array
        shown = shown[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]
        return np.ascontiguousarray(shown)


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation in the frame's display matrix, which may come from the container or from the coded picture."""
    for data in frame.side_data:
        if getattr(data, "type", None) is not None and data.type.name == "DISPLAYMATRIX":
            return orientation(np.frombuffer(bytes(data), np.int32)[:9])
    return Orientation()


def orientation(matrix: np.ndarray) -> Orientation:
    """Return the orientation of a display matrix: column' = m[0] column + m[3] row, row' = m[1] column + m[4] row (ISO/IEC 14496-12).

    A matrix that turns by another angle gives the nearest multiple of 90 degrees. One that is not invertible gives no change.
    """
    if len(matrix) < 5:
        return Orientation()
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
    if a * d - b * c == 0:
        return Orientation()
    angle = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    residue = angle - 90 * round(angle / 90)
    if abs(residue) < _TOLERANCE_DEG:
        residue = 0.0
    if abs(a * d) >= abs(b * c):
        return Orientation(False, a < 0, d < 0, residue)
    return Orientation(True, c < 0, b < 0, residue)
