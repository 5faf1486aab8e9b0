"""Jobs in processes of their own, so many at a time: what is missing is run, what fails is named, nothing stops the others.

A task is one or more commands, one after the other, and a word at the end that keeps what they found. Every command is restartable by
itself; so is the queue, because a task that ended has left its record and is not in the queue again.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from pipelines import storage
from pipelines.runtime.output_folder import read_plain
from pipelines.runtime.progress import progress_bar
from vos.files.canonical import dumps

POLL_S = 0.2
PATIENCE_S = 30.0
"""How long a child may take to end after Ctrl-C before it is made to."""
STATE = "queue.json"
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGINT, 0, 0, 0)  # PR_SET_PDEATHSIG of linux/prctl.h
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
"""What a child does before it becomes the command: Ctrl-C works also where a shell has it ignored for work in the background, and the
end of this process is one. Not a `preexec_fn`: that forks a process in which Ray's threads run, after which a call of Ray may wait for
ever."""


class _State(TypedDict):
    running: list[str]


@dataclass
class Task:
    """One run of the plan on its way."""

    name: str
    commands: Callable[[], Sequence[Command]]
    """asked when the task starts: what it needs has ended by then"""
    conclude: Callable[[Mapping[str, Spent]], None]
    """called after the last command with what each of them cost; what it raises fails the task"""
    needs: tuple[str, ...] = ()
    """tasks that must have succeeded"""
    after: tuple[str, ...] = ()
    """tasks that must have ended, however they did"""
    minutes: float = 0.0


@dataclass(frozen=True)
class Command:
    label: str
    argv: Sequence[str]


@dataclass(frozen=True)
class Spent:
    """Resources of one command: its process, all threads, and children that it waited for."""

    cpu_s: float


@dataclass
class Outcome:
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """name -> last line of its log"""
    blocked: dict[str, str] = field(default_factory=dict)
    """name -> what it needs and cannot have"""


@dataclass
class _Running:
    task: Task
    left: list[Command]
    spent: dict[str, Spent]
    process: subprocess.Popen[bytes]
    command: Command


class Queue:
    """Runs tasks, `workers` at a time, in their order as far as their needs allow.

    folder       logs/NAME.log, and queue.json that says what runs and what failed
    environment  of the children
    home         their working folder
    """

    def __init__(self, folder: str, workers: int, environment: Mapping[str, str], home: str) -> None:
        self.folder, self.workers, self.home = folder, workers, home
        self.environment = dict(environment)
        self._running: list[_Running] = []
        self._outcome = Outcome()

    def run(self, tasks: Sequence[Task]) -> Outcome:
        """Run them all; returns how each ended. On KeyboardInterrupt the children are ended first."""
        waiting = list(tasks)
        left = sum(task.minutes for task in tasks)
        before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            with progress_bar("results", len(tasks), "run") as bar:
                while waiting or self._running:
                    ended = self._start(waiting)
                    self._tell()
                    bar.set_postfix_str(f"{left:.0f} CPU-minutes left; {', '.join(self._names()) or 'nothing runs'}")
                    if not self._running and not ended:
                        break
                    for task in ended or self._wait():
                        left -= task.minutes
                        bar.update()
                bar.set_postfix_str("")
        finally:
            self._stop()
            signal.signal(signal.SIGTERM, before)
            self._tell()
        return self._outcome

    def _names(self) -> list[str]:
        return [f"{one.task.name} ({one.command.label})" for one in self._running]

    def _start(self, waiting: list[Task]) -> list[Task]:
        """Start what can be started; returns tasks that ended at once: nothing was left to run, or their beginning failed."""
        ended: list[Task] = []
        self._block(waiting)
        for task in list(waiting):
            if len(self._running) >= self.workers or ended:
                break
            open_names = {one.name for one in waiting} | {one.task.name for one in self._running}
            if any(name in open_names for name in (*task.needs, *task.after)):
                continue
            waiting.remove(task)
            commands: list[Command] = []
            if not self._attempt(
                task, lambda task=task, commands=commands: commands.extend(task.commands())
            ) or self._next(task, commands, {}):
                ended.append(task)
        return ended

    def _block(self, waiting: list[Task]) -> None:
        """Take out what needs something that failed, and what needs that: what is only to come after it need not wait."""
        given_up = self._outcome.failed.keys() | self._outcome.blocked.keys()
        while lost := [task for task in waiting if given_up.intersection(task.needs)]:
            for task in lost:
                waiting.remove(task)
                self._outcome.blocked[task.name] = f"needs {', '.join(n for n in task.needs if n in given_up)}"
            given_up |= {task.name for task in lost}

    def _next(self, task: Task, left: list[Command], spent: dict[str, Spent]) -> bool:
        """Start the next command of a task, or conclude it; returns whether it has ended."""
        if not left:
            if self._attempt(task, lambda: task.conclude(spent)):
                self._outcome.finished.append(task.name)
                storage.remove(self._failure(task.name))
            return True
        command, *rest = left
        process = self._child(task.name, command)
        self._running.append(_Running(task, rest, spent, process, command))
        return False

    def _child(self, name: str, command: Command) -> subprocess.Popen[bytes]:
        path = self.log(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab") as log:
            log.write(f"$ {shlex.join(command.argv)}\n".encode())
            log.flush()
            # A session of its own: Ctrl-C is ours to pass on. If we are killed, the system tells the child.
            return subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *command.argv],
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self) -> list[Task]:
        """Until something ends; returns the tasks that did."""
        ended: list[Task] = []
        while not ended and self._running:
            changed = False
            for one in list(self._running):
                pid, status, usage = os.wait4(one.process.pid, os.WNOHANG)
                if not pid:
                    continue
                changed = True
                one.process.returncode = os.waitstatus_to_exitcode(status)
                self._running.remove(one)
                cost = Spent(usage.ru_utime + usage.ru_stime)
                if one.process.returncode:
                    self._failed(one.task.name, self._last_line(one.task.name, one.process.returncode))
                    ended.append(one.task)
                elif self._next(one.task, one.left, {**one.spent, one.command.label: cost}):
                    ended.append(one.task)
            if not changed:
                time.sleep(POLL_S)
        return ended

    def _attempt(self, task: Task, work: Callable[[], None]) -> bool:
        """Whether work of our own for a task succeeds; if not, that task alone has failed."""
        try:
            work()
        except Exception as error:
            self._failed(task.name, " ".join(f"{type(error).__name__}: {error}".split()))
            return False
        return True

    def _failed(self, name: str, line: str) -> None:
        from tqdm import tqdm

        self._outcome.failed[name] = line
        storage.write_bytes(self._failure(name), f"{line}\n".encode())
        tqdm.write(f"failed: {name}: {line}  ({self.log(name)})", file=sys.stderr)

    def log(self, name: str) -> str:
        return os.path.join(self.folder, "logs", f"{name}.log")

    def _failure(self, name: str) -> str:
        return failure_file(self.folder, name)

    def _last_line(self, name: str, code: int) -> str:
        with open(self.log(name), "rb") as file:
            said: list[str] = []
            for line in file.read().decode(errors="replace").replace("\r", "\n").splitlines():
                if line.startswith("$ "):  # what follows is the newest command's
                    said.clear()
                elif line.strip():
                    said.append(line.strip())
        return f"{said[-1] if said else 'nothing said'} (exit code {code})"

    def _tell(self) -> None:
        """What runs now, for `--list` in another process."""
        state = _State(running=[one.task.name for one in self._running])
        storage.write_bytes(os.path.join(self.folder, STATE), dumps(state).encode())

    def _stop(self) -> None:
        """End the children: as Ctrl-C would, then, after their patience, for good."""
        for one in self._running:
            one.process.send_signal(signal.SIGINT)
        end = time.monotonic() + PATIENCE_S
        for one in self._running:
            try:
                one.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(one.process.pid, signal.SIGKILL)
                one.process.wait()
        self._running.clear()


def running(folder: str) -> list[str]:
    """The tasks that a queue's folder says are running. Raises InputError where it cannot be read."""
    state = read_plain(os.path.join(folder, STATE), _State, "delete it: it is written anew when the queue runs")
    return [] if state is None else state["running"]


def failure_file(folder: str, name: str) -> str:
    """Where the last line of a failed run is kept until it succeeds."""
    return os.path.join(folder, "logs", f"{name}.failed")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
