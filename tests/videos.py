"""Small videos in every container and codec that is read, written by PyAV, for tests and for tests/chaos/cuts.py."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, cast

import av
import numpy as np
from av.video.stream import VideoStream

from vos.data.synthetic import synthetic_index


class Kind(NamedTuple):
    """How a video is written, and whether its container can tell that a file is whole."""

    ending: str
    codec: str
    muxer: str | None = None
    options: dict[str, str] = {}
    pixels: str = "yuv420p"
    tells: bool = True


KINDS = {
    "mp4": Kind(".mp4", "libx264"),
    "mp4, index first": Kind(".mp4", "libx264", None, {"movflags": "+faststart"}),
    "mp4, in fragments": Kind(".mp4", "libx264", None, {"movflags": "+frag_keyframe+empty_moov"}),
    "mp4, in listed fragments": Kind(".mp4", "libx264", None, {"movflags": "+dash+global_sidx+frag_keyframe"}),
    "mp4, in fragments without a list": Kind(
        ".mp4", "libx264", None, {"movflags": "+cmaf+frag_keyframe+empty_moov+skip_trailer"}, tells=False
    ),
    "mp4, hevc": Kind(".mp4", "libx265"),
    "mov": Kind(".mov", "prores_ks", pixels="yuv422p10le"),
    "mkv": Kind(".mkv", "libx264"),
    "mkv, ffv1": Kind(".mkv", "ffv1"),
    "webm": Kind(".webm", "libvpx-vp9"),
    "webm, vp8": Kind(".webm", "libvpx"),
    "webm, live": Kind(".webm", "libvpx", None, {"live": "1"}, tells=False),
    "avi": Kind(".avi", "mpeg4"),
    "avi, mjpeg": Kind(".avi", "mjpeg", pixels="yuvj420p"),
    "ogg": Kind(".ogv", "libvpx", "ogg"),
    "gif": Kind(".gif", "gif", pixels="rgb8"),
    "y4m": Kind(".y4m", "rawvideo", "yuv4mpegpipe", tells=False),
    "ts": Kind(".ts", "libx264", "mpegts", tells=False),
    "ts, mpeg2": Kind(".ts", "mpeg2video", "mpegts", tells=False),
    "m2ts": Kind(".m2ts", "libx264", tells=False),
    "mpg": Kind(".mpg", "mpeg2video", tells=False),
    "mpg, mpeg1": Kind(".mpg", "mpeg1video", tells=False),
    "m2v": Kind(".m2v", "mpeg2video", "mpeg2video", tells=False),
}


def pictures(count: int = 40, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """(H, W, 3) uint8 RGB each."""
    video = synthetic_index(1, count, size)[0]
    return [video.frame(index) for index in range(count)]


def write_video(path: str, kind: Kind, frames: Sequence[np.ndarray]) -> str:
    """Write the frames at 25 a second. Raises av's UnknownCodecError where this build of it lacks the encoder."""
    with av.open(path, "w", format=kind.muxer, options=kind.options) as container:
        settings = {"g": "6"} if kind.codec in ("libx264", "mpeg4", "mpeg2video", "mpeg1video") else {}
        stream = cast(VideoStream, container.add_stream(kind.codec, rate=25, options=settings))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = kind.pixels
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path
