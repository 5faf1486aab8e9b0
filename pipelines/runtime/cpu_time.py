"""CPU time of a job with all its processes, Ray's included, from /proc."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Any

POLL_S = 0.5


class CpuMeter:
    """Measures the CPU time of this process and of all below it during a `with` block.

    A thread looks every half second, since Ray ends its workers without waiting for their times: up to half a second of each process
    is missed. Without /proc only this process is measured. Workers on other machines of a cluster are not counted.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], int] = {}
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="cpu time", daemon=True)

    def __enter__(self) -> CpuMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()

    def seconds(self) -> float:
        """Return the CPU seconds so far, from the start of this process on."""
        self._look()
        with self._lock:
            ticks = sum(self._seen.values())
        return ticks / os.sysconf("SC_CLK_TCK") if ticks else time.process_time()

    def _follow(self) -> None:
        while not self._done.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        times, children = _processes()
        waiting, found = [os.getpid()], {}
        while waiting:
            pid = waiting.pop()
            if pid in times:
                started, ticks = times[pid]
                found[pid, started] = ticks
            waiting += children.get(pid, [])
        with self._lock:
            for key, ticks in found.items():
                self._seen[key] = max(ticks, self._seen.get(key, 0))


def _processes() -> tuple[dict[int, tuple[str, int]], dict[int, list[int]]]:
    """Return pid -> (start, ticks of its own user and system time), and pid -> its children."""
    times: dict[int, tuple[str, int]] = {}
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        with suppress(OSError, ValueError, IndexError):  # no process, or one that has ended meanwhile
            pid = int(name)
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            times[pid] = fields[19], int(fields[11]) + int(fields[12])
            children.setdefault(int(fields[1]), []).append(pid)
    return times, children
