"""A mask reads as its indices whatever kind of PNG holds it, and a broken file is named."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vos.errors import InputError
from vos.media.palette import read_indices

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def labels_of(H: int = 37, W: int = 53, top: int = 4) -> np.ndarray:
    return np.random.default_rng(H * W).integers(0, top, (H, W)).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def interlaced_png(labels: np.ndarray) -> bytes:
    """An 8-bit palette PNG in Adam7 order, which Pillow reads and cannot write."""
    H, W = labels.shape
    raw = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in ADAM7 for row in labels[y::dy, x::dx] if row.size)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 3, 0, 0, 1))
    return SIGNATURE + header + chunk(b"PLTE", bytes(768)) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def palette_image(labels: np.ndarray, colours: int = 256) -> Image.Image:
    image = Image.fromarray(labels, "L")
    image.putpalette(np.random.default_rng(1).bytes(3 * colours))
    return image


def shallow_grey_png(labels: np.ndarray, depth: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits, of which Pillow writes only the first."""
    H, W = labels.shape
    bits = np.unpackbits(labels[..., None], axis=2)[..., 8 - depth :].reshape(H, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, depth, 0, 0, 0, 0))
    return SIGNATURE + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def several_data_chunks(data: bytes) -> bytes:
    at = data.index(b"IDAT") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    body = data[at + 8 : at + 8 + size]
    parts = b"".join(chunk(b"IDAT", body[i : i + 7]) for i in range(0, size, 7))
    return data[:at] + parts + data[at + 12 + size :]


LABELS = labels_of()
KINDS = {
    "palette": png(palette_image(LABELS)),
    "palette of 4 bits": png(palette_image(LABELS, 16), bits=4),
    "palette of 2 bits": png(palette_image(LABELS, 4), bits=2),
    "grey": png(Image.fromarray(LABELS, "L")),
    "grey of 16 bits": png(Image.fromarray(LABELS.astype(np.uint16))),
    "colour": png(Image.merge("RGB", [Image.fromarray(LABELS, "L")] * 3)),
    "colour with opacity": png(
        Image.merge("RGBA", [Image.fromarray(LABELS, "L")] * 3 + [Image.new("L", (53, 37), 255)])
    ),
    "grey with opacity": png(Image.merge("LA", [Image.fromarray(LABELS, "L"), Image.new("L", (53, 37), 255)])),
    "interlaced": interlaced_png(LABELS),
    "in many chunks": several_data_chunks(png(palette_image(LABELS))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_png_reads_as_its_indices(tmp_path: Path, kind):
    path = tmp_path / "mask.png"
    path.write_bytes(KINDS[kind])
    found = read_indices(str(path))
    assert found.dtype == np.uint8 and found.flags.c_contiguous and found.flags.writeable
    np.testing.assert_array_equal(found, LABELS)


def test_a_mask_of_one_bit_reads_as_0_and_1(tmp_path: Path):
    labels = labels_of(top=2)
    Image.fromarray(labels.astype(bool)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_indices(str(tmp_path / "mask.png")), labels)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_grey_mask_of_few_bits_reads_as_the_numbers_that_are_stored(tmp_path: Path, depth: int):
    labels = labels_of(top=2**depth)
    (tmp_path / "mask.png").write_bytes(shallow_grey_png(labels, depth))
    np.testing.assert_array_equal(read_indices(str(tmp_path / "mask.png")), labels)


@pytest.mark.parametrize(("H", "W"), [(1, 1), (1, 4000), (700, 1), (481, 857)])
def test_every_size_reads_alike(tmp_path: Path, H, W):
    for labels in (labels_of(H, W), np.full((H, W), 255, np.uint8)):
        palette_image(labels).save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_indices(str(tmp_path / "mask.png")), labels)


def test_memory_is_used_again_only_where_it_fits(tmp_path: Path):
    path = tmp_path / "mask.png"
    path.write_bytes(KINDS["palette"])
    first = np.zeros_like(LABELS)
    assert read_indices(str(path), first) is first
    np.testing.assert_array_equal(first, LABELS)
    np.testing.assert_array_equal(read_indices(str(path), np.zeros((3, 4), np.uint8)), LABELS)


def broken(at: int) -> bytes:
    data = bytearray(KINDS["palette"])
    data[at] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG"),
        (b"GIF89a", "not a PNG"),
        (SIGNATURE, "truncated"),
        (SIGNATURE + chunk(b"IEND", b""), "truncated"),
        (KINDS["palette"][:-1], "truncated"),
        (KINDS["palette"][:-12], "truncated"),
        (KINDS["palette"][:400], "truncated"),
        (KINDS["interlaced"][:-30], "truncated"),
        (broken(18), "damaged"),
        (broken(len(KINDS["palette"]) - 40), "damaged"),
        (png(Image.fromarray(np.dstack([LABELS, LABELS, LABELS + 1]))), "colour picture"),
        (png(Image.fromarray(LABELS.astype(np.uint16) * 300)), "0 to 255"),
        (cv2.imencode(".png", np.dstack([LABELS.astype(np.uint16)] * 3))[1].tobytes(), "colour picture of 16 bits"),
    ],
)
def test_a_file_that_is_no_mask_is_named(tmp_path: Path, data, message):
    path = tmp_path / "mask.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read_indices(str(path))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.3, 0.9, 1.5])
def test_pixels_that_are_too_few_are_never_filled_up(tmp_path: Path, share):
    """The checksums are right, the pixels are not: a writer that stopped early, or wrote another size."""
    H, W = 400, 300
    raw = bytes(int(share * H * (W + 1)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 0, 0, 0, 0))
    (tmp_path / "mask.png").write_bytes(SIGNATURE + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))
    if share < 1:
        with pytest.raises(InputError, match="too few pixels"):
            read_indices(str(tmp_path / "mask.png"))
    else:
        assert not read_indices(str(tmp_path / "mask.png")).any()


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.png"):
        read_indices(str(tmp_path / "absent.png"))
    with pytest.raises(InputError, match="a folder"):
        read_indices(str(tmp_path))


def test_pixels_that_were_changed_under_a_right_chunk_checksum_are_refused(tmp_path: Path):
    labels = labels_of()
    raw = bytearray(zlib.compress(b"".join(b"\0" + row.tobytes() for row in labels), 0))
    raw[100] ^= 1  # stored, not deflated: another label, noticed by zlib's own checksum alone
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(SIGNATURE + header + chunk(b"IDAT", bytes(raw)) + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"a\.png: this PNG file is damaged \(.*incorrect data check"):
        read_indices(str(tmp_path / "a.png"))
