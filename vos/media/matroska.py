"""Check whether a Matroska or WebM file is complete. Elements as in RFC 8794 and RFC 9559."""

from __future__ import annotations

from typing import BinaryIO

from vos.media.video_ends import MOST_PARTS, WHOLE, End

_SEGMENT = 0x18538067
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
            return WHOLE
    return End(unverified="it has too many parts to check")


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
