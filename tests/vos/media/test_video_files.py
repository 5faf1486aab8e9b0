"""Video in and out: what is written is read, what is cut gives all that is whole, and bad sources are named."""

import io
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vos.data.synthetic import synthetic_index
from vos.errors import InputError
from vos.media.images import write_frame
from vos.media.video_files import open_video, read_pipe
from vos.media.video_writer import ENCODERS, VideoWriter

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


def recorded(path: Path, numbers: Iterable[int]) -> str:
    """Frames at these places of 25 a second, and nothing between; a key frame at every sixth at least."""
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "6", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in numbers:
            picture = av.VideoFrame.from_ndarray(FRAMES[number], format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return str(path)


def frames_before_the_refusal(path: str) -> int:
    """How many frames a truncated video gives; 0 where it is not even opened."""
    count = 0
    with pytest.raises(InputError, match="truncated or damaged|cannot be decoded|holds no frame"):
        for _ in open_video(path).frames:
            count += 1
    return count


def test_a_recording_that_skipped_frames_is_whole_and_one_that_is_cut_is_not(tmp_path: Path):
    """The header of an AVI counts the skipped frames too."""
    numbers = (0, 1, 2, 3, 6, 7, 8, 9, 10, 15, 16, 17)
    data = Path(recorded(tmp_path / "a.avi", numbers)).read_bytes()
    assert len(list(open_video(str(tmp_path / "a.avi")).frames)) == len(numbers)
    end = data.index(b"idx1")  # the frames end here
    pictures = [match.start() for match in re.finditer(b"00dc", data[:end])]
    assert len(pictures) >= len(numbers)
    for at in (*pictures[-4:], *(place + 6 for place in pictures[-4:]), (pictures[1] + pictures[2]) // 2, end - 40):
        (tmp_path / "cut.avi").write_bytes(data[:at])
        assert frames_before_the_refusal(str(tmp_path / "cut.avi")) < len(numbers)


@pytest.mark.parametrize(("start_frames", "num_frames"), [(0, 20), (15, 20)])
def test_a_video_trimmed_by_its_edit_list_is_whole_and_one_that_is_cut_is_not(
    start_frames: int, num_frames: int, tmp_path: Path
):
    """Trimming without encoding again leaves every frame in the file, and the header counts them all."""
    path = Path(recorded(tmp_path / "a.mp4", range(40)))
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # its only entry: duration in ms, and where it starts in the track's own time
    ticks = int.from_bytes(data[at + 4 : at + 8], "big") + start_frames * 512
    data[at : at + 8] = (40 * num_frames).to_bytes(4, "big") + ticks.to_bytes(4, "big")
    path.write_bytes(data)
    assert len(list(open_video(str(path)).frames)) == num_frames
    with av.open(str(path)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
    assert last.pos is not None
    for end in (last.pos, last.pos + last.size // 2):
        (tmp_path / "cut.mp4").write_bytes(data[:end])
        assert frames_before_the_refusal(str(tmp_path / "cut.mp4")) <= num_frames


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
