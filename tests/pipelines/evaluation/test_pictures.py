"""Pictures: which frames are shown, where, and with whose masks."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.pictures import GAP_PX, LABEL_PX, animation, close_ups, strip
from vos.errors import InputError
from vos.media.images import write_mask

WIDTH = 60
HEIGHT = 40


@dataclass(frozen=True)
class FlatVideo:
    """Frame i is flat grey 10 * i; object 1 is the left half of every second frame."""

    name: str = "flat"
    num_frames: int = 11
    size: tuple[int, int] = (HEIGHT, WIDTH)
    step: int = 10

    @property
    def annotated(self) -> tuple[int, ...]:
        return tuple(range(0, self.num_frames, 2))

    @property
    def first_seen(self) -> dict[int, int]:
        return {1: 0}

    def frame_name(self, index: int) -> str:
        return f"{index:05d}"

    def frame(self, index: int) -> np.ndarray:
        return np.full((*self.size, 3), self.step * index, np.uint8)

    def mask(self, index: int) -> np.ndarray | None:
        if index % 2:
            return None
        labels = np.zeros(self.size, np.uint8)
        labels[:, : WIDTH // 2] = 1
        return labels

    def signature(self) -> str:
        return self.name

    def files(self) -> tuple[str, ...]:
        return ()


VIDEO = FlatVideo()


@pytest.fixture
def predictions(tmp_path: Path) -> str:
    """Masks of the first 6 frames only, as --max-frames leaves them: the right half."""
    for index in range(6):
        labels = np.zeros(VIDEO.size, np.uint8)
        labels[:, WIDTH // 2 :] = 1
        write_mask(str(tmp_path / VIDEO.name / f"{VIDEO.frame_name(index)}.png"), labels)
    return str(tmp_path)


def cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """One cell of a strip of cells of the video's own size, without its title bar."""
    top = row * (LABEL_PX + HEIGHT + GAP_PX) + LABEL_PX
    left = column * (WIDTH + GAP_PX)
    return picture[top : top + HEIGHT, left : left + WIDTH]


def shades(picture: np.ndarray, columns: int) -> list[int]:
    """The grey of each cell in its right half, where the ground truth has no object."""
    return [int(cell(picture, 0, i)[5, WIDTH - 8, 0]) for i in range(columns)]


def test_a_strip_spreads_over_the_frames_from_the_first_to_the_last_that_is_named():
    assert shades(strip(VIDEO, {"truth": ""}, span=range(11), columns=6, width_px=WIDTH), 6) == [0, 20, 40, 60, 80, 100]
    assert shades(strip(VIDEO, {"truth": ""}, span=range(5), columns=3, width_px=WIDTH), 3) == [0, 20, 40]


def test_a_strip_of_a_short_video_repeats_frames_rather_than_fail():
    assert shades(strip(VIDEO, {"truth": ""}, span=range(2), columns=4, width_px=WIDTH), 4) == [0, 0, 10, 10]


def test_every_row_shows_the_same_frames_with_its_own_masks(predictions: str):
    picture = strip(VIDEO, {"truth": "", "student": predictions}, span=range(5), columns=3, width_px=WIDTH)
    assert picture.shape == (2 * (LABEL_PX + HEIGHT) + GAP_PX, 3 * WIDTH + 2 * GAP_PX, 3)
    frame = VIDEO.frame(4)
    for row, coloured in ((0, np.s_[10:20, 8:20]), (1, np.s_[10:20, 40:52])):
        shown = cell(picture, row, 2)
        differs = (shown != frame).any(-1)
        assert differs[coloured].all()
        assert not differs[10:20, 40:52].all() if row == 0 else not differs[10:20, 8:20].all()


def test_the_ground_truth_and_a_folder_that_repeats_it_look_the_same(tmp_path: Path):
    for index in VIDEO.annotated:
        labels = VIDEO.mask(index)
        assert labels is not None
        write_mask(str(tmp_path / VIDEO.name / f"{VIDEO.frame_name(index)}.png"), labels)
    one, other = (
        strip(VIDEO, {"same": folder}, range(11), columns=6, width_px=WIDTH) for folder in ("", str(tmp_path))
    )
    np.testing.assert_array_equal(one, other)


def test_a_frame_without_ground_truth_is_shown_without_masks():
    shown = cell(strip(VIDEO, {"truth": ""}, span=range(2), columns=2, width_px=WIDTH), 0, 1)
    np.testing.assert_array_equal(shown[:15], VIDEO.frame(1)[:15])  # below is the note with the frame's number


def test_a_predicted_mask_that_is_missing_is_named(predictions: str):
    with pytest.raises(InputError, match="00010.png"):
        strip(VIDEO, {"student": predictions}, span=range(11), columns=2, width_px=WIDTH)


def test_close_ups_show_the_same_part_of_every_frame_with_all_objects_of_each_in_it():
    frames = {index: VIDEO.frame(index) for index in (2, 7)}
    masks = {index: np.zeros(VIDEO.size, np.uint8) for index in frames}
    masks[2][10:12, 10:12] = 1
    masks[7][28:30, 38:40] = 2  # with the other: 30x20 pixels, and a margin of 2
    picture = close_ups(frames, masks, width_px=2 * 34 + GAP_PX)
    assert picture.shape == (24, 2 * 34 + GAP_PX, 3)
    first, second = picture[:, :34].astype(int), picture[:, 34 + GAP_PX :].astype(int)
    assert first[2, 2, 0] > 20 and first[2, 20].tolist() == [20, 20, 20]
    assert second[2, 2].tolist() == [70, 70, 70] and second[21, 31].tolist() != [70, 70, 70]


def durations_ms(data: bytes) -> list[int]:
    with Image.open(io.BytesIO(data)) as gif:
        found = []
        for index in range(getattr(gif, "n_frames", 1)):
            gif.seek(index)
            found.append(int(gif.info["duration"]))
        return found


def test_an_animation_shows_every_frame_once_and_starts_again(predictions: str):
    data = animation(VIDEO, {"truth": "", "student": predictions}, span=range(6), width_px=WIDTH, frame_ms=80)
    assert durations_ms(data) == [80] * 6
    with Image.open(io.BytesIO(data)) as gif:
        assert gif.info["loop"] == 0
        assert gif.size == (2 * WIDTH + GAP_PX, LABEL_PX + HEIGHT)


def test_an_animation_lasts_as_long_as_its_frames_also_when_nothing_moves():
    still = FlatVideo(step=0, num_frames=5)
    assert sum(durations_ms(animation(still, {"truth": ""}, span=range(1), width_px=WIDTH, frame_ms=80))) in (0, 80)
    moving_masks = animation(still, {"truth": ""}, span=range(5), width_px=WIDTH, frame_ms=80)
    assert sum(durations_ms(moving_masks)) == 400
