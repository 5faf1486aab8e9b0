"""Decoder of one picture track of a video file through ffmpeg (PyAV), with only the parts of ffmpeg that this needs.

The first bytes decide the container (vos/media/video_containers.py). ffmpeg reads from an open file, so no file name is interpreted as a
protocol, a pattern or a list. The file is opened twice: without any decoder, to learn codec and size; then with the one decoder needed.
Subtitles and attachments are never decoded; vos/media/video_sound.py copies sound without decoding it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

from vos.errors import InputError
from vos.files.limits import check_limit, limit
from vos.files.whole import open_regular
from vos.media.video_containers import Container, container_of
from vos.media.video_ends import End
from vos.media.video_frames import Frame, Numbering, Ranges
from vos.media.video_orientation import Orientation, orientation_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CODECS = (
    *("h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "prores", "theora"),
    *("ffv1", "rawvideo", "gif"),
)
"""Codecs that cameras, phones, editors and the tools of this field write, by ffmpeg's names."""
_ADVICE = "name a video file or a folder of JPEG or PNG frames"
_HEADERLESS = "mpeg"
"""This demuxer finds its tracks only while reading: limits given at opening do not reach a decoder that it tries."""
_TIMED_BY_DECODING = ("avi",)
_REGULAR = ("ogg", "mpegts", "mpeg")
"""Broadcast formats, whose demuxers leave damaged packets out: their frames have a constant rate."""
_LOOKED_AT_BYTES = 16
_MOST_REPEATS = 100_000
_MOST_ERRORS = 10
"""Errors of the demuxer, one after another, after which the rest of the file is given up."""
_SOUND_DECODERS = "aac,mp3float,mp2float,mp2,mp3,ac3,eac3"
_STILLS = 0x400 | 0x800 | 0x100000
"""ffmpeg's dispositions attached_pic, timed_thumbnails and still_image."""
_PICTURE_CODECS = ("mjpeg", "png", "bmp", "gif", "tiff", "webp")
_OPTIONS = {"ffv1": {"err_detect": "crccheck+explode"}}
"""FFV1 has checksums; by default its decoder shows the frame before in place of a damaged one, without a sign."""
FAULTS = (ValueError, OverflowError, MemoryError, AssertionError, ZeroDivisionError)
"""Errors that PyAV raises for damaged files, besides its own."""


@dataclass(frozen=True)
class Track:
    """The picture track of an open file."""

    path: str
    file: BinaryIO
    container: InputContainer
    stream: VideoStream
    end: End
    numbering: Numbering
    has_sound: bool
    orientations: set[Orientation] = field(default_factory=set)
    """Those of the frames so far."""
    problems: list[str] = field(default_factory=list)
    """Why the file is not whole, after it was read."""
    ended: list[bool] = field(default_factory=list)
    """Not empty once the end of the file was reached."""

    def close(self) -> None:
        """Close a track from which no frame was read; `decoded` closes its own."""
        self.container.close()
        self.file.close()

    @property
    def num_frames(self) -> int:
        """Number of frames in the header, 0 if it has none."""
        return self.stream.frames

    @property
    def rate(self) -> Fraction | None:
        """Average frames per second."""
        return self.stream.average_rate or self.stream.guessed_rate

    @property
    def is_timed_by_decoding(self) -> bool:
        """Whether packets have times of decoding only."""
        return self.container.format.name in _TIMED_BY_DECODING

    @property
    def is_coded(self) -> bool:
        """Whether its pictures are compressed: no packet is then all zeros."""
        return self.stream.codec.canonical_name != "rawvideo"

    @property
    def aspect(self) -> Fraction | None:
        """Width of a pixel over its height, as stored; None if it is not known."""
        ratio = self.stream.sample_aspect_ratio
        return ratio if ratio and Fraction(1, 100) <= ratio <= 100 else None

    @property
    def duration_s(self) -> float:
        return _duration_s(self.stream) or (self.container.duration or 0) / 1e6


