"""A video and the masks of its first frame -> an overlay video and palette PNGs, frame by frame through the real-time engine.

What ends early (a truncated file, a pipe that breaks off, Ctrl-C) leaves whole files of all that was done; the line that says so comes
after the result. Reading, the network and writing take turns in one thread: on few cores, threads beside the network's own only slow it.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.delivery.segment_inputs import (
    SEGMENT,
    check_masks,
    check_outputs,
    completed,
    mask_files,
    mask_folder,
    open_source,
    read_masks,
)
from pipelines.runtime.models import find_model, load_head_start
from pipelines.runtime.output_folder import OutputFile
from pipelines.runtime.progress import progress_bar
from pipelines.runtime.session import set_threads
from vos import stopping
from vos.config import SegmentConfig
from vos.errors import InputError, printable
from vos.inference.engine import Engine, VanishedObject, vanished_line
from vos.inference.head_start import HeadStart
from vos.inference.runtimes import available_threads
from vos.inference.sample_video import SAMPLE_CREDIT, SAMPLE_VIDEO
from vos.media.images import mask_png, overlay
from vos.media.object_masks import ObjectMask
from vos.media.video_files import FrameStream
from vos.media.video_sound import Sound, sound_of
from vos.media.video_writer import VideoWriter

WARM_UP_FRAMES = 3
RECENT_FRAMES = 1000


@dataclass
class Segmentation:
    """What was done; `problem` says why it is less than all, and `exit_code` is then not 0."""

    out: str
    masks: str
    engine: Engine
    source: FrameStream
    encoder: str
    notes: list[str]
    num_frames: int = 0
    num_steps: int = 0
    """Frames that `engine` has segmented."""
    seconds: float = 0.0
    is_variable: bool = False
    """Whether the times between frames differ."""
    last_index: int = 0
    """Largest number of a frame; numbers of frames that cannot be decoded are left out."""
    engine_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_FRAMES))
    """Of the last frames of `engine`; its first ones, in which runtimes compile, are left out."""
    problem: str = ""
    exit_code: int = 0


def segment_video(config: SegmentConfig) -> Segmentation:
    """Segment the whole video. Raises InputError for bad input, before anything is written."""
    config = completed(config)
    check_outputs(config)
    masks = read_masks(config)
    source = open_source(config)
    check_masks(config, masks, source)
    if source.unverified_end:
        print(f"note     {printable(source.unverified_end)}", file=sys.stderr)
    if source.first_index:
        lost = (
            f"the first {source.first_index} frames cannot be decoded"
            if source.first_index > 1
            else "frame 0 cannot be decoded"
        )
        shown = f"{source.name}: {lost}; --first-mask is taken for frame {source.first_index}, the first that can"
        print(f"note     {printable(shown)}", file=sys.stderr)
    set_threads(config.threads or available_threads())
    with tempfile.TemporaryDirectory() as folder:
        model = find_model(config.model, folder)
        with load_head_start(
            model,
            source.size,
            config.runtime,
            config.precision,
            config.size_px,
            config.threads,
            config.upsampling,
            config.gate,
        ) as head_start:
            if head_start.news:
                print(f"note     {head_start.news}", file=sys.stderr)
            name = printable(os.path.basename(source.name))
            with progress_bar(name, source.num_frames, " frames") as bar, warnings.catch_warnings():
                warnings.simplefilter("ignore", VanishedObject)  # said as a note
                return _follow(config, head_start, source, masks, bar)


def summary(result: Segmentation) -> str:
    """The lines that a job prints at its end."""
    engine, (height, width) = result.engine, result.source.size
    lines = {
        "overlay": f"{result.out} ({result.encoder}, {width}x{height}, {float(result.source.fps):.5g} fps"
        f"{' on average' if result.is_variable else ''})",
        "masks": result.masks or "none",
        "frames": f"{result.num_frames}, objects {' '.join(map(str, engine.object_ids))}; "
        f"{result.num_frames / max(1e-9, result.seconds):.1f} FPS with reading and writing",
    }
    if result.engine_s:
        middle = float(np.median(result.engine_s))
        lines["engine"] = f"{1000 * middle:.1f} ms a frame, {1 / middle:.1f} FPS (median)"
    rows, columns = engine.working_size
    smaller = f", frames at {columns}x{rows}" if engine.working_size != result.source.size else ""
    lines["runtime"] = f"{engine.runtime}, {engine.precision} ({engine.reason}), {engine.threads} threads{smaller}"
    notes = [f"note     {note}" for note in result.notes]
    return "\n".join(map(printable, [*(f"{name:8} {words}" for name, words in lines.items()), *notes]))


def raise_if_incomplete(result: Segmentation) -> None:
    """Raises InputError where the source or a disk ended it, SystemExit (said on standard error) after Ctrl-C or another signal."""
    if result.exit_code > 128:
        print(printable(result.problem), file=sys.stderr)
        raise SystemExit(result.exit_code)
    if result.problem:
        raise InputError(result.problem)


def _follow(
    config: SegmentConfig, head_start: HeadStart, source: FrameStream, masks: dict[int, ObjectMask], bar: Any
) -> Segmentation:
    first = next(source.shown)
    head_start.engine.start(first.image, masks[0].labels)
    result = Segmentation(
        config.out, mask_folder(config), head_start.engine, source, "", [m.note for m in masks.values() if m.note]
    )
    _tell_vanished(head_start.engine, result, bar)
    waiting = {index: mask for index, mask in masks.items() if index}
    began = time.perf_counter()
    sound = sound_of(source.name) if source.track is not None and not config.no_sound and not config.fps else None
    overlay_file = OutputFile(config.out, SEGMENT, config.overwrite)
    owned, name = mask_files(result.masks, config)
    with (
        VideoWriter(
            config.out,
            source.size,
            source.fps,
            ready=overlay_file.record,
            time_base=source.time_base,
            aspect=source.aspect,
            sound=sound,
        ) as writer,
        stopping.stoppable(hard=False),
        stopping.deferred(),
    ):
        result.encoder = writer.encoder
        frame, labels = first, masks[0].labels
        try:
            for ordinal in itertools.count():
                if ordinal:
                    with stopping.at_once():
                        frame = next(source.shown)
                    if news := head_start.advance(frame.index):
                        bar.write(f"note     {news}", file=sys.stderr)
                added = waiting.pop(frame.index, None)
                if ordinal:
                    labels = _step(head_start.engine, frame.image, added, result)
                elif added is not None:
                    labels = head_start.engine.add_object(frame.image, added.labels)
                if added is not None:
                    _tell_vanished(head_start.engine, result, bar)
                writer.write(overlay(frame.image, labels), frame.time_s, frame.duration_s)
                if result.masks:
                    stem = source.stems[frame.index] if source.stems else f"{frame.index:05d}"
                    owned.write(f"{name}/{stem}.png", mask_png(labels), sync=False)
                result.num_frames += 1
                result.last_index = max(result.last_index, frame.index)
                if result.engine_s:
                    bar.set_postfix_str(f"engine {1000 * result.engine_s[-1]:.0f} ms", refresh=False)
                bar.update()
                stopping.raise_if_asked()
        except StopIteration:
            result.problem = _not_added(waiting, source)
        except InputError as error:
            result.problem = "; ".join(filter(None, (str(error), _not_added(waiting, source))))
        except KeyboardInterrupt:
            stopping.unwinding()
            result.problem, result.exit_code = "interrupted", 128 + (stopping.received() or signal.SIGINT)
        if source.has_ended:
            writer.copy_rest()
        result.is_variable = writer.is_variable
    result.seconds = time.perf_counter() - began
    if result.problem and not result.num_frames:
        raise InputError(result.problem)
    if result.problem:
        result.exit_code = result.exit_code or 2
        kept = f"{result.out} and {result.masks}" if result.masks else result.out
        has_gaps = result.last_index >= result.num_frames
        done = f"{'' if has_gaps else 'the first '}{result.num_frames} frames are done and kept in {kept}"
        result.problem = f"{result.problem}; {done}"
    result.notes += [*source.notes(), *_sound_notes(config, source, sound)]
    result.notes += [*filter(None, (head_start.close(),)), *_left_over(result)]
    if config.video == SAMPLE_VIDEO:
        result.notes.append(SAMPLE_CREDIT)
    return result


def _not_added(waiting: dict[int, ObjectMask], source: FrameStream) -> str:
    """Say why the first mask of --add that was not used was not."""
    if not waiting:
        return ""
    index = min(waiting)
    if index in source.lost:
        return f"--add {index}:…: frame {index} cannot be decoded; paint its objects in another frame"
    return f"--add {index}:…: {source.name} ended before that frame"


def _sound_notes(config: SegmentConfig, source: FrameStream, sound: Sound | None) -> list[str]:
    if sound is not None:
        return [f"{source.name}: {note}" for note in sound.notes]
    if source.has_sound and config.fps and not config.no_sound:
        return [f"{source.name}: the sound is left out, because --fps changes the times of the pictures"]
    return []


def _step(engine: Engine, frame: np.ndarray, added: ObjectMask | None, result: Segmentation) -> np.ndarray:
    if engine is not result.engine:  # changed over: the figures are of the one that does most of the video
        result.engine, result.num_steps = engine, 0
        result.engine_s.clear()
    began = time.perf_counter()
    labels = engine.step(frame)
    result.num_steps += 1
    if result.num_steps >= WARM_UP_FRAMES:
        result.engine_s.append(time.perf_counter() - began)
    return labels if added is None else engine.add_object(frame, added.labels)


def _tell_vanished(engine: Engine, result: Segmentation, bar: Any) -> None:
    """Said at once, while the video can still be started anew, and among the last lines."""
    lines = [vanished_line(number, size_px, engine.working_size) for number, size_px in engine.vanished.items()]
    for line in lines:
        bar.write(f"note     {line}", file=sys.stderr)
    result.notes += lines


def _left_over(result: Segmentation) -> list[str]:
    """Masks of an earlier, longer video would pass for this one's."""
    names = [name for name in os.listdir(result.masks) if name.endswith(".png")] if result.masks else []
    more = len(names) - result.num_frames
    return [f"{result.masks} also holds {more} PNGs that this video did not write"] if more > 0 else []
