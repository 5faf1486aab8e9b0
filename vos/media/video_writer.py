"""Video output, one frame at a time: H.264 files through PyAV, which contains ffmpeg."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from vos.errors import InputError
from vos.media.video_decoder import reason

# In order of preference; the ffmpeg build decides which exist. OpenH264 and MPEG-4 Part 2 need a bit rate for the same quality.
ENCODERS = (
    ("libx264", {"preset": "veryfast", "crf": "18"}),
    ("libopenh264", {"b": "8M"}),
    ("h264", {"b": "8M"}),
    ("mpeg4", {"b": "12M"}),
)


class VideoWriter:
    """Writer of an H.264 file, or of another codec that this ffmpeg can encode. The file gets its name in `close`.

    path   ends in .mp4, .m4v, .mov or .mkv; its folder is made
    size   (H, W) of the frames, in pixels; H.264 needs even sides, so an odd one is padded by a pixel
    ready  called with the finished file's temporary path, before it gets its name
    Raises InputError if it cannot be written.
    """

    def __init__(
        self,
        path: str,
        size: tuple[int, int],
        fps: Fraction,
        encoders: Sequence[tuple[str, dict[str, str]]] = ENCODERS,
        ready: Callable[[str], None] | None = None,
    ) -> None:
        import av
        from av.error import FFmpegError

        stem, ending = os.path.splitext(path)
        self._path, self._part = path, f"{stem}.{uuid.uuid4().hex[:8]}.part{ending}"
        self._ready = ready
        self._pad = ((0, size[0] % 2), (0, size[1] % 2), (0, 0))
        # With the index at the front, a browser can play the file while it loads.
        options = {"movflags": "+faststart"} if ending in (".mp4", ".m4v", ".mov") else {}
        available = [one for one in encoders if _has_encoder(one[0])]
        if not available:
            raise InputError(f"{path}: PyAV has none of {', '.join(name for name, _ in encoders)}; pip install av")
        self.encoder, settings = available[0]
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            self._container = av.open(f"file:{self._part}", "w", options=options)
            # MPEG-4 Part 2 counts time in 16 bits.
            self._stream: Any = self._container.add_stream(
                self.encoder, rate=fps.limit_denominator(1001 if fps < 65 else 100), options=settings
            )
        except (FFmpegError, OSError) as error:
            raise InputError(f"{path}: cannot be written ({reason(error)}); choose another --out") from error
        self._stream.height, self._stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.colorspace = 6  # BT.601, as converted from RGB; without it, players guess by size
        self._stream.codec_context.color_range = 1
        self.num_frames = 0

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, (H, W, 3) uint8 RGB. Raises InputError if the disk is full."""
        import av

        if self._pad[0][1] or self._pad[1][1]:
            frame = np.pad(frame, self._pad, mode="edge")
        self._mux(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file and give it its name; without frames, no file is left."""
        from av.error import FFmpegError

        try:
            if self.num_frames:
                self._mux(None)
            self._container.close()
            if self.num_frames:
                if self._ready is not None:
                    self._ready(self._part)
                os.replace(self._part, self._path)
        except (FFmpegError, OSError) as error:
            raise InputError(f"{self._path}: cannot be finished ({reason(error)}); free the disk") from error
        finally:
            if os.path.exists(self._part):
                os.remove(self._part)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mux(self, frame: Any) -> None:
        from av.error import FFmpegError

        try:
            self._container.mux(self._stream.encode(frame))
        except (FFmpegError, OSError) as error:
            raise InputError(f"{self._path}: cannot be written ({reason(error)}); free the disk") from error


def _has_encoder(name: str) -> bool:
    import av

    try:
        return av.Codec(name, "w").is_encoder
    except ValueError:  # PyAV's UnknownCodecError
        return False