def open_track(path: str) -> Track:
    """Open the first picture track of a video file. Nothing is decoded yet.

    Raises InputError if it is not a regular file, has an unsupported container or codec, exceeds a limit, or is damaged at its start.
    """
    from av.error import FFmpegError

    file = open_regular(path, _ADVICE)
    try:
        container = container_of(file, path)
        end = container.end(file, os.fstat(file.fileno()).st_size, path)
        index, decoder = _looked_at(file, container, path)
        opened = _open(file, container, "none" if container.demuxer == _HEADERLESS else decoder)
        stream = opened.streams.video[index]
        check_limit("video_pixels", stream.codec_context.width * stream.codec_context.height, path)
        stream.codec_context.options = {
            "max_pixels": str(_most_pixels()),
            **_OPTIONS.get(stream.codec.canonical_name, {}),
        }
        is_regular = container.demuxer in _REGULAR
        is_timed_by_decoding = container.demuxer in _TIMED_BY_DECODING
        codec = stream.codec.canonical_name
        # Pictures of MPEG-2 that are zeroed leave no sign but a gap; its rate is constant.
        has_holes = end.has_holes or (codec == "mpeg2video" and container.demuxer in _REGULAR)
        numbering = Numbering(codec, is_timed_by_decoding, is_regular, has_holes)
        return Track(path, file, opened, stream, end, numbering, bool(opened.streams.audio))
    except BaseException as error:
        file.close()
        if isinstance(error, (FFmpegError, OSError, IndexError, *FAULTS)) and not isinstance(error, InputError):
            raise InputError(f"{path}: cannot be decoded ({reason(error)}); give a whole video file") from error
        raise


def _most_pixels() -> int:
    """Return the limit for decoders, which count their padding too; `check_limit` applies the exact limit to the frame."""
    return limit("video_pixels") * 9 // 8 + 2**16


def _open(file: BinaryIO, container: Container, decoders: str) -> InputContainer:
    """Open a file with its demuxer. `decoders`: ffmpeg's names of those that may be tried on the first packets."""
    import av

    file.seek(0)
    options = {
        "protocol_whitelist": "none",
        "format_whitelist": container.demuxer,
        "codec_whitelist": decoders,
        "max_pixels": str(_most_pixels()),
    }
    return av.open(
        file,
        "r",
        format=container.demuxer,
        options=options,
        metadata_errors="replace",
        io_open=_no_further_file,
    )


def open_for_sound(file: BinaryIO, path: str) -> InputContainer:
    """Open a file that `open_track` accepted, without a decoder of pictures.

    MPEG's containers do not describe their sound: its decoder looks at the first packets. Other containers are opened without decoders.
    """
    container = container_of(file, path)
    return _open(file, container, _SOUND_DECODERS if container.demuxer in ("mpegts", "mpeg") else "none")


def _no_further_file(*_: Any) -> Any:
    raise InputError("the video refers to other files, which are not opened")


def _looked_at(file: BinaryIO, container: Container, path: str) -> tuple[int, str]:
    """Return the position of the picture track and the name of its decoder; the file is opened without any decoder."""
    with _open(file, container, "none") as opened:
        tracks = opened.streams.video
        film = min(range(len(tracks)), key=lambda place: _precedence(tracks[place]), default=None)
        if film is None or tracks[film].disposition & _STILLS:
            raise InputError(f"{path}: holds no picture track; give a video")
        context = tracks[film].codec_context
        codec = context.codec.canonical_name if context is not None else "unknown"
        if codec not in CODECS:
            raise InputError(
                f"{path}: its codec {codec} is not one of those supported ({', '.join(CODECS)}); convert it, for example to H.264"
            )
        # The size is 0 if only the decoder can tell it; the decoder has the limit too.
        check_limit("video_pixels", context.width * context.height, path)
        return film, context.codec.name


