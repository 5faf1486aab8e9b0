"""Video in and out: what is written is read, what is cut gives all that is whole, and bad sources are named."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vos.errors import InputError
from vos.images import write_frame
from vos.synthetic import synthetic_index
from vos.video_files import open_video, read_pipe
from vos.video_writer import ENCODERS, VideoWriter

FRAMES = [synthetic_index(1, 40, (48, 64))[0].frame(index) for index in range(40)]
RATE = Fraction(30000, 1001)


def written(path: Path, frames: list[np.ndarray] = FRAMES, fps: Fraction = RATE) -> str:
    with VideoWriter(str(path), (frames[0].shape[0], frames[0].shape[1]), fps) as writer:
        for frame in frames:
            writer.write(frame)
    return str(path)


def truncated(path: str, share: float) -> str:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(share * len(data))])
    return path


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((one.astype(float) - other) ** 2) / 255**2))


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_a_written_video_is_read_back_with_its_frames_rate_and_length(ending: str, tmp_path: Path):
    video = open_video(written(tmp_path / f"a{ending}"))
    assert (video.size, video.num_frames) == ((48, 64), 40)
    assert float(video.fps) == pytest.approx(float(RATE), abs=0.01)
    frames = list(video.frames)
    # Colours at half resolution cost these small, colourful frames most of it; another frame would be at 15 dB.
    assert len(frames) == 40 and min(map(psnr_db, frames, FRAMES)) > 22


def test_sides_may_be_odd_and_are_continued_by_a_pixel(tmp_path: Path):
    odd = [frame[:47, :61] for frame in FRAMES[:5]]
    video = open_video(written(tmp_path / "odd.mp4", odd))
    assert video.size == (48, 62)
    assert psnr_db(next(video.frames)[:47, :61], odd[0]) > 22


def test_without_an_h264_encoder_the_next_one_writes(tmp_path: Path):
    path = str(tmp_path / "a.mp4")
    with VideoWriter(path, (48, 64), RATE, [("no-such-encoder", {}), ENCODERS[-1]]) as writer:
        writer.write(FRAMES[0])
    assert writer.encoder == "mpeg4"
    with av.open(path) as container:
        assert container.streams.video[0].codec.name == "mpeg4"
    with pytest.raises(InputError, match="none of no-such-encoder"):
        VideoWriter(path, (48, 64), RATE, [("no-such-encoder", {})])


def test_a_file_appears_when_it_is_finished_and_of_no_frames_nothing_is_left(tmp_path: Path):
    path = tmp_path / "new" / "a.mp4"
    with VideoWriter(str(path), (48, 64), RATE) as writer:
        writer.write(FRAMES[0])
        assert not path.exists()
    assert [one.name for one in path.parent.iterdir()] == ["a.mp4"]
    with VideoWriter(str(tmp_path / "none.mp4"), (48, 64), RATE):
        pass
    assert not list(tmp_path.glob("none*"))


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_truncated_file_gives_the_frames_that_are_whole_and_then_says_so(ending: str, tmp_path: Path):
    path = truncated(written(tmp_path / f"a{ending}"), 0.6)
    video, whole = open_video(path), 0
    with pytest.raises(InputError, match=rf"a{ending}: truncated or damaged"):
        for frame, original in zip(video.frames, FRAMES, strict=True):
            assert psnr_db(frame, original) > 22
            whole += 1
    assert 10 < whole < 35


def test_what_is_no_video_is_named(tmp_path: Path):
    nothing, text = tmp_path / "nothing.mp4", tmp_path / "text.mp4"
    text.write_text("no video")
    headless = Path(written(tmp_path / "headless.mp4"))
    headless.write_bytes(headless.read_bytes()[:500])
    (tmp_path / "empty").mkdir()
    for path in (nothing, text, headless, tmp_path / "empty"):
        with pytest.raises(InputError, match=f"^{path}: ") as refusal:
            open_video(str(path))
        assert "\n" not in str(refusal.value)


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path):
    for index in (2, 10, 1):
        write_frame(str(tmp_path / f"{index}.png"), FRAMES[index])
    (tmp_path / "notes.txt").write_text("no frame")
    video = open_video(str(tmp_path), fps=12)
    assert (video.stems, video.num_frames, video.fps) == (["1", "2", "10"], 3, 12)
    assert all(np.array_equal(frame, FRAMES[index]) for frame, index in zip(video.frames, (1, 2, 10), strict=True))


def test_a_frame_of_another_size_is_named_after_those_before_it(tmp_path: Path):
    for index in range(3):
        write_frame(str(tmp_path / f"{index}.png"), FRAMES[index][: 40 if index == 2 else 48])
    frames = open_video(str(tmp_path)).frames
    assert [next(frames).shape, next(frames).shape] == [(48, 64, 3)] * 2
    with pytest.raises(InputError, match="frame 2 is 64x40 pixels, the first 64x48"):
        next(frames)


def test_a_pipe_gives_its_frames_and_one_that_ends_within_a_frame_says_so():
    data = b"".join(frame.tobytes() for frame in FRAMES[:3])
    frames = list(read_pipe(io.BytesIO(data), (48, 64)).frames)
    assert len(frames) == 3 and all(map(np.array_equal, frames, FRAMES))
    cut = read_pipe(io.BytesIO(data[:-7]), (48, 64)).frames
    assert [next(cut).shape, next(cut).shape] == [(48, 64, 3)] * 2
    with pytest.raises(InputError, match=r"within frame 2 \(9209 of 9216 bytes\)"):
        next(cut)
    with pytest.raises(InputError, match="no frame"):
        read_pipe(io.BytesIO(), (48, 64))


def test_a_recording_held_upright_is_read_upright(tmp_path: Path):
    """Telephones write the turn into the track's header, as a matrix of 16.16 numbers."""
    path = Path(written(tmp_path / "a.mp4"))
    data, one = path.read_bytes(), (1 << 16).to_bytes(4, "big")
    at = data.index(b"tkhd") + 44
    assert data[at : at + 4] == one and data[at + 16 : at + 20] == one
    minus_one, zero = ((1 << 32) - (1 << 16)).to_bytes(4, "big"), bytes(4)
    clockwise = zero + one + zero + minus_one + zero
    path.write_bytes(data[:at] + clockwise + data[at + 20 :])
    video = open_video(str(path))
    assert video.size == (64, 48)
    assert psnr_db(next(video.frames), np.rot90(FRAMES[0], -1)) > 22
