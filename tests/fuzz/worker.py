"""One process that reads inputs and measures each: `python -m tests.fuzz.worker FOLDER`, requests and answers as JSON lines.

A hang ends with the process (SIGPROF after KILLED_CPU_S seconds of its own time), and so does a crash of native code; who started it sees
which input it was at.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

SLOW_CPU_S = 2.0
KILLED_CPU_S = 10.0
LARGE_MIB = 512
ROOM_GIB = 3
"""Address space beyond what the process has when it begins."""
MOST_LETTERS = 600


def judged(reader: Any, case: Any, expected: Any, folder: Path) -> tuple[str, str]:
    """(outcome, detail): own, other, right, wrong or untold."""
    from tests.fuzz.cases import NotTellableError, lay, same
    from vos.config.command_line import input_error
    from vos.errors import InputError

    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            found = reader.read(folder)
    except InputError as error:
        fault = faulty(str(error), folder)
        return ("other", f"own error, but {fault}: {str(error)[:300]!r}") if fault else ("own", str(error))
    except MemoryError as error:
        return "large", f"MemoryError: {error}"
    except BaseException as error:
        message = input_error(error)  # what a job prints of an error of the operating system that names a file
        if message is None or faulty(message, folder):
            return "other", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return "own", message
    if getattr(sys, "code_was_run", False):
        return "other", "code of the file was run"
    if same(found, expected):
        return "right", ""
    shutil.rmtree(folder)  # some readers consume what they read
    folder.mkdir()
    lay(folder, case.files)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            other = reader.oracle(folder)
    except NotTellableError:
        return "untold", ""
    except Exception as error:
        return (
            "wrong",
            f"accepted as {_shown(found)}, refused by the other reader ({type(error).__name__}: {str(error)[:120]})",
        )
    return ("right", "") if same(found, other) else ("wrong", f"accepted as {_shown(found)}, it is {_shown(other)}")


def faulty(message: str, folder: Path) -> str:
    """What is wrong with an error line, "" where nothing is."""
    if len(message.replace(str(folder), "")) >= MOST_LETTERS:
        return f"{len(message)} letters long"
    if not message.isprintable() or not message.strip():
        return "not printable"
    named = any(place in message for place in (str(folder), "--", "://", "standard input", "argument "))
    if not (named or message.startswith("/")):
        return "without a file or flag"
    return ""


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{value.dtype}{list(shape)}" if shape is not None else repr(value)[:120]


def measured(reader: Any, case: Any, expected: Any, folder: Path) -> dict[str, Any]:
    """The outcome with CPU seconds and the peak of memory above what was there before, in MiB."""
    from tests.fuzz.cases import lay

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lay(folder, case.files)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _peak_mib()
    signal.setitimer(signal.ITIMER_PROF, KILLED_CPU_S)
    began = time.process_time()
    outcome, detail = judged(reader, case, expected, folder)
    seconds = time.process_time() - began
    signal.setitimer(signal.ITIMER_PROF, 0)
    large_mib = _peak_mib() - before
    shutil.rmtree(folder, ignore_errors=True)
    return {"outcome": outcome, "detail": detail, "cpu_s": seconds, "mib": large_mib}


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _limit_memory() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    used = int(status.split("VmSize:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_GIB * 2**30, resource.RLIM_INFINITY))


def _expected(reader: Any, samples: dict[str, Any], root: Path) -> dict[str, Any]:
    """What the reader says of each unchanged sample; the process ends where one is refused, since nothing can be compared with it."""
    from tests.fuzz.cases import lay

    expected, place = {}, root / "own" / str(os.getpid())
    for sample, files in samples.items():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        lay(place, files)
        try:
            expected[sample] = reader.read(place)
        except Exception as error:
            raise SystemExit(f"{reader.name}: the unchanged sample {sample} is refused: {error}") from None
    return expected


def main(root: Path) -> None:
    """Answer requests {reader, number, seed} or {reader, known} or {reader, file} until standard input ends."""
    from tests.fuzz import cases, readers

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what native code prints must not come between the answers
    ready: dict[str, tuple[Any, Any, Any, Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["reader"]
        if name not in ready:
            reader = readers.READERS[name]
            samples = readers.load_samples(root, name)
            ready[name] = reader, samples, _expected(reader, samples, root), reader.known(samples)
            _limit_memory()
        reader, samples, expected, known = ready[name]
        if "known" in request:
            sample, changes = known[request["known"]]
            case = cases.Case(
                name,
                -1,
                sample,
                request["known"],
                {**samples[sample], **changes} if len(samples[sample]) > 1 else changes,
            )
        elif "file" in request:
            case = cases.kept(Path(request["file"]), samples)
        else:
            case = cases.made(reader, samples, request["seed"], request["number"])
        if request.get("keep"):
            answer: dict[str, Any] = {
                "path": str(cases.keep(case, samples[case.sample], Path(request["keep"]), request["why"]))
            }
        else:
            place = root / "inputs" / f"{os.getpid()}-{time.monotonic_ns()}"
            answer = measured(reader, case, expected[case.sample], place)
            answer |= {"mutation": case.mutation, "sample": case.sample}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
