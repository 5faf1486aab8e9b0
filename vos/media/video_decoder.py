"""Decoder of one picture track of a video file through ffmpeg (PyAV), with only the parts of ffmpeg that this needs.

The first bytes decide the container (vos/media/video_containers.py). ffmpeg reads from an open file, so no file name is interpreted as a
protocol, a pattern or a list. The file is opened twice: without any decoder, to learn codec and size; then with the one decoder needed.
Sound, subtitles and attachments are never decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vos.errors import InputError
from vos.files.limits import check_limit, limit
from vos.files.whole import open_regular
from vos.media.video_containers import Container, container_of
from vos.media.video_ends import End

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
_FAULTS = (ValueError, OverflowError, MemoryError, AssertionError, ZeroDivisionError)
"""Errors that PyAV raises for damaged files, besides its own."""


@dataclass(frozen=True)
class Track:
    """The picture track of an open file."""

    path: str
    file: BinaryIO
    container: InputContainer
    stream: VideoStream
    end: End

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
        stream.codec_context.options = {"max_pixels": str(_most_pixels())}
        return Track(path, file, opened, stream, end)
    except BaseException as error:
        file.close()
        if isinstance(error, (FFmpegError, OSError, IndexError, *_FAULTS)) and not isinstance(error, InputError):
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


def _no_further_file(*_: Any) -> Any:
    raise InputError("the video refers to other files, which are not opened")


def _looked_at(file: BinaryIO, container: Container, path: str) -> tuple[int, str]:
    """Return the position of the picture track and the name of its decoder; the file is opened without any decoder."""
    from av.stream import Disposition

    with _open(file, container, "none") as opened:
        tracks = opened.streams.video
        places = [i for i, one in enumerate(tracks) if not one.disposition & Disposition.attached_pic]
        if not places:
            raise InputError(f"{path}: holds no picture track; give a video")
        context = tracks[places[0]].codec_context
        codec = context.codec.canonical_name if context is not None else "unknown"
        if codec not in CODECS:
            raise InputError(
                f"{path}: its codec {codec} is not one of those supported ({', '.join(CODECS)}); convert it, for example to H.264"
            )
        # The size is 0 if only the decoder can tell it; the decoder has the limit too.
        check_limit("video_pixels", context.width * context.height, path)
        return places[0], context.codec.name


def decoded(track: Track) -> Iterator[np.ndarray]:
    """Yield every frame (H, W, 3) uint8 RGB up to the first cut or damaged packet; raise InputError if frames are missing after it."""
    from av.error import EOFError as EndOfFile
    from av.error import FFmpegError

    held: Packet | None = None
    problem = ""
    with track.file, track.container:
        packets = track.container.demux(track.stream)
        while True:
            try:
                packet = next(packets)
                _check_packet(track, packet)
                if packet.size:
                    # A corrupt packet with others after it is concealed by the decoder, as in players. A corrupt last packet is a cut one.
                    ready = [packet] if held is None else [held, packet]
                    held = ready.pop() if packet.is_corrupt else None
                else:
                    ready = [packet]  # the empty packet flushes the decoder
                frames = [frame for one in ready for frame in track.stream.decode(one)]
            except (StopIteration, EndOfFile):
                break
            except (FFmpegError, OSError, *_FAULTS) as error:
                problem, frames = reason(error), _emptied(track.stream)
            for frame in frames:
                yield _upright(frame, track.path)
            if problem:
                break
    problem = track.end.problem or problem or ("its last packet is cut" if held is not None else "")
    if problem:
        raise InputError(f"{track.path}: truncated or damaged ({problem}); copy or record it again")


def _check_packet(track: Track, packet: Packet) -> None:
    """Apply the limit on JPEG passes to Motion JPEG packets too."""
    context = track.stream.codec_context
    if context.codec.canonical_name == "mjpeg" and packet.size:
        num_scans = bytes(packet).count(b"\xff\xda")
        check_limit("jpeg_work", num_scans * context.width * context.height, track.path)


def _emptied(stream: VideoStream) -> list[VideoFrame]:
    from av.error import FFmpegError

    try:
        return stream.decode(None)
    except (FFmpegError, OSError, *_FAULTS):
        return []


def _upright(frame: VideoFrame, path: str) -> np.ndarray:
    """Return the frame as a player shows it, (H, W, 3) RGB: phones store rotated frames and record the rotation."""
    check_limit("video_pixels", frame.width * frame.height, path)
    try:
        array = frame.to_ndarray(format="rgb24")
    except (OSError, *_FAULTS) as error:
        raise InputError(f"{path}: cannot be decoded ({reason(error)}); give a whole video file") from error
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(array, turns)) if turns else array


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
