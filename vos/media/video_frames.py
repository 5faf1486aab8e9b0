"""Numbers of the frames of a video file, true also where some of them cannot be decoded.

A packet is not a frame: some packets hold no picture, or the second half of one, and a damaged packet gives none. Every packet that is
sent to the decoder is remembered until its frame comes out: its number takes the place of its time, which every decoder passes on. A
packet whose time has passed without a frame is a lost frame, unless its kind explains it. The number of a frame is the number of frames
before it, lost ones included.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

MOST_RANGES = 8
"""Ranges of frame numbers that a message names."""
_REORDERED = 64
"""Frames whose numbers are remembered after they were taken for lost: decoders reorder at most 16."""
_GAP = Fraction(7, 4)
"""Frame durations between two frames from which on a frame is missing between them; in film shown as television they are 3/2 at most."""
_MOST_CONTRADICTIONS = 8
"""Frames that came although their time had passed, from which on times do not tell the order of frames."""
_JUMP_S = 10
"""Seconds without a frame from which on the clock has jumped and no frame is missing, as in ffmpeg; back, a tenth of that."""
_NOT_CODED_BYTES = 20
"""Largest packet of MPEG-4 Part 2 that says 'as before'."""
_FIELD_CODECS = ("h264", "hevc", "mpeg2video", "mpeg1video")


class Frame(NamedTuple):
    """A frame as a player shows it.

    image       (H, W, 3) uint8 RGB
    index       its number in the video, from 0; frames that cannot be decoded are counted too
    time_s      when it is shown, by the clock of its source; None if the source has none
    duration_s  how long; None if the source does not say
    """

    image: np.ndarray
    index: int
    time_s: Fraction | None = None
    duration_s: Fraction | None = None


class Ranges:
    """Numbers in ascending order, kept as ranges."""

    def __init__(self) -> None:
        self._ranges: list[list[int]] = []
        self.count = 0

    def add(self, number: int) -> None:
        self.count += 1
        if self._ranges and self._ranges[-1][1] == number - 1:
            self._ranges[-1][1] = number
        else:
            self._ranges.append([number, number])

    def remove(self, number: int) -> None:
        """Remove a number that was added recently."""
        for place, (first, last) in enumerate(self._ranges[-_REORDERED:], max(0, len(self._ranges) - _REORDERED)):
            if first <= number <= last:
                self.count -= 1
                self._ranges[place : place + 1] = [
                    pair for pair in ([first, number - 1], [number + 1, last]) if pair[0] <= pair[1]
                ]
                return

    def __contains__(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self._ranges)

    def __str__(self) -> str:
        shown = [
            f"{first}" if first == last else f"{first}-{last}" for first, last in sorted(self._ranges)[:MOST_RANGES]
        ]
        return ", ".join(shown) + (", …" if len(self._ranges) > MOST_RANGES else "")


class _Sent(NamedTuple):
    pts: int | None
    size: int
    is_hidden: bool
    """It is shown by no player: a picture that only others refer to."""


class Numbering:
    """Which frames of a track came out of its decoder, and which did not.

    codec       ffmpeg's name
    reorders    whether packets have times of decoding only, so that times do not tell the order of frames
    is_regular  whether the container's frames have a constant rate, so that a gap in time after damage means lost frames, and whether
                its clock may jump, as where recordings are joined
    has_holes   whether packets are known to be missing
    """

    def __init__(self, codec: str, reorders: bool, is_regular: bool, has_holes: bool = False) -> None:
        self.lost, self.concealed, self.leaning = Ranges(), Ranges(), Ranges()
        self.first_lost_s: Fraction | None = None
        self.has_damage = False
        """Something in the file was damaged, also if no frame was lost."""
        self._codec, self._is_trusted, self._is_regular, self._has_holes = codec, not reorders, is_regular, has_holes
        self._clock: int | None = None
        self._offset = 0
        self._sent: dict[int, _Sent] = {}
        self._failed: set[int] = set()
        self._repeats: set[int] = set()
        self._declared: dict[int, int] = {}
        self._times: dict[int, int | None] = {}
        self._interlaced: dict[int, bool] = {}
        self._next = self._num_sent = self._num_contradictions = 0
        self._first_key_pts: int | None = None
        self._last_pts: int | None = None
        self._spacing: int | None = None
        self._is_leaning = False

    def sent(self, packet: Packet) -> int:
        """Register a packet, and return its number, which is to be its time in the decoder."""
        number = self._num_sent
        self._num_sent += 1
        offset = self._follow(packet) if self._is_regular else 0
        pts = None if packet.pts is None else packet.pts + offset
        if number == 0 and packet.is_keyframe:
            self._first_key_pts = pts
        self.has_damage |= packet.is_corrupt
        if not packet.is_discard:
            self._sent[number] = _Sent(pts, packet.size, _is_hidden(packet, self._codec))
        return number

    def _follow(self, packet: Packet) -> int:
        """Return what makes the clock of packets continuous where it jumps."""
        now = packet.dts if packet.dts is not None else packet.pts
        if now is None:
            return self._offset
        if self._clock is not None:
            step_s = (now + self._offset - self._clock) * packet.time_base
            if not -_JUMP_S / 10 < step_s < _JUMP_S:
                self._offset = self._clock + (self._spacing or 1) - now
        self._clock = now + self._offset
        return self._offset

    def failed(self, number: int) -> None:
        """Register that the decoder refused a packet."""
        self.has_damage = True
        self._failed.add(number)

    def empty(self, time: int, is_repeat: bool) -> None:
        """Register a picture without content, by its time. `is_repeat`: it repeats the one before; else it is lost."""
        number = self._num_sent
        self._num_sent += 1
        self._sent[number] = _Sent(time, 0, is_hidden=False)
        if is_repeat:
            self._repeats.add(number)
        else:
            self.failed(number)

    def placed(self, frame: VideoFrame, base: Fraction | None) -> tuple[int, int | None]:
        """Return the number of a frame that came out, after those that were lost before it, and its time in units of `base`."""
        number = frame.pts
        pts = self._time_of(number)
        if number is not None and number in self._declared:  # the times are wrong, and it was not lost
            self._num_contradictions += 1
            self._is_trusted &= self._num_contradictions < _MOST_CONTRADICTIONS
            index = self._declared.pop(number)
            self.lost.remove(index)
            return self._seen(frame, number, index, pts), pts
        if number is not None:
            self._sent.pop(number, None)
            self._failed.discard(number)
        for before in sorted(self._before(frame, number, pts), key=self._order):
            self._lose(before, base)
        self._count_gap(pts, base)
        index = self._next
        self._next += 1
        return self._seen(frame, number, index, pts), pts

    def finish(self, base: Fraction | None) -> None:
        """Count the packets whose frames never came."""
        for number in sorted(self._sent, key=self._order):
            self._lose(number, base)

    def _time_of(self, number: int | None) -> int | None:
        if number in self._sent:
            self._times[number] = self._sent[number].pts
            while len(self._times) > _REORDERED:
                del self._times[next(iter(self._times))]
        return None if number is None else self._times.get(number)

    def _before(self, frame: VideoFrame, number: int | None, pts: int | None) -> Iterator[int]:
        """Yield the packets whose frames should have come before this one."""
        is_first, ended = self._next == 0, self._failed | self._repeats
        for other, sent in self._sent.items():
            if self._is_trusted and pts is not None and sent.pts is not None:
                if sent.pts < pts:
                    yield other
            elif number is not None and other < number and (other in ended or is_first or frame.key_frame):
                yield other

    def _order(self, number: int) -> tuple[int, int]:
        pts = self._sent[number].pts
        return (pts if self._is_trusted and pts is not None else number, number)

    def _lose(self, number: int, base: Fraction | None) -> None:
        sent = self._sent.pop(number)
        if number in self._repeats:
            self._repeats.discard(number)
            self._next += 1
            return
        has_failed = number in self._failed
        self._failed.discard(number)
        if not has_failed and self._is_explained(number, sent):
            return
        self._count_gap(sent.pts, base)
        self._declared[number], self._times[number] = self._next, sent.pts
        while len(self._declared) > _REORDERED:
            del self._declared[next(iter(self._declared))]
        self._add_lost(None if sent.pts is None or base is None else sent.pts * base)
        if sent.pts is not None and self._is_trusted:
            self._last_pts = sent.pts if self._last_pts is None else max(sent.pts, self._last_pts)

    def _is_explained(self, number: int, sent: _Sent) -> bool:
        if sent.is_hidden or self._interlaced.get(number - 1, False):
            return True  # the second field of an interlaced frame has no frame of its own
        if self._codec == "mpeg4" and sent.size <= _NOT_CODED_BYTES:
            return True
        # Frames that are decoded after the first key frame and shown before it refer to frames before the start, and are never shown.
        return self._first_key_pts is not None and sent.pts is not None and sent.pts < self._first_key_pts

    def _add_lost(self, time_s: Fraction | None) -> None:
        if not self.lost.count:
            self.first_lost_s = time_s
        self.lost.add(self._next)
        self._next += 1
        self._is_leaning = self.has_damage = True

    def _count_gap(self, pts: int | None, base: Fraction | None) -> None:
        """Count frames whose packets are missing altogether, by the time between two frames."""
        if pts is None or not self._is_trusted or self._last_pts is None or pts <= self._last_pts:
            return
        step = pts - self._last_pts
        if (
            self._spacing
            and step > _GAP * self._spacing
            and (self._has_holes or (self._is_regular and self.has_damage))
        ):
            for ordinal in range(1, min(round(step / self._spacing), 100_000)):
                self._add_lost(None if base is None else (self._last_pts + ordinal * self._spacing) * base)
        elif self._spacing is None or step < self._spacing:
            self._spacing = step

    def _seen(self, frame: VideoFrame, number: int | None, index: int, pts: int | None) -> int:
        if number is not None:
            self._interlaced[number] = frame.interlaced_frame and self._codec in _FIELD_CODECS
            while len(self._interlaced) > _REORDERED:
                del self._interlaced[next(iter(self._interlaced))]
        if pts is not None:
            self._last_pts = pts if self._last_pts is None else max(pts, self._last_pts)
        if frame.key_frame:
            self._is_leaning = False
        if frame.is_corrupt:
            self.has_damage = True
            self.concealed.add(index)
        elif self._is_leaning:
            self.leaning.add(index)
        return index


def _is_hidden(packet: Packet, codec: str) -> bool:
    """Whether the header of a VP8 or VP9 packet says that its picture is not shown."""
    if codec not in ("vp8", "vp9") or not packet.size:
        return False
    data = memoryview(packet)
    first = data[0]
    if codec == "vp8":
        return not first & 0x10
    is_superframe = data[-1] & 0xE0 == 0xC0
    if is_superframe or first >> 6 != 2 or first & 0x30 == 0x30:
        return False
    return not first & 0x08 and not first & 0x02
