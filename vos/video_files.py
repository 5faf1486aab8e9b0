"""Video in, one frame at a time: files (PyAV, which carries ffmpeg), folders of images, raw pipes.

Nothing holds more than a frame, so a video may last for days. A source that ends too early yields all frames that it has and raises then:
whoever reads decides what becomes of them. Frame rates are constant: a recording of varying rate is taken at its average.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vos.datasets import FRAME_ENDINGS, image_files
from vos.errors import InputError
from vos.images import read_frame

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

DEFAULT_FPS = Fraction(25)


@dataclass(frozen=True)
class FrameStream:
    """A video that is read once, from its start."""

    name: str
    """What a message calls it."""
    size: tuple[int, int]
    """(H, W) of every frame, in pixels."""
    fps: Fraction
    num_frames: int | None
    """As far as it is known beforehand."""
    frames: Iterator[np.ndarray]
    """(H, W, 3) uint8 RGB each. Raises InputError after the last whole frame of a source that is truncated, damaged or changes its size."""
    stems: Sequence[str] | None = None
    """Names of the frames without ending, where the source has such."""


def open_video(path: str, fps: float = 0.0) -> FrameStream:
    """A video file or address that ffmpeg reads, or a folder of JPEG or PNG frames in the order of their numbers.

    fps   0: the video's own; 25 for a folder
    Raises InputError where nothing can be decoded: the first frame is decoded here.
    """
    if os.path.isdir(path):
        return _open_folder(path, fps)
    if "://" not in path and not os.path.exists(path):
        raise InputError(f"{path}: no such video; name a video file or a folder of JPEG or PNG frames")
    import av
    from av.error import FFmpegError

    try:
        container = av.open(path)
        stream = container.streams.video[0] if container.streams.video else None
    except (FFmpegError, ValueError) as error:
        raise InputError(f"{path}: cannot be decoded ({reason(error)}); give a whole video file") from error
    if stream is None:
        container.close()
        raise InputError(f"{path}: holds no picture track; give a video")
    rate = _fraction(fps) if fps else (stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
    num_frames = stream.frames or round((_duration_s(stream) or (container.duration or 0) / 1e6) * rate) or None
    return _opened(path, rate, num_frames, _decoded(path, container, stream))


def read_pipe(pipe: BinaryIO, size: tuple[int, int], fps: float = 0.0, name: str = "standard input") -> FrameStream:
    """Raw RGB24 frames, one after the other without anything between (`ffmpeg -i … -f rawvideo -pix_fmt rgb24 -`).

    size  (H, W): the bytes do not tell
    Raises InputError where not even one frame comes.
    """
    return _opened(name, _fraction(fps) if fps else DEFAULT_FPS, None, _raw_frames(pipe, size, name))


def _opened(
    name: str, fps: Fraction, num_frames: int | None, frames: Iterator[np.ndarray], stems: Sequence[str] | None = None
) -> FrameStream:
    first = next(frames, None)
    if first is None:
        raise InputError(f"{name}: holds no frame; give a whole video")
    size = (first.shape[0], first.shape[1])
    return FrameStream(
        name, size, fps, num_frames, itertools.chain([first], _of_size(name, size, frames, stems)), stems
    )


def _of_size(
    name: str, size: tuple[int, int], frames: Iterator[np.ndarray], stems: Sequence[str] | None
) -> Iterator[np.ndarray]:
    for index, frame in enumerate(frames, 1):
        if frame.shape[:2] != size:
            which = f"{name}: frame {stems[index] if stems else index}"
            found = f"{frame.shape[1]}x{frame.shape[0]}"
            raise InputError(
                f"{which} is {found} pixels, the first {size[1]}x{size[0]}; resize it or cut the video there"
            )
        yield frame


def _open_folder(path: str, fps: float) -> FrameStream:
    files = image_files(path)
    if not files:
        raise InputError(f"{path}: holds no frames; give a folder of {', '.join(FRAME_ENDINGS)} files, or a video file")
    frames = (read_frame(os.path.join(path, file)) for file in files)
    stems = [os.path.splitext(file)[0] for file in files]
    return _opened(path, _fraction(fps) if fps else DEFAULT_FPS, len(files), frames, stems)


def _decoded(path: str, container: InputContainer, stream: VideoStream) -> Iterator[np.ndarray]:
    """Every frame up to the first packet that is cut or damaged, then an InputError if there is more that should have come."""
    from av.error import EOFError as EndOfFile
    from av.error import FFmpegError

    num_packets, num_slots, end_s, held, problem = 0, 0, 0.0, None, ""
    rate = stream.average_rate or DEFAULT_FPS
    with container:
        # Not all that the header counts need be there. An MP4's edit list may leave frames out: its index, whole from the start, has those
        # that come. A recorder of AVI may have skipped frames: the place of the last in time says how far the recording goes.
        is_indexed = "mp4" in container.format.name
        num_announced = min(stream.frames, len(stream.index_entries)) if is_indexed else stream.frames
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                if packet.size:
                    num_packets += 1
                    num_slots = max(num_slots, 1 + round((packet.dts or 0) * packet.time_base * rate))
                    end_s = max(end_s, float(((packet.pts or 0) - (stream.start_time or 0)) * packet.time_base))
                    # A corrupt packet that others follow is the decoder's to conceal, as players do. The last one is half a packet.
                    ready = [packet] if held is None else [held, packet]
                    held = ready.pop() if packet.is_corrupt else None
                else:
                    ready = [packet]  # it empties the decoder
                frames = [frame for one in ready for frame in stream.decode(one)]
            except (StopIteration, EndOfFile):
                break
            except FFmpegError as error:
                problem = reason(error)
                frames = stream.decode(None)
            for frame in frames:
                yield _upright(frame)
            if problem:
                break
        if held is not None:
            problem = "its last packet is cut"
        elif not problem and num_packets < num_announced and (is_indexed or num_slots < num_announced):
            problem = f"{num_packets} of {num_announced} packets"
        elif not problem and end_s + 3 / float(rate) < _duration_s(stream):
            problem = f"{end_s:.1f} of {_duration_s(stream):.1f} s"
    if problem:
        raise InputError(f"{path}: truncated or damaged ({problem}); copy or record it again")


def _upright(frame: Any) -> np.ndarray:
    """(H, W, 3) RGB as a player shows it: telephones store frames lying and say so."""
    array = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(array, turns)) if turns else array


def _raw_frames(pipe: BinaryIO, size: tuple[int, int], name: str) -> Iterator[np.ndarray]:
    for number in itertools.count():
        frame = np.empty((*size, 3), np.uint8)
        rest = memoryview(frame.data).cast("B")
        while len(rest):
            got = pipe.readinto(rest)  # type: ignore[attr-defined]
            if not got:
                break
            rest = rest[got:]
        if len(rest) == frame.nbytes:
            return
        if len(rest):
            raise InputError(
                f"{name}: ends within frame {number} ({frame.nbytes - len(rest)} of {frame.nbytes} bytes); "
                f"are its frames {size[1]}x{size[0]}, as --pipe-size says, and rgb24?"
            )
        yield frame


def _duration_s(stream: VideoStream) -> float:
    """What Matroska writes of a track at its end; 0 where the file does not say."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _fraction(fps: float) -> Fraction:
    """29.97 and its like are multiples of 1/1001."""
    exact = Fraction(fps).limit_denominator(1001)
    ntsc = Fraction(round(fps * 1001 / 1000) * 1000, 1001)
    return ntsc if abs(ntsc - Fraction(fps)) < Fraction(1, 200) and exact.denominator != 1 else exact


def reason(error: BaseException) -> str:
    """libav's words without its numbers."""
    return (getattr(error, "strerror", None) or str(error).splitlines()[0] or type(error).__name__).lower()
