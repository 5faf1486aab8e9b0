"""Detect the container of a video file by its first bytes and check that the file is complete, before ffmpeg opens it.

A demuxer does not notice that a file was cut. Most containers declare their length or mark their end. If one does not, the end cannot be
verified, and a warning is given. Only the containers below are read, each by its own demuxer: some of ffmpeg's hundreds open further
files (address lists, scripts).
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from vos.errors import InputError
from vos.media.matroska import matroska_end
from vos.media.mp4 import mp4_end
from vos.media.video_ends import MOST_PARTS, WHOLE, End

_HEAD_BYTES = 1024


class Container(NamedTuple):
    """name, for messages; ffmpeg's demuxer; end(file, its size in bytes, its name for errors)."""

    name: str
    demuxer: str
    end: Callable[[BinaryIO, int, str], End]


def container_of(file: BinaryIO, origin: str) -> Container:
    """Return the container of an open file, and rewind it. Raises InputError, naming `origin`, for an unsupported container."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    for matches, container in _CONTAINERS:
        if matches(head):
            return container
    if not head:
        raise InputError(f"{origin}: the file is empty; copy or record it again")
    names = ", ".join(dict.fromkeys(container.name for _, container in _CONTAINERS))
    raise InputError(
        f"{origin}: cannot be decoded (not one of the containers that are read: {names}); convert it, for example to MP4"
    )


def _y4m_end(file: BinaryIO, size: int, origin: str) -> End:
    """Check that the file consists of whole frames, which all have one length."""
    header = file.readline(_HEAD_BYTES)
    fields = {field[:1]: field[1:].decode("latin-1") for field in header.split()[1:]}
    sides = [
        int(text) if text.isdecimal() and len(text) < 9 else 0 for text in (fields.get(b"W", ""), fields.get(b"H", ""))
    ]
    kind = re.fullmatch(r"(mono|4[124][0124])(alpha|jpeg|mpeg2|paldv|p?[0-9]+)?", fields.get(b"C", "420"))
    if not all(sides) or kind is None or kind[1] not in _Y4M_CHROMA:
        raise InputError(f"{origin}: its Y4M header is damaged or of an unsupported kind; convert it again")
    (width, height), (planes, right, down), detail = sides, _Y4M_CHROMA[kind[1]], kind[2] or ""
    samples = width * height * (2 if detail == "alpha" else 1) + planes * -(-width // right) * -(-height // down)
    frame_bytes = samples * (2 if detail[-1:].isdecimal() and detail != "mpeg2" else 1)
    at = len(header)
    for _ in range(MOST_PARTS):
        if at == size:
            break
        line = file.readline(_HEAD_BYTES)
        at += len(line) + frame_bytes
        if not line.startswith(b"FRAME") or not line.endswith(b"\n") or at > size:
            return End(problem="its last frame is cut")
        file.seek(at)
    return End(unverified="Y4M does not mark its end")


_Y4M_CHROMA = {"420": (2, 2, 2), "411": (2, 4, 1), "422": (2, 2, 1), "444": (2, 1, 1), "mono": (0, 1, 1)}
"""Number of colour planes, and how many pixels across and down share one colour value."""


def _gif_end(file: BinaryIO, size: int, origin: str) -> End:
    """Check that the blocks end with a trailer."""

    def skip_colours(flags: int) -> None:
        file.seek(3 << (1 + (flags & 7)) if flags & 128 else 0, os.SEEK_CUR)

    skip_colours(file.read(13)[10:11].rjust(1, b"\0")[0])
    is_within = False  # a block: pieces of up to 255 bytes, then an empty one
    for _ in range(MOST_PARTS):
        one = file.read(1)
        if not one:
            return End(problem="its trailer is missing")
        if is_within:
            file.seek(one[0], os.SEEK_CUR)
            is_within = one[0] > 0
        elif one == b"\x3b":
            return WHOLE
        elif one == b"\x2c":
            skip_colours(file.read(9)[8:9].rjust(1, b"\0")[0])
            file.seek(1, os.SEEK_CUR)
            is_within = True
        elif one == b"\x21":
            file.seek(1, os.SEEK_CUR)
            is_within = True
        else:
            return End(problem="a block of an unknown kind")
    return End(unverified="it has too many blocks to check")


def _ogg_end(file: BinaryIO, size: int, origin: str) -> End:
    """Check that every stream has a page marked as its last, and the checksums of all pages."""
    open_streams: set[bytes] = set()
    num_damaged = 0
    at = 0
    for _ in range(MOST_PARTS):
        head = file.read(27)
        if not head:
            if num_damaged:
                return End(problem=f"damaged pages: {num_damaged}", has_holes=True)
            return End(problem="the last page of a track is missing") if open_streams else WHOLE
        segments = file.read(head[26]) if len(head) == 27 else b""
        at += 27 + len(segments) + sum(segments)
        if len(head) < 27 or head[:4] != b"OggS" or len(segments) < head[26] or at > size:
            return End(problem="its last page is cut" if head[:4] == b"OggS" else "a page is damaged", has_holes=True)
        num_damaged += not _is_intact(head, segments, file.read(sum(segments)))
        open_streams.add(head[14:18])
        if head[5] & 4:
            open_streams.discard(head[14:18])
        file.seek(at)
    return End(unverified="it has too many pages to check")


def _is_intact(head: bytes, segments: bytes, content: bytes) -> bool:
    """Whether the checksum of an Ogg page is right: CRC-32 like zlib's, but with the bits in the other order and without inversion."""
    page = head[:22] + bytes(4) + head[26:] + segments + content
    crc = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_MIRRORED) == head[22:26]


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _avi_end(file: BinaryIO, size: int, origin: str) -> End:
    """Check the lengths of all RIFF parts, and the positions in the index of the first one."""
    at = 0
    while at < size:
        head = file.read(12)
        length = int.from_bytes(head[4:8], "little")
        if at and head[:4] != b"RIFF":
            break  # appended data
        if len(head) < 12:
            return End(problem="a part of its file is missing")
        if length in (0, 0xFFFFFFFF):
            return End(unverified="its recorder did not write its length")
        if at + 8 + length > size:
            return End(problem=f"{size - at:,} of {length + 8:,} bytes")
        if not at and (far := _avi_farthest(file.read(min(length - 4, 1 << 20)))) >= size:
            return End(problem=f"{size:,} of more than {far:,} bytes")
        at += 8 + length + length % 2
        file.seek(at)
    return WHOLE


