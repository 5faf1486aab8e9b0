"""Masks as editors, optimisers and codecs leave them: read as what they show, or questioned in one line."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from jobs.segment import main
from tests.symptoms.pictures import SIZE, blob, holiday, save_png, turned_jpeg
from vos.errors import InputError
from vos.media.images import davis_palette, read_frame, read_mask, write_frame, write_mask
from vos.media.object_masks import read_objects
from vos.media.palette import read_indices
from vos.models import build
from vos.models.checkpoint import save_checkpoint

H, W = SIZE


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("student"))
    save_checkpoint(folder, build("mobilevos-tiny"), {"role": "student"})
    return folder


def segment(video: Path, mask: Path, out: Path, student: str, *argv: str, code: int = 0) -> dict[str, np.ndarray]:
    """Run the job; returns the masks that it wrote, by name."""
    flags = ["--model", student, "--runtime", "eager", "--threads", "1", "--overwrite"]
    assert main([str(video), "--first-mask", str(mask), "--out", str(out), *flags, *argv]) == code
    folder = out.with_name(f"{out.stem}-masks")
    return {path.stem: read_mask(str(path)) for path in sorted(folder.glob("*.png"))} if folder.is_dir() else {}


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as error:
        read_objects(str(path))
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    for word in words:
        assert word in message, message


# M1: soft edges, void, and real objects


def resized(white: np.ndarray, factor: float, how: Image.Resampling) -> np.ndarray:
    return np.array(Image.fromarray(white).resize((round(W * factor), round(H * factor)), how))


def stored_as_jpeg(white: np.ndarray, quality: int) -> np.ndarray:
    sink = io.BytesIO()
    Image.fromarray(white).save(sink, "JPEG", quality=quality)
    return np.array(Image.open(sink))


def with_edge(white: np.ndarray, value: int, px: int) -> np.ndarray:
    wide = cv2.dilate(white, np.ones((2 * px + 1, 2 * px + 1), np.uint8))
    return np.where(white > 0, 255, np.where(wide > 0, value, 0)).astype(np.uint8)


def brushed(white: np.ndarray) -> np.ndarray:
    """Drawn at eight times the size, with straight and round edges."""
    image = Image.new("L", (8 * W, 8 * H))
    draw = ImageDraw.Draw(image)
    draw.rectangle((160, 120, 400, 300), fill=255)
    draw.ellipse((330, 100, 520, 390), fill=255)
    return np.array(image.resize((W, H), Image.Resampling.BOX))


SOFT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bilinear x2": lambda white: resized(white, 2, Image.Resampling.BILINEAR),
    "bicubic x3": lambda white: resized(white, 3, Image.Resampling.BICUBIC),
    "lanczos x0.6": lambda white: resized(white, 0.6, Image.Resampling.LANCZOS),
    "jpeg 50": lambda white: stored_as_jpeg(white, 50),
    "jpeg 90": lambda white: stored_as_jpeg(white, 90),
    "jpeg 26, background 1": lambda white: np.maximum(stored_as_jpeg(white, 26), 1),
    "an edge of 128": lambda white: with_edge(white, 128, 1),
    "an edge of 128, 3 pixels wide": lambda white: with_edge(white, 128, 3),
    "an edge of 5": lambda white: with_edge(white, 5, 1),
    "an antialiased brush": brushed,
    "blurred": lambda white: np.array(Image.fromarray(white).filter(ImageFilter.GaussianBlur(2))),
    "254 at most": lambda white: np.minimum(resized(white, 2, Image.Resampling.BILINEAR), 254),
    "half opacity, soft": lambda white: resized(white // 2, 2, Image.Resampling.BILINEAR),
    "rotated": lambda white: np.array(Image.fromarray(white).rotate(9, Image.Resampling.BILINEAR)),
}


@pytest.mark.parametrize("how", SOFT)
@pytest.mark.parametrize("shape", ["blob", "rectangle", "two blobs"])
def test_one_object_with_soft_edges_is_one_object(tmp_path: Path, how: str, shape: str):
    white = blob(24, 30, 14)
    if shape == "rectangle":
        white[:] = 0
        white[10:33, 13:50] = 255
    elif shape == "two blobs":
        white |= blob(36, 70, 9)
    soft = SOFT[how](white)
    assert len(np.unique(soft)) > 2
    labels, ids, note = read_objects(save_png(tmp_path / "soft.png", soft))
    assert ids == (1,) and "soft edges" in note and "\n" not in note and "--mask-values stored" in note
    assert np.array_equal(labels, (soft > soft.max() // 2).astype(np.uint8)), "half of the object's value is its edge"


def objects(count: int, side_px: int, gap_px: int) -> np.ndarray:
    labels = np.zeros((120, 200), np.uint8)
    per_row = 200 // (side_px + gap_px) - 1
    for number in range(count):
        y, x = (gap_px + (side_px + gap_px) * part for part in divmod(number, per_row))
        labels[y : y + side_px, x : x + side_px] = number + 1
    return labels


@pytest.mark.parametrize("count", [1, 3, 20, 100])
@pytest.mark.parametrize("side_px", [2, 3, 6])
@pytest.mark.parametrize("void", ["rings", "an area", "a band beside them"])
def test_objects_beside_void_are_objects_however_many_and_small(tmp_path: Path, count: int, side_px: int, void: str):
    labels = objects(count, side_px, 5)
    shown = labels.copy()
    if void == "rings":
        shown[(cv2.dilate(labels, np.ones((5, 5), np.uint8)) > 0) & (labels == 0)] = 255
    elif void == "an area":
        shown[70:] = np.where(shown[70:] > 0, shown[70:], 255)
    else:
        shown[5 + side_px : 7 + side_px][labels[5 + side_px : 7 + side_px] == 0] = 255
    found, ids, note = read_objects(save_png(tmp_path / "void.png", shown))
    assert ids == tuple(range(1, count + 1)) and np.array_equal(found, labels)
    assert "255 beside other values is void" in note


def test_a_band_of_void_around_large_objects_is_void(tmp_path: Path):
    labels = np.where(blob(20, 24, 12) > 0, 1, np.where(blob(28, 60, 14) > 0, 15, 0)).astype(np.uint8)
    band = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
    found, ids, _ = read_objects(save_png(tmp_path / "voc.png", np.where(band, 255, labels)))
    assert ids == (1, 15) and np.array_equal(found, np.where(band, 0, labels))


def test_high_ids_and_half_opacity_alone_are_ids(tmp_path: Path):
    assert read_objects(save_png(tmp_path / "a.png", blob(24, 30, 14) // 2)).ids == (127,)
    shown = np.where(blob(20, 24, 12) > 0, 100, np.where(blob(28, 60, 14) > 0, 200, 0)).astype(np.uint8)
    assert read_objects(save_png(tmp_path / "b.png", shown)).ids == (100, 200)


def test_what_is_no_mask_of_one_kind_is_refused_with_how_to_threshold_it(tmp_path: Path):
    several = np.where(blob(20, 24, 12) > 0, 100, np.where(blob(28, 60, 14) > 0, 200, 0)).astype(np.uint8)
    photograph = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 10), np.uint8), (96, 48), interpolation=2)
    for name, values in (
        ("several.png", resized(several, 4, Image.Resampling.BICUBIC)),
        ("photograph.png", photograph),
        ("ramp.png", np.tile(np.arange(96, dtype=np.uint8) * 2, (48, 1))),
    ):
        path = save_png(tmp_path / name, values)
        refused(Path(path), "soft edges", "0 and 255 only (threshold it)")
        assert len(read_objects(path, as_stored=True).ids) > 2


def test_two_objects_painted_in_shades_of_grey_are_not_an_object_and_void(tmp_path: Path):
    shown = np.where(blob(20, 24, 12) > 0, 128, np.where(blob(28, 60, 14) > 0, 255, 0)).astype(np.uint8)
    path = save_png(tmp_path / "painted.png", shown)
    refused(Path(path), "255 beside other values is void", "1 to 254")
    assert read_objects(path, as_stored=True).ids == (128,)
    beside = np.zeros_like(shown)
    beside[10:30, 10:30], beside[10:30, 30:50] = 100, 200
    refused(Path(save_png(tmp_path / "beside.png", resized(beside, 2, Image.Resampling.BILINEAR))), "soft edges")


# M2: opacity


def with_opacity(colour: tuple[int, int, int] | np.ndarray, opacity: np.ndarray, mode: str = "RGBA") -> Image.Image:
    colours = np.zeros((*opacity.shape, 3), np.uint8) + np.asarray(colour, np.uint8)
    image = Image.fromarray(np.dstack([colours, opacity]), "RGBA")
    return image if mode == "RGBA" else image.convert("LA")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (200, 30, 40)])
@pytest.mark.parametrize("soft", [False, True])
def test_a_mask_painted_in_one_colour_on_nothing_is_its_opacity(tmp_path: Path, mode: str, colour: tuple, soft: bool):
    white = blob(24, 30, 14)
    opacity = resized(white, 2, Image.Resampling.BILINEAR) if soft else white
    with_opacity(colour, opacity, mode).save(tmp_path / "a.png")
    labels, ids, _ = read_objects(str(tmp_path / "a.png"), as_stored=False)
    expected = opacity >= 128
    assert len(ids) == 1 and np.array_equal(labels > 0, expected)


def test_transparent_parts_are_background_whatever_colour_they_hide(tmp_path: Path):
    labels = np.where(blob(20, 24, 12) > 0, 1, np.where(blob(28, 60, 14) > 0, 2, 0)).astype(np.uint8)
    opacity = np.full((H, W), 255, np.uint8)
    opacity[:, 60:] = 0
    with_opacity(labels[..., None], opacity).save(tmp_path / "a.png")
    notes: list[str] = []
    assert np.array_equal(read_indices(str(tmp_path / "a.png"), tell=notes.append), np.where(opacity > 0, labels, 0))
    assert notes == [f"{tmp_path}/a.png: its transparent pixels are background"]
    with_opacity((255, 255, 255) * (opacity[..., None] > 0), opacity).save(tmp_path / "b.png")
    assert np.array_equal(read_mask(str(tmp_path / "b.png")), opacity), "black below what is transparent"


def test_one_transparent_colour_is_background(tmp_path: Path):
    white = blob(24, 30, 14)
    Image.fromarray(255 - white).save(tmp_path / "a.png", transparency=255)
    assert np.array_equal(read_objects(str(tmp_path / "a.png")).labels > 0, white > 0), "black on a transparent white"
    Image.fromarray(white).convert("RGB").save(tmp_path / "b.png", transparency=(0, 0, 0))
    assert np.array_equal(read_mask(str(tmp_path / "b.png")), white)


def test_colours_and_opacity_that_disagree_are_refused(tmp_path: Path):
    grey = np.tile(np.arange(W, dtype=np.uint8), (H, 1))
    for number, colours in enumerate((grey[..., None], np.dstack([grey, grey + 9, 200 - grey]))):
        with_opacity(colours, resized(blob(24, 30, 14), 1, Image.Resampling.BOX) // 3 * 2 + 40).save(
            tmp_path / f"{number}.png"
        )
        refused(tmp_path / f"{number}.png", "colours and its opacity both vary", "magick IN.png -alpha extract OUT.png")


def test_a_constant_opacity_changes_nothing_and_a_palettes_index_stays_the_label(tmp_path: Path):
    labels = np.where(blob(20, 24, 12) > 0, 3, 0).astype(np.uint8)
    with_opacity(labels[..., None], np.full((H, W), 128, np.uint8)).save(tmp_path / "a.png")
    image = Image.fromarray(labels, "L")
    image.putpalette(davis_palette().tobytes())
    image.save(tmp_path / "b.png", transparency=bytes([0, 9, 9, 9]))
    for name in ("a.png", "b.png"):
        assert np.array_equal(read_mask(str(tmp_path / name)), labels)


# M3: palettes


def palette_png(path: Path, labels: np.ndarray, palette: bytes) -> str:
    """A PNG of these indices, with exactly this palette."""
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], 8, 3, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in labels.astype(np.uint8)))
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", rows), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return str(path)


def permuted(labels: np.ndarray, order: list[int], fill: int = 0) -> tuple[np.ndarray, bytes]:
    """Indices and palette in which label order[i] is index i; `fill` more entries are black."""
    table = np.zeros(256, np.uint8)
    table[order] = np.arange(len(order))
    return table[labels], davis_palette()[order].tobytes() + bytes(3 * fill)


TWO = np.where(blob(20, 24, 12) > 0, 1, np.where(blob(28, 60, 14) > 0, 2, 0)).astype(np.uint8)


@pytest.mark.parametrize("order", [[1, 2, 0], [2, 0, 1], [0, 2, 1], [2, 1, 0], [7, 1, 2, 3, 0]])
@pytest.mark.parametrize("fill", [0, 100])
def test_daviss_colours_in_another_order_give_back_the_labels(tmp_path: Path, order: list[int], fill: int):
    indices, palette = permuted(TWO, order, fill)
    labels, ids, note = read_objects(palette_png(tmp_path / "a.png", indices, palette))
    assert np.array_equal(labels, TWO) and ids == (1, 2) and "DAVIS's colours in another order" in note


def test_a_mask_that_pillow_quantised_gives_back_its_labels(tmp_path: Path):
    write_mask(str(tmp_path / "a.png"), TWO)
    for colours in (3, 16, 256):
        Image.open(tmp_path / "a.png").convert("RGB").quantize(colours).save(tmp_path / "b.png")
        assert np.array_equal(read_mask(str(tmp_path / "b.png")), TWO), colours


@pytest.mark.parametrize(
    "palette",
    [
        [(0, 0, 0), (255, 0, 0), (0, 255, 0)],
        [(255, 255, 255), (255, 0, 0), (0, 255, 0)],
        [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)],
        [(0, 0, 0)] * 256,
        [(i, i, i) for i in range(256)],
        [(i, (i + 1) % 256, i) for i in range(256)],
    ],
)
def test_other_palettes_are_indices(tmp_path: Path, palette: list[tuple[int, int, int]]):
    path = palette_png(tmp_path / "a.png", TWO, bytes(value for colour in palette for value in colour))
    labels, ids, note = read_objects(path)
    assert np.array_equal(labels, TWO) and ids == (1, 2) and not note


def test_pillows_own_palette_is_indices(tmp_path: Path):
    Image.fromarray(TWO).convert("P").save(tmp_path / "a.png")
    assert np.array_equal(read_mask(str(tmp_path / "a.png")), TWO)


def test_black_that_is_not_the_background_is_questioned_once_and_can_be_overruled(tmp_path: Path):
    palette = bytes([255, 255, 255, 0, 0, 0])
    path = palette_png(tmp_path / "a.png", np.where(TWO > 0, 0, 1), palette)
    refused(Path(path), "index 1 is black and index 0 is not", "grey PNG")
    assert read_objects(path, as_stored=True).ids == (1,)


def test_a_first_mask_without_background_is_questioned_and_possible(
    tmp_path: Path, student: str, capsys: pytest.CaptureFixture[str]
):
    holiday(tmp_path / "frames")
    full = Path(save_png(tmp_path / "full.png", np.where(TWO > 0, 2, 1)))
    segment(tmp_path / "frames", full, tmp_path / "o.mp4", student, code=2)
    said = capsys.readouterr().err
    assert "no pixel is background (0)" in said and "--mask-values stored" in said and not (tmp_path / "o.mp4").exists()
    found = segment(tmp_path / "frames", full, tmp_path / "o.mp4", student, "--mask-values", "stored")
    assert set(np.unique(found["000"])) == {1, 2}


# M4: orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_frame_and_a_mask_are_turned_as_a_viewer_turns_them(tmp_path: Path, orientation: int):
    """The oracle is Pillow's ImageOps.exif_transpose, on a picture whose four corners differ."""
    from PIL import ImageOps

    turned_jpeg(tmp_path / "a.jpg", orientation)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    frame = read_frame(str(tmp_path / "a.jpg"))
    assert frame.shape == expected.shape and np.abs(frame.astype(int) - expected).max() < 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(TWO).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(read_mask(str(tmp_path / "a.png")), np.array(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_folder_of_turned_frames_is_segmented_as_it_is_seen_and_says_so_once(
    tmp_path: Path, student: str, orientation: int, capsys: pytest.CaptureFixture[str]
):
    for number in range(3):
        (tmp_path / "frames").mkdir(exist_ok=True)
        turned_jpeg(tmp_path / f"frames/{number:03d}.JPG", orientation)
    shown = read_frame(str(tmp_path / "frames/000.JPG"))
    mask = np.zeros(shown.shape[:2], np.uint8)
    mask[2:20, 2:20] = 1
    found = segment(tmp_path / "frames", Path(save_png(tmp_path / "mask.png", mask)), tmp_path / "o.mp4", student)
    assert {one.shape for one in found.values()} == {mask.shape}
    said = capsys.readouterr().err
    assert said.count("3 of 3 frames are turned as their EXIF orientation says") == 1
    if orientation != 3:
        stored = Path(save_png(tmp_path / "stored.png", mask.T))
        segment(tmp_path / "frames", stored, tmp_path / "p.mp4", student, code=2)
        assert "EXIF orientation" in capsys.readouterr().err


def test_an_orientation_behind_the_pixels_or_in_the_other_byte_order_counts_and_damage_does_not(tmp_path: Path):
    from vos.media.images import check_complete

    frame = np.zeros((H, W, 3), np.uint8)
    write_frame(str(tmp_path / "a.png"), frame)
    plain = (tmp_path / "a.png").read_bytes()
    for order, value, shape in (
        (b"II*\0", 6, (W, H)),
        (b"MM\0*", 6, (W, H)),
        (b"II*\0", 9, (H, W)),
        (b"XX*\0", 6, (H, W)),
    ):
        sign = ">" if order.startswith(b"MM") else "<"
        body = order + struct.pack(f"{sign}IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        (tmp_path / "b.png").write_bytes(plain[:-12] + chunk + plain[-12:])
        assert read_frame(str(tmp_path / "b.png")).shape[:2] == check_complete(str(tmp_path / "b.png")) == shape
        damaged = chunk[:-1] + bytes([chunk[-1] ^ 1])
        (tmp_path / "b.png").write_bytes(plain[:-12] + damaged + plain[-12:])
        assert read_frame(str(tmp_path / "b.png")).shape[:2] == check_complete(str(tmp_path / "b.png")) == (H, W)


# V8: what else is in a folder of frames


@pytest.mark.parametrize("spelling", ["plain", "dots", "link", "hard link", "added"])
def test_a_mask_in_the_folder_of_the_frames_is_no_frame(
    tmp_path: Path, student: str, spelling: str, capsys: pytest.CaptureFixture[str]
):
    frames = holiday(tmp_path / "frames")
    mask = Path(save_png(frames / "000mask.png", TWO))
    given, more = mask, []
    if spelling == "dots":
        given = tmp_path / "frames" / ".." / "frames" / "000mask.png"
    elif spelling == "link":
        given = tmp_path / "elsewhere.png"
        given.symlink_to(mask)
    elif spelling == "hard link":
        given = tmp_path / "elsewhere.png"
        given.hardlink_to(mask)
    elif spelling == "added":
        more = ["--add", f"2:{save_png(frames / '002.png', np.where(blob(8, 80, 6) > 0, 5, 0))}"]
    found = segment(frames, given, tmp_path / "o.mp4", student, *more)
    assert sorted(found) == ["000", "001", "002", "003"]
    assert "not one of them" in capsys.readouterr().err or spelling in ("link", "hard link")
    assert (5 in found["002"]) == (spelling == "added")


def test_folders_and_pictures_of_other_kinds_are_no_frames_and_named(
    tmp_path: Path, student: str, capsys: pytest.CaptureFixture[str]
):
    frames = holiday(tmp_path / "frames")
    for name in ("old.jpg", "004.png", ".ipynb_checkpoints"):
        (frames / name).mkdir()
    Image.fromarray(TWO).save(frames / "preview.bmp")
    (frames / "Thumbs.db").write_bytes(b"x")
    mask = Path(save_png(tmp_path / "mask.png", TWO))
    assert sorted(segment(frames, mask, tmp_path / "o.mp4", student)) == ["000", "001", "002", "003"]
    assert "not read, neither JPEG nor PNG: preview.bmp" in capsys.readouterr().err
    for name in ("004.bmp", "005.tiff", "006.webp"):
        Image.fromarray(TWO).save(frames / name)
        segment(frames, mask, tmp_path / "p.mp4", student, code=2)
        said = capsys.readouterr().err
        assert name in said and "neither JPEG nor PNG; convert" in said and said.count("\n") == 1
        (frames / name).unlink()
    Image.fromarray(TWO).save(frames / "001.webp")  # the same frame once more: nothing is missing
    assert len(segment(frames, mask, tmp_path / "p.mp4", student)) == 4


def test_a_folder_without_frames_says_what_it_holds(tmp_path: Path, student: str, capsys: pytest.CaptureFixture[str]):
    mask = Path(save_png(tmp_path / "mask.png", TWO))
    (tmp_path / "a").mkdir()
    Image.fromarray(TWO).save(tmp_path / "a" / "0.bmp")
    holiday(tmp_path / "b" / "inside")
    for folder, words in (("a", "0.bmp, which are neither JPEG nor PNG"), ("b", f"{tmp_path}/b/inside")):
        segment(tmp_path / folder, mask, tmp_path / "o.mp4", student, code=2)
        assert words in capsys.readouterr().err
