"""Frames and masks on disk: read, write, check, overlay.

Frames are decoded by OpenCV (libjpeg-turbo) and turned as their EXIF orientation says, as viewers show them and videos are
read; so are masks. Masks are palette PNGs whose *index* is the object, never the colour. The first bytes decide
whether a file is a JPEG or a PNG, not its name. It is decoded only after a check that it is complete (vos/media/jpeg.py,
vos/media/png.py).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from vos.errors import InputError
from vos.files.limits import check_limit
from vos.files.whole import open_regular, read_regular, write_atomic
from vos.media import jpeg, png
from vos.media.exif import UPRIGHT, turned, turned_size
from vos.media.palette import davis_palette, read_indices

_HEAD_BYTES, _TAIL_BYTES, _PNG_TAIL_BYTES = 8192, 64, 65536
_ADVICE = "check the data folder and its permissions"
_FRAME_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def read_frame(path: str) -> np.ndarray:
    """Read a frame as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Raises InputError if absent, unreadable or truncated.
    """
    return turned(*_decoded(read_regular(path, "image_bytes", _ADVICE), path, _FRAME_FLAGS))


def decode(data: bytes, origin: str, flags: int = _FRAME_FLAGS) -> np.ndarray:
    """Decode a complete JPEG or PNG: uint8, (H, W, 3) RGB, or as other `flags` of OpenCV ask for, in the order of its stored rows.

    The decoder starts only after a check that the file can hold the size in its header. Raises InputError, naming `origin`,
    for any other bytes.
    """
    return _decoded(data, origin, flags)[0]


def _decoded(data: bytes, origin: str, flags: int) -> tuple[np.ndarray, int]:
    """Return the stored pixels of an image and its EXIF orientation."""
    if data.startswith(png.SIGNATURE):
        parts = png.take_apart(data, origin)
        size, orientation = (parts.header.height, parts.header.width), parts.orientation
        encoded = np.frombuffer(png.for_decoder(parts, origin), np.uint8)
    elif data.startswith(jpeg.SIGNATURE):
        header = jpeg.check(data, origin)
        size, orientation, encoded = (header.height, header.width), header.orientation, np.frombuffer(data, np.uint8)
    else:
        raise _no_image(origin, data)
    try:
        pixels = cv2.imdecode(encoded, flags)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != size:
        raise jpeg.damaged(origin)
    return pixels, orientation


def read_mask(path: str, tell: Callable[[str], None] | None = None) -> np.ndarray:
    """Read a mask as (H, W) uint8 palette indices (grey levels for a grey PNG).

    tell  called with a note, if the labels are not the stored values
    Raises InputError if absent, unreadable, truncated or RGB.
    """
    return read_indices(path, tell=tell)


def write_mask(path: str, labels: np.ndarray) -> None:
    """Write (H, W) object indices as a PNG with the DAVIS palette: a temporary name, then renamed."""
    write_atomic(path, mask_png(labels), sync=False)


def mask_png(labels: np.ndarray) -> bytes:
    """Encode (H, W) object indices, 0 (background) to 255, as a PNG with the DAVIS palette."""
    labels = np.asarray(labels)
    assert labels.ndim == 2 and labels.min(initial=0) >= 0 and labels.max(initial=0) <= 255, (
        "a mask is (H, W) of 0..255"
    )
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8), "L")
    image.putpalette(davis_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_frame(path: str, frame: np.ndarray, quality: int = 95) -> None:
    """Write an RGB frame as JPEG or PNG, by the file extension: a temporary name, then renamed."""
    write_atomic(path, frame_file(path, frame, quality), sync=False)


def frame_file(path: str, frame: np.ndarray, quality: int = 95) -> bytes:
    """Encode an RGB frame (H, W, 3) uint8 as JPEG (lossy) or PNG, by the file extension."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.lower().endswith((".jpg", ".jpeg")) else []
    done, data = cv2.imencode(os.path.splitext(path)[1], cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    assert done, f"{path}: OpenCV could not encode the frame"
    return data.tobytes()


class Examined(NamedTuple):
    """What the header of an image tells: (height, width) as it is shown, and the EXIF orientation of the stored rows."""

    size: tuple[int, int]
    orientation: int


def check_complete(path: str) -> tuple[int, int]:
    """Check that a file is a complete image, as `examine` does, and return (height, width) as it is shown."""
    return examine(path).size


def examine(path: str) -> Examined:
    """Check from its header and last bytes that a file is a complete image.

    If the end marker is not in the last bytes (cameras append data), the whole file is searched for it. Nothing is decoded.
    Raises InputError if absent, not a regular file, neither JPEG nor PNG, too large, or truncated.
    """
    with open_regular(path, _ADVICE) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        check_limit("image_bytes", num_bytes, path)
        try:
            head = file.read(_HEAD_BYTES)
            is_png = head.startswith(png.SIGNATURE)
            file.seek(max(0, num_bytes - (_PNG_TAIL_BYTES if is_png else _TAIL_BYTES)))
            tail = file.read()
            if is_png:
                header, orientation = png.read_header(head, path), png.read_orientation(head, tail)
                if png.END not in tail[-_TAIL_BYTES:]:
                    file.seek(0)
                    orientation = png.take_apart(file.read(), path).orientation
                return Examined(turned_size((header.height, header.width), orientation), orientation)
            if not head.startswith(jpeg.SIGNATURE):
                raise _no_image(path, head)
            found = jpeg.read_header(head, path)
            if found is None or jpeg.END not in tail:
                file.seek(0)
                found = jpeg.check(file.read(), path)
            return Examined(turned_size((found.height, found.width), found.orientation), found.orientation)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()}); {_ADVICE}") from None


