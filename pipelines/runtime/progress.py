"""Send a worker's metrics to the driver while a training runs: a small Ray actor holds them, the driver draws bars and logs them.

No worker waits for MLflow; it makes one asynchronous call about once a second.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipelines.tracking import Run
from vos import stopping

Entry = tuple[int, float, dict[str, float]]
"""step, seconds since the epoch, metrics"""
POLL_S = 0.5
LAST_S = 1.0
"""How long a stopped job waits for the last metrics."""


class Board:
    """Metrics between rank 0 and the driver. Runs as a Ray actor that reserves no CPU."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._problem = ""
        self._stopping = self._stopped = False

    def stop(self) -> None:
        """Ask the workers to save a checkpoint and end."""
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping

    def end(self) -> None:
        """Record that the workers have ended because they were asked to."""
        self._stopped = True

    def stopped(self) -> bool:
        return self._stopped

    def post(self, entries: list[Entry]) -> None:
        self._entries += entries

    def take(self) -> list[Entry]:
        entries, self._entries = self._entries, []
        return entries

    def waiting(self) -> int:
        return len(self._entries)

    def fail(self, problem: str) -> None:
        """Record bad input that a worker found. It ends the job, since a restart would not repair it."""
        self._problem = problem

    def problem(self) -> str:
        return self._problem


def progress_bar(label: str, total: int | None, unit: str, done: int = 0, delay_s: float = 0) -> Any:
    """Return a tqdm bar, without an end where the total is unknown, shown after `delay_s`.

    Without a terminal (a job's log) it prints every ten seconds instead of ten times a second.
    """
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 10
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        dynamic_ncols=True,
        mininterval=interval,
        maxinterval=60,
        delay=delay_s,
    )


def new_board() -> Any:
    import ray

    return ray.remote(num_cpus=0)(Board).remote()


@contextmanager
def followed(
    board: Any, run: Run | None, label: str, total: int, unit: str = "step", done: int = 0
) -> Iterator[list[Entry]]:
    """Draw a bar of the board's entries and log them to the run until the block ends; yields the list of all entries.

    With the unit "step" an entry carries the step it is at; with any other unit ("trial") each entry is one that is done.
    Steps that the run already holds are not logged again.
    done   how many steps or trials were done before
    """
    import ray
    from ray.exceptions import RayError

    history: list[Entry] = []
    ended, told = threading.Event(), threading.Event()
    bar = progress_bar(label, total, unit, done)
    logged = max(run.history("train/total"), default=0) if run is not None else 0

    def drain() -> None:
        nonlocal logged
        entries = ray.get(board.take.remote(), timeout=LAST_S if stopping.received() else None)
        if not entries:
            return
        history.extend(entries)
        if (
            not ended.is_set() or not stopping.received()
        ):  # the line of a stopped job follows the bar, which is drawn no more
            bar.update(max(0, (entries[-1][0] if unit == "step" else done + len(history)) - bar.n))
            name, value = list(entries[-1][2].items())[0]
            bar.set_postfix({name.split("/")[-1]: f"{value:.3f}"}, refresh=False)
        if run is not None:
            # A restarted worker repeats the steps since its checkpoint.
            run.log_series([entry for entry in entries if entry[0] > logged])
            logged = max(logged, entries[-1][0])

    def look() -> bool:
        """Return whether the workers have ended because they were asked to."""
        if stopping.asked():
            if not told.is_set():
                told.set()
                board.stop.remote()
            elif ray.get(board.stopped.remote(), timeout=LAST_S):
                stopping.no_longer_deferred()
                return True
        drain()
        return False

    def follow() -> None:
        while not ended.wait(POLL_S):
            try:
                if look():
                    return
            except RayError:  # a stopped job's workers may be busy, or gone
                if not stopping.received():
                    raise

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield history
    finally:
        ended.set()
        if not stopping.received():
            thread.join()
            drain()
        else:  # Ray may be ending too
            with suppress(RayError):
                thread.join(LAST_S)
                drain()
        bar.close()


class Reporter:
    """Collects a worker's metrics and posts them about once a second; `post` returns at once."""

    def __init__(self, post: Callable[[list[Entry]], Any]) -> None:
        self._post = post
        self._entries: list[Entry] = []
        self._posted = time.monotonic()

    def add(self, step: int, metrics: dict[str, float]) -> None:
        self._entries.append((step, time.time(), metrics))
        if time.monotonic() - self._posted > 1:
            self.flush()

    def flush(self) -> None:
        if self._entries:
            self._post(self._entries)
        self._entries, self._posted = [], time.monotonic()


class StopRequest:
    """Whether the driver asked the workers to stop, as rank 0 sees it; a call returns at once."""

    def __init__(self, board: Any) -> None:
        self._board, self._answer, self._asked = board, None, time.monotonic()

    def __call__(self) -> bool:
        import ray

        if self._answer is None:
            if time.monotonic() - self._asked > POLL_S:
                self._answer, self._asked = self._board.stopping.remote(), time.monotonic()
            return False
        if not ray.wait([self._answer], timeout=0)[0]:
            return False
        answer, self._answer = self._answer, None
        return bool(ray.get(answer))
