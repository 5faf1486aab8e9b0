"""Frames and masks on disk: read, write, check, draw over.

Frames are decoded by OpenCV (libjpeg-turbo) without applying the EXIF orientation, so that a frame and its mask always
agree on height and width. Masks are palette PNGs whose *index* is the object, never the colour. A file that ends early
is refused, because decoders fill the missing rows with grey and say nothing.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from vos.errors import InputError
from vos.files import write_atomic
from vos.palette import read_indices

_TAIL_BYTES = 64
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_FRAME_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


@lru_cache(maxsize=1)
def davis_palette() -> np.ndarray:
    """The colours of the DAVIS (and PASCAL VOC) palette: (256, 3) uint8 RGB, made by interleaving the bits of the
    index.
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    palette.flags.writeable = False  # one array for all callers
    return palette


def read_frame(path: str) -> np.ndarray:
    """A frame as (H, W, 3) uint8 RGB, in the order of its stored rows.

    Raises InputError if absent, unreadable or truncated.
    """
    data = _read_bytes(path)
    _inspect(io.BytesIO(data), path)
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), _FRAME_FLAGS)
    if frame is None:
        raise InputError(_unreadable(path))
    return frame


def read_mask(path: str) -> np.ndarray:
    """A mask as (H, W) uint8 palette indices (grey levels for a grey PNG).

    Raises InputError if absent, unreadable, truncated or RGB.
    """
    check_complete(path)  # The decoder trusts the header.
    return read_indices(path)


def write_mask(path: str, labels: np.ndarray) -> None:
    """Write (H, W) object indices as a PNG with the DAVIS palette: a temporary name, then renamed."""
    write_atomic(path, mask_png(labels), sync=False)


def mask_png(labels: np.ndarray) -> bytes:
    """A PNG with the DAVIS palette of (H, W) object indices, 0 is background, at most 255."""
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
    """Write an RGB frame as JPEG or PNG, by the name's ending: a temporary name, then renamed."""
    write_atomic(path, frame_file(path, frame, quality), sync=False)


def frame_file(path: str, frame: np.ndarray, quality: int = 95) -> bytes:
    """An RGB frame (H, W, 3) uint8 as a JPEG or PNG, by the ending of its name; JPEG loses a little."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.lower().endswith((".jpg", ".jpeg")) else []
    done, data = cv2.imencode(os.path.splitext(path)[1], cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    assert done, f"{path}: OpenCV could not encode the frame"
    return data.tobytes()


def image_size(path: str) -> tuple[int, int]:
    """(height, width) from the header alone; nothing is decoded. Raises InputError if absent or not an image."""
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            return image.height, image.width
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(_unreadable(path)) from error
    except OSError as error:
        raise InputError(_cannot_read(path, error)) from error


def check_complete(path: str) -> tuple[int, int]:
    """Check that the file is a whole image, from its header and its last bytes, and return (height, width).

    A JPEG or PNG whose end marker is not at its end (another format, or bytes appended by a camera) is decoded to be
    sure. Raises InputError if absent, unreadable or truncated.
    """
    try:
        with open(path, "rb") as file:
            return _inspect(file, path)
    except OSError as error:
        raise InputError(_cannot_read(path, error)) from error


def overlay(frame: np.ndarray, labels: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Paint objects over a frame: their palette colour at `alpha` inside, and twice as bright along the contour.

    frame    (H, W, 3) uint8 RGB
    labels   (H, W) integers, 0 is background
    returns  (H, W, 3) uint8, a new array
    """
    labels = np.asarray(labels).astype(np.uint8)
    result = frame.copy()
    left, top, width, height = cv2.boundingRect(labels)
    if not width:
        return result
    # Only where objects are, and a pixel around, which their contours look at: a quarter of the time on most videos.
    box = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    labels, part = np.ascontiguousarray(labels[box]), result[box]
    colours = davis_palette()[labels]
    inside = labels > 0
    painted = cv2.addWeighted(part, 1 - alpha, colours, alpha, 0)
    part[inside] = painted[inside]
    # The contour is the object's own outermost pixels, so that two touching objects each keep their line.
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    contour = inside & ((cv2.dilate(labels, cross) != labels) | (cv2.erode(labels, cross) != labels))
    lines = colours[contour]
    part[contour] = np.minimum(lines.astype(np.uint16) * 2, 255).astype(np.uint8)
    return result


class Grid(NamedTuple):
    """Where an affine map samples its input: whole pixels (H, W, 2) int16 as x, y, and 1/32 pixels (H, W) or None."""

    whole: np.ndarray
    fraction: np.ndarray | None


def affine_grid(affine: Sequence[float], size: tuple[int, int], *, nearest: bool) -> Grid:
    """The grid of an affine map (a, b, c, d, e, f): output pixel (x, y) shows input pixel (a*x + b*y + c, d*x + e*y +
    f).

    size     (height, width) of the output; pixel centres are whole numbers
    nearest  whole pixels only, for labels

    Positions are whole multiples of 1/32 pixel from here on, and `sample` works in integers, so the bytes are the same
    on every processor; cv2.warpAffine computes in floats, whose last bits depend on the instruction set.
    """
    a, b, c, d, e, f = affine
    x, y = np.arange(size[1], dtype=np.float64), np.arange(size[0], dtype=np.float64)[:, None]
    # In 1/1024 pixel, each term rounded once; int16 pixels reach to 32767.
    along_x, along_y = (np.rint(1024.0 * slope * x).astype(np.int32) for slope in (a, d))
    start_x, start_y = (np.rint(1024.0 * (slope * y + first)).astype(np.int32) for slope, first in ((b, c), (e, f)))
    assert max(np.abs(start_x).max() + np.abs(along_x).max(), np.abs(start_y).max() + np.abs(along_y).max()) < 1 << 25
    whole = np.empty((*size, 2), np.int16)
    if nearest:
        whole[..., 0] = (along_x + (start_x + 512)) >> 10
        whole[..., 1] = (along_y + (start_y + 512)) >> 10
        return Grid(whole, None)
    grid_x, grid_y = (along_x + (start_x + 16)) >> 5, (along_y + (start_y + 16)) >> 5
    whole[..., 0], whole[..., 1] = grid_x >> 5, grid_y >> 5
    return Grid(whole, (((grid_y & 31) << 5) | (grid_x & 31)).astype(np.uint16))


def sample(image: np.ndarray, grid: Grid) -> np.ndarray:
    """Sample an image (H, W) or (H, W, 3) uint8, bilinearly or at the nearest pixel; it goes on as its mirror image."""
    if grid.fraction is None:
        blank = np.empty(0, np.uint16)
        return cv2.remap(image, grid.whole, blank, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    return cv2.remap(image, grid.whole, grid.fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _inspect(file: BinaryIO, path: str) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            size, marker = (image.height, image.width), _END_MARKERS.get(image.format or "")
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            if marker is None or marker not in file.read():
                # Another format, or bytes after the image: decode it, and look for the marker anywhere.
                image.load()
                file.seek(0)
                if marker and marker not in file.read():
                    raise OSError("no end marker")
            return size
    except UnidentifiedImageError as error:
        raise InputError(_unreadable(path)) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: the image is truncated or damaged; copy or extract it again") from error


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(_cannot_read(path, error)) from error


def _unreadable(path: str) -> str:
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return f"{path}: the file is empty; copy or extract it again"
    return f"{path}: not a readable image; replace it by a JPEG or PNG"


def _cannot_read(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: the file does not exist; check the data folder"
    return f"{path}: cannot be read ({error.strerror}); check the data folder and its permissions"
