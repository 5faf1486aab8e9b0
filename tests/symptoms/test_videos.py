"""What people's video files do: damage, covers, mirrored recordings, varying rates, sound; each with its right outcome.

Every picture shows its own number as dark and bright bars, so that a test can read which frame it was given.
"""

import contextlib
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from jobs.segment import main
from vos.errors import InputError
from vos.media.images import read_mask, write_mask
from vos.media.video_files import open_video
from vos.models import build
from vos.models.checkpoint import save_checkpoint

NUM_FRAMES, HEIGHT, WIDTH, BITS = 50, 48, 64, 6
RATE = Fraction(1, 25)


def picture(number: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB whose six columns are the bits of `number`."""
    bars = [40 + 170 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(bars, -(-WIDTH // BITS))[:WIDTH]
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).astype(np.uint8)


def number_in(image: np.ndarray) -> int:
    columns = np.array_split(image.mean(axis=(0, 2)), np.arange(1, BITS) * -(-WIDTH // BITS))
    return sum((column[2:-2].mean() > 125) << bit for bit, column in enumerate(columns))


def film(
    path: Path,
    codec: str = "libx264",
    times: Sequence[int] = range(NUM_FRAMES),
    base: Fraction = RATE,
    muxer: str | None = None,
    images: Callable[[int], np.ndarray] = picture,
    last: int = 0,
    matrix: Sequence[int] = (),
    aspect: Fraction | None = None,
    sound: str = "",
    sound_from_s: float = 0,
    muxing: dict[str, str] | None = None,
    coding: dict[str, str] | None = None,
    **options: str,
) -> str:
    """Write a video; a frame at each of `times`, in units of `base`; `last` is the duration of the last one."""
    with av.open(str(path), "w", format=muxer, options=muxing or {}) as container:
        stream: Any = container.add_stream(
            codec, rate=1 / base, options={"g": "6", **options, **(coding or {})}, time_base=base
        )
        stream.width, stream.height = images(0).shape[1::-1]
        stream.pix_fmt = "yuv420p"
        if matrix:
            stream.set_display_matrix(list(matrix))
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        audio: Any = container.add_stream(sound, rate=48000) if sound else None

        def put(packets: Sequence[av.Packet]) -> None:
            for packet in packets:
                if last and packet.pts == times[-1]:
                    packet.duration = last
                container.mux(packet)

        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(images(number), format="rgb24")
            frame.pts, frame.time_base = time, base
            put(stream.encode(frame))
        put(stream.encode(None))
        if audio is not None:
            count = 1024 if sound == "aac" else 960
            for start in range(0, 2 * 48000 // count * count, count):
                quiet = av.AudioFrame(format=audio.codec_context.format.name, layout="stereo", samples=count)
                for plane in quiet.planes:
                    plane.update(bytes(plane.buffer_size))
                quiet.sample_rate, quiet.time_base = 48000, Fraction(1, 48000)
                quiet.pts = start + round(sound_from_s * 48000)
                container.mux(audio.encode(quiet))
            container.mux(audio.encode(None))
    return str(path)


def packets_of(path: str) -> list[tuple[int, bytes]]:
    """Where each packet of the film is in the file, and its bytes."""
    data = Path(path).read_bytes()
    found, at = [], 0
    with av.open(path) as container:
        for packet in container.demux(video=0):
            if packet.size:
                at = data.index(bytes(packet), max(0, (packet.pos or 0) - 64))
                found.append((at, bytes(packet)))
    return found


def overwritten(path: str, numbers: Sequence[int], how: Callable[[int], bytes] = bytes) -> str:
    """Overwrite packets, counted in the order of the file."""
    data, packets = bytearray(Path(path).read_bytes()), packets_of(path)
    for number in numbers:
        at, content = packets[number]
        data[at : at + len(content)] = how(len(content))
    Path(path).write_bytes(data)
    return path


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def read(path: str, **options: Any) -> tuple[dict[int, int], str, Any]:
    """Number of each frame -> number that it shows; the error at the end; the stream."""
    video, found, error = open_video(path, **options), {}, ""
    try:
        for frame in video.shown:
            assert frame.index not in found
            found[frame.index] = number_in(frame.image)
    except InputError as refusal:
        error = str(refusal)
    return found, error, video


def assert_true_numbers(found: dict[int, int], video: Any) -> None:
    """Each frame that was decoded from intact ones shows its number."""
    leaning, concealed = video.track.numbering.leaning, video.track.numbering.concealed
    intact = {index: shown for index, shown in found.items() if index not in leaning and index not in concealed}
    assert len(intact) > 9 and all(index == shown for index, shown in intact.items()), intact


# V1 and V2: damage


DAMAGED = {
    "h264 in mp4": ("a.mp4", "libx264", {"bf": "0"}),
    "h264 in mkv": ("a.mkv", "libx264", {"bf": "0"}),
    "vp9 in webm": ("a.webm", "libvpx-vp9", {"lag-in-frames": "0"}),
    "vp8 in webm": ("a.webm", "libvpx", {}),
    "mpeg-4 in avi": ("a.avi", "mpeg4", {}),
    "ffv1 with checksums": ("a.mkv", "ffv1", {"level": "3", "slicecrc": "1"}),
    "h264 in ts": ("a.ts", "libx264", {"bf": "0"}),
}


@pytest.mark.parametrize("how", [bytes, noise])
@pytest.mark.parametrize("name", DAMAGED)
def test_packets_that_are_overwritten_cost_their_frames_and_the_others_keep_their_numbers(
    name: str, how: Callable[[int], bytes], tmp_path: Path
):
    file, codec, options = DAMAGED[name]
    path = film(tmp_path / file, codec, coding=options)
    whole, error, _ = read(path)
    assert whole == {number: number for number in range(NUM_FRAMES)} and not error
    if file.endswith(".ts"):  # its packets are spread over those of the transport stream
        damaged_ts(path, how)
    else:
        overwritten(path, [20, 21, 33], how)
    found, error, video = read(path)
    lost = set(range(NUM_FRAMES)) - found.keys()
    assert lost and len(found) + len(lost) == NUM_FRAMES and max(found) == NUM_FRAMES - 1
    if not file.endswith(".ts"):  # some decoders leave out frames after a loss, at most up to the next key frame
        assert {20, 21, 33} <= lost <= {*range(20, 24), *range(33, 36)}
    assert_true_numbers(found, video)
    assert f"({', '.join(map(str, spans(lost)))}) cannot be decoded" in error or f"frame {min(lost)} cannot" in error
    skipped, error, video = read(path, skips_damage=True)
    assert skipped.keys() == found.keys() and not error and "cannot be decoded" in video.notes()[0]


@pytest.mark.parametrize("numbers", [[7, 8, 30], [1], [49]])
def test_pictures_without_content_are_lost_in_mp4_and_the_others_keep_their_numbers(numbers: list[int], tmp_path: Path):
    emptied = str(tmp_path / "a.mp4")
    with av.open(emptied, "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"bf": "0", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        frames = [av.VideoFrame.from_ndarray(picture(number), format="rgb24") for number in range(NUM_FRAMES)]
        packets = [packet for frame in (*frames, None) for packet in stream.encode(frame)]
        for number, packet in enumerate(packets):
            if number in numbers:
                other = av.Packet(bytes([0x55]) * 20)  # holds no unit of H.264, so the muxer writes nothing
                other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
                other.duration, other.stream = packet.duration, stream
                packet = other
            container.mux(packet)
    with av.open(emptied) as container:
        sizes = [entry.size for entry in container.streams.video[0].index_entries]
    assert [number for number, size in enumerate(sizes) if not size] == numbers
    found, error, video = read(emptied)
    assert sorted(found) == [number for number in range(NUM_FRAMES) if number not in numbers]
    assert all(shown == number for number, shown in found.items()) and "cannot be decoded" in error
    assert all(number in video.lost for number in numbers)


def test_empty_chunks_of_an_avi_repeat_a_picture_and_keep_the_numbers_of_the_others(tmp_path: Path):
    path = Path(film(tmp_path / "a.avi", "mpeg4"))
    data = bytearray(path.read_bytes())
    at, chunks = data.index(b"movi") + 4, []
    while data[at : at + 4] == b"00dc":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((at, size + size % 2))
        at += 8 + size + size % 2
    index = data.index(b"idx1", at) + 8
    for number in (8, 9):
        start, size = chunks[number]
        data[start + 4 : start + 16] = bytes(4) + b"JUNK" + (size - 8).to_bytes(4, "little")
        data[index + 16 * number + 12 : index + 16 * number + 16] = bytes(4)
    path.write_bytes(data)
    found, error, _ = read(str(path))
    assert not error and sorted(found) == [number for number in range(NUM_FRAMES) if number not in (8, 9)]
    # Pictures up to the next key frame lean on those that are gone.
    assert all(found[number] == number for number in found if not 8 <= number < 12)


def spans(numbers: set[int]) -> list[str]:
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [f"{first}" if first == last else f"{first}-{last}" for first, last in found]


def damaged_ts(path: str, how: Callable[[int], bytes]) -> None:
    data = bytearray(Path(path).read_bytes())
    middle = len(data) // 188 // 2 * 188
    data[middle : middle + 5 * 188] = how(5 * 188)
    Path(path).write_bytes(data)


@pytest.mark.parametrize(("codec", "options"), [("libx264", {"bf": "2"}), ("mpeg2video", {"bf": "2"})])
def test_transport_packets_that_are_missing_leave_a_gap_in_the_numbers(
    codec: str, options: dict[str, str], tmp_path: Path
):
    path = film(tmp_path / "a.ts", codec, muxer="mpegts", coding=options)
    data = Path(path).read_bytes()
    middle = len(data) // 188 // 2 * 188
    Path(path).write_bytes(data[:middle] + data[middle + 8 * 188 :])
    found, error, video = read(path)
    assert max(found) == NUM_FRAMES - 1 and 30 < len(found) < NUM_FRAMES and "cannot be decoded" in error
    assert_true_numbers(found, video)


def test_a_damaged_cluster_of_matroska_leaves_a_gap_in_the_numbers(tmp_path: Path):
    path = film(tmp_path / "a.mkv", muxing={"cluster_time_limit": "200"}, bf="0")
    data = bytearray(Path(path).read_bytes())
    cluster = data.index(b"\x1f\x43\xb6\x75", len(data) // 2)
    data[cluster : cluster + 12] = bytes(12)
    Path(path).write_bytes(data)
    found, error, video = read(path)
    assert max(found) == NUM_FRAMES - 1 and len(found) < NUM_FRAMES and "an element is damaged" in error
    assert_true_numbers(found, video)


def test_b_frames_that_are_lost_are_named_by_when_they_are_shown(tmp_path: Path):
    path = film(tmp_path / "a.mp4", bf="2", coding={"x264-params": "b-adapt=0:keyint=12:b-pyramid=none"})
    times = [packet.pts for packet in av.open(path).demux(video=0) if packet.size and packet.pts is not None]
    order = [sorted(times).index(time) for time in times]
    assert order != sorted(order)
    found, error, video = read(overwritten(path, [20, 31]))
    lost = set(range(NUM_FRAMES)) - found.keys()
    assert {order[20], order[31]} <= lost and len(lost) < 12 and f"({', '.join(spans(lost))}) cannot" in error
    assert_true_numbers(found, video)


@pytest.mark.parametrize("ending", [".ts", ".mkv"])
def test_a_file_that_begins_within_a_group_of_pictures_names_the_frames_before_its_first_key_frame(
    ending: str, tmp_path: Path
):
    whole, path = film(tmp_path / "whole.mp4", bf="0", g="12", sc_threshold="0"), str(tmp_path / f"a{ending}")
    with av.open(whole) as source, av.open(path, "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in [one for one in source.demux(video=0) if one.size][5:]:
            packet.stream = stream
            container.mux(packet)
    found, error, video = read(path)
    assert video.first_index == 7 and found == {index: index + 5 for index in range(7, NUM_FRAMES - 5)}
    assert "7 frames (0-6) cannot be decoded" in error


def test_decoding_errors_that_are_concealed_keep_the_frame_and_are_said(tmp_path: Path):
    path = film(tmp_path / "a.mp4", "mpeg4", crf="1", coding={"b": "2M"})
    data, (at, content) = bytearray(Path(path).read_bytes()), packets_of(path)[20]
    middle = at + len(content) // 2
    data[middle : middle + 12] = noise(12)
    Path(path).write_bytes(data)
    found, error, video = read(path)
    assert len(found) == NUM_FRAMES and not error
    assert ["frame 20 is damaged; the decoder concealed" in line for line in video.notes()] == [True]


@pytest.mark.parametrize(
    ("file", "codec", "options"),
    [
        ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("a.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("a.mp4", "libx264", {"flags": "+ildct+ilme", "x264-params": "interlaced=1"}),
        ("a.ts", "mpeg2video", {"flags": "+ildct+ilme", "bf": "2"}),
        ("a.avi", "libx264", {"bf": "3"}),
        ("a.mkv", "libx265", {"x265-params": "log-level=none:open-gop=1:keyint=12"}),
    ],
)
def test_hidden_pictures_fields_and_odd_orders_are_no_losses(
    file: str, codec: str, options: dict[str, str], tmp_path: Path
):
    found, error, video = read(film(tmp_path / file, codec, coding=options))
    assert list(found) == list(range(NUM_FRAMES)) and not error and not video.notes()


def test_two_recordings_that_were_joined_are_one_video_without_a_loss(tmp_path: Path):
    data = Path(film(tmp_path / "a.ts")).read_bytes()
    (tmp_path / "b.ts").write_bytes(data + data)
    frames = list(open_video(str(tmp_path / "b.ts")).shown)
    times = [frame.time_s for frame in frames]
    assert [frame.index for frame in frames] == list(range(2 * NUM_FRAMES))
    assert all(one < other for one, other in zip(times, times[1:], strict=False))  # type: ignore[operator]


# V3: complete files


COMPLETE = {
    "one frame a second": lambda folder: film(folder / "a.mkv", times=range(12), base=Fraction(1), bf="0"),
    "one frame a minute": lambda folder: film(folder / "a.mp4", times=range(0, 720, 60), base=Fraction(1)),
    "a long last frame": lambda folder: film(folder / "a.mp4", times=range(12), last=100, bf="0"),
    "it begins at 5 s": lambda folder: film(folder / "a.mkv", times=range(125, 137)),
    "sound before pictures": lambda folder: film(folder / "a.mkv", times=range(25, 37), sound="aac"),
    "pictures before sound": lambda folder: film(folder / "a.mp4", times=range(12), sound="aac", sound_from_s=0.3),
    "b-frames": lambda folder: film(folder / "a.mp4", times=range(12), bf="3"),
    "an AVI that promises 500": lambda folder: promising(film(folder / "a.avi", "mpeg4", times=range(12)), 500),
    "a GIF": lambda folder: film_gif(folder / "a.gif"),
}


def film_gif(path: Path) -> str:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb8"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def promising(path: str, count: int) -> str:
    data = bytearray(Path(path).read_bytes())
    for at in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        assert int.from_bytes(data[at : at + 4], "little") == 12
        data[at : at + 4] = count.to_bytes(4, "little")
    Path(path).write_bytes(data)
    return path


@pytest.mark.parametrize("name", COMPLETE)
def test_a_complete_file_is_complete_whatever_its_clock_says(name: str, tmp_path: Path):
    found, error, video = read(COMPLETE[name](tmp_path))
    assert found == {number: number for number in range(12)}
    assert (error, video.unverified_end, video.notes()) == ("", "", [])


# V4: which track


def with_cover(path: Path, codec: str, cover: Disposition | None, shown: Disposition | None, first: bool = True) -> str:
    with av.open(str(path), "w") as container:
        streams: dict[str, Any] = {}
        for name in ("cover", "film") if first else ("film", "cover"):
            streams[name] = container.add_stream(codec if name == "cover" else "libx264", rate=25)
            streams[name].width, streams[name].height = (32, 32) if name == "cover" else (WIDTH, HEIGHT)
            streams[name].pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(streams[name].codec.name, "yuv420p")
            disposition = cover if name == "cover" else shown
            if disposition is not None:
                streams[name].disposition = disposition
        for number in range(12):
            for name, stream in streams.items():
                if name == "film" or not number:
                    image = picture(number) if name == "film" else picture(63)[:32, :32]
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                    frame.pts, frame.time_base = number, RATE
                    container.mux(stream.encode(frame))
        for stream in streams.values():
            container.mux(stream.encode(None))
    return str(path)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("file", "codec", "cover", "shown"),
    [
        ("a.mp4", "mjpeg", Disposition.attached_pic, None),
        ("a.mp4", "mjpeg", None, None),
        ("a.mov", "png", None, None),
        ("a.mp4", "mjpeg", Disposition.default, Disposition(0)),
        ("a.mkv", "mjpeg", Disposition.attached_pic, None),
        ("a.mkv", "mjpeg", Disposition(0), Disposition.default),
        ("a.mkv", "mjpeg", Disposition.default, Disposition(0)),
    ],
)
def test_the_film_is_read_and_not_its_cover(
    file: str, codec: str, cover: Disposition | None, shown: Disposition | None, first: bool, tmp_path: Path
):
    found, error, video = read(with_cover(tmp_path / file, codec, cover, shown, first))
    assert found == {number: number for number in range(12)} and not error
    assert (video.size, video.fps) == ((HEIGHT, WIDTH), 25)


@pytest.mark.parametrize("default", [0, 1])
def test_of_two_films_the_default_one_is_read(default: int, tmp_path: Path):
    path = str(tmp_path / "a.mkv")
    with av.open(path, "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for place, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.disposition = Disposition.default if place == default else Disposition(0)
        for number in range(12):
            for place, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(picture(number + 20 * place), format="rgb24")
                frame.pts, frame.time_base = number, RATE
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    assert read(path)[0] == {number: number + 20 * default for number in range(12)}


# V5: orientation


def corners(_: int) -> np.ndarray:
    """Four colours, so that no two orientations look alike."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for place, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))):
        rows, columns = divmod(place, 2)
        image[24 * rows : 24 * rows + 24, 32 * columns : 32 * columns + 32] = colour
    return image


ONE = 1 << 16
ORIENTATIONS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "as it is": ((1, 0, 0, 1), lambda image: image),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down and mirrored": ((1, 0, 0, -1), lambda image: image[::-1]),
    "turned by 180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "counterclockwise": ((0, -1, 1, 0), lambda image: np.rot90(image)),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "transposed along the other diagonal": ((0, -1, -1, 0), lambda image: np.rot90(image.swapaxes(0, 1), 2)),
}


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_frames_are_shown_as_players_show_them(name: str, ending: str, tmp_path: Path):
    (a, b, c, d), expected = ORIENTATIONS[name]
    matrix = (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    video = open_video(film(tmp_path / f"a{ending}", times=range(2), images=corners, matrix=matrix))
    shown = expected(corners(0))
    for image in video.frames:
        assert image.shape == shown.shape and np.abs(image.astype(int) - shown).mean() < 8
    assert video.notes() == []


def test_a_turn_by_another_angle_is_said(tmp_path: Path):
    cosine, sine = round(0.866 * ONE), round(0.5 * ONE)
    matrix = (cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
    video = open_video(film(tmp_path / "a.mp4", times=range(2), images=corners, matrix=matrix))
    assert [image.shape for image in video.frames] == [(HEIGHT, WIDTH, 3)] * 2
    assert "turned by 30° more" in video.notes()[0]


# V6 and the job


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("student"))
    save_checkpoint(folder, build("mobilevos-tiny"), {"role": "student"})
    return folder


def segmented(
    video: str, student: str, out: Path, *argv: str, code: int = 0, size: tuple[int, int] | None = None
) -> Path:
    """Run the job and return the folder of masks."""
    labels = np.zeros(size or (HEIGHT, WIDTH), np.uint8)
    labels[8:30, 8:30] = 1
    mask = str(out.parent / "mask" / "first.png")
    write_mask(mask, labels)
    flags = ["--first-mask", mask, "--model", student, "--runtime", "eager", "--threads", "1", "--size-px", "48"]
    assert main([video, "--out", str(out), *flags, *argv]) == code
    return out.with_name(f"{out.stem}-masks")


def numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.png"))


def timing(path: Path | str) -> tuple[list[float], float, list[float]]:
    """Times of the frames, the end of the last one, and times of the sound, in seconds."""
    with av.open(str(path)) as container:
        found: dict[str, list[tuple[float, float]]] = {"video": [], "audio": []}
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                unit = float(packet.time_base)
                found[packet.stream.type].append((packet.pts * unit, (packet.duration or 0) * unit))
        video = sorted(found["video"])
        return [time for time, _ in video], sum(video[-1]), sorted(time for time, _ in found["audio"])


VARYING = [0, 40, 80, 500, 1000, 1040, 1080, 1700, 2500, 2540]
MS = Fraction(1, 1000)


@pytest.mark.parametrize("ending", [".mp4", ".MP4", ".mov", ".MOV", ".m4v", ".mkv"])
def test_the_overlay_keeps_the_times_sound_and_aspect_of_its_source(ending: str, student: str, tmp_path: Path):
    source = film(tmp_path / "a.mkv", times=VARYING, base=MS, last=460, bf="0", sound="aac", aspect=Fraction(4, 3))
    out = tmp_path / f"o{ending}"
    segmented(source, student, out)
    times, end, sound = timing(out)
    assert times == pytest.approx([time / 1000 for time in VARYING], abs=0.002) and end == pytest.approx(3, abs=0.002)
    given = timing(source)[2]
    assert len(sound) in (len(given) - 1, len(given))  # MP4's edit list may end before the last 21 ms, which pad it
    assert sound == pytest.approx(given[: len(sound)], abs=0.002)
    with av.open(str(out)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert container.streams.audio[0].codec.name == "aac"
        assert container.duration is not None and abs(container.duration / 1e6 - 3) < 0.06
    data = out.read_bytes()
    assert ending == ".mkv" or data.index(b"moov") < data.index(b"mdat")


def test_sound_that_begins_before_or_after_the_pictures_keeps_its_distance(student: str, tmp_path: Path):
    for name, source in {
        "before": film(tmp_path / "a.mkv", times=range(10, 20), sound="aac"),
        "after": film(tmp_path / "b.mkv", times=range(10), sound="aac", sound_from_s=0.3),
    }.items():
        segmented(source, student, tmp_path / f"{name}.mp4")
        before, after = timing(source), timing(tmp_path / f"{name}.mp4")
        assert after[2][0] - after[0][0] == pytest.approx(before[2][0] - before[0][0], abs=0.002), name


def test_sound_that_a_container_cannot_hold_is_left_out_and_said(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = film(tmp_path / "a.mkv", times=range(3), sound="libopus")
    segmented(source, student, tmp_path / "o.mov")
    assert not timing(tmp_path / "o.mov")[2] and "the sound (opus) is left out" in capsys.readouterr().out
    segmented(source, student, tmp_path / "p.mkv")
    assert timing(tmp_path / "p.mkv")[2] and "the sound" not in capsys.readouterr().out
    segmented(source, student, tmp_path / "q.mkv", "--no-sound")
    assert not timing(tmp_path / "q.mkv")[2] and "the sound" not in capsys.readouterr().out


def test_a_given_rate_is_constant_and_without_sound(student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = film(tmp_path / "a.mkv", times=VARYING, base=MS, sound="aac")
    segmented(source, student, tmp_path / "o.mp4", "--fps", "10")
    times, end, sound = timing(tmp_path / "o.mp4")
    assert times == pytest.approx(np.arange(10) / 10) and end == pytest.approx(1) and not sound
    assert "the sound is left out, because --fps" in capsys.readouterr().out


def test_the_overlay_of_a_mirrored_recording_with_odd_pixels_is_upright(student: str, tmp_path: Path):
    matrix = (0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30)
    source = film(tmp_path / "a.mp4", times=range(3), images=corners, matrix=matrix, aspect=Fraction(4, 3))
    segmented(source, student, tmp_path / "o.mp4", size=(WIDTH, HEIGHT))
    video = open_video(str(tmp_path / "o.mp4"))
    image = next(video.frames)
    expected = corners(0).swapaxes(0, 1)
    assert np.abs(image[32:].astype(int) - expected[32:]).mean() < 10
    assert video.aspect == Fraction(3, 4)


def test_masks_of_a_damaged_video_have_the_numbers_of_their_frames(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = film(tmp_path / "a.mkv", "libvpx-vp9", coding={"lag-in-frames": "0"})
    whole = segmented(path, student, tmp_path / "whole.mp4")
    overwritten(path, [20, 21])
    capsys.readouterr()
    kept = segmented(path, student, tmp_path / "cut.mp4", code=2)
    expected = [number for number in range(NUM_FRAMES) if number not in (20, 21)]
    assert numbers(kept) == expected and numbers(whole) == list(range(NUM_FRAMES))
    for number in range(20):
        assert np.array_equal(read_mask(str(kept / f"{number:05d}.png")), read_mask(str(whole / f"{number:05d}.png")))
    assert timing(tmp_path / "cut.mp4")[0] == pytest.approx([number / 25 for number in expected], abs=0.001)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {path}: truncated or damaged (2 frames (20-21) cannot be decoded")
    assert "; 48 frames are done and kept in " in said
    assert numbers(segmented(path, student, tmp_path / "skip.mp4", "--damaged", "skip")) == expected
    said = capsys.readouterr()
    assert "2 frames (20-21) cannot be decoded" in said.out and "error" not in said.err


def test_masks_to_add_mean_true_numbers_and_one_of_a_lost_frame_is_named(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = overwritten(film(tmp_path / "a.avi", "mpeg4", times=range(20)), [7, 8])
    second = np.zeros((HEIGHT, WIDTH), np.uint8)
    second[36:46, 40:60] = 2
    write_mask(str(tmp_path / "second.png"), second)
    kept = segmented(path, student, tmp_path / "o.mp4", "--add", f"12:{tmp_path}/second.png", code=2)
    assert [2 in read_mask(str(kept / f"{number:05d}.png")) for number in (10, 11, 12)] == [False, False, True]
    assert np.array_equal(read_mask(str(kept / "00012.png")) == 2, second == 2)
    capsys.readouterr()
    argv = ["--add", f"8:{tmp_path}/second.png", "--damaged", "skip"]
    segmented(path, student, tmp_path / "p.mp4", *argv, code=2)
    assert "--add 8:…: frame 8 cannot be decoded" in capsys.readouterr().err


def test_a_first_mask_where_the_first_frames_are_lost_is_said_to_be_of_the_first_that_can_be_decoded(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = overwritten(film(tmp_path / "a.mp4", times=range(20), bf="0"), [0])
    kept = segmented(path, student, tmp_path / "o.mp4", code=2)
    said = capsys.readouterr().err
    first = numbers(kept)[0]
    assert first > 0 and numbers(kept)[-1] == 19
    assert f"--first-mask is taken for frame {first}, the first that can" in said and "cannot be decoded" in said


def test_a_video_without_a_frame_that_can_be_decoded_leaves_nothing(student: str, tmp_path: Path):
    path = overwritten(film(tmp_path / "a.mp4", times=range(6), bf="0"), range(6))
    with contextlib.suppress(FileNotFoundError):
        segmented(path, student, tmp_path / "out" / "o.mp4", code=2)
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["mask"]
