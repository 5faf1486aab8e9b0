"""Video output, one frame at a time: H.264 files through PyAV, which contains ffmpeg.

Frames keep the times of their source, and its sound is copied beside them.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from vos.errors import InputError
from vos.media.video_decoder import reason
from vos.media.video_sound import Sound

# In order of preference; the ffmpeg build decides which exist. OpenH264 and MPEG-4 Part 2 need a bit rate for the same quality.
ENCODERS = (
    ("libx264", {"preset": "veryfast", "crf": "18"}),
    ("libopenh264", {"b": "8M"}),
    ("h264", {"b": "8M"}),
    ("mpeg4", {"b": "12M"}),
)

_MOST_TICKS = {"": 1_000_000, "mpeg4": 60_000}
"""Most ticks a second; MPEG-4 Part 2 counts time in 16 bits."""


class VideoWriter:
    """Writer of an H.264 file, or of another codec that this ffmpeg can encode. The file gets its name in `close`.

    path       ends in .mp4, .m4v, .mov or .mkv; its folder is made
    size       (H, W) of the frames, in pixels; H.264 needs even sides, so an odd one is padded by a pixel
    ready      called with the finished file's temporary path, before it gets its name
    time_base  unit of the times given to `write`, in seconds; None if all frames have one duration, 1 / fps
    aspect     width of a pixel over its height; None if it is not known
    sound      copied into the file, and closed with it
    Raises InputError if it cannot be written.
    """

    def __init__(
        self,
        path: str,
        size: tuple[int, int],
        fps: Fraction,
        encoders: Sequence[tuple[str, dict[str, str]]] = ENCODERS,
        ready: Callable[[str], None] | None = None,
        time_base: Fraction | None = None,
        aspect: Fraction | None = None,
        sound: Sound | None = None,
    ) -> None:
        stem, ending = os.path.splitext(path)
        self._path, self._part = path, f"{stem}.{uuid.uuid4().hex[:8]}.part{ending}"
        self._ready, self._sound, self._copies_rest = ready, sound, False
        self._size, self._aspect = size, aspect
        self._pad = ((0, size[0] % 2), (0, size[1] % 2), (0, 0))
        available = [one for one in encoders if _has_encoder(one[0])]
        if not available:
            raise InputError(f"{path}: PyAV has none of {', '.join(name for name, _ in encoders)}; pip install av")
        self.encoder, settings = available[0]
        # Times between frames may differ: only without B-frames are the durations in an index those of the frames as shown.
        is_h264 = self.encoder in ("libx264", "libopenh264", "h264")
        self._settings = {**settings, "bf": "0"} if is_h264 and time_base is not None else settings
        self._fps = fps.limit_denominator((1001 if fps < 65 else 100) if fps > 1 else 100_000)
        most_ticks = _MOST_TICKS.get(self.encoder, _MOST_TICKS[""])
        tick = 1 / self._fps if time_base is None else time_base
        self._tick = tick if tick > 0 and tick.denominator <= most_ticks else Fraction(1, most_ticks)
        self._origin_s: Fraction | None = None
        self._last = -1
        self._step = max(1, round(1 / self._fps / self._tick))
        self._shortest, self._longest = 0, 0
        self._durations: dict[int, int] = {}
        self.num_frames = 0
        try:
            self._open()
        except BaseException:
            if sound is not None:
                sound.close()
            raise

    @property
    def is_variable(self) -> bool:
        """Whether the times between the frames so far differ by more than rounding."""
        return self._longest - self._shortest > max(2, self._shortest // 20)

    def write(self, frame: np.ndarray, time_s: Fraction | None = None, duration_s: Fraction | None = None) -> None:
        """Append a frame, (H, W, 3) uint8 RGB. Raises InputError if the disk is full.

        time_s      by the clock of the source and its sound; None: one duration after the frame before
        duration_s  None: as long as the frame before
        """
        import av

        if time_s is None:
            time_s = self.num_frames / self._fps
        if self._origin_s is None:
            start_s = self._sound.start_s if self._sound is not None else None
            self._origin_s = time_s if start_s is None else min(time_s, start_s)
        ticks = max(self._last + 1, round((time_s - self._origin_s) / self._tick))
        if self.num_frames:
            self._step = ticks - self._last
            self._shortest = min(self._shortest or self._step, self._step)
            self._longest = max(self._longest, self._step)
        self._durations[ticks] = max(1, round(duration_s / self._tick)) if duration_s else self._step
        self._last = ticks
        self._copy_sound(time_s)
        if self._pad[0][1] or self._pad[1][1]:
            frame = np.pad(frame, self._pad, mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base = ticks, self._tick
        self._mux(picture)
        self.num_frames += 1

    def copy_rest(self) -> None:
        """Have `close` copy the sound to its end; else it ends with the last frame."""
        self._copies_rest = True

    def close(self) -> None:
        """Finish the file and give it its name; without frames, no file is left."""
        from av.error import FFmpegError

        try:
            if self.num_frames:
                end_s = self._origin_s + (self._last + self._step) * self._tick if self._origin_s is not None else None
                self._mux(None)
                self._copy_sound(None if self._copies_rest else end_s)
            self._container.close()
            if self.num_frames:
                if self._ready is not None:
                    self._ready(self._part)
                os.replace(self._part, self._path)
        except (FFmpegError, OSError) as error:
            raise InputError(f"{self._path}: cannot be finished ({reason(error)}); free the disk") from error
        finally:
            if self._sound is not None:
                self._sound.close()
            if os.path.exists(self._part):
                os.remove(self._part)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        """Begin the file; without sound if its header cannot be written with it."""
        import av
        from av.error import FFmpegError

        # With the index at the front, a browser can play the file while it loads.
        is_mp4 = os.path.splitext(self._path)[1].lower() in (".mp4", ".m4v", ".mov")
        try:
            os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
            self._container = av.open(f"file:{self._part}", "w", options={"movflags": "+faststart"} if is_mp4 else {})
            self._stream: Any = self._container.add_stream(
                self.encoder, rate=self._fps, options=self._settings, time_base=self._tick
            )
        except (FFmpegError, OSError) as error:
            raise InputError(f"{self._path}: cannot be written ({reason(error)}); choose another --out") from error
        self._stream.height, self._stream.width = (side + side % 2 for side in self._size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.colorspace = 6  # BT.601, as converted from RGB; without it, players guess by size
        self._stream.codec_context.color_range = 1
        if self._aspect is not None:
            self._stream.codec_context.sample_aspect_ratio = self._aspect
        if self._sound is None:
            return
        self._sound.add_to(self._container, self._path)
        try:
            self._container.start_encoding()
        except (FFmpegError, OSError, ValueError) as error:
            self._sound.leave_out(reason(error), self._path)
            self._sound = None
            self._open()

    def _copy_sound(self, until_s: Fraction | None) -> None:
        if self._sound is None or self._origin_s is None:
            return
        for packet in self._sound.packets(until_s, self._origin_s):
            self._sound.copied(packet, self._container)

    def _mux(self, frame: Any) -> None:
        from av.error import FFmpegError

        try:
            for packet in self._stream.encode(frame):
                if packet.pts in self._durations:
                    packet.duration = self._durations.pop(packet.pts)
                self._container.mux(packet)
        except (FFmpegError, OSError) as error:
            raise InputError(f"{self._path}: cannot be written ({reason(error)}); free the disk") from error


def _has_encoder(name: str) -> bool:
    import av

    try:
        return av.Codec(name, "w").is_encoder
    except ValueError:  # PyAV's UnknownCodecError
        return False
