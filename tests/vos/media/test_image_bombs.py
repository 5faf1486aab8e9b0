"""What an image announces is compared with what it holds before memory is taken, and only JPEG and PNG decoders are ever started."""

import contextlib
import os
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vos.data import clips
from vos.errors import InputError
from vos.files.limits import variable
from vos.media import images, palette, png

READERS: list[Callable[[str], object]] = [images.read_frame, images.read_mask, images.check_complete]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, pixels: bytes, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return png.SIGNATURE + header + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_of(height: int = 64, width: int = 64, progressive: bool = False) -> bytes:
    settings = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8), settings)[1].tobytes()


def resized(data: bytes, height: int, width: int) -> bytes:
    """A JPEG whose header announces another size."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def many_scans(num_scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = jpeg_of(800, 800, progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * num_scans + data[-2:]


def compressed_text(num_bytes: int) -> bytes:
    return b"key\0\0" + zlib.compress(bytes(num_bytes))


ROWS = zlib.compress(bytes(40 * 61))
BOMBS = {
    "an immense header": png_of(20000, 20000, zlib.compress(bytes(26_000_000))),
    "a large header over few pixels": png_of(6000, 6000, zlib.compress(bytes(1000))),
    "two sides of 2^31": png_of(2**31, 2**31, ROWS),
    "no side": png_of(0, 40, ROWS),
    "an unknown depth": png_of(60, 40, ROWS, depth=3),
    "JPEG, an immense header": resized(jpeg_of(), 65535, 65535),
    "JPEG, a large header over few pixels": resized(jpeg_of(), 6000, 5999),
    "JPEG, too many scans": many_scans(4000),
    "JPEG, lossless": jpeg_of().replace(b"\xff\xc0", b"\xff\xc3"),
    "JPEG, arithmetic": jpeg_of().replace(b"\xff\xc0", b"\xff\xc9"),
}
HARMLESS = {
    "a text": chunk(b"zTXt", compressed_text(200_000_000)),
    "a colour profile": chunk(b"iCCP", compressed_text(200_000_000)),
    "a text of another kind": chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(bytes(200_000_000))),
    "an animation": chunk(b"acTL", struct.pack(">II", 2**31, 0))
    + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 60, 40, 0, 0, 1, 1, 0, 0)),
}


def refuses(read: Callable[[str], object], name: str) -> bool:
    """An index looks at the header and the end only; whoever reads the picture refuses the rest."""
    return read is not images.check_complete or not ("few pixels" in name or "scans" in name)


def quickly(read: Callable[[], object]) -> None:
    """Refused within a second and 100 MB of Python's own memory; OpenCV is not reached."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(InputError) as refusal:
            read()
        assert time.process_time() - started < 1 and tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(("read", "name"), [(read, name) for read in READERS for name in BOMBS if refuses(read, name)])
def test_a_file_that_announces_more_than_it_holds_is_refused_before_memory_is_taken(
    read: Callable[[str], object], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.png"
    path.write_bytes(BOMBS[name])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV was started"))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was started"))
    quickly(lambda: read(str(path)))


@pytest.mark.parametrize("name", HARMLESS)
def test_what_decides_no_pixel_reaches_no_decoder(name: str, tmp_path: Path):
    """Compressed texts and profiles that inflate to 200 MB, and frames of an animation."""
    labels = np.random.default_rng(0).integers(0, 4, (40, 60)).astype(np.uint8)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in labels))
    for depth, data in (
        (8, rows),
        (16, zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in labels))),
    ):
        (tmp_path / "a.png").write_bytes(png_of(60, 40, data, depth, extra=HARMLESS[name]))
        started = time.process_time()
        np.testing.assert_array_equal(images.read_mask(str(tmp_path / "a.png")), labels)
        assert images.read_frame(str(tmp_path / "a.png")).shape == (40, 60, 3)
        assert images.check_complete(str(tmp_path / "a.png")) == (40, 60)
        assert time.process_time() - started < 0.1


