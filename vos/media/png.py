"""Parser of PNG files: it reads only the chunks that decide what is shown, and checks their inflated size against the header.

A PNG may hold compressed texts and colour profiles of any size, animation frames, and more or fewer pixels than its header declares. None
of that reaches the decoder. It gets a new file of header, palette and rows; the rows are stored uncompressed, so the pixels are inflated
only once.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from vos.errors import InputError
from vos.files.limits import check_limit
from vos.media.exif import UPRIGHT, orientation_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = b"IEND\xaeB`\x82"
GREY, COLOUR, PALETTE, GREY_AND_OPACITY, COLOUR_AND_OPACITY = 0, 2, 3, 4, 6
HEADER_BYTES = len(SIGNATURE) + 25
MAX_CHUNKS = 100_000
_PIECE_BYTES = 16 * 1024
"""Inflates to 16 MiB at most."""
_CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_AND_OPACITY: 2, COLOUR_AND_OPACITY: 4}
_DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    COLOUR: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_AND_OPACITY: (8, 16),
    COLOUR_AND_OPACITY: (8, 16),
}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""For each pass of an interlaced file: first column and row, then the steps between columns and rows."""


class Header(NamedTuple):
    """The fields of the first chunk (IHDR), with the PNG specification's values."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def raw_bytes(self) -> int:
        """Bytes of the inflated pixels; each row of each pass begins with the number of its filter."""
        passes = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        total = 0
        for left, top, right, down in passes:
            columns, rows = -(-(self.width - left) // right), -(-(self.height - top) // down)
            if columns > 0 and rows > 0:
                total += rows * (1 + (columns * self.depth * _CHANNELS[self.colour] + 7) // 8)
        return total


class Parts(NamedTuple):
    """The chunks that decide what is shown.

    palette       3 bytes per entry, b"" without one
    pixels        still deflated
    transparency  the content of tRNS, unchecked, b"" without one
    orientation   the EXIF orientation, `UPRIGHT` without one
    """

    header: Header
    palette: bytes
    pixels: bytes
    transparency: bytes = b""
    orientation: int = UPRIGHT


def read_header(data: bytes, origin: str) -> Header:
    """Return the header of a PNG file. Raises InputError if it is damaged or exceeds the limit of pixels."""
    if len(data) < HEADER_BYTES:
        raise InputError(f"{origin}: this PNG file is truncated ({len(data)} bytes); write or copy it again")
    if data[8:16] != b"\0\0\0\rIHDR" or zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise InputError(f"{origin}: this PNG file is damaged (its header); write or copy it again")
    width, height, depth, colour, compression, filters, interlace = struct.unpack(">IIBBBBB", data[16:29])
    is_known = depth in _DEPTHS.get(colour, ()) and not compression and not filters and interlace < 2
    if not is_known or not 0 < width < 2**31 or not 0 < height < 2**31:
        raise InputError(f"{origin}: this PNG file is damaged (its header); write or copy it again")
    check_limit("image_pixels", width * height, origin)
    return Header(width, height, depth, colour, bool(interlace))


def take_apart(data: bytes, origin: str) -> Parts:
    """Return the parts of a PNG file. Every chunk up to IEND must be complete; bytes after it are ignored.

    Raises InputError, naming `origin`, if it is truncated or damaged, or too short for the size in its header.
    """
    header, palette, pixels, at = read_header(data, origin), b"", [], HEADER_BYTES
    transparency, orientation = b"", UPRIGHT
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            break
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data):
            break
        if kind in (b"PLTE", b"IDAT", b"IEND") and not _is_intact(data, at, end):
            raise InputError(f"{origin}: this PNG file is damaged (wrong checksum); write or copy it again")
        if kind == b"PLTE":
            palette = data[at + 8 : end - 4]
        elif kind == b"IDAT":
            pixels.append(data[at + 8 : end - 4])
        elif kind == b"tRNS" and _is_intact(data, at, end):  # decoders, too, skip a damaged optional chunk
            transparency = data[at + 8 : end - 4]
        elif kind == b"eXIf" and orientation == UPRIGHT and _is_intact(data, at, end):
            orientation = orientation_of(data[at + 8 : end - 4])
        elif kind == b"IEND":
            parts = Parts(header, palette, b"".join(pixels), transparency, orientation)
            _check(parts, origin)
            return parts
        elif not kind[0] & 32:  # a capital letter: a critical chunk, which no decoder may skip
            raise InputError(f"{origin}: this PNG file is damaged (an unknown part); write or copy it again")
        at = end
    else:
        raise InputError(f"{origin}: more than {MAX_CHUNKS:,} parts in a PNG file; write it again")
    raise InputError(f"{origin}: this PNG file is truncated ({len(data)} bytes); write or copy it again")


def read_orientation(head: bytes, tail: bytes) -> int:
    """Return the EXIF orientation from the first and the last bytes of a PNG file, without the pixels between them.

    Most writers put the chunk before the pixels, exiftool behind them.
    """
    for data in (head, tail):
        at = data.find(b"eXIf") - 4
        end = at + 12 + int.from_bytes(data[max(0, at) : at + 4], "big")
        if at >= 0 and end <= len(data) and _is_intact(data, at, end):
            return orientation_of(data[at + 8 : end - 4])
    return UPRIGHT


def _is_intact(data: bytes, at: int, end: int) -> bool:
    """Return whether the checksum of the chunk in data[at:end] is right."""
    return zlib.crc32(memoryview(data)[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _check(parts: Parts, origin: str) -> None:
    size = len(parts.palette)
    if size % 3 or size > 768 or (parts.header.colour == PALETTE and not size):
        raise InputError(f"{origin}: this PNG file is damaged (its palette); write or copy it again")
    # Deflate compresses by 1032 at most, so a few bytes that declare a large picture are found before memory is allocated.
    if parts.header.raw_bytes > 1032 * (len(parts.pixels) + 1):
        raise InputError(f"{origin}: this PNG file is damaged (too few pixels); write or copy it again")


def for_decoder(parts: Parts, origin: str) -> bytearray:
    """Return the picture as a PNG file of header, palette and uncompressed rows. Raises InputError if there are too few pixels.

    Data beyond the size in the header is dropped, as decoders do.
    """
    header = parts.header
    first = struct.pack(
        ">IIBBBBB", header.width, header.height, header.depth, header.colour, 0, 0, int(header.interlaced)
    )
    file = bytearray(SIGNATURE + _chunk(b"IHDR", first))
    if header.colour == PALETTE:
        file += _chunk(b"PLTE", parts.palette)
    start = len(file)
    file += b"\0\0\0\0IDAT"
    inflater, storer, missing = zlib.decompressobj(), zlib.compressobj(0), header.raw_bytes
    try:
        for at in range(0, len(parts.pixels), _PIECE_BYTES):
            rows = inflater.decompress(parts.pixels[at : at + _PIECE_BYTES])[:missing]
            file += storer.compress(rows)
            missing -= len(rows)
            if not missing:
                break
    except zlib.error as error:
        raise InputError(f"{origin}: this PNG file is damaged ({error}); write or copy it again") from None
    if missing:
        raise InputError(f"{origin}: this PNG file is damaged (too few pixels); write or copy it again")
    file += storer.flush()
    file[start : start + 4] = struct.pack(">I", len(file) - start - 8)
    file += struct.pack(">I", zlib.crc32(memoryview(file)[start + 4 :])) + _chunk(b"IEND", b"")
    return file


def _chunk(kind: bytes, body: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))))
