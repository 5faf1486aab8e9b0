"""Reading ahead of the training, in a thread of its own that ends with its steps, its error, or its listener."""

import threading

import pytest
import torch

from pipelines.cache.read import Batch, draws_of_step, prefetched
from vos.config import ClipConfig
from vos.errors import InputError


class Source:
    """Numbered batches without pixels; raises at a draw."""

    clip = ClipConfig(crop_px=32, max_skip_frames=2)
    num_draws = 50
    teacher_forwards = 0

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[list[int]] = []
        self._changed = threading.Condition()
        self.fails_at = fails_at

    def was_asked(self, times: int, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.asked) >= times, timeout_s)

    def batch(self, numbers: list[int]) -> Batch:
        with self._changed:
            self.asked.append(numbers)
            self._changed.notify_all()
        if len(self.asked) - 1 == self.fails_at:
            raise InputError("frame 3 is damaged")
        return Batch(numbers, torch.empty(0), torch.empty(0), torch.empty(0), None)


def ended(before: set[threading.Thread], seconds: float = 3.0) -> bool:
    """Whether every thread that was started since is gone within some seconds."""
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(seconds)
    return not any(thread.is_alive() for thread in started)


def test_batches_come_in_the_order_of_the_steps_from_any_step_on():
    batches = list(prefetched(Source(), range(3, 30), batch=6, seed=1, rank=1, world=2))
    assert [batch.draws for batch in batches] == [draws_of_step(step, 50, 6, 1, 1, 2) for step in range(3, 30)]


def test_no_steps_give_no_batches():
    assert list(prefetched(Source(), range(5, 5), 4, 0, 0, 1)) == []


def test_an_error_of_the_reading_thread_is_raised_where_its_batch_was_due():
    taken = []
    with pytest.raises(InputError, match="frame 3"):
        for batch in prefetched(Source(fails_at=4), range(10), 2, 0, 0, 1):
            taken.append(batch)
    assert len(taken) == 4


def test_reading_runs_ahead_by_a_few_batches_and_no_more():
    source = Source()
    batches = prefetched(source, range(100), 2, 0, 0, 1)
    next(batches)
    assert source.was_asked(times=2, timeout_s=5)
    assert not source.was_asked(times=6, timeout_s=0.3)
    del batches


@pytest.mark.parametrize("taken", [1, 5])
def test_the_reading_thread_ends_when_nobody_listens_any_more(taken: int):
    before = set(threading.enumerate())
    batches = prefetched(Source(), range(1000), 2, 0, 0, 1)
    for _ in range(taken):
        next(batches)
    del batches
    assert ended(before)


def test_the_reading_thread_ends_also_with_an_error_that_nobody_came_for():
    before = set(threading.enumerate())
    source = Source(fails_at=3)
    batches = prefetched(source, range(1000), 2, 0, 0, 1)
    next(batches)
    assert source.was_asked(times=4, timeout_s=5)  # two batches wait in the queue, the error behind them
    del batches
    assert ended(before)


def test_the_reading_thread_ends_with_its_steps():
    before = set(threading.enumerate())
    assert len(list(prefetched(Source(), range(4), 2, 0, 0, 1))) == 4
    assert ended(before)
