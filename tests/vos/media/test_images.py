import contextlib

import cv2
import numpy as np
import pytest
from PIL import Image

from vos.errors import InputError
from vos.media import images


def noise(height: int = 40, width: int = 56) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def labels_of(height: int = 40, width: int = 56) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    labels[5:20, 5:30], labels[15:35, 25:50] = 1, 7
    return labels


def test_a_written_mask_is_read_back_exactly_and_shows_the_davis_colours(tmp_path):
    path = str(tmp_path / "new" / "00000.png")
    images.write_mask(path, labels_of().astype(np.int64))
    np.testing.assert_array_equal(images.read_mask(path), labels_of())
    colours = np.array(Image.open(path).convert("RGB"))
    assert tuple(colours[6, 6]) == (128, 0, 0) and tuple(colours[30, 45]) == (128, 128, 128)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["00000.png"]


def test_a_frame_written_as_png_is_read_back_exactly_and_as_jpeg_closely(tmp_path):
    images.write_frame(str(tmp_path / "a.png"), noise())
    np.testing.assert_array_equal(images.read_frame(str(tmp_path / "a.png")), noise())
    images.write_frame(str(tmp_path / "a.jpg"), noise())
    assert np.abs(images.read_frame(str(tmp_path / "a.jpg")).astype(int) - noise()).mean() < 4


def test_a_frame_and_its_header_are_turned_as_the_exif_orientation_says(tmp_path):
    path = str(tmp_path / "phone.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show it
    Image.fromarray(noise()).save(path, exif=exif)
    assert images.read_frame(path).shape == (56, 40, 3)
    assert images.check_complete(path) == (56, 40)


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_a_file_cut_anywhere_is_refused_by_name_before_and_while_reading(tmp_path, ending):
    whole = tmp_path / f"whole{ending}"
    images.write_frame(str(whole), noise())
    data = whole.read_bytes()
    for keep in (0, 1, 30, len(data) // 2, len(data) - 3, len(data) - 1):
        cut = tmp_path / f"cut{keep}{ending}"
        cut.write_bytes(data[:keep])
        for read in (images.read_frame, images.check_complete):
            with pytest.raises(InputError, match=f"cut{keep}") as error:
                read(str(cut))
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_bytes_that_a_camera_appends_do_not_make_a_file_bad(tmp_path, ending):
    path = tmp_path / f"motion{ending}"
    images.write_frame(str(path), noise())
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert images.check_complete(str(path)) == (40, 56)
    assert images.read_frame(str(path)).shape == (40, 56, 3)


def test_flipped_bytes_give_a_picture_or_an_input_error_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    images.write_frame(str(tmp_path / "a.jpg"), noise())
    images.write_mask(str(tmp_path / "a.png"), labels_of())
    for name, read in (("a.jpg", images.read_frame), ("a.png", images.read_mask), ("a.png", images.read_frame)):
        whole = (tmp_path / name).read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), 3):
                damaged[place] = rng.integers(256)
            path = tmp_path / f"damaged{name}"
            path.write_bytes(damaged)
            for attempt in (read, images.check_complete):
                with contextlib.suppress(InputError):
                    attempt(str(path))


def test_what_is_no_image_or_absent_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    for read in (images.read_frame, images.check_complete):
        for name in ("text.jpg", "absent.jpg"):
            with pytest.raises(InputError, match=name):
                read(str(tmp_path / name))


def test_a_coloured_picture_is_no_mask(tmp_path):
    images.write_frame(str(tmp_path / "rgb.png"), noise())
    with pytest.raises(InputError, match=r"rgb\.png.*palette"):
        images.read_mask(str(tmp_path / "rgb.png"))


def test_an_unwritable_place_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/00000\.png.*cannot be written"):
        images.write_mask(str(tmp_path / "file" / "00000.png"), labels_of())
    (tmp_path / "00000.png").mkdir()
    with pytest.raises(InputError):
        images.write_mask(str(tmp_path / "00000.png"), labels_of())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["00000.png", "file"]


def test_an_overlay_leaves_the_background_alone_and_outlines_each_object():
    shown = images.overlay(noise(), labels_of())
    background = labels_of() == 0
    np.testing.assert_array_equal(shown[background], noise()[background])
    assert tuple(shown[5, 10]) == (255, 0, 0), "the outermost row of object 1 is its line"
    assert (shown[10, 10] != noise()[10, 10]).any()


def test_the_identity_grid_leaves_an_image_as_it_is():
    for nearest in (True, False):
        grid = images.affine_grid((1, 0, 0, 0, 1, 0), (40, 56), nearest=nearest)
        np.testing.assert_array_equal(images.sample(noise(), grid), noise())


def test_sampling_equals_bilinear_interpolation_in_whole_numbers():
    frame, affine = noise(), (0.83, -0.31, 7.3, 0.27, 0.9, 2.6)
    grid = images.affine_grid(affine, (32, 32), nearest=False)
    assert grid.fraction is not None
    x, y = (grid.whole[..., axis].astype(int) for axis in (0, 1))
    u, v = ((grid.fraction >> shift).astype(int)[..., None] & 31 for shift in (0, 5))

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        rows, columns = (
            np.where(i >= side, 2 * side - 2 - i, np.abs(i))
            for i, side in zip((row, column), frame.shape, strict=False)
        )
        return frame[rows, columns].astype(int)

    expected = (32 - v) * ((32 - u) * at(y, x) + u * at(y, x + 1)) + v * (
        (32 - u) * at(y + 1, x) + u * at(y + 1, x + 1)
    )
    np.testing.assert_array_equal(images.sample(frame, grid), (expected + 512) >> 10)
