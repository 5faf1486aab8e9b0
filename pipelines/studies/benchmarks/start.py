"""How long `jobs.segment` takes from its start to the first mask: `jobs.benchmark start`.

The first mask is that of the second frame, the first one that the network makes. Each start is a process of its own; a cold one has an
empty graph cache. Beside the time stands the processor time of the job up to then, which other work on the machine changes less.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from pipelines.studies.benchmarks.rows import Measure, median
from vos.config import BenchmarkConfig
from vos.data.synthetic import synthetic_index
from vos.errors import InputError
from vos.inference.runtimes import choose
from vos.media.images import write_mask
from vos.media.video_writer import VideoWriter
from vos.published.bounds import Figure

SIZE, FRAMES = (480, 854), 24
BOUND_S = 5
PATIENCE_S = 900
POLL_S = 0.01


class Start(NamedTuple):
    """Seconds up to the first mask: by the clock, and of processors in the job's own process."""

    seconds: float
    cpu_seconds: float


def first_masks(config: BenchmarkConfig) -> Iterator[Figure]:
    """Cold starts as they are by default, cold ones that wait for their graphs, and warm ones, in turns."""
    runtime = choose("auto", "auto", "", on_gpu=False).runtime
    starts: dict[str, list[Start]] = {"cold": [], f"cold, --runtime {runtime}": [], "warm": []}
    loads: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        _write_video(folder)
        warm = os.path.join(folder, "warm")
        _start(folder, runtime, warm)
        for number in range(config.rounds):
            for kind, found in starts.items():
                cache = warm if kind == "warm" else os.path.join(folder, f"{kind[-8:]}-{number}")
                found.append(_start(folder, runtime if "--runtime" in kind else "auto", cache))
                loads.append(os.getloadavg()[0])
    how = (
        f"{SIZE[1]}x{SIZE[0]}, 2 objects, builtin-student, {config.rounds} rounds on {os.cpu_count()} cores with a load of "
        f"{min(loads):.1f} to {max(loads):.1f}"
    )
    for kind, found in starts.items():
        seconds = [one.seconds for one in found]
        if "--runtime" in kind:
            yield median(f"s to the first mask, {kind}", seconds, how=how)
        else:
            yield median(f"s to the first mask, {kind}", seconds, "<=", BOUND_S, how)
    for kind, found in starts.items():
        cpu_seconds = [one.cpu_seconds for one in found]
        yield median(f"processor s to the first mask, {kind}", cpu_seconds, how=how)


def _write_video(folder: str) -> None:
    video = next(one for one in synthetic_index(20, FRAMES, SIZE) if len(one.first_seen) == 2)
    with VideoWriter(os.path.join(folder, "clip.mp4"), SIZE, Fraction(24)) as writer:
        for index in range(FRAMES):
            writer.write(video.frame(index))
    labels = video.mask(0)
    assert labels is not None
    write_mask(os.path.join(folder, "mask.png"), labels)


def _start(folder: str, runtime: str, cache: str) -> Start:
    """Begin to segment the video of a folder, and end it once the first mask is there."""
    with tempfile.TemporaryDirectory() as out:
        mask = Path(out, "o-masks", "00001.png")
        words = {"video": f"{folder}/clip.mp4", "first-mask": f"{folder}/mask.png", "out": f"{out}/o.mp4"}
        flags = [f"--{name}={value}" for name, value in {**words, "runtime": runtime}.items()]
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.segment", *flags],
            env={**os.environ, "MOBILEVOS_CACHE": cache},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            while not mask.exists() and process.poll() is None and time.perf_counter() - began < PATIENCE_S:
                time.sleep(POLL_S)
            found = time.perf_counter() - began
            start = Start(found, _cpu_seconds(process.pid)) if mask.exists() else None
        finally:
            process.send_signal(signal.SIGINT)
            said = process.communicate()[1]
        if start is None:
            raise InputError(f"jobs.segment wrote no mask: {said.decode(errors='replace').strip()[-300:]}")
        return start


def _cpu_seconds(pid: int) -> float:
    """Of a process that has not been waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


MEASURES: Sequence[Measure] = (first_masks,)
