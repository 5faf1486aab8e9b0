"""Frames, masks and the index's look at them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tests.fuzz import png_files
from tests.fuzz.byte_mutations import STRANGERS, any_bytes
from tests.fuzz.cases import Files, NotTellableError, Reader
from vos.data.synthetic import synthetic_index
from vos.media.images import check_complete, read_frame, read_mask

SIZE = (36, 52)


def only(folder: Path) -> str:
    """The one file of an input."""
    names = os.listdir(folder)
    return str(folder / names[0]) if names else str(folder / "absent.png")


def frame_and_mask() -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) and (H, W) uint8"""
    video = synthetic_index(1, 4, SIZE)[0]
    mask = video.mask(0)
    assert mask is not None
    return video.frame(0), mask


def jpeg(frame: np.ndarray, **settings: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "JPEG", quality=90, **settings)
    return sink.getvalue()


def png(values: np.ndarray, mode: str | None = None, palette: bytes = b"", **settings: Any) -> bytes:
    sink, image = io.BytesIO(), Image.fromarray(values)
    image = image.convert(mode) if mode else image
    if palette:
        image = Image.fromarray(values, "L")
        image.putpalette(palette)
    image.save(sink, "PNG", **settings)
    return sink.getvalue()


def frame_samples(folder: Path) -> dict[str, Files]:
    frame, _ = frame_and_mask()
    filtered = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()
    return {
        "jpeg": {"00000.jpg": jpeg(frame)},
        "progressive": {"00000.jpg": jpeg(frame, progressive=True, subsampling=0)},
        "restart": {"00000.jpeg": jpeg(frame, restart_marker_rows=1)},
        "png": {"00000.png": png(frame)},
        "png of OpenCV": {"00000.png": filtered},
        "png with palette": {"00000.png": png(frame[..., 0] // 64, palette=bytes(range(192)) * 4)},
    }


def mask_samples(folder: Path) -> dict[str, Files]:
    _, mask = frame_and_mask()
    palette = bytes(range(256)) * 3
    return {
        "palette": {"00000.png": png(mask, palette=palette)},
        "one bit": {"00000.png": png(np.where(mask > 0, 255, 0).astype(np.uint8), "1")},
        "four bits": {"00000.png": png(mask, palette=palette[:48], bits=4)},
        "grey": {"00000.png": png(mask)},
        "colour": {"00000.png": png(np.repeat(mask[..., None], 3, 2))},
        "filtered": {
            "00000.png": cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS])[1].tobytes()
        },
    }


def frame_by_others(folder: Path) -> np.ndarray:
    """Through this package's PNG decoder, or Pillow with every check on."""
    data = Path(only(folder)).read_bytes()
    if data.startswith(png_files.SIGNATURE):
        values, depth, colour = png_files.decoded(data)
        if colour == 3:
            palette = np.zeros((256, 3), np.uint8)
            own = png_files.palette_of(data)
            if values.max() >= len(own):
                raise NotTellableError  # decoders paint an index without a colour black, or refuse it
            palette[: len(own)] = own
            return palette[values[..., 0]]
        if depth == 16:
            values = (values >> 8).astype(np.uint8)
        elif depth < 8:
            values = values * (255 // ((1 << depth) - 1))
        if colour in (0, 4):
            return np.ascontiguousarray(np.repeat(values[..., :1], 3, 2).astype(np.uint8))
        return np.ascontiguousarray(values[..., :3])
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        size = image.height, image.width
    if size not in (SIZE, (48, 64)):  # of the samples, and of the JPEG that stands in for other kinds of files
        raise NotTellableError  # a header has no checksum, and decoders fill what is missing
    raise NotTellableError


def mask_by_others(folder: Path) -> np.ndarray:
    data = Path(only(folder)).read_bytes()
    values, depth, colour = png_files.decoded(data)
    has_colour_key = colour in (0, 2) and any(kind == b"tRNS" for kind, _ in png_files.chunks_of(data))
    if has_colour_key or (colour in (4, 6) and np.ptp(values[..., -1])):
        raise NotTellableError  # opacity that varies is a mask of its own, or makes the file unclear
    if depth == 16 and colour != 0:
        raise ValueError("a colour picture of 16 bits is no mask")
    colours = values[..., : 3 if values.shape[2] >= 3 else 1]
    if (colours != colours[..., :1]).any() or colours.max() > 255:
        raise ValueError("no mask")
    return np.ascontiguousarray(colours[..., 0].astype(np.uint8))


def size_by_others(folder: Path) -> tuple[int, int]:
    """The index looks at the header and the end alone, by contract: pixels are checked when they are read."""
    data = Path(only(folder)).read_bytes()
    if data.startswith(png_files.SIGNATURE):
        if b"IEND\xaeB`\x82" not in data:
            raise ValueError("no end")
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        return height, width
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return image.height, image.width


def _hostile(name: str) -> dict[str, tuple[str, Files]]:
    """Under a picture's name; the sample that it stands for comes first."""
    bombs = {
        "60000 squared, no pixels": png_files.bomb(60_000, 60_000, 10),
        "8000 squared, few pixels": png_files.bomb(8000, 8000, 1000),
        "small, with 500 MB behind": png_files.bomb(52, 36, 500_000_000),
        "no width": png_files.bomb(0, 36, 100),
        "widest": png_files.bomb(2**31 - 1, 1, 100),
        "beyond int32": png_files.bomb(2**32 - 1, 2**32 - 1, 100),
        "no chunk": png_files.SIGNATURE,
        "only the end": png_files.put_together([(b"IEND", b"")]),
        "million empty chunks": png_files.put_together(
            [png_files.header(52, 36), *[(b"IDAT", b"")] * 300_000, (b"IEND", b"")]
        ),
        "jpeg of 65535 squared": b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xd9",
        "jpeg, start alone": b"\xff\xd8\xff",
        "jpeg, fill bytes": b"\xff\xd8" + b"\xff" * 2_000_000 + b"\xd9",
        "jpeg of 20,000 scans": _many_scans(20_000),
    }
    bombs |= {f"a {kind}": make() for kind, make in STRANGERS.items()}
    return {why: (name, {"00000.png": data}) for why, data in bombs.items()}


def _many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = jpeg(np.zeros((2048, 2048, 3), np.uint8), progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * count + data[-2:] if len(data[at:]) < 2000 else data


MUTATIONS = {**any_bytes(), **png_files.png_mutations()}
READERS = [
    Reader(
        "frame",
        frame_samples,
        lambda folder: read_frame(only(folder)),
        frame_by_others,
        MUTATIONS,
        3,
        lambda _: _hostile("png"),
    ),
    Reader(
        "mask",
        mask_samples,
        lambda folder: read_mask(only(folder)),
        mask_by_others,
        MUTATIONS,
        3,
        lambda _: _hostile("grey"),
    ),
    Reader(
        "image check",
        frame_samples,
        lambda folder: check_complete(only(folder)),
        size_by_others,
        MUTATIONS,
        2,
        lambda _: _hostile("png"),
    ),
]
