"""Video input, one frame at a time: files (vos/media/video_decoder.py), folders of images, raw pipes.

Only one frame is in memory, so a video may last for days. A damaged or truncated file yields all frames that can be decoded and then
raises InputError; the caller decides what to do with them. Frames have their numbers in the video and the times of their file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import attrgetter
from typing import BinaryIO

import numpy as np

from vos.errors import InputError
from vos.files.limits import check_limit
from vos.media.frame_files import FRAME_ENDINGS, list_frames, no_frames
from vos.media.images import read_frame
from vos.media.video_decoder import Track, decoded, open_track, remarks
from vos.media.video_frames import Frame, Ranges

DEFAULT_FPS = Fraction(25)
_SLOWEST = Fraction(1, 24 * 3600)


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
    shown: Iterator[Frame]
    """Raises InputError after the last good frame if the source is truncated, has lost frames or changes its size."""
    stems: Sequence[str] | None = None
    """Names of the frames without extension, if the source has names."""
    unverified_end: str = ""
    """A warning of one line if the container cannot show that the file is complete; else ""."""
    aspect: Fraction | None = None
    """Width of a pixel over its height as shown; None if it is not known."""
    time_base: Fraction | None = None
    """Unit of the times of a file, in seconds; None for frames at a constant rate."""
    first_index: int = 0
    """Number of the first frame that can be decoded; those before it are lost."""
    track: Track | None = None
    """Of a video file."""

    @property
    def frames(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB each: the images of `shown`, which both iterators take from."""
        return map(attrgetter("image"), self.shown)

    @property
    def lost(self) -> Ranges:
        """Numbers of the frames that could not be decoded, so far."""
        return self.track.numbering.lost if self.track is not None else Ranges()

    @property
    def has_ended(self) -> bool:
        """Whether a video file was read up to its end."""
        return self.track is not None and bool(self.track.ended)

    @property
    def has_sound(self) -> bool:
        return self.track is not None and self.track.has_sound

    def notes(self) -> list[str]:
        """Return what there is to say about the frames that were read, a line each."""
        return [f"{self.name}: {line}" for line in remarks(self.track)] if self.track is not None else []


def open_video(path: str, fps: float = 0.0, skips_damage: bool = False) -> FrameStream:
    """Open a video file, or a folder of JPEG or PNG frames in the order of their numbers.

    fps           0: the video's own times; 25 for a folder
    skips_damage  whether a file that is cut or has lost frames is taken as it is: `notes` says so, and nothing is raised
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
    if not _SLOWEST <= rate <= 1000:
        track.close()
        raise InputError(f"{path}: declares {float(rate):.6g} frames per second; give the true rate with --fps")
    num_frames = track.num_frames or round(max(0.0, track.duration_s) * rate) or None
    unverified = track.end.unverified
    note = f"{path}: cannot verify that this is the whole video: {unverified}" if unverified else ""
    shown = decoded(track, skips_damage)
    opened = _opened(path, rate, num_frames, _at_rate(shown, rate) if fps else shown)
    aspect = track.aspect
    if aspect and any(one.is_transposed for one in track.orientations):
        aspect = 1 / aspect
    return replace(
        opened,
        unverified_end=note,
        aspect=aspect,
        time_base=None if fps else track.stream.time_base,
        track=track,
    )


def read_pipe(pipe: BinaryIO, size: tuple[int, int], fps: float = 0.0, name: str = "standard input") -> FrameStream:
    """Read raw RGB24 frames from a pipe, without anything between them (`ffmpeg -i … -f rawvideo -pix_fmt rgb24 -`).

    size  (H, W), which the bytes do not hold
    Raises InputError if there is no frame or a frame exceeds the limit.
    """
    check_limit("video_pixels", size[0] * size[1], f"{name} of {size[1]}x{size[0]} pixels")
    rate = _fraction(fps) if fps else DEFAULT_FPS
    return _opened(name, rate, None, _at_rate(_numbered(_raw_frames(pipe, size, name)), rate))


def _numbered(images: Iterable[np.ndarray]) -> Iterator[Frame]:
    return (Frame(image, index) for index, image in enumerate(images))


def _at_rate(frames: Iterator[Frame], fps: Fraction) -> Iterator[Frame]:
    return (frame._replace(time_s=frame.index / fps, duration_s=1 / fps) for frame in frames)


def _opened(
    name: str, fps: Fraction, num_frames: int | None, frames: Iterator[Frame], stems: Sequence[str] | None = None
) -> FrameStream:
    first = next(frames, None)
    if first is None:
        raise InputError(f"{name}: holds no frame; give a whole video")
    size = (first.image.shape[0], first.image.shape[1])
    shown = itertools.chain([first], _of_size(name, size, frames, stems))
    return FrameStream(name, size, fps, num_frames, shown, stems, first_index=first.index)


def _of_size(name: str, size: tuple[int, int], frames: Iterator[Frame], stems: Sequence[str] | None) -> Iterator[Frame]:
    for frame in frames:
        if frame.image.shape[:2] != size:
            which = f"{name}: frame {stems[frame.index] if stems else frame.index}"
            found = f"{frame.image.shape[1]}x{frame.image.shape[0]}"
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
    frames = _numbered(read_frame(os.path.join(path, file)) for file in files)
    stems = [os.path.splitext(file)[0] for file in files]
    rate = _fraction(fps) if fps else DEFAULT_FPS
    return _opened(path, rate, len(files), _at_rate(frames, rate), stems)


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
