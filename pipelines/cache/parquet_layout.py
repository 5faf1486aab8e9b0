"""Read what a Parquet file declares, before pyarrow allocates memory: its columns, and the size and number of values of every page.

A page of a few bytes can declare gigabytes, and a run-length code a million repetitions. A footer can name extension types, whose
registered code then runs. The footer and the page headers use Thrift's compact protocol; this module reads any of its structures as
{field: value}. The fields are defined in parquet.thrift of the Parquet format.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from dataclasses import dataclass
from typing import Any

MAGIC = b"PAR1"
FOOTER_BYTES = 4 * 2**20
"""Largest footer: at about 1.2 KiB a row, enough for shards of three thousand draws."""
DATA_PAGE, DICTIONARY_PAGE = 0, 2
PLAIN_CODEC, ZSTD = 0, 6
TENSOR = b"arrow.fixed_shape_tensor"
_DOTTED = re.compile(rb"[A-Za-z_][A-Za-z0-9_]+\.[A-Za-z_][A-Za-z0-9_.]+")
_DEPTH = 12


@dataclass(frozen=True)
class Chunk:
    """One column in one row group."""

    name: str
    values: int
    """that its pages declare, nulls and repetitions included"""
    decoded_bytes: int
    """of its pages, without headers"""


@dataclass(frozen=True)
class Layout:
    """The content that a file declares."""

    elements: list[str]
    """names of its schema, depth first, without the root"""
    groups: list[tuple[int, list[Chunk]]]
    """the rows and the columns of each row group"""


def read_layout(data: bytes) -> Layout:
    """Return the layout of a whole file. Raises ValueError for a file that is not Parquet as this project writes it."""
    try:
        return _layout(data)
    except (IndexError, KeyError, TypeError, AttributeError, struct.error, UnicodeDecodeError, OverflowError):
        raise ValueError("its footer or a page's header is damaged") from None


def _layout(data: bytes) -> Layout:
    if len(data) < 12 or data[:4] != MAGIC or data[-4:] != MAGIC:
        raise ValueError("it does not start and end as a Parquet file")
    size = struct.unpack("<I", data[-8:-4])[0]
    begin = len(data) - 8 - size
    if size > FOOTER_BYTES or begin < 4:
        raise ValueError(f"its footer declares {size:,} bytes")
    footer, _ = _structure(data, begin, len(data) - 8)
    for entry in footer.get(5, []):
        if entry[1] == b"ARROW:schema":
            _check_types(entry.get(2, b""))
    elements = [element[4].decode() for element in footer[2][1:]]
    groups: list[tuple[int, list[Chunk]]] = []
    place = len(MAGIC)
    for group in footer[4]:
        chunks: list[Chunk] = []
        for column in group[1]:
            chunk, place = _chunk(data, place, begin, column[3])
            chunks.append(chunk)
        groups.append((group[3], chunks))
    if sum(rows for rows, _ in groups) != footer[3]:
        raise ValueError(f"its footer declares {footer[3]:,} rows, its row groups another number")
    return Layout(elements, groups)


def _check_types(stored: bytes) -> None:
    """Raise ValueError for an extension type other than the cache's tensors: pyarrow runs its registered code as it opens the file."""
    try:
        schema = base64.b64decode(stored, validate=True)
    except binascii.Error:
        raise ValueError("its Arrow schema is not base64") from None
    other = next((name for name in _DOTTED.findall(schema) if name != TENSOR), None)
    if other is not None:
        raise ValueError(f"its Arrow schema names {other[:60].decode('ascii')}, and only {TENSOR.decode()} is allowed")


def _chunk(data: bytes, begin: int, end: int, about: dict[int, Any]) -> tuple[Chunk, int]:
    """Return one column of a row group, and where it ends. Chunks follow each other, so no byte is read twice."""
    name = about[3][0].decode()
    if about[4] not in (PLAIN_CODEC, ZSTD):
        raise ValueError(f"column {name} is compressed with a codec other than zstd")
    start = min(place for place in (about.get(9), about.get(11)) if place is not None)
    values = decoded = 0
    place, stop = start, start + about[7]
    if not begin <= start <= stop <= end:
        raise ValueError(f"column {name} lies outside the file, or over another one")
    while place < stop:
        header, place = _structure(data, place, stop)
        kind, size, stored = header[1], header[2], header[3]
        if kind not in (DATA_PAGE, DICTIONARY_PAGE) or size < 0 or not 0 <= stored <= stop - place:
            raise ValueError(f"column {name} has a page of another kind or size")
        count = header[5][1] if kind == DATA_PAGE else header[7][1]
        if count < 0 or (about[4] == PLAIN_CODEC and size != stored):
            raise ValueError(f"column {name} has a page of another size")
        values += count if kind == DATA_PAGE else 0
        decoded += size
        place += stored
    if values != about[5]:
        raise ValueError(f"column {name} declares {about[5]:,} values in the footer and {values:,} in its pages")
    return Chunk(name, values, decoded), stop


def _structure(data: bytes, place: int, end: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Return a structure as {field id: value}, and where it ends."""
    if depth > _DEPTH:
        raise ValueError("its footer is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        if place >= end:
            raise IndexError
        head = data[place]
        place += 1
        if head == 0:
            return fields, place
        if head >> 4:
            number += head >> 4
        else:
            number, place = _integer(data, place, end)
        fields[number], place = _value(data, place, end, head & 15, depth)


def _value(data: bytes, place: int, end: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, place
    if kind == 3:
        return data[place], place + 1
    if kind in (4, 5, 6):
        return _integer(data, place, end)
    if kind == 7:
        return struct.unpack_from("<d", data, place)[0], place + 8
    if kind == 8:
        size, place = _varint(data, place, end)
        if size > end - place:
            raise IndexError
        return data[place : place + size], place + size
    if kind in (9, 10):
        head = data[place]
        size, place = (head >> 4, place + 1) if head >> 4 < 15 else _varint(data, place + 1, end)
        if size > end - place:  # every item takes at least one byte
            raise IndexError
        items = []
        for _ in range(size):
            if head & 15 in (1, 2):
                item, place = data[place] == 1, place + 1
            else:
                item, place = _value(data, place, end, head & 15, depth + 1)
            items.append(item)
        return items, place
    if kind == 12:
        return _structure(data, place, end, depth + 1)
    raise KeyError(kind)


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= end or shift > 63:
            raise IndexError
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _integer(data: bytes, place: int, end: int) -> tuple[int, int]:
    value, place = _varint(data, place, end)
    return (value >> 1) ^ -(value & 1), place