def test_frames_are_the_same_bytes_as_openCV_alone_decodes():
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (61, 47), interpolation=cv2.INTER_CUBIC)
    indexed = Image.fromarray(rng.integers(0, 4, (47, 61)).astype(np.uint8), "P")
    indexed.putpalette(rng.bytes(12))
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    files = [cv2.imencode(ending, frame)[1].tobytes() for ending in (".jpg", ".png")]
    files += [cv2.imencode(".png", frame.astype(np.uint16) * 257)[1].tobytes(), jpeg_of(47, 61, progressive=True)]
    files += [cv2.imencode(".png", np.dstack([frame, frame[..., :1]]))[1].tobytes()]
    files += [_saved(indexed, transparency=b"\0\x80\xff\x10"), _saved(indexed.convert("L")), _saved(indexed, bits=2)]
    for data in files:
        np.testing.assert_array_equal(images.decode(data, "x"), cv2.imdecode(np.frombuffer(data, np.uint8), flags))


def _saved(image: Image.Image, **options: object) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "EPS", "MPO", "SGI", "PCX", "DDS", "AVIF"]
)
def test_every_other_kind_of_image_is_refused_whatever_its_name(kind: str, tmp_path: Path):
    path = tmp_path / "00000.jpg"
    try:
        Image.new("RGB", (64, 48), (1, 2, 3)).save(path, kind)
    except (OSError, KeyError) as error:
        pytest.skip(f"Pillow here writes no {kind}: {error}")
    if path.read_bytes().startswith(b"\xff\xd8\xff"):  # MPO is a JPEG with more of them behind
        assert images.read_frame(str(path)).shape == (48, 64, 3)
        return
    for read in (images.read_frame, images.check_complete, images.read_mask):
        with pytest.raises(InputError, match="not a"):
            read(str(path))


def test_a_postscript_file_of_any_name_starts_nothing(tmp_path: Path):
    """Pillow hands PostScript to Ghostscript, which runs it as a program: this one never ends."""
    (tmp_path / "00000.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n{} loop\n")
    for read in (images.read_frame, images.check_complete, images.read_mask):
        with pytest.raises(InputError, match="not a"):
            read(str(tmp_path / "00000.jpg"))


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "absent"])
def test_what_is_no_file_is_named_and_not_waited_for(kind: str, tmp_path: Path):
    path = tmp_path / "00000.png"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    for read in (*READERS, palette.read_indices):
        with pytest.raises(InputError, match=r"00000\.png"):
            read(str(path))


def test_the_limits_are_stated_and_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images.write_mask(str(tmp_path / "a.png"), np.ones((40, 60), np.uint8))
    for name, amount in (("image_pixels", 2400), ("image_bytes", (tmp_path / "a.png").stat().st_size)):
        for read in READERS:
            monkeypatch.setenv(variable(name), str(amount - 1))
            with pytest.raises(InputError, match=f"a.png.*{variable(name)}"):
                read(str(tmp_path / "a.png"))
            monkeypatch.setenv(variable(name), str(amount))
            read(str(tmp_path / "a.png"))
        monkeypatch.delenv(variable(name))


def test_a_clip_of_a_shard_holds_jpeg_and_png_only():
    labels = np.zeros((2, 32, 32), np.uint8)
    frames, masks = clips.encode_clip(clips.Clip(np.zeros((2, 32, 32, 3), np.uint8), labels))
    bad = [BOMBS["an immense header"], BOMBS["JPEG, too many scans"], b"GIF89a", b"", frames[0][:-30], masks[0][:-30]]
    for data in bad:
        for given in (([data, frames[1]], masks), (frames, [masks[0], data])):
            with pytest.raises(InputError, match=r"^shard-7"):
                clips.decode_clip(*given, origin="shard-7")
    other = clips.encode_clip(clips.Clip(np.zeros((2, 16, 32, 3), np.uint8), labels))[0]
    with pytest.raises(InputError, match=r"^shard-7.*size"):
        clips.decode_clip([frames[0], other[0]], masks, origin="shard-7")
    with pytest.raises(InputError, match=r"^shard-7"):
        clips.decode_clip(frames, masks[:1], origin="shard-7")


def test_any_bytes_behind_a_signature_give_an_input_error_or_a_picture():
    rng = np.random.default_rng(3)
    starts = [jpeg_of(), many_scans(3), png_of(60, 40, ROWS), png_of(60, 40, ROWS, extra=HARMLESS["an animation"])]
    for number in range(400):
        data = bytearray(starts[number % len(starts)])
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(3, len(data)))
            if rng.integers(2):
                data[at] = rng.choice([0, 1, 255, 0xC2, 0xDA, int(rng.integers(256))])
            else:
                del data[at : at + int(rng.integers(1, 20))]
        with contextlib.suppress(InputError):
            images.decode(bytes(data), "x")
