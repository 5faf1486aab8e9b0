"""The EXIF orientation of a picture: how a viewer turns or mirrors it.

Cameras store rows as the sensor delivers them and note how the camera was held. Viewers, editors and browsers turn the
picture accordingly, so masks are drawn over the turned one. Frames are therefore turned when they are read, as videos are.
"""

from __future__ import annotations

import struct

import numpy as np

UPRIGHT = 1
"""The orientation of a picture that is stored as it is shown, and of one that states none."""
_TAG, _SHORT, _LONG = 0x0112, 3, 4
_MAX_ENTRIES = 1000


def orientation_of(tiff: bytes) -> int:
    """Return the orientation, 1 to 8, in the TIFF structure of EXIF data; `UPRIGHT` if it is absent, damaged or unknown."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return UPRIGHT
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    if at + 2 > len(tiff):
        return UPRIGHT
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    for place in range(at + 2, min(at + 2 + 12 * min(count, _MAX_ENTRIES), len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", tiff, place)
        if tag == _TAG and kind in (_SHORT, _LONG):
            (value,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", tiff, place + 8)
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return (H, W) as shown, for the stored (H, W)."""
    return size if orientation < 5 else (size[1], size[0])


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return a picture (H, W, ...) as a viewer shows it, contiguous; the same array if it is upright."""
    if orientation == UPRIGHT:
        return pixels
    if orientation >= 5:  # rows and columns are exchanged
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):  # mirrored left to right
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):  # mirrored top to bottom
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
