"""PNG files by their definition: taken apart, put together with right checksums, decoded in NumPy; and hostile ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from tests.fuzz.byte_mutations import EDGES, ByteChange, flip_bits, pick, set_bytes
from tests.fuzz.cases import Files, Mutation, NotTellableError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
Chunk = tuple[bytes, bytes]


def chunks_of(data: bytes) -> list[Chunk]:
    """Every chunk up to IEND. Raises ValueError for anything but whole chunks with right checksums."""
    if not data.startswith(SIGNATURE):
        raise ValueError("no PNG")
    found: list[Chunk] = []
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if len(body) < length or zlib.crc32(kind + body).to_bytes(4, "big") != data[at + 8 + length : at + 12 + length]:
            raise ValueError("cut, or a wrong checksum")
        found.append((kind, body))
        if kind == b"IEND":
            return found
        at += 12 + length
    raise ValueError("no IEND")


def put_together(chunks: Sequence[Chunk]) -> bytes:
    parts = [
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    ]
    return SIGNATURE + b"".join(parts)


def header(width: int, height: int, depth: int = 8, colour: int = 0, interlaced: int = 0) -> Chunk:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)


def sized(data: bytes) -> tuple[int, int]:
    """(height, width) of a whole PNG."""
    chunks = chunks_of(data)
    if chunks[0][0] != b"IHDR":
        raise ValueError("no header")
    width, height = struct.unpack(">II", chunks[0][1][:8])
    return height, width


def decoded(data: bytes) -> tuple[np.ndarray, int, int]:
    """Stored values (H, W, channels) uint8 or uint16, depth, colour type. Raises ValueError for what is not whole."""
    chunks = chunks_of(data)
    kinds = [kind for kind, _ in chunks]
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") != 1 or len(chunks[0][1]) != 13:
        raise ValueError("no header, or two")
    width, height, depth, colour, method, filtering, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if (
        colour not in DEPTHS
        or depth not in DEPTHS[colour]
        or method
        or filtering
        or interlaced > 1
        or not width * height
    ):
        raise ValueError("a header that no PNG has")
    if interlaced:
        raise NotTellableError
    if width * height > 4_000_000:
        raise ValueError("larger than any sample")
    bits = depth * CHANNELS[colour]
    row_bytes, step = -(-width * bits // 8), max(1, bits // 8)
    stream = zlib.decompressobj()
    raw = stream.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"), height * (row_bytes + 1) + 1)
    if len(raw) < height * (row_bytes + 1):
        raise ValueError("too few pixels")
    rows = np.frombuffer(raw[: height * (row_bytes + 1)], np.uint8).reshape(height, row_bytes + 1)
    lines = np.empty((height, row_bytes), np.uint8)
    above = bytes(row_bytes)
    for y in range(height):
        above = _unfiltered(int(rows[y, 0]), rows[y, 1:].tobytes(), above, step)
        lines[y] = np.frombuffer(above, np.uint8)
    if depth == 16:
        values = lines.view(">u2").astype(np.uint16)
    elif depth == 8:
        values = lines
    else:
        bitwise = np.unpackbits(lines, axis=1)[:, : width * depth].reshape(height, width, depth)
        values = (bitwise * (1 << np.arange(depth)[::-1])).sum(2).astype(np.uint8)
    return values.reshape(height, width, CHANNELS[colour]), depth, colour


def palette_of(data: bytes) -> np.ndarray:
    """(n, 3) uint8"""
    body = next((body for kind, body in chunks_of(data) if kind == b"PLTE"), b"")
    if not body or len(body) % 3 or len(body) > 768:
        raise ValueError("no palette")
    return np.frombuffer(body, np.uint8).reshape(-1, 3)


def _unfiltered(kind: int, line: bytes, above: bytes, step: int) -> bytes:
    if kind > 4:
        raise ValueError("no such filter")
    out = bytearray(line)
    if kind == 2:
        return bytes((a + b) & 255 for a, b in zip(line, above, strict=True))
    for x in range(len(out)) if kind else ():
        left, up = (out[x - step] if x >= step else 0), above[x]
        corner = above[x - step] if x >= step else 0
        if kind == 1:
            guess = left
        elif kind == 3:
            guess = (left + up) // 2
        else:
            base = left + up - corner
            far = abs(base - left), abs(base - up), abs(base - corner)
            guess = left if far[0] <= far[1] and far[0] <= far[2] else up if far[1] <= far[2] else corner
        out[x] = (out[x] + guess) & 255
    return bytes(out)


def change_chunks(rng: Generator, data: bytes) -> bytes:
    """Chunks dropped, doubled, exchanged, renamed, changed in their bytes, or put in: every checksum right."""
    try:
        chunks = chunks_of(data)
    except ValueError:
        return data
    at = int(rng.integers(len(chunks)))
    kind, body = chunks[at]
    action = int(rng.integers(9))
    if action == 0:
        del chunks[at]
    elif action == 1:
        chunks.insert(at, chunks[at])
    elif action == 2:
        other = int(rng.integers(len(chunks)))
        chunks[at], chunks[other] = chunks[other], chunks[at]
    elif action == 3:
        chunks[at] = kind, flip_bits(rng, body)
    elif action == 4:
        chunks[at] = kind, body[: int(rng.integers(len(body) + 1))]
    elif action == 5:
        chunks[at] = kind, set_bytes(rng, body)
    elif action == 6:
        chunks[at] = rng.choice([b"tRNS", b"PLTE", b"acTL", b"zTXt", b"iCCP", b"eXIf", b"IDAT", b"ABCD", b"gAMA"]), body
    elif action == 7:
        names = {b"tEXt": b"a\0" + rng.bytes(40), b"eXIf": rng.bytes(30), b"gAMA": bytes(4), b"pHYs": bytes(9)}
        names |= {
            b"zTXt": b"a\0\0" + zlib.compress(bytes(20_000_000)),
            b"iCCP": b"a\0\0" + zlib.compress(bytes(20_000_000)),
        }
        names |= {b"acTL": struct.pack(">II", 2**31, 0), b"tRNS": rng.bytes(int(rng.integers(0, 9))), b"sBIT": b"\x01"}
        name = sorted(names)[int(rng.integers(len(names)))]
        chunks.insert(int(rng.integers(1, len(chunks) + 1)), (name, names[name]))
    else:
        cut = int(rng.integers(len(body) + 1))
        chunks[at : at + 1] = [(kind, body[:cut]), (kind, body[cut:])]
    return put_together(chunks)


def change_header(rng: Generator, data: bytes) -> bytes:
    """A field of the header at an edge, or another kind of picture, the checksum right."""
    try:
        chunks = chunks_of(data)
        fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
    except (ValueError, struct.error):
        return data
    if rng.random() < 0.5:
        at = int(rng.integers(2))
        fields[at] = int(rng.choice([*EDGES, fields[at] - 1, fields[at] + 1, fields[at] * 2, 20_000, 70_000])) % 2**32
    else:
        fields[int(rng.integers(2, 7))] = int(rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 255]))
    chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *fields)
    return put_together(chunks)


def change_pixels(rng: Generator, data: bytes) -> bytes:
    """The inflated pixels changed and deflated again: filters, too few, too many, a wrong Adler-32, two streams."""
    try:
        chunks = chunks_of(data)
        raw = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    except (ValueError, zlib.error):
        return data
    action = int(rng.integers(7))
    if action == 0:
        raw = raw[: int(rng.integers(len(raw) + 1))]
    elif action == 1:
        raw = raw + rng.bytes(int(rng.integers(1, 5000)))
    elif action == 2:
        raw = bytes([int(rng.integers(0, 256))]) + raw[1:]
    elif action == 3:
        raw = raw + bytes(30_000_000)
    else:
        raw = flip_bits(rng, raw)
    stream = zlib.compress(raw, int(rng.integers(0, 10)))
    if action == 4:
        stream = stream[:-4] + rng.bytes(4)
    elif action == 5:
        stream = stream + stream
    elif action == 6:
        stream = stream[: -int(rng.integers(1, 9))]
    rest = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    return put_together([*rest[:-1], (b"IDAT", stream), rest[-1]])


def png_mutations() -> dict[str, Mutation]:
    """For samples that hold a PNG."""
    changes = {"png chunks": change_chunks, "png header": change_header, "png pixels": change_pixels}

    def is_png(content: bytes | str | None) -> bool:
        return isinstance(content, bytes) and content.startswith(SIGNATURE)

    def of(change: ByteChange) -> Mutation:
        def mutate(rng: Generator, files: Files, corpus: list[Files]) -> Files:
            name = pick(rng, files, lambda one: is_png(files[one]))
            data = files.get(name)
            return files | {name: change(rng, data)} if isinstance(data, bytes) else files

        return mutate

    return {name: of(change) for name, change in changes.items()}


def bomb(width: int, height: int, num_bytes: int) -> bytes:
    """A grey picture of so many announced pixels, and so many deflated zeros."""
    return put_together([header(width, height), (b"IDAT", zlib.compress(bytes(num_bytes))), (b"IEND", b"")])