def _precedence(track: VideoStream) -> tuple[bool, bool, bool, bool]:
    """Sort tracks: films before pictures such as covers, then the default one, then by their codec, then by their order in the file."""
    from av.stream import Disposition

    is_default = bool(track.disposition & Disposition.default)
    context = track.codec_context
    is_picture = context is None or context.codec.canonical_name in _PICTURE_CODECS
    return bool(track.disposition & _STILLS), _is_still(track), not is_default, is_picture


def _is_still(track: VideoStream) -> bool:
    """Whether a track holds one picture, although it is not marked so: the cover of an album or the thumbnail of a film."""
    return track.frames == 1 or 0 < _duration_s(track) * (track.average_rate or 0) < 1.5


def decoded(track: Track, skips_damage: bool = False) -> Iterator[Frame]:
    """Yield every frame that can be decoded. Raise InputError at the end if some cannot, or if the file is cut.

    skips_damage  whether that is left to `remarks`
    A damaged packet ends nothing: the decoder continues with the next packet that it can use, and conceals what is missing, as in players.
    """
    with track.file, track.container:
        state = _State(track)
        for packet, number in state.packets():
            for frame in state.frames_of(packet, number):
                yield state.shown(frame)
        for frame in state.last_frames():
            yield state.shown(frame)
        track.numbering.finish(track.stream.time_base)
        track.ended.append(True)
    track.problems.extend(filter(None, (track.end.problem or state.problem, _lost_frames(track.numbering))))
    if track.problems and not skips_damage:
        raise InputError(f"{track.path}: truncated or damaged ({'; '.join(track.problems)}); copy or record it again")


def remarks(track: Track) -> list[str]:
    """Return what there is to say about a track that was read, a line each, without what `decoded` may raise."""
    lines = [f"taken as it is, although truncated or damaged ({'; '.join(track.problems)})"] if track.problems else []
    if count := track.numbering.concealed.count:
        frames = _frames(track.numbering.concealed)
        lines.append(f"{frames} {'is' if count == 1 else 'are'} damaged; the decoder concealed what is missing")
    if turns := {round(one.residue_deg) for one in track.orientations if one.residue_deg}:
        lines.append(f"is to be shown turned by {min(turns)}° more; only multiples of 90° are carried out")
    return lines


def _lost_frames(numbering: Numbering) -> str:
    """Name the frames that could not be decoded, and those that may show the damage; "" if there are none."""
    lost, leaning = numbering.lost, numbering.leaning
    if not lost.count:
        return ""
    at = "" if numbering.first_lost_s is None else f", the first at {float(numbering.first_lost_s):.2f} s"
    words = f"{_frames(lost)} cannot be decoded{at}"
    return f"{words}, and {_frames(leaning)}, up to the next key frame, may show traces" if leaning.count else words


def _frames(numbers: Ranges) -> str:
    return f"frame {numbers}" if numbers.count == 1 else f"{numbers.count} frames ({numbers})"


