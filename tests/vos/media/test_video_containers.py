"""Every container is told whole from cut by its own structure, and nothing is opened that need not be."""

import os
import socket
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError

from tests.chaos.cuts import PASSED, ends, outcome
from tests.videos import KINDS, pictures, write_video
from tests.vos.media.test_image_bombs import many_scans
from vos.errors import InputError
from vos.files.limits import variable
from vos.media.images import write_frame
from vos.media.video_containers import container_of
from vos.media.video_files import open_video, read_pipe

FRAMES = pictures(12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A whole video of a kind, written once."""
    folder, made = tmp_path_factory.mktemp("whole"), {}

    def path(name: str) -> Path:
        if name not in made:
            try:
                made[name] = Path(write_video(str(folder / f"{len(made)}{KINDS[name].ending}"), KINDS[name], FRAMES))
            except UnknownCodecError:
                pytest.skip(f"this build of PyAV has no encoder {KINDS[name].codec}")
        return made[name]

    return path


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_gives_all_its_frames_and_a_remark_only_where_its_container_cannot_tell(
    name: str, whole: Callable[[str], Path]
):
    video = open_video(str(whole(name)))
    assert (video.size, sum(1 for _ in video.frames)) == ((48, 64), len(FRAMES))
    assert bool(video.unverified_end) is not KINDS[name].tells
    assert video.unverified_end.startswith(str(whole(name)) if video.unverified_end else "")


@pytest.mark.parametrize("name", KINDS)
def test_a_file_cut_anywhere_is_refused_or_its_end_is_said_to_be_unverified(
    name: str, whole: Callable[[str], Path], tmp_path: Path
):
    data, piece = whole(name).read_bytes(), tmp_path / whole(name).name
    for end in [*ends(data, 40), len(data) - 1]:
        piece.write_bytes(data[:end])
        assert outcome(str(piece)) != PASSED, f"{end} of {len(data)} bytes"


@pytest.mark.parametrize("name", KINDS)
def test_no_cut_looks_whole_not_even_one_between_two_parts(name: str, whole: Callable[[str], Path], tmp_path: Path):
    data, piece = whole(name).read_bytes(), tmp_path / "piece"
    piece.write_bytes(data)
    lists_end = data.rindex(b"mfra") - 4 if name == "mp4, in listed fragments" else len(data)
    with open(piece, "r+b") as file:
        # From the end on, because a file only shrinks in place: every byte of the last kilobyte, and some 300 places before.
        for end in sorted({*range(len(data) - 1000, len(data)), *ends(data, 300)}, reverse=True):
            file.truncate(end)
            try:
                found = container_of(file, "x").end(file, end, "x")
            except InputError:
                continue
            assert found.problem or found.unverified or end >= lists_end, f"{end} of {len(data)} bytes"


LISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{path}'\nduration 1\n",
    "DASH": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{address}</BaseURL></MPD>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "ASX": '<asx version="3.0"><entry><ref href="{address}"/></entry></asx>',
    "WebVTT": "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n",
    "filter graph": "movie={path}",
}


@pytest.mark.parametrize("ending", [".mp4", ".m3u8", ".txt"])
@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_further_files_is_refused_and_none_of_them_is_opened(
    kind: str, ending: str, whole: Callable[[str], Path], tmp_path: Path
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        (tmp_path / f"a{ending}").write_text(LISTS[kind].format(address=address, path=whole("mp4")))
        for path in (str(tmp_path / f"a{ending}"), address):
            with pytest.raises(InputError, match="cannot be decoded|addresses are not opened"):
                open_video(path)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "name",
    [
        "file:{path}",
        "concat:{path}|{path}",
        "subfile,,start,0,end,1000,,:{path}",
        "crypto:{path}",
        "cache:{path}",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "fd:0",
        "tcp://127.0.0.1:1",
        "http://127.0.0.1:1/a.mp4",
        "{folder}/%d.png",
        "{folder}/*.png",
        "lavfi:testsrc",
        "testsrc",
        "a\0b.mp4",
    ],
)
def test_a_name_is_only_ever_a_file(name: str, whole: Callable[[str], Path], tmp_path: Path):
    write_frame(str(tmp_path / "1.png"), FRAMES[0])
    with pytest.raises(InputError) as refusal:
        open_video(name.format(path=whole("mp4"), folder=tmp_path))
    assert str(refusal.value).isprintable()


def test_a_file_whose_name_looks_like_a_protocol_or_a_pattern_is_read_as_a_file(
    whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "%03d.mp4", "data:a", "a.m3u8", "0.png"):
        Path(name).write_bytes(whole("mp4").read_bytes())
        assert sum(1 for _ in open_video(name).frames) == len(FRAMES)


def test_an_mp4_whose_pictures_are_in_another_file_is_refused(whole: Callable[[str], Path], tmp_path: Path):
    data = bytearray(whole("mp4").read_bytes())
    at = data.index(b"url ") + 4
    assert data[at : at + 4] == b"\0\0\0\1"  # the flag: in this same file
    data[at + 3] = 0
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(InputError, match="in other files, which are not opened"):
        open_video(str(tmp_path / "a.mp4"))


def encoded(path: Path, codec: str, pixels: str, muxer: str | None = None) -> str:
    return write_video(str(path), KINDS["mp4"]._replace(codec=codec, pixels=pixels, muxer=muxer), FRAMES)


@pytest.mark.parametrize(
    ("codec", "pixels", "ending"),
    [
        ("png", "rgb24", ".mov"),
        ("huffyuv", "yuv422p", ".avi"),
        ("wmv2", "yuv420p", ".avi"),
        ("flv", "yuv420p", ".avi"),
        ("qtrle", "rgb24", ".mov"),
    ],
)
def test_a_codec_that_is_not_needed_is_refused_by_name(codec: str, pixels: str, ending: str, tmp_path: Path):
    path = encoded(tmp_path / f"a{ending}", codec, pixels)
    with pytest.raises(InputError, match=rf"a{ending}: its codec {codec}\w* is not one of those supported"):
        open_video(path)


@pytest.mark.parametrize("muxer", ["flv", "asf", "nut", "swf", "image2pipe", "rawvideo"])
def test_a_container_that_is_not_needed_is_refused(muxer: str, tmp_path: Path):
    codec = {"asf": "mpeg4", "nut": "mpeg4", "image2pipe": "bmp"}.get(muxer, "flv")
    path = encoded(tmp_path / "a.mp4", codec, "bgr24" if codec == "bmp" else "yuv420p", muxer)
    with pytest.raises(InputError, match=r"a\.mp4: cannot be decoded \(not one of the containers"):
        open_video(path)


def test_sound_subtitles_and_attachments_are_not_in_the_way(tmp_path: Path):
    path = str(tmp_path / "a.mkv")
    with av.open(path, "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=8000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number, frame in enumerate(FRAMES):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(video.encode(picture))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate, silence.pts = 8000, 0
        container.mux([*sound.encode(silence), *sound.encode(None), *video.encode(None)])
    opened = open_video(path)
    assert sum(1 for _ in opened.frames) == len(FRAMES) and not opened.unverified_end


@pytest.mark.parametrize("name", KINDS)
def test_frames_beyond_the_limit_are_refused_in_every_container(
    name: str, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable("video_pixels"), str(48 * 64 - 1))
    with pytest.raises(InputError, match=f"3,072 pixels are more than.*{variable('video_pixels')}"):
        open_video(str(whole(name)))
    monkeypatch.setenv(variable("video_pixels"), str(48 * 64))
    assert sum(1 for _ in open_video(str(whole(name))).frames) == len(FRAMES)


@pytest.mark.parametrize("rate", ["90000:1", "1:100000"])
def test_a_frame_rate_that_no_video_has_is_asked_for(rate: str, whole: Callable[[str], Path], tmp_path: Path):
    data = whole("y4m").read_bytes()
    (tmp_path / "a.y4m").write_bytes(data.replace(b" F25:1 ", f" F{rate} ".encode(), 1))
    with pytest.raises(InputError, match=r"a\.y4m: .*--fps"):
        open_video(str(tmp_path / "a.y4m"))
    assert open_video(str(tmp_path / "a.y4m"), fps=12).fps == 12


def put(data: bytes, at: int, number: int, length: int = 4) -> bytes:
    return data[:at] + number.to_bytes(length, "big") + data[at + length :]


BOMBS: dict[str, Callable[[Callable[[str], Path]], bytes]] = {
    "a Y4M of 30000x30000": lambda whole: b"YUV4MPEG2 W30000 H30000 F25:1 C420jpeg\nFRAME\n",
    "a GIF of 65535x65535": lambda whole: b"GIF89a\xff\xff\xff\xff" + whole("gif").read_bytes()[10:],
    "100 million samples": lambda whole: _samples(whole("mp4, index first").read_bytes()),
    "100 million samples of a fragment": lambda whole: _after(whole("mp4, in fragments"), b"trun", 4, 10**8),
    "100 million edits": lambda whole: _after(whole("mp4"), b"elst", 4, 10**8),
}


def _after(path: Path, mark: bytes, skip: int, number: int) -> bytes:
    data = path.read_bytes()
    return put(data, data.index(mark) + 4 + skip, number)


def _samples(data: bytes) -> bytes:
    """One size for all of them, so that their number takes four bytes."""
    at = data.index(b"stsz") + 8
    data = put(put(data, at, 1), at + 4, 10**8)
    return put(data, data.index(b"stsc") + 16, 10**8)


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_announces_much_is_refused_at_once(name: str, whole: Callable[[str], Path], tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(BOMBS[name](whole))
    started = time.process_time()
    with pytest.raises(InputError):
        open_video(str(tmp_path / "a.mp4"))
    assert time.process_time() - started < 0.5


def test_a_jpeg_with_thousands_of_scans_is_refused_within_a_video_too(tmp_path: Path):
    data = many_scans(4000)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 800, 800, "yuvj420p"
        for number in range(3):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            container.mux(packet)
    started = time.process_time()
    with pytest.raises(InputError, match="scans"):
        open_video(str(tmp_path / "a.avi"))
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a socket"])
def test_what_is_no_file_is_named_and_not_waited_for(kind: str, tmp_path: Path):
    path = tmp_path / "a.mp4"
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "a pipe":
            os.mkfifo(path)
        elif kind == "a device":
            path.symlink_to("/dev/zero")
        else:
            server.bind(str(path))
        with pytest.raises(InputError, match=r"a\.mp4"):
            open_video(str(path))


def test_a_pipe_of_immense_frames_is_refused_before_memory_is_taken():
    with (
        open(os.devnull, "rb") as nothing,
        pytest.raises(InputError, match=f"99999x99999.*{variable('video_pixels')}"),
    ):
        read_pipe(nothing, (99999, 99999))


@pytest.mark.parametrize("name", KINDS)
def test_damaged_bytes_give_frames_or_an_input_error_and_nothing_else(
    name: str, whole: Callable[[str], Path], tmp_path: Path
):
    data, rng, path = whole(name).read_bytes(), np.random.default_rng(5), tmp_path / "a"
    for _ in range(12):
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 12))):
            # Most of them where the structure is, at both ends.
            near = int(rng.integers(0, min(600, len(data))))
            damaged[(near, -1 - near, int(rng.integers(len(data))))[int(rng.integers(3))]] = int(rng.integers(256))
        path.write_bytes(damaged)
        started = time.process_time()
        outcome(str(path))
        assert time.process_time() - started < 2