def _avi_farthest(head: bytes) -> int:
    """Return the largest position in the file that an OpenDML index holds, 0 without one."""
    far, at = 0, head.find(b"indx")
    while at >= 0:
        entries = (
            min(int.from_bytes(head[at + 12 : at + 16], "little"), 1 << 16) if head[at + 11 : at + 12] == b"\0" else 0
        )
        for place in range(at + 32, at + 32 + 16 * entries, 16):
            far = max(far, int.from_bytes(head[place : place + 8], "little"))
        at = head.find(b"indx", at + 4)
    return far


def _ts_end(file: BinaryIO, size: int, origin: str) -> End:
    """Check that the file consists of whole packets, and that their counters continue; the format has no end mark."""
    head = file.read(_HEAD_BYTES)
    length = next((length for start, length in _TS_PACKETS if _is_ts(head, start, length)), 188)
    start = next((start for start, one in _TS_PACKETS if one == length and _is_ts(head, start, one)), 0)
    has_holes = _ts_has_holes(file, start, length)
    if size % length:
        return End(problem="its last packet is cut", has_holes=has_holes)
    return End(unverified="MPEG-TS does not mark its end", has_holes=has_holes)


def _ts_has_holes(file: BinaryIO, start: int, length: int) -> bool:
    """Whether a packet is damaged or a counter, which each PID has, does not continue."""
    counters = np.full(8192, -1)
    file.seek(0)
    while data := file.read(length << 16):
        rows = np.frombuffer(data, np.uint8, len(data) // length * length).reshape(-1, length)[:, start : start + 4]
        if (rows[:, 0] != 0x47).any() or (rows[:, 1] & 0x80).any():
            return True
        pids = (rows[:, 1] & 0x1F).astype(np.int64) << 8 | rows[:, 2]
        has_payload = (rows[:, 3] & 0x10) > 0
        for pid in np.unique(pids[has_payload]):
            if pid == _TS_FILLING:
                continue
            now = (rows[(pids == pid) & has_payload, 3] & 15).astype(np.int64)
            before = np.concatenate(([now[0] - 1 if counters[pid] < 0 else counters[pid]], now[:-1]))
            if not np.isin((now - before) % 16, (0, 1)).all():  # a packet may be sent twice
                return True
            counters[pid] = now[-1]
    return False


_TS_FILLING = 8191


_TS_PACKETS = ((0, 188), (4, 192), (0, 204))


def _is_ts(head: bytes, start: int, length: int) -> bool:
    places = range(start, len(head), length)
    return len(places) > 1 and all(head[place] == 0x47 for place in places)


def _ps_end(file: BinaryIO, size: int, origin: str) -> End:
    """Check for an end code, which only some writers add, or for a whole last packet."""
    file.seek(max(0, size - 4))
    if file.read(4) == b"\0\0\1\xb9":
        return WHOLE
    at = max(0, size - _MPEG_TAIL_BYTES)
    file.seek(at)
    at += max(0, file.read(_MPEG_TAIL_BYTES).find(b"\0\0\1\xba"))
    for _ in range(MOST_PARTS):
        file.seek(at)
        head = file.read(14)
        if not head:
            break
        if head[:3] != b"\0\0\1"[: len(head)] or head[3:4] < b"\xb9"[: len(head[3:4])]:
            return End(unverified="an MPEG stream without an end code")
        if head[3:4] == b"\xba":
            at += 12 if head[4:5] and head[4] >> 6 == 0 else 14 + (head[13] & 7 if len(head) == 14 else 0)
        else:
            at += 6 + int.from_bytes(head[4:6], "big")
        if len(head) < 6 or at > size:
            return End(problem="its last packet is cut")
    return End(unverified="an MPEG stream without an end code")


_MPEG_TAIL_BYTES = 1 << 20
"""Only the last packets are checked: hours of video would take long."""


def _es_end(file: BinaryIO, size: int, origin: str) -> End:
    file.seek(max(0, size - 4))
    return WHOLE if file.read(4) == b"\0\0\1\xb7" else End(unverified="an MPEG stream without an end code")


_MP4_KINDS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"sidx", b"moof", b"uuid")
_CONTAINERS: tuple[tuple[Callable[[bytes], bool], Container], ...] = (
    (lambda head: head[4:8] in _MP4_KINDS, Container("MP4 or MOV", "mov", mp4_end)),
    (lambda head: head.startswith(b"\x1a\x45\xdf\xa3"), Container("Matroska or WebM", "matroska", matroska_end)),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI ", Container("AVI", "avi", _avi_end)),
    (lambda head: head.startswith((b"GIF87a", b"GIF89a")), Container("GIF", "gif", _gif_end)),
    (lambda head: head.startswith(b"YUV4MPEG2 "), Container("Y4M", "yuv4mpegpipe", _y4m_end)),
    (lambda head: head.startswith(b"OggS"), Container("Ogg", "ogg", _ogg_end)),
    (lambda head: head.startswith(b"\0\0\1\xba"), Container("MPEG", "mpeg", _ps_end)),
    (lambda head: head.startswith(b"\0\0\1\xb3"), Container("MPEG", "mpegvideo", _es_end)),
    (lambda head: any(_is_ts(head, *one) for one in _TS_PACKETS), Container("MPEG-TS", "mpegts", _ts_end)),
)
