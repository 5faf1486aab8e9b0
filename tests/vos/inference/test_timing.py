"""FPS: which frames are played, which of them are counted, and over what time."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vos.inference import timing
from vos.models import build
from vos.models.memory import MemoryPolicy

POLICY = MemoryPolicy("first_recent")
FIRST_S, OTHER_S, WARMUP_S = 10.0, 0.25, 100.0


class Stopwatch:
    """A clock that a pretended network moves on: a slow warm-up, a slow first frame, then equal ones."""

    def __init__(self) -> None:
        self.now, self.runs = 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def propagate(self, model: Any, frames: Any, labels: Any, policy: Any) -> Iterator[None]:
        played: list[float] = []
        self.runs.append(played)
        for index, frame in enumerate(frames):
            played.append(float(frame.flatten()[0]))
            self.now += WARMUP_S if len(self.runs) == 1 else FIRST_S if index == 0 else OTHER_S
            yield None


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    stopwatch = Stopwatch()
    monkeypatch.setattr(timing.time, "perf_counter", stopwatch.perf_counter)
    monkeypatch.setattr(timing, "iter_propagate", stopwatch.propagate)
    return stopwatch


def frames(count: int) -> list[torch.Tensor]:
    return [torch.full((3, 32, 48), float(i)) for i in range(count)]


@pytest.mark.parametrize("repeats", [1, 10])
def test_neither_the_first_frame_nor_the_warm_up_is_counted(stopwatch: Stopwatch, repeats: int):
    speed = timing.measure_fps(build("mobilevos-tiny"), frames(5), torch.zeros(32, 48), POLICY, repeats)
    assert speed.fps == pytest.approx(1 / OTHER_S)
    assert speed.num_frames == 5 * repeats - 1
    assert speed.size == (32, 48)


def test_the_long_protocol_plays_the_sequence_over_and_over_in_one_go(stopwatch: Stopwatch):
    timing.measure_fps(build("mobilevos-tiny"), frames(4), torch.zeros(32, 48), POLICY, repeats=3)
    warmup, played = stopwatch.runs
    assert played == list(itertools.islice(itertools.cycle([0.0, 1.0, 2.0, 3.0]), 12))
    assert warmup == played[: len(warmup)] and len(warmup) > 1


def test_a_real_network_is_timed_and_left_in_the_mode_it_was_in():
    model = build("mobilevos-tiny").train()
    labels = torch.zeros(32, 48, dtype=torch.long)
    labels[:16] = 1
    speed = timing.measure_fps(model, [torch.randn(3, 32, 48) for _ in range(3)], labels, POLICY)
    assert speed.fps > 0 and speed.num_frames == 2
    assert model.training


def test_the_hardware_line_names_the_library_version_and_the_threads():
    assert torch.__version__ in timing.hardware()
    assert torch.cuda.is_available() or f"{torch.get_num_threads()} thread" in timing.hardware()
