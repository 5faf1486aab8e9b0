"""Checks of JPEG files before they are decoded: size, completeness, and number of passes over the picture.

A decoder silently fills the missing rows of a truncated file with grey. It allocates memory for any size that the header declares. Each
scan of a progressive file is another pass over the picture, and a few bytes can declare one.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from vos.errors import InputError
from vos.files.limits import check_limit
from vos.media.exif import UPRIGHT, orientation_of

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
MAX_SEGMENTS = 10_000
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive. No camera writes lossless or arithmetic coding."""
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_START, _END, _SCAN, _APPLICATION_1 = 0xD8, 0xD9, 0xDA, 0xE1
_EXIF = b"Exif\0"
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]", re.DOTALL)
"""The next marker, found as decoders find it: within coded pixels FF 00 is a byte, FF D0 to FF D7 a restart, FF FF padding."""
_MOST_PIXELS_PER_BYTE = 512
"""Upper bound: every block of 8x8 pixels of the first scan takes at least one bit."""


class Header(NamedTuple):
    """Height and width in pixels, as stored; channels (1, 3 or 4); where the frame header ends in the file; the EXIF orientation."""

    height: int
    width: int
    channels: int
    end: int
    orientation: int = UPRIGHT


def read_header(data: bytes, origin: str) -> Header | None:
    """Return the header, None if `data` ends before it. Raises InputError if it is damaged or exceeds the limit of pixels."""
    at, orientation = 2, UPRIGHT
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None or match.end() + 8 > len(data):
            return None
        kind, at = data[match.end() - 1], match.end()
        if kind in (_START, _END, _SCAN):
            break
        if kind in _OTHER_FRAMES:
            raise InputError(f"{origin}: an unsupported kind of JPEG (lossless or arithmetic coding); save it again")
        length, depth, height, width, channels = struct.unpack_from(">HBHHB", data, at)
        if kind in _HUFFMAN_FRAMES:
            if depth != 8 or not height * width or channels not in (1, 3, 4):
                break
            check_limit("image_pixels", height * width, origin)
            return Header(height, width, channels, at + max(2, length), orientation)
        if kind == _APPLICATION_1 and orientation == UPRIGHT and data.startswith(_EXIF, at + 2):
            orientation = orientation_of(data[at + 8 : at + length])
        at += max(2, length)
    raise damaged(origin)


def check(data: bytes, origin: str) -> Header:
    """Return the header of a complete JPEG file. Bytes after the end marker, which some cameras append, are ignored.

    Raises InputError, naming `origin`, if it is truncated or damaged, or if decoding takes too many passes over the picture.
    """
    header = read_header(data, origin)
    if header is None:
        raise damaged(origin)
    num_scans, at = 0, header.end
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None:
            break
        kind, at = data[match.end() - 1], match.end()
        if kind == _END and num_scans and header.height * header.width <= _MOST_PIXELS_PER_BYTE * at:
            check_limit("jpeg_work", num_scans * header.height * header.width, origin)
            return header
        if kind in (_START, _END, *_HUFFMAN_FRAMES, *_OTHER_FRAMES):
            break
        num_scans += kind == _SCAN
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    raise damaged(origin)


def damaged(origin: str) -> InputError:
    """Return the error for a truncated or damaged image."""
    return InputError(f"{origin}: the image is truncated or damaged; copy or extract it again")
