"""FPS by the field's protocol: batch 1, over a whole sequence, after a warm-up, without the first frame and without decoding.

*short* is the sequence played once; *long* is the sequence ten times in a row, which shows the cost of a growing memory.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vos.inference.engine import Engine
from vos.inference.propagate import iter_propagate
from vos.models.interface import VOSModel
from vos.models.memory import MemoryPolicy

WARMUP_FRAMES = 3


@dataclass(frozen=True)
class Speed:
    """Frames per second of one sequence, with the number of timed frames and their size (H, W)."""

    fps: float
    num_frames: int
    size: tuple[int, int]


def measure_fps(
    model: VOSModel, frames: Sequence[Tensor], first_labels: Tensor, policy: MemoryPolicy, repeats: int = 1
) -> Speed:
    """Measure the speed on `frames` (each (3, H, W) normalised, already decoded), played `repeats` times in a row.

    The first frame, whose masks are given, is not counted; a few frames are segmented before as warm-up.
    """
    assert len(frames) > 1, "a sequence of one frame has nothing to time"
    for _ in iter_propagate(model, frames[:WARMUP_FRAMES], first_labels, policy):
        pass
    played = (frames[i % len(frames)] for i in range(len(frames) * repeats))
    device = next(model.parameters()).device
    start, count = 0.0, 0
    for index, _ in enumerate(iter_propagate(model, played, first_labels, policy)):
        if index == 0:
            _synchronise(device)
            start = time.perf_counter()
        else:
            count += 1
    _synchronise(device)
    return Speed(count / (time.perf_counter() - start), count, (frames[0].shape[1], frames[0].shape[2]))


def measure_engine_fps(
    engine: Engine, frames: Sequence[np.ndarray], first_labels: np.ndarray, repeats: int = 1
) -> Speed:
    """Measure the real-time engine by the same protocol; frames are decoded, (H, W, 3) uint8."""
    assert len(frames) > 1, "a sequence of one frame has nothing to time"
    engine.start(frames[0], first_labels)
    for frame in frames[1 : WARMUP_FRAMES + 1]:
        engine.step(frame)
    engine.start(frames[0], first_labels)
    count = len(frames) * repeats - 1
    start = time.perf_counter()
    for index in range(1, count + 1):
        engine.step(frames[index % len(frames)])
    return Speed(count / (time.perf_counter() - start), count, (frames[0].shape[0], frames[0].shape[1]))


def hardware() -> str:
    """Return a short description of the device of a measurement."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
