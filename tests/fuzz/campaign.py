"""Inputs to processes, outcomes to a tally. A process that crashes or hangs is replaced, and the input it was at is counted."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.cases import SEEDS
from tests.fuzz.worker import LARGE_MIB, SLOW_CPU_S

ROOT = Path(__file__).resolve().parents[2]
IDLE_S = 5.0
"""A process that has not answered and used no processor time for twice so long is killed: it waits for something."""
COLUMNS = ("own", "other", "right", "wrong", "untold", "slow", "large")
FAULTS = ("other", "wrong", "slow", "large")


@dataclass
class Tally:
    """Outcomes of a run, by reader."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    found: list[dict[str, Any]] = field(default_factory=list)
    """Requests whose outcome is a fault, with it."""
    cpu_s: Counter[str] = field(default_factory=Counter)

    def add(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        name, outcome = request["reader"], answer["outcome"]
        counts = self.counts.setdefault(name, Counter())
        self.cpu_s[name] += answer["cpu_s"]
        kinds = [outcome]
        if answer["cpu_s"] > SLOW_CPU_S:
            kinds.append("slow")
        if answer["mib"] > LARGE_MIB:
            kinds.append("large")
        kinds = list(dict.fromkeys(kinds))
        counts.update(kinds)
        counts["inputs"] += 1
        if faults := [kind for kind in kinds if kind in FAULTS]:
            self.found.append({**request, **answer, "faults": faults})


class Process:
    """A worker, and the request that it is at."""

    def __init__(self, root: Path) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RAY_DEDUP_LOGS": "0",
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONWARNINGS": "ignore",
        }
        command = [sys.executable, "-m", "tests.fuzz.worker", str(root)]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # of this process's whole life
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
        )
        self.request: dict[str, Any] | None = None

    def ask(self, request: dict[str, Any]) -> None:
        self.request = request
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any] | None:
        """None where the process ended, or waits for something that does not come."""
        assert self._process.stdout is not None
        spent = [-1.0, -2.0]
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while not ready.select(IDLE_S):
                spent = [*spent[1:], self._cpu_ticks()]
                if spent[0] == spent[1]:
                    return None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()  # it ended by itself, which must not be taken for our killing it
        return json.loads(line) if line else None

    def _cpu_ticks(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return float(fields[11]) + float(fields[12])

    def end(self) -> tuple[int, str]:
        """Stop it; returns the signal that had ended it, or 0, and the last lines of its standard error."""
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._said.seek(0)
        last_lines = self._said.read().decode("utf-8", "replace").strip()[-600:]
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                stream.close()
        return -min(0, self._process.returncode), last_lines


def run(
    requests: list[dict[str, Any]], processes: int, root: Path, told: Callable[[], object], keep: Path | None
) -> Tally:
    """Try all inputs; `told` is called after each. Faults are kept as seed files below `keep`."""
    tally, lock = Tally(), threading.Lock()
    waiting = iter(requests)

    def serve() -> None:
        process = Process(root)
        try:
            while True:
                with lock:
                    request = next(waiting, None)
                if request is None:
                    return
                process.ask(request)
                answer = process.answer()
                if answer is None:
                    answer = _ending(*process.end())
                    process = Process(root)
                with lock:
                    tally.add(request, answer)
                    told()
        finally:
            process.end()

    threads = [threading.Thread(target=serve) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if keep is not None and tally.found:
        _keep(tally, root, keep)
    return tally


def _ending(ended: int, last_words: str) -> dict[str, Any]:
    answer = {"cpu_s": 0.0, "mib": 0.0, "mutation": "?", "sample": "?"}
    if ended in (signal.SIGPROF, signal.SIGKILL):
        return {**answer, "outcome": "slow", "detail": "hung: it was killed"}
    return {**answer, "outcome": "other", "detail": f"the process ended with signal {ended}: {last_words}"}


def _keep(tally: Tally, root: Path, keep: Path) -> None:
    process = Process(root)
    for fault in tally.found:
        request = {name: fault[name] for name in ("reader", "seed", "number", "known", "file") if name in fault}
        process.ask({**request, "keep": str(keep), "why": f"{', '.join(fault['faults'])}: {fault['detail']}"})
        if (answer := process.answer()) is None:
            process.end()
            process = Process(root)
        else:
            fault["path"] = answer["path"]
    process.end()


def requests_of(names: list[str], inputs: int, seed: int, root: Path) -> Iterator[dict[str, Any]]:
    """Kept seeds and inputs made by hand first, then numbered ones, the readers mixed."""
    from tests.fuzz.readers import READERS, load_samples, numbers_of

    for path in sorted(SEEDS.glob("*.json")):
        reader = json.loads(path.read_text(encoding="utf-8"))["reader"]
        if reader in names:
            yield {"reader": reader, "file": str(path)}
    for name in names:
        yield from ({"reader": name, "known": why} for why in READERS[name].known(load_samples(root, name)))
    for name, count in numbers_of(names, inputs).items():
        yield from ({"reader": name, "seed": seed, "number": number} for number in range(count))


def folder() -> Path:
    """A new folder in memory where there is such, for files that live for milliseconds."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="mobilevos-fuzz-", dir=place))


def remove(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
