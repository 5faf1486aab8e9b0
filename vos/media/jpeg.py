"""JPEG files looked at before a decoder is: their size, whether they are whole, and how many passes over the picture they ask for.

A decoder fills the missing rows of a truncated file with grey and says nothing, takes memory for whatever the header announces, and goes
over the whole picture again for each scan of a progressive file, of which some bytes are enough.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from vos.errors import InputError
from vos.files.limits import check_limit

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
MAX_SEGMENTS = 10_000
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive. Lossless and arithmetic coding no camera writes."""
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]", re.DOTALL)
"""The next one that matters, found as decoders do: among coded pixels FF 00 is a byte and FF D0 to FF D7 a restart, FF FF fills."""
_MOST_PIXELS_PER_BYTE = 512
"""Every block of 8x8 pixels of the first scan takes a bit: more pixels than that cannot be in the file."""


class Header(NamedTuple):
    """Of the picture: pixels; channels, 1, 3 or 4; and where its description ends in the file."""

    height: int
    width: int
    channels: int
    end: int


def read_header(data: bytes, origin: str) -> Header | None:
    """The header, None where `data` ends before it. Raises InputError where it is damaged or its picture exceeds the limit of pixels."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None or match.end() + 8 > len(data):
            return None
        kind, at = data[match.end() - 1], match.end()
        if kind in (_START, _END, _SCAN):
            break
        if kind in _OTHER_FRAMES:
            raise InputError(f"{origin}: a JPEG of a kind that is not read (lossless or arithmetic); save it again")
        length, depth, height, width, channels = struct.unpack_from(">HBHHB", data, at)
        if kind in _HUFFMAN_FRAMES:
            if depth != 8 or not height * width or channels not in (1, 3, 4):
                break
            check_limit("image_pixels", height * width, origin)
            return Header(height, width, channels, at + max(2, length))
        at += max(2, length)
    raise damaged(origin)


def check(data: bytes, origin: str) -> Header:
    """The header of a whole JPEG file, up to its end marker; what a camera appends behind it is left alone.

    Raises InputError, naming `origin`, where it is truncated or damaged or asks for too many passes over the picture.
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
    """The error for every image that is not whole."""
    return InputError(f"{origin}: the image is truncated or damaged; copy or extract it again")
