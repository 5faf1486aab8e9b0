"""Sample the machine's CPU and memory use during a run, under the names that MLflow's *System metrics* page draws.

The same thread says every minute that the process is alive (`owner`).

A thread of the driver reads /proc, because MLflow's own monitor needs psutil and a global active run. Several samples are sent in one
batch. Nothing is sampled on systems other than Linux.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipelines.tracking.owner import BEAT_S

SAMPLE_S = 5.0
SAMPLES_PER_BATCH = 6
CPU = "system/cpu_utilization_percentage"
Series = list[tuple[int, float, dict[str, float]]]


class Sampler:
    """Samples during a `with` block and passes series to `log`."""

    def __init__(self, log: Callable[[Series], None], first: int = 0, beat: Callable[[], None] | None = None) -> None:
        """Prepare the thread.

        first  number of the first sample; a resumed run has earlier ones
        beat   called every minute: this process is alive
        """
        self._log, self._first, self._beat, self._done = log, first, beat, threading.Event()
        self._thread = threading.Thread(target=self._follow, name="system metrics", daemon=True)

    def __enter__(self) -> Sampler:
        if os.path.exists("/proc/stat"):
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        series: Series = []
        before = cpu_times()
        number, beaten = self._first, time.monotonic()
        while not self._done.wait(SAMPLE_S):
            now = cpu_times()
            series.append((number, time.time(), {**cpu_share(before, now), **memory()}))
            before, number = now, number + 1
            if len(series) >= SAMPLES_PER_BATCH:
                self._log(series)
                series = []
            if self._beat is not None and time.monotonic() - beaten > BEAT_S:
                with suppress(Exception):  # the next one may arrive
                    self._beat()
                beaten = time.monotonic()
        if series:
            self._log(series)


def cpu_times() -> tuple[int, int]:
    """Return (busy, all) jiffies of all processors since the machine started."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)  # idle and waiting for a disk


def cpu_share(before: tuple[int, int], now: tuple[int, int]) -> dict[str, float]:
    return {CPU: 100 * (now[0] - before[0]) / max(1, now[1] - before[1])}


def memory() -> dict[str, float]:
    """Return the memory in use on the machine."""
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
    used = kib["MemTotal"] - kib["MemAvailable"]
    return {
        "system/system_memory_usage_megabytes": used / 1024,
        "system/system_memory_usage_percentage": 100 * used / kib["MemTotal"],
    }