class _State:
    """The decoder of a track and what became of its packets."""

    def __init__(self, track: Track) -> None:
        self.problem = ""
        self._track, self._held = track, None
        indexed = track.stream.index_entries if track.container.format.name == "mov" else ()
        self._empty = deque(entry.timestamp for entry in indexed if not entry.size)
        self._last_chunk: int | None = None
        self._last_ticks: int | None = None
        self._step = 1

    def packets(self) -> Iterator[tuple[Packet, int]]:
        """Yield the packets with their numbers. The container is read on after an error."""
        from av.error import EOFError as EndOfFile
        from av.error import FFmpegError

        track, num_errors = self._track, 0
        packets = track.container.demux(track.stream)
        while num_errors < _MOST_ERRORS:
            try:
                packet = next(packets)
            except (StopIteration, EndOfFile):
                break
            except (FFmpegError, OSError, *FAULTS) as error:
                self.problem = reason(error)
                num_errors += 1
                packets = track.container.demux(track.stream)
                continue
            if not packet.size:
                continue  # nothing for the decoder: the mark of the end
            num_errors = 0
            _check_packet(track, packet)
            # A corrupt packet with others after it is concealed by the decoder, as in players. A corrupt last packet is a cut one.
            ready = [packet] if self._held is None else [self._held, packet]
            self._held = ready.pop() if packet.is_corrupt else None
            for one in ready:
                self._count_empty(one.dts)
                yield one, track.numbering.sent(one)
        self._count_empty(None)
        if self._held is not None:
            self.problem = self.problem or "its last packet is cut"

    def _count_empty(self, before: int | None) -> None:
        """Count the pictures without content up to a time of decoding, which demuxers leave out."""
        numbering = self._track.numbering
        while self._empty and (before is None or self._empty[0] < before):
            numbering.empty(self._empty.popleft(), is_repeat=False)
        if (
            self._track.is_timed_by_decoding and before is not None
        ):  # AVI counts chunks, and empty ones repeat the picture before
            for time in range(
                (self._last_chunk or before) + 1, min(before, (self._last_chunk or before) + _MOST_REPEATS)
            ):
                numbering.empty(time, is_repeat=True)
            self._last_chunk = before

    def frames_of(self, packet: Packet, number: int) -> list[VideoFrame]:
        from av.error import FFmpegError

        if not any(memoryview(packet)[:_LOOKED_AT_BYTES]) and self._track.is_coded and not any(bytes(packet)):
            self._track.numbering.failed(number)  # some decoders take it for a picture
            return []
        packet.pts = number
        try:
            return self._track.stream.decode(packet)
        except (FFmpegError, OSError, *FAULTS):
            self._track.numbering.failed(number)
            return []

    def last_frames(self) -> list[VideoFrame]:
        """Return the frames that the decoder still holds."""
        from av.error import FFmpegError

        try:
            return self._track.stream.decode(None)
        except (FFmpegError, OSError, *FAULTS):
            return []

    def shown(self, frame: VideoFrame) -> Frame:
        """Return the frame as a player shows it: turned and mirrored as recorded."""
        path, base = self._track.path, self._track.stream.time_base
        check_limit("video_pixels", frame.width * frame.height, path)
        try:
            array = frame.to_ndarray(format="rgb24")
        except (OSError, *FAULTS) as error:
            raise InputError(f"{path}: cannot be decoded ({reason(error)}); give a whole video file") from error
        orientation = orientation_of(frame)
        self._track.orientations.add(orientation)
        index, ticks = self._track.numbering.placed(frame, base)
        if self._track.is_timed_by_decoding:
            ticks = frame.dts
        if ticks is None and self._last_ticks is not None:
            ticks = self._last_ticks + self._step
        if ticks is not None:
            if self._last_ticks is not None and ticks > self._last_ticks:
                self._step = ticks - self._last_ticks
            self._last_ticks = ticks
        return Frame(
            orientation.upright(array),
            index,
            None if ticks is None or base is None else ticks * base,
            frame.duration * base if frame.duration > 0 and base is not None else None,
        )


def _check_packet(track: Track, packet: Packet) -> None:
    """Apply the limit on JPEG passes to Motion JPEG packets too."""
    context = track.stream.codec_context
    if context.codec.canonical_name == "mjpeg":
        num_scans = bytes(packet).count(b"\xff\xda")
        check_limit("jpeg_work", num_scans * context.width * context.height, track.path)


def _duration_s(stream: VideoStream) -> float:
    """Return the duration in Matroska's track metadata; 0 if there is none."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        duration = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except (ValueError, OverflowError):
        return 0.0
    return duration if 0 <= duration < 1e9 else 0.0


def reason(error: BaseException) -> str:
    """Return the error text of libav without its error number."""
    return (getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__).lower()
