"""Sound of a video file, copied packet by packet into another file without decoding it."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from vos.errors import InputError
from vos.files.whole import open_regular
from vos.media.video_decoder import FAULTS, open_for_sound, reason

if TYPE_CHECKING:
    from av.packet import Packet


class Sound:
    """The sound tracks of a video file; `notes` says what could not be copied.

    start_s  when the first of them begins, by the clock of the file; None if there is no sound
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.notes: list[str] = []
        self._file = open_regular(path, "name a video file")
        try:
            self._container = open_for_sound(self._file, path)
        except BaseException:
            self._file.close()
            raise
        tracks = self._container.streams.audio
        self._tracks = [one for one in tracks if one.codec_context is not None and one.codec_context.sample_rate]
        if unknown := len(tracks) - len(self._tracks):
            self.notes.append(
                f"sound of an unknown kind is left out (tracks: {unknown}); convert it, for example to AAC"
            )
        starts = [
            one.start_time * one.time_base for one in self._tracks if one.start_time is not None and one.time_base
        ]
        self.start_s: Fraction | None = min(starts, default=None)
        self._copies: dict[int, Any] = {}
        self._packets: Iterator[Packet] = iter(())
        self._next: Packet | None = None
        self._num_left_out = 0

    def add_to(self, output: Any, path: str) -> None:
        """Add tracks to an output container, those that it can hold."""
        ending = os.path.splitext(path)[1].lower()
        fitting = _fitting(self._path, ending)
        for track in self._tracks:
            if track.index in fitting:
                self._copies[track.index] = _copy(output, track)
            else:
                name = track.codec_context.codec.canonical_name
                advice = "convert it" if ending == ".mkv" else "give an --out that ends in .mkv"
                self.notes.append(f"the sound ({name}) is left out: this {ending[1:]} file cannot hold it; {advice}")
        if self._copies:
            self._packets = self._container.demux([one for one in self._tracks if one.index in self._copies])

    def packets(self, until_s: Fraction | None, origin_s: Fraction) -> Iterator[Packet]:
        """Yield the packets that begin before a time, with `origin_s` as 0; all that are left for None."""
        while (packet := self._upcoming()) is not None:
            ticks = packet.dts if packet.dts is not None else packet.pts
            if until_s is not None and ticks is not None and ticks * packet.time_base >= until_s:
                return
            self._next = None
            if ticks is None:
                continue
            shift = round(origin_s / packet.time_base)
            copy = self._copies[packet.stream_index]
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            packet.stream = copy
            yield packet

    def copied(self, packet: Packet, output: Any) -> None:
        """Write a packet into the output container. One that does not fit there, such as one whose clock jumps back, is left out."""
        from av.error import FFmpegError

        try:
            output.mux(packet)
        except (FFmpegError, OSError, ValueError) as error:
            if not self._num_left_out:
                self.notes.append(f"parts of the sound are left out ({reason(error)})")
            self._num_left_out += 1

    def leave_out(self, why: str, path: str) -> None:
        """Note that an output cannot have this sound, and close it."""
        self.notes.append(f"the sound is left out: it cannot be written to {os.path.basename(path)} ({why})")
        self.close()

    def close(self) -> None:
        self._packets = iter(())
        self._container.close()
        self._file.close()

    def _upcoming(self) -> Packet | None:
        from av.error import FFmpegError

        while self._next is None:
            try:
                packet = next(self._packets, None)
            except (FFmpegError, OSError, *FAULTS) as error:
                self.notes.append(f"the sound ends early: it is damaged ({reason(error)})")
                self._packets = iter(())
                return None
            if packet is None:
                return None
            if packet.size:
                self._next = packet
        return self._next


def sound_of(path: str) -> Sound | None:
    """Return the sound of a video file, None if it has none."""
    from av.error import FFmpegError

    try:
        sound = Sound(path)
    except (FFmpegError, OSError, InputError, *FAULTS):
        return None
    if sound.start_s is None and not sound.notes:
        sound.close()
        return None
    return sound


def _copy(output: Any, track: Any) -> Any:
    copy = output.add_stream_from_template(track)
    if (count := track.codec_context.channels) in _LAYOUTS and "channels" in track.codec_context.layout.name:
        copy.codec_context.layout = _LAYOUTS[count]  # the source does not say which channels; MP4 has to
    return copy


_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def _fitting(path: str, ending: str) -> set[int]:
    """Return the sound tracks that a kind of file can hold: those whose first packet can be written to such a file in memory."""
    import av
    from av.error import FFmpegError

    fitting: set[int] = set()
    with open_regular(path, "name a video file") as file, open_for_sound(file, path) as source:
        waiting = {track.index for track in source.streams.audio if track.codec_context is not None}
        packets = itertools.islice(source.demux(list(source.streams.audio)), _MOST_TRIED)
        try:
            for packet in packets:
                if packet.stream_index not in waiting or not packet.size:
                    continue
                waiting.discard(packet.stream_index)
                with contextlib.suppress(FFmpegError, OSError, *FAULTS):
                    index, packet.pts, packet.dts = packet.stream_index, 0, 0
                    with av.open(io.BytesIO(), "w", format=_MUXERS[ending]) as trial:
                        packet.stream = _copy(trial, packet.stream)
                        trial.mux(packet)
                    fitting.add(index)
                if not waiting:
                    break
        except (FFmpegError, OSError, *FAULTS):
            pass  # of a damaged start, nothing is copied
    return fitting


_MOST_TRIED = 1000
_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
