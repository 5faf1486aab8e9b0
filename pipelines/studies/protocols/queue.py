"""Run the plan in separate processes, several at a time. A failed run is reported and stops only the runs that need it.

The queue keeps no state. A finished run has a record and is not queued again; an interrupted run is resumed by its own job in its own
folder. A run's log is locked while its process lives, so another process can detect that it is running.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.runtime.progress import progress_bar
from pipelines.studies.protocols.planned import Planned
from vos.stopping import stoppable, unwound

CHECKOUT = Path(__file__).resolve().parents[3]
POLL_S = 0.2
PATIENCE_S = 6.5
"""How long a process may take to end after Ctrl-C before it is killed."""
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGINT, 0, 0, 0)  # PR_SET_PDEATHSIG of linux/prctl.h
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Script of a process before it becomes the command. It makes Ctrl-C work where a shell ignores it for background jobs, and interrupts
the command when this process ends. It is not a `preexec_fn`, which would fork a process with Ray's threads; a later call of Ray could
then wait forever."""


def work_off(
    runs: Sequence[Planned],
    command: Callable[[Planned], Sequence[str]],
    workers: int,
    folder: str,
    environment: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Run all, `workers` at a time, each after the runs that it needs; returns {name: reason} of the runs that did not succeed.

    folder  receives logs/NAME.log of each run's last attempt
    On Ctrl-C, SIGTERM and SIGHUP the processes are ended first.
    """
    waiting, failed = list(runs), dict[str, str]()
    running: dict[str, tuple[Planned, subprocess.Popen[bytes]]] = {}
    try:
        with stoppable(hard=False), unwound(), progress_bar("results", len(runs), "run") as bar:
            while waiting or running:
                started = _startable(waiting, running, failed, workers)
                for one in started:
                    running[one.name] = one, _started(log_of(folder, one.name), command(one), environment)
                ended = [name for name, (_, process) in running.items() if process.poll() is not None]
                for name in ended:
                    if code := running.pop(name)[1].returncode:
                        failed[name] = f"{last_line(log_of(folder, name)) or 'no output'} (exit code {code})"
                        bar.write(f"failed: {name}: {failed[name]}  ({log_of(folder, name)})", file=sys.stderr)
                    bar.update()
                if started or ended:
                    left = sum(one.minutes for one in (*waiting, *(one for one, _ in running.values())))
                    bar.set_postfix_str(f"{left:.0f} CPU-minutes left; {', '.join(running)}" if running else "")
                else:
                    time.sleep(POLL_S)
    finally:
        _end([process for _, process in running.values()])
    return failed


def log_of(folder: str, name: str) -> str:
    return os.path.join(folder, "logs", f"{name}.log")


def state_of(folder: str, name: str) -> tuple[str, str]:
    """Return (state, detail) of a run without a record: whether it is running, or how its last attempt ended."""
    path = log_of(folder, name)
    try:
        with open(path, "rb") as log:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return "waiting", ""
    except BlockingIOError:
        return "running", ""
    return "failed", last_line(path)


def last_line(path: str) -> str:
    """Return the last line of a log; for a failed process, its reason."""
    with open(path, "rb") as file:
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _startable(
    waiting: list[Planned], running: Mapping[str, Any], failed: dict[str, str], workers: int
) -> list[Planned]:
    """Remove from `waiting` the runs that can start now, and those that cannot start because a needed run failed; returns the former."""
    chosen: list[Planned] = []
    for one in list(waiting):
        unfinished = {other.name for other in waiting} | running.keys() | {other.name for other in chosen}
        if lost := [name for name in one.needs if name in failed]:
            failed[one.name] = f"needs {', '.join(lost)}"
        elif len(running) + len(chosen) < workers and not unfinished.intersection(one.needs):
            chosen.append(one)
        else:
            continue
        waiting.remove(one)
    return chosen


def _started(path: str, command: Sequence[str], environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as log:
        with suppress(BlockingIOError):  # held by a process that outlived its queue
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # inherited by the process
        # In its own session, so that Ctrl-C reaches it only through this process. If this process is killed, the system signals it.
        return subprocess.Popen(
            [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *command],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupt the processes as Ctrl-C would; after PATIENCE_S, kill them and all that they started."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    end = time.monotonic() + PATIENCE_S
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
