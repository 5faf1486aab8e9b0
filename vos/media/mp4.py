"""Check whether an MP4 or MOV file is complete and holds the pictures of its index. Boxes as in ISO/IEC 14496-12.

The index is also checked against the size of the file: its counts may declare far more pictures than the file has bytes, and a demuxer
allocates memory for each.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from vos.errors import InputError
from vos.media.video_ends import MOST_PARTS, WHOLE, End

_MOST_INDEX_BYTES = 2**27
_SAMPLES_PER_BYTE = 4
"""Samples that an index may declare per byte of the file: uncompressed sound counts every value as a sample."""
_PLAIN = ("mdat", "free", "skip", "wide", "uuid", "ftyp")
"""Top-level boxes without tables."""
_TOP_LEVEL = (
    *_PLAIN,
    "moov",
    "moof",
    "mfra",
    "sidx",
    "styp",
    "ssix",
    "prft",
    "emsg",
    "pdin",
    "meta",
    "pnot",
    "udta",
    "cut",
)
_COUNTS = re.compile(rb"stsz|stz2|trun|elst")


def mp4_end(file: BinaryIO, size: int, origin: str) -> End:
    """Check the end of a file: a complete one ends with a box and holds every picture of its index.

    A fragmented file has a last box `mfra`, or a list of its fragments, and counts them. Raises InputError if the index is missing, has no
    picture track, refers to other files, or declares more pictures than the file can hold.
    """
    at, kinds, index, listed, num_samples = 0, [], b"", [], 0
    fragments: list[int] = []
    for _ in range(MOST_PARTS):
        if at == size:
            break
        file.seek(at)
        box = _box(file.read(16), size - at)
        if box is None or at + box[2] > size:
            kinds.append("cut")
            break
        kind, head_bytes, length = box
        kinds.append(kind)
        if kind not in _PLAIN:
            if length > _MOST_INDEX_BYTES:
                raise InputError(f"{origin}: its index has {length:,} bytes; convert it again")
            file.seek(at + head_bytes)
            body = file.read(length - head_bytes)
            num_samples += _announced(body)
            if kind == "moov" and not index:
                index = body
            elif kind == "moof":
                fragments.append(_sequence_number(body))
            elif kind == "sidx":
                listed.append(_referenced(body, at + length))
        at += length
    else:
        return End(unverified="it has too many parts to check")
    if not index:
        raise InputError(f"{origin}: truncated or damaged (its index, moov, is missing); copy or record it again")
    if num_samples > size * _SAMPLES_PER_BYTE:
        raise InputError(
            f"{origin}: damaged (its index declares {num_samples:,} pictures and sounds in {size:,} bytes); copy or record it again"
        )
    pictures_end = _pictures_end(index, origin)
    if kinds[-1] in ("cut", "moof") or pictures_end > size:
        return End(problem=f"{size:,} of {max(pictures_end, size + 1):,} or more bytes")
    if not any(_inside(index, "mvex")):
        return WHOLE
    if missing := _missing_fragment(fragments, kinds):
        return End(problem=missing, has_holes=True)
    if kinds[-1] == "mfra":
        return WHOLE
    # A single `sidx` before the first fragment lists all fragments; one before each fragment lists only that one.
    if len(listed) != 1 or not listed[0] or "moof" in kinds[: kinds.index("sidx")]:
        return End(unverified="it is in fragments, without a list of them")
    return WHOLE if listed[0] <= size else End(problem=f"{size:,} of {listed[0]:,} bytes")


def _sequence_number(fragment: bytes) -> int:
    """Return the number of a fragment, -1 if it is damaged."""
    header = next(_inside(fragment, "mfhd"), b"")
    return _count(header, 4) if len(header) >= 8 and any(_inside(fragment, "traf", "tfhd")) else -1


def _missing_fragment(fragments: list[int], kinds: list[str]) -> str:
    """Name a fragment that is damaged or missing; "" if there is none. Numbers of fragments that are not counted up tell nothing."""
    first = kinds.index("moof") if "moof" in kinds else len(kinds)
    if -1 in fragments or any(kind not in _TOP_LEVEL for kind in kinds[first:]):
        return "a fragment is damaged"
    steps = [other - one for one, other in zip(fragments, fragments[1:], strict=False)]
    if all(step > 0 for step in steps) and 2 * steps.count(1) > len(steps) and max(steps) > 1:
        return f"fragments are missing after fragment {fragments[steps.index(max(steps))]}"
    return ""


def _announced(body: bytes) -> int:
    """Count the samples that the tables in a box declare, at any depth, since a demuxer finds them at any depth.

    Each entry of an edit list may play all of them again.
    """
    counts: dict[bytes, list[int]] = {}
    for match in _COUNTS.finditer(body):
        at, kind = match.end(), match.group()
        if 16 <= _count(body, at - 8) <= len(body) - at + 8:  # the length of a box, not four letters by chance
            counts.setdefault(kind, []).append(_count(body, at + (8 if kind.startswith(b"st") else 4)))
    tables = sum(counts.get(b"stsz", [])) + sum(counts.get(b"stz2", []))
    return tables * max([1, *counts.get(b"elst", [])]) + sum(counts.get(b"trun", []))


def _box(head: bytes, rest: int) -> tuple[str, int, int] | None:
    """Return kind, header bytes and total length of the box at the start of `head`; None if there is none.

    rest  bytes from the start of the box to the end of its container
    """
    if len(head) < 8:
        return None
    length, kind = struct.unpack(">I4s", head[:8])
    head_bytes = 8
    if length == 1 and len(head) >= 16:
        length, head_bytes = int.from_bytes(head[8:16], "big"), 16
    elif length == 0:
        length = rest
    return (kind.decode("latin-1"), head_bytes, length) if length >= head_bytes else None


def _boxes(body: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while (box := _box(body[at : at + 16], len(body) - at)) is not None and at + box[2] <= len(body):
        yield box[0], body[at + box[1] : at + box[2]]
        at += box[2]


def _inside(body: bytes, *path: str) -> Iterator[bytes]:
    """Yield the content of every box at this path."""
    for kind, inner in _boxes(body):
        if kind == path[0]:
            yield from _inside(inner, *path[1:]) if path[1:] else (inner,)


def _count(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 4], "big")


def _pictures_end(index: bytes, origin: str) -> int:
    """Return the position where the last picture ends. Raises InputError for an index without a picture track or of other files."""
    end, num_tracks = 0, 0
    for track in _inside(index, "trak"):
        for references in _inside(track, "mdia", "minf", "dinf", "dref"):
            if any(not inner[3:4] or not inner[3] & 1 for _, inner in _boxes(references[8:])):
                raise InputError(
                    f"{origin}: its pictures or sounds are in other files, which are not opened; save it as one file"
                )
        if any(handler[8:12] == b"vide" for handler in _inside(track, "mdia", "hdlr")):
            num_tracks += 1
            tables = {kind: inner for media in _inside(track, "mdia", "minf", "stbl") for kind, inner in _boxes(media)}
            end = max(end, _samples_end(tables))
    if not num_tracks:
        raise InputError(f"{origin}: holds no picture track; give a video")
    return end


def _samples_end(tables: dict[str, bytes]) -> int:
    """Return where a track's last sample ends, from its tables; a lower bound if they are inconsistent, 0 without samples."""
    wide = "co64" in tables
    offsets = _table(tables.get("co64" if wide else "stco", b""), 4, ">u8" if wide else ">u4", 1)[:, 0]
    runs = _table(tables.get("stsc", b""), 4, ">u4", 3)
    if not len(offsets) or not len(runs):
        return int(offsets.max(initial=-1)) + 1
    starts = runs[:, 0] - 1
    lengths = np.diff(np.append(starts, len(offsets)))
    last = int(offsets.argmax())
    if starts[0] or (lengths < 0).any():
        return int(offsets[last]) + 1
    counts = np.repeat(runs[:, 1], lengths)
    first, count = int(counts[:last].sum()), int(counts[last])
    sizes = tables.get("stsz", b"")
    if constant := _count(sizes, 4):
        return int(offsets[last]) + constant * count
    return int(offsets[last]) + max(1, int(_table(sizes, 8, ">u4", 1)[first : first + count].sum()))


def _table(body: bytes, at: int, kind: str, columns: int) -> np.ndarray:
    """Return the rows (N, columns) int64 of a table whose declared count is at `at`; rows beyond the end of `body` are left out."""
    row_bytes = np.dtype(kind).itemsize * columns
    rows = min(_count(body, at), max(0, len(body) - at - 4) // row_bytes)
    values = np.frombuffer(body, kind, rows * columns, at + 4) if rows else np.empty(0, kind)
    return values.astype(np.int64).reshape(rows, columns)


def _referenced(body: bytes, end: int) -> int:
    """Return where the last fragment of a `sidx` box ends; 0 if it lists only one. `end`: where the box itself ends."""
    wide = body[:1] == b"\1"
    at = 28 if wide else 20
    first = int.from_bytes(body[at - 8 if wide else at - 4 : at], "big")
    count = int.from_bytes(body[at + 2 : at + 4], "big")
    sizes = [_count(body, at + 4 + 12 * i) & 0x7FFFFFFF for i in range(count)]
    return end + first + sum(sizes) if count > 1 else 0
