"""Ends a job that a signal asks to end: Ctrl-C (SIGINT), SIGTERM (Kubernetes, `ray job stop`, spot machines), SIGHUP (a closed terminal).

The first signal raises `Stopped` in the main thread, so that `finally` blocks and context managers run: what is finished is kept. A block
that finishes its current piece of work first (`deferred`) has DEFER_S for it. A thread watches the time: whatever hangs, the process and
all that it started are gone after LIMIT_S. A second signal ends everything at once. A signal that this process ignores from its start
(`nohup`, a shell's background job) stays ignored.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEFER_S = 3.0
"""How long a deferring block may go on after the signal."""
LIMIT_S = 7.5
"""After this time nothing runs any more."""
ECHO_S = 0.25
"""Signals so soon after the first are the same request: `timeout` signals its child and then the child's group."""
SWALLOWED_S = 2.0
"""A `Stopped` that nothing of ours has seen after this time was lost in a library; it is raised again."""
CLOSING_S = 1.0
"""How long a process that ends at once waits for its MLflow runs to be closed."""
NOTHING_KEPT = "what was finished is kept; run the same command again to continue"


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end. `kept` says what is kept, and how to go on."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.kept = ""


class _Request:
    """The signals that this process has received, and what to do when it must end."""

    def __init__(self, hard: bool) -> None:
        self.hard = hard
        self.number = self.seen = 0
        self.at = 0.0
        self.raised = self.unwinding = self.poked = self.lost = False
        self.deferring: list[Callable[[], bool]] = []
        self.keepers: list[Callable[[], str]] = []
        self.closers: list[Callable[[], None]] = []
        self.before: dict[int, Any] = {}
        self.children: set[tuple[int, str]] = set()
        self.ending = threading.Lock()
        self.main, self.hook = threading.get_ident(), sys.unraisablehook
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)

    def heard(self, number: int, _frame: Any) -> None:
        """The handler of all signals, in the main thread."""
        if self.poked:  # by the watch, for a request that was deferred too long or lost
            self.poked, self.number = False, self.number or number
            if not self.unwinding:
                self._raise()
            return
        if not self.number:
            self.number, self.at = number, time.monotonic()
            if not (self.deferring and self.deferring[-1]()):
                self._raise()
        elif time.monotonic() - self.at > ECHO_S:
            self.end_at_once()

    def _raise(self) -> None:
        self.raised = True
        raise Stopped(self.number)

    def unraisable(self, found: Any) -> None:
        """The hook for exceptions in callbacks of the garbage collector and in `__del__`, which Python prints and forgets."""
        if isinstance(found.exc_value, Stopped | SystemExit) and (self.number or self.seen):
            self.lost = True  # the watch raises it again, outside of the callback
        else:
            self.hook(found)

    def raise_if_asked(self) -> None:
        if self.number and not self.raised:
            self._raise()

    def line(self) -> str:
        """The one line that a job prints when it is stopped."""
        kept = ""
        for keeper in reversed(self.keepers):
            with contextlib.suppress(Exception):
                kept = kept or keeper()
        return stopped_line(self.number or self.seen, kept)

    def watch(self) -> None:
        """The thread: waits for a signal, then for the end of the job. It runs also while the main thread is in native code."""
        while not self.seen:
            for number in os.read(self.reader, 64):
                if number == 0:  # the job has ended
                    return
                self.seen = self.seen or (number if number in self.before else 0)
        # Garbage that holds Ray's objects must not be collected in another thread while Ray is shut down: Ray ends the process then.
        gc.disable()
        began, again = time.monotonic(), SWALLOWED_S
        while True:
            if select.select([self.reader], [], [], 0.1)[0] and b"\0" in os.read(self.reader, 64):
                break
            spent = time.monotonic() - began
            self.children |= _descendants()
            late = self.number and not self.raised and spent > DEFER_S
            silent = (self.raised or not self.number) and not self.unwinding and spent > again
            if (late or silent or self.lost) and not self.poked:
                again = spent + SWALLOWED_S
                self.lost, self.poked = False, True
                signal.pthread_kill(self.main, self.number or self.seen)
            if self.hard and spent > LIMIT_S:
                self.end_at_once()
        while self.hard and (spent := time.monotonic() - began) < 10 * LIMIT_S:
            time.sleep(0.1)
            if (
                spent > LIMIT_S and not threading.main_thread().is_alive()
            ):  # it waits for a library's thread or exit handler
                os._exit(128 + (self.number or self.seen))

    def end_at_once(self) -> None:
        """End this process and all that it started, after a short try to close what others would wait for."""
        if not self.ending.acquire(blocking=False):
            return
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(CLOSING_S)
        with contextlib.suppress(Exception):
            print(f"\n{self.line()}", file=sys.stderr, flush=True)
        end_all(self.children | _descendants())
        os._exit(128 + (self.number or self.seen))

    def _close(self) -> None:
        for closer in reversed(self.closers):
            with contextlib.suppress(Exception):
                closer()


_requests: list[_Request] = []
"""Signals belong to the process, so there is one request for it; none outside of a job."""


def _current() -> _Request | None:
    return _requests[-1] if _requests else None


