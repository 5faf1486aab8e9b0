"""Video input, one frame at a time: files (vos/media/video_decoder.py), folders of images, raw pipes.

Only one frame is in memory, so a video may last for days. A truncated source yields all its frames and then raises InputError; the
caller decides what to do with them. Frame rates are constant: a recording of varying rate is read at its average.
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
from vos.media.frame_files import FRAME_ENDINGS, list_frames, no_frames
from vos.media.images import read_frame
from vos.media.video_decoder import decoded, open_track

DEFAULT_FPS = Fraction(25)


@dataclass(frozen=True)
class FrameStream:
    """A video that is read once, from its start."""

    name: str
    """Its name in messages."""
    size: tuple[int, int]
    """(H, W) of every frame, in pixels."""
    fps: Fraction
    num_frames: int | None
    """None if it is not known in advance."""
    frames: Iterator[np.ndarray]
    """(H, W, 3) uint8 RGB each. Raises InputError after the last good frame if the source is truncated, damaged or changes its size."""
    stems: Sequence[str] | None = None
    """Names of the frames without extension, if the source has names."""
    unverified_end: str = ""
    """A warning of one line if the container cannot show that the file is complete; else ""."""


def open_video(path: str, fps: float = 0.0) -> FrameStream:
    """Open a video file, or a folder of JPEG or PNG frames in the order of their numbers.

    fps   0: the video's own; 25 for a folder
    Raises InputError if the first frame cannot be decoded; this function decodes it.
    """
    if os.path.isdir(path):
        return open_folder(path, fps)
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
        raise InputError(f"{path}: declares {float(rate):.6g} frames per second; give the true rate with --fps")
    num_frames = track.num_frames or round(max(0.0, track.duration_s) * rate) or None
    unverified = track.end.unverified
    note = f"{path}: cannot verify that this is the whole video: {unverified}" if unverified else ""
    return replace(_opened(path, rate, num_frames, decoded(track)), unverified_end=note)


def read_pipe(pipe: BinaryIO, size: tuple[int, int], fps: float = 0.0, name: str = "standard input") -> FrameStream:
    """Read raw RGB24 frames from a pipe, without anything between them (`ffmpeg -i … -f rawvideo -pix_fmt rgb24 -`).

    size  (H, W), which the bytes do not hold
    Raises InputError if there is no frame or a frame exceeds the limit.
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


def open_folder(path: str, fps: float = 0.0, masks: Sequence[str] = ()) -> FrameStream:
    """Open a folder of JPEG or PNG frames, in the order of their numbers and turned as their EXIF orientation says.

    masks  files that are no frames, if they are in the folder
    Raises InputError if there is no frame or the first one cannot be decoded.
    """
    files = list_frames(path, masks).files
    if not files:
        why = no_frames(path) or f"give a folder of {', '.join(FRAME_ENDINGS)} files, or a video file"
        raise InputError(f"{path}: holds no frames; {why}")
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
                f"check that its frames are rgb24 and {size[1]}x{size[0]}, as given with --pipe-size"
            )
        yield frame


def _fraction(fps: float) -> Fraction:
    """Return the frame rate as a fraction; 29.97 and similar (NTSC) rates are multiples of 1/1001."""
    exact = Fraction(fps).limit_denominator(1001)
    ntsc = Fraction(round(fps * 1001 / 1000) * 1000, 1001)
    return ntsc if abs(ntsc - Fraction(fps)) < Fraction(1, 200) and exact.denominator != 1 else exact