def orientation_in(path: str) -> int:
    """Return the EXIF orientation of an image, `UPRIGHT` for a file that `examine` refuses: its fault is reported when it is read."""
    try:
        return examine(path).orientation
    except InputError:
        return UPRIGHT


def overlay(frame: np.ndarray, labels: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Paint objects over a frame: their palette colour at `alpha` inside, twice as bright along the contour.

    frame    (H, W, 3) uint8 RGB
    labels   (H, W) integers, 0 is background
    returns  (H, W, 3) uint8, a new array
    """
    labels = np.asarray(labels).astype(np.uint8)
    result = frame.copy()
    left, top, width, height = cv2.boundingRect(labels)
    if not width:
        return result
    # Only the bounding box of the objects and one pixel around it, for the contours: a quarter of the time on most videos.
    box = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    labels, part = np.ascontiguousarray(labels[box]), result[box]
    colours = davis_palette()[labels]
    inside = labels > 0
    painted = cv2.addWeighted(part, 1 - alpha, colours, alpha, 0)
    part[inside] = painted[inside]
    # The contour is the object's own outermost pixels, so two touching objects have one line each.
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    contour = inside & ((cv2.dilate(labels, cross) != labels) | (cv2.erode(labels, cross) != labels))
    lines = colours[contour]
    part[contour] = np.minimum(lines.astype(np.uint16) * 2, 255).astype(np.uint8)
    return result


class Grid(NamedTuple):
    """Where an affine map samples its input: whole pixels (H, W, 2) int16 as x, y, and 1/32 pixels (H, W) or None."""

    whole: np.ndarray
    fraction: np.ndarray | None


_REACH = 1 << 25
"""Bound of a position in units of 1/1024 pixel: OpenCV's positions are int16 pixels."""


def affine_grid(
    affine: Sequence[float],
    size: tuple[int, int],
    *,
    nearest: bool,
    bend: tuple[np.ndarray, np.ndarray] | None = None,
    far: bool = False,
) -> Grid:
    """Return the sampling grid of an affine map: output pixel (x, y) shows input pixel (a*x + b*y + c, d*x + e*y + f).

    affine   (a, b, c, d, e, f)
    size     (height, width) of the output; pixel centres are whole numbers
    nearest  whole pixels only, for labels
    bend     displacements along x and y, (height, width) float64 each, added to the output pixels before they are mapped
    far      positions beyond what OpenCV can sample are moved to the farthest that it can; otherwise the map has none

    Positions are multiples of 1/32 pixel and `sample` uses integers, so the bytes are the same on every processor.
    cv2.warpAffine computes in floats, whose last bits depend on the instruction set.
    """
    a, b, c, d, e, f = affine
    x, y = np.arange(size[1], dtype=np.float64), np.arange(size[0], dtype=np.float64)[:, None]
    # In units of 1/1024 pixel, each term rounded once; int16 pixels go up to 32767.
    kind = np.int64 if far else np.int32
    along_x, along_y = (np.rint(1024.0 * slope * x).astype(kind) for slope in (a, d))
    start_x, start_y = (np.rint(1024.0 * (slope * y + first)).astype(kind) for slope, first in ((b, c), (e, f)))
    if bend is not None:
        start_x, start_y = (
            start + np.rint(1024.0 * (slope_x * bend[0] + slope_y * bend[1])).astype(kind)
            for start, slope_x, slope_y in ((start_x, a, b), (start_y, d, e))
        )
    reach = max(np.abs(start_x).max() + np.abs(along_x).max(), np.abs(start_y).max() + np.abs(along_y).max())
    if reach >= _REACH:
        assert far, "the map leaves the positions that OpenCV samples"
        limit = _REACH - 1024
        start_x, start_y = np.clip(along_x + start_x, -limit, limit), np.clip(along_y + start_y, -limit, limit)
        along_x, along_y = np.zeros_like(along_x), np.zeros_like(along_y)
    whole = np.empty((*size, 2), np.int16)
    if nearest:
        whole[..., 0] = (along_x + (start_x + 512)) >> 10
        whole[..., 1] = (along_y + (start_y + 512)) >> 10
        return Grid(whole, None)
    grid_x, grid_y = (along_x + (start_x + 16)) >> 5, (along_y + (start_y + 16)) >> 5
    whole[..., 0], whole[..., 1] = grid_x >> 5, grid_y >> 5
    return Grid(whole, (((grid_y & 31) << 5) | (grid_x & 31)).astype(np.uint16))


def sample(image: np.ndarray, grid: Grid, *, reflect: bool = True) -> np.ndarray:
    """Sample an image (H, W) or (H, W, 3) uint8, bilinearly or at the nearest pixel.

    reflect  reflect the image at its borders; otherwise it is 0 beyond them
    """
    border = cv2.BORDER_REFLECT_101 if reflect else cv2.BORDER_CONSTANT
    if grid.fraction is None:
        return cv2.remap(image, grid.whole, np.empty(0, np.uint16), cv2.INTER_NEAREST, borderMode=border)
    return cv2.remap(image, grid.whole, grid.fraction, cv2.INTER_LINEAR, borderMode=border)


def averaged(pixels: np.ndarray, times: int) -> np.ndarray:
    """Shrink an image by a whole factor, to the means of whole blocks: sampling it by more than 2 would skip pixels and alias."""
    if times == 1:
        return pixels
    height, width = pixels.shape[0] // times, pixels.shape[1] // times
    whole_blocks = pixels[: height * times, : width * times]
    return cv2.resize(whole_blocks, (width, height), interpolation=cv2.INTER_AREA)


def averaged_affine(affine: Sequence[float], times: int) -> tuple[float, float, float, float, float, float]:
    """Return the affine map into an image after `averaged`."""
    a, b, c, d, e, f = affine
    shift = (times - 1) / 2
    return a / times, b / times, (c - shift) / times, d / times, e / times, (f - shift) / times


def colour_table(gain: Sequence[float], offset: Sequence[float]) -> np.ndarray:
    """Return the table of v -> gain * v + offset per channel, rounded and clipped: (256, 1, 3) uint8, for cv2.LUT."""
    colours = np.arange(256)[:, None] * np.array(gain) + np.array(offset)
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)[:, None, :]


def _no_image(origin: str, data: bytes) -> InputError:
    if not data:
        return InputError(f"{origin}: the file is empty; copy or extract it again")
    return InputError(f"{origin}: not a readable image; replace it by a JPEG or PNG")
