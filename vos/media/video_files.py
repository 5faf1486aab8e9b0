"""Video in, one frame at a time: files (vos/media/video_decoder.py), folders of images, raw pipes.

Nothing holds more than a frame, so a video may last for days. A source that ends too early yields all frames that it has and raises then:
whoever reads decides what becomes of them. Frame rates are constant: a recording of varying rate is taken at its average.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO

import numpy as np

from vos.errors import InputError
from vos.files.limits import check_limit
from vos.media.frame_files import FRAME_ENDINGS, image_files
from vos.media.images import read_frame
from vos.media.video_decoder import decoded, open_track

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
    unverified_end: str = ""
    """One line where the container does not tell whether the file goes to the end of the video; "" where it does."""


def open_video(path: str, fps: float = 0.0) -> FrameStream:
    """A video file, or a folder of JPEG or PNG frames in the order of their numbers.

    fps   0: the video's own; 25 for a folder
    Raises InputError where nothing can be decoded: the first frame is decoded here.
    """
    if os.path.isdir(path):
        return _open_folder(path, fps)
    if "://" in path and not os.path.exists(path):
        raise InputError(
            f"{path}: addresses are not opened; download it, or send its frames: ffmpeg -i … -f rawvideo -pix_fmt rgb24 - | "
            "python -m jobs.segment - --pipe-size WIDTHxHEIGHT …"
        )
    if not os.path.exists(path):
        raise InputError(f"{path}: no such video; name a video file or a folder of JPEG or PNG frames")
    track = open_track(path)
    rate = _fraction(fps) if fps else (track.rate or DEFAULT_FPS)
    if not Fraction(1, 1000) <= rate <= 1000:
        track.close()
        raise InputError(f"{path}: announces {float(rate):.6g} frames a second; say with --fps how many it has")
    num_frames = track.num_frames or round(max(0.0, track.duration_s) * rate) or None
    unverified = track.end.unverified
    note = f"{path}: whether this is the whole video cannot be verified: {unverified}" if unverified else ""
    return replace(_opened(path, rate, num_frames, decoded(track)), unverified_end=note)


def read_pipe(pipe: BinaryIO, size: tuple[int, int], fps: float = 0.0, name: str = "standard input") -> FrameStream:
    """Raw RGB24 frames, one after the other without anything between (`ffmpeg -i … -f rawvideo -pix_fmt rgb24 -`).

    size  (H, W): the bytes do not tell
    Raises InputError where not even one frame comes, or a frame exceeds the limit.
    """
    check_limit("video_pixels", size[0] * size[1], f"{name} of {size[1]}x{size[0]} pixels")
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


def _fraction(fps: float) -> Fraction:
    """29.97 and its like are multiples of 1/1001."""
    exact = Fraction(fps).limit_denominator(1001)
    ntsc = Fraction(round(fps * 1001 / 1000) * 1000, 1001)
    return ntsc if abs(ntsc - Fraction(fps)) < Fraction(1, 200) and exact.denominator != 1 else exact