@contextmanager
def stoppable(hard: bool = True) -> Iterator[None]:
    """Handle the signals until the block ends; does nothing inside such a block, and outside of the main thread.

    hard  whether the whole process is ended after LIMIT_S; False for a program that only uses this package
    """
    if _requests or threading.current_thread() is not threading.main_thread():
        yield
        return
    request, collects = _Request(hard), gc.isenabled()
    _requests.append(request)
    request.before = {one: signal.getsignal(one) for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN}
    wakeup = signal.set_wakeup_fd(request.writer, warn_on_full_buffer=False)
    watch = threading.Thread(target=request.watch, name="signals", daemon=True)
    watch.start()
    sys.unraisablehook = request.unraisable
    try:
        take_signals()
        yield
    finally:
        sys.unraisablehook = request.hook
        for one, handler in request.before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(wakeup)
        os.write(request.writer, b"\0")
        _requests.remove(request)
        if request.number or request.seen:
            end_all(request.children)
            if collects:
                gc.enable()
        else:
            watch.join()
            os.close(request.reader)
            os.close(request.writer)


def take_signals() -> None:
    """Install this module's handlers, again where a library has installed its own (`ray.init` does)."""
    request = _current()
    if request is not None and threading.get_ident() == request.main:
        for one in SIGNALS:
            signal.signal(one, request.heard if one in request.before else signal.SIG_IGN)


def received() -> int:
    """Return the number of the signal that asked this process to end, 0 where there is none.

    Known also where a library's handler took it, so that the error that follows is not taken for a failure.
    """
    request = _current()
    return 0 if request is None else request.number or request.seen


def asked() -> bool:
    """Return whether a block that defers the request should come to its end."""
    request = _current()
    return request is not None and bool(request.number)


def raise_if_asked() -> None:
    """Raise Stopped where a deferred request waits."""
    if (request := _current()) is not None:
        request.raise_if_asked()


@contextmanager
def deferred(when: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Let the block end its current piece of work: it looks at `asked`; Stopped is raised at its end, or after DEFER_S.

    when  asked at the signal: whether there is a piece of work to end; else Stopped is raised at once
    """
    if (request := _current()) is None:
        yield
        return
    request.deferring.append(when)
    try:
        with unwound():
            yield
    finally:
        request.deferring.pop()
    request.raise_if_asked()


def no_longer_deferred() -> None:
    """Raise Stopped in the main thread now, from another thread: the piece of work for which it was deferred has ended."""
    if (request := _current()) is not None and request.number and not request.raised:
        request.poked = True
        signal.pthread_kill(request.main, request.number)


@contextmanager
def at_once() -> Iterator[None]:
    """Inside a deferring block: a part that only waits, and can be stopped anywhere."""
    with deferred(lambda: False):
        raise_if_asked()
        yield


@contextmanager
def keeping(say: Callable[[], str]) -> Iterator[None]:
    """Say what a job keeps when it is stopped in this block, and how to go on; the innermost block with words is asked."""
    if (request := _current()) is None:
        yield
        return
    request.keepers.append(say)
    try:
        yield
    except BaseException as error:
        if isinstance(error, Stopped) or received():
            unwinding()
            if not kept_by(error):
                with contextlib.suppress(Exception):
                    error.__dict__["kept"] = say()
        raise
    finally:
        request.keepers.remove(say)


def kept_by(error: BaseException) -> str:
    """Return what the error that ended a stopped job says is kept; libraries replace Stopped by errors of their own."""
    return str(getattr(error, "kept", ""))


@contextmanager
def closed_at_once(close: Callable[[], None]) -> Iterator[None]:
    """Have `close` called, from another thread, where the process is ended in this block without unwinding it."""
    if (request := _current()) is None:
        yield
        return
    request.closers.append(close)
    try:
        yield
    finally:
        request.closers.remove(close)


@contextmanager
def unwound() -> Iterator[None]:
    """Call `unwinding` where Stopped leaves this block."""
    try:
        yield
    except KeyboardInterrupt:
        unwinding()
        raise


def unwinding() -> None:
    """Record that the request has arrived, so that it is not raised again while things are closed."""
    if (request := _current()) is not None:
        request.unwinding = True


def stopped_line(number: int, kept: str = "") -> str:
    """Return the line for a stopped job."""
    name = "interrupted" if number == signal.SIGINT else f"interrupted ({signal.Signals(number).name})"
    return f"{name}: {kept or NOTHING_KEPT}"


def end_all(processes: set[tuple[int, str]]) -> None:
    """Kill the processes of (pid, start time) that still run."""
    for pid, started in processes:
        if (found := _stat(pid)) and found[1] == started:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _descendants() -> set[tuple[int, str]]:
    """Return (pid, start time) of all processes that this one started, directly or not (Linux)."""
    children: dict[int, list[tuple[int, str]]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and (found := _stat(int(name))):
                children.setdefault(found[0], []).append((int(name), found[1]))
    below, waiting = set[tuple[int, str]](), [os.getpid()]
    while waiting:
        for one in children.get(waiting.pop(), []):
            below.add(one)
            waiting.append(one[0])
    return below


def started_at(pid: int) -> str:
    """Return when a living process started, in ticks since the boot; "" where there is none of this number (Linux)."""
    found = _stat(pid)
    return found[1] if found else ""


def _stat(pid: int) -> tuple[int, str] | None:
    """Return (parent, start time) of a living process, None where there is none or it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (int(fields[1]), fields[19])
