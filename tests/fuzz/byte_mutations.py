"""Changes that know nothing of the format: bits, bytes, ends, blocks, lengths, files of other kinds."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image

from tests.fuzz.cases import SPECIALS, Files, Mutation

ByteChange = Callable[[Generator, bytes], bytes]
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip_bits(rng: Generator, data: bytes) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(0, max(1, len(data)), int(rng.integers(1, 9))):
        if changed:
            changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def set_bytes(rng: Generator, data: bytes) -> bytes:
    at, length = _place(rng, data, 16)
    return data[:at] + rng.bytes(length) + data[at + length :]


def cut_end(rng: Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(0, max(1, len(data))))]


def cut_few(rng: Generator, data: bytes) -> bytes:
    return data[: -int(rng.integers(1, 17))]


def cut_start(rng: Generator, data: bytes) -> bytes:
    return data[int(rng.integers(1, max(2, len(data)))) :]


def insert(rng: Generator, data: bytes) -> bytes:
    at, length = _place(rng, data, 64)
    return data[:at] + rng.bytes(length) + data[at:]


def delete(rng: Generator, data: bytes) -> bytes:
    at, length = _place(rng, data, 64)
    return data[:at] + data[at + length :]


def double_block(rng: Generator, data: bytes) -> bytes:
    at, length = _place(rng, data, 512)
    return data[: at + length] + data[at:]


def zero_block(rng: Generator, data: bytes) -> bytes:
    at, length = _place(rng, data, 512)
    return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]


def edge_number(rng: Generator, data: bytes) -> bytes:
    """Write a number that is at the edge of its type over 1, 2, 4 or 8 bytes, in either order."""
    width = int(rng.choice([1, 2, 4, 8]))
    at = int(rng.integers(0, max(1, len(data) - width)))
    number = int(rng.choice(EDGES)) % (1 << 8 * width)
    return data[:at] + number.to_bytes(width, "big" if rng.random() < 0.5 else "little") + data[at + width :]


def append(rng: Generator, data: bytes) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 200)))


def twice(rng: Generator, data: bytes) -> bytes:
    return data + data


def empty(rng: Generator, data: bytes) -> bytes:
    return b""


CUTS: dict[str, ByteChange] = {"cut end": cut_end, "cut few": cut_few, "empty": empty}
CHANGES: dict[str, ByteChange] = {
    **CUTS,
    "flip bits": flip_bits,
    "set bytes": set_bytes,
    "cut start": cut_start,
    "insert": insert,
    "delete": delete,
    "double block": double_block,
    "zero block": zero_block,
    "edge number": edge_number,
    "append": append,
    "twice": twice,
}


def in_one_file(change: ByteChange, chosen: Callable[[str], bool] = lambda name: True) -> Mutation:
    """A change of bytes as the mutation of one of the files of a sample."""

    def mutate(rng: Generator, files: Files, corpus: list[Files]) -> Files:
        name = pick(rng, files, chosen)
        data = files.get(name)
        return files | {name: change(rng, data)} if isinstance(data, bytes) else files

    return mutate


def pick(rng: Generator, files: Files, chosen: Callable[[str], bool] = lambda name: True) -> str:
    """One of the names; "" where there is none."""
    names = sorted(name for name in files if chosen(name))
    return names[int(rng.integers(len(names)))] if names else ""


def splice(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """The start of a file with the end of another one."""
    name = pick(rng, files)
    other = corpus[int(rng.integers(len(corpus)))]
    one, two = files[name], other[pick(rng, other)]
    if not (isinstance(one, bytes) and isinstance(two, bytes)):
        return files
    return files | {name: one[: int(rng.integers(len(one) + 1))] + two[int(rng.integers(len(two) + 1)) :]}


def exchange(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """Another sample's file, or another file of this one, under its name."""
    other = corpus[int(rng.integers(len(corpus)))]
    return files | {pick(rng, files): other[pick(rng, other)]}


def special(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """No file, or something that is none, in a file's place."""
    return files | {pick(rng, files): rng.choice([*SPECIALS, ""]).item() or None}


def stranger(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """A file of another kind under the name."""
    names = sorted(STRANGERS)
    return files | {pick(rng, files): STRANGERS[names[int(rng.integers(len(names)))]]()}


def any_bytes(chosen: Callable[[str], bool] = lambda name: True) -> dict[str, Mutation]:
    """Everything of this file as mutations."""
    changes = {name: in_one_file(change, chosen) for name, change in CHANGES.items()}
    return {**changes, "splice": splice, "exchange": exchange, "special file": special, "other kind": stranger}


def _place(rng: Generator, data: bytes, most: int) -> tuple[int, int]:
    return int(rng.integers(0, len(data) + 1)), int(rng.integers(1, most + 1))


def _picture(kind: str) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.zeros((48, 64), np.uint8), "L").save(sink, kind)
    return sink.getvalue()


def _archive() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    return sink.getvalue()


STRANGERS: dict[str, Callable[[], bytes]] = {
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n",
    "pdf": lambda: b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
    "gif": lambda: _picture("GIF"),
    "tiff": lambda: _picture("TIFF"),
    "bmp": lambda: _picture("BMP"),
    "webp": lambda: _picture("WEBP"),
    "png": lambda: _picture("PNG"),
    "jpeg": lambda: _picture("JPEG"),
    "pgm": lambda: _picture("PPM"),
    "zip": _archive,
    "gzip": lambda: bytes.fromhex("1f8b0800000000000003") + bytes(100),
    "elf": lambda: b"\x7fELF\x02\x01\x01" + bytes(200),
    "svg": lambda: (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><image href="file:///etc/passwd"/></svg>'
    ),
    "pickle": lambda: b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "text": lambda: "zażółć gęślą\n".encode(),
    "utf-16": lambda: "{}".encode("utf-16"),
    "nulls": lambda: bytes(4096),
}
