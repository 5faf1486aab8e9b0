"""Check whether a Matroska or WebM file is complete and its clusters are intact. Elements as in RFC 8794 and RFC 9559."""

from __future__ import annotations

from typing import BinaryIO

from vos.media.video_ends import MOST_PARTS, WHOLE, End

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_KNOWN = {
    _SEGMENT: (
        _CLUSTER,
        0x114D9B74,
        0x1549A966,
        0x1654AE6B,
        0x1C53BB6B,
        0x1941A469,
        0x1043A770,
        0x1254C367,
        0xEC,
        0xBF,
    ),
    _CLUSTER: (0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0x5854, 0xAF, 0xEC, 0xBF),
}
"""What a segment and a cluster may hold."""
_UNKNOWN = -1


def matroska_end(file: BinaryIO, size: int, origin: str) -> End:
    """Check whether the file reaches the end of its segment. A live recording declares no length; then its elements are followed."""
    at, is_live = 0, False
    for _ in range(MOST_PARTS):
        if at == size:
            return (
                End(unverified="it was recorded live, without its length")
                if is_live
                else End(problem="holds no segment")
            )
        file.seek(at)
        element = _element(file.read(12))
        if element is None:
            return End(problem="an element is cut or damaged")
        kind, head_bytes, length = element
        if length == _UNKNOWN:
            is_live, at = True, at + head_bytes  # continue with its content
            continue
        at += head_bytes + length
        if at > size:
            return End(problem=f"{size:,} of {at:,} bytes")
        if kind == _SEGMENT:
            return _intact(file, at - length, at)
    return End(unverified="it has too many parts to check")


def _intact(file: BinaryIO, at: int, end: int) -> End:
    """Check that the elements of a segment, and the blocks of its clusters, follow one another without a gap."""
    ends, parents = [end], [_SEGMENT]
    for _ in range(MOST_PARTS):
        while ends and at == ends[-1]:
            ends.pop()
            parents.pop()
        if not ends:
            return WHOLE
        file.seek(at)
        element = _element(file.read(12))
        if element is None or element[0] not in _KNOWN[parents[-1]] or element[2] == _UNKNOWN:
            # A cluster without a length ends where another begins; nothing tells whether it is whole.
            is_open = element is not None and element[2] == _UNKNOWN
            return WHOLE if is_open else End(problem=f"an element is damaged, at byte {at:,}", has_holes=True)
        kind, head_bytes, length = element
        if at + head_bytes + length > ends[-1]:
            return End(problem=f"an element is damaged, at byte {at:,}", has_holes=True)
        at += head_bytes
        if kind == _CLUSTER:
            ends.append(at + length)
            parents.append(kind)
        else:
            at += length
    return WHOLE


def _element(head: bytes) -> tuple[int, int, int] | None:
    """Return id, header bytes and content length of an element; None if it is invalid or cut."""
    id_bytes = _width(head[:1])
    length_bytes = _width(head[id_bytes : id_bytes + 1])
    end = id_bytes + length_bytes
    if not 1 <= id_bytes <= 4 or not 1 <= length_bytes <= 8 or end > len(head):
        return None
    value = int.from_bytes(head[id_bytes:end], "big") & ((1 << (7 * length_bytes)) - 1)
    unknown = value == (1 << (7 * length_bytes)) - 1
    return int.from_bytes(head[:id_bytes], "big"), end, _UNKNOWN if unknown else value


def _width(first: bytes) -> int:
    """Return the bytes of a variable-length number, from its leading zero bits; 9 means invalid."""
    return 9 - first[0].bit_length() if first else 9
