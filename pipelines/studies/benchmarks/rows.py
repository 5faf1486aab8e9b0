"""Shared functions of the benchmarks: figures over rounds, separate folders, and the output of rows.

Each ratio compares two sides that take turns in one run. A figure is the median over the rounds; its spread is the smallest and largest.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pipelines import storage, tracking
from pipelines.cache.build import build_cache
from pipelines.cache.read import Batch
from pipelines.runtime.output_folder import OutputFile, claimed_folder, existing
from pipelines.runtime.tables import table
from vos.config import BenchmarkConfig, CacheConfig, FpsBenchmarkConfig, JobConfig
from vos.distillation.training_step import TrainingStep
from vos.files.canonical import fingerprint
from vos.files.written import Written
from vos.published.bounds import Figure

BENCHMARK, ROWS = "benchmark", "rows.json"
Measure = Callable[[BenchmarkConfig], Iterable[Figure]]
Job = TypeVar("Job", bound=JobConfig)


@dataclass(frozen=True)
class Record:
    """The outputs of a benchmark: its folder, its MLflow run, and the file of --json."""

    folder: Written
    run: tracking.Run
    json_file: OutputFile | None

    def write_rows(self, rows: Sequence[dict[str, Any]]) -> str:
        text = (json.dumps(rows, indent=1) + "\n").encode()
        return self.json_file.write(text) if self.json_file else self.folder.write(ROWS, text)

    def log(self, figures: Sequence[Figure], paths: Sequence[str], **values: float) -> None:
        values |= {one.slug: one.value for one in figures}
        self.run.log_metrics({f"benchmark/{name}": value for name, value in values.items()})
        for path in paths:
            if not storage.is_uri(path):
                self.run.log_artifact(path)


@contextmanager
def recorded(config: BenchmarkConfig | FpsBenchmarkConfig, what: str, files: Sequence[str] = ()) -> Iterator[Record]:
    """Open a benchmark's folder and run. Raises InputError, before anything is measured, where unrelated files have the names `files`."""
    json_file = OutputFile(config.json, BENCHMARK, config.overwrite) if config.json else None
    if json_file:
        json_file.check()
    with (
        claimed_folder(config, BENCHMARK, "a benchmark", names=[ROWS, *files], shared=True) as folder,
        tracking.start_run("benchmark", f"benchmark-{what}-{config.preset}", config) as run,
    ):
        yield Record(folder, run, json_file)


def median(name: str, values: list[float], relation: str = "", bound: float | str = "", how: str = "") -> Figure:
    """Return the median over rounds, with its target."""
    return Figure(name, statistics.median(values), relation, bound, how, min(values), max(values))


def placed(job: Job) -> Job:
    """Return the job with a folder named after its configuration, so that benchmarks of other sizes use other folders."""
    return replace(job, out=f"{job.out}-{fingerprint(replace(job, out=''))[:8]}")


def built(cache: CacheConfig) -> CacheConfig:
    """Build a cache in a separate folder, or reuse an existing one; returns its configuration."""
    build_cache(cache := placed(cache))
    return cache


def emptied(job: Job, kind: str) -> Job:
    """Return the job with a separate, emptied folder, so that it is timed from its start.

    Raises InputError where the folder is not one of jobs.`kind`.
    """
    job = placed(job)
    if storage.list_all(job.out):
        existing(job.out, kind)
        storage.remove_tree(job.out)
    return job


def seconds(call: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def stepped(take: TrainingStep, step: int, batch: Batch) -> dict[str, float]:
    """Take one training step on a batch; returns its loss terms."""
    return take(step, batch.frames, batch.labels, batch.num_objects, batch.targets, batch.draws)


def as_row(figure: Figure) -> dict[str, Any]:
    """Return a figure as a row of rows.json."""
    low, high = (figure.value if end is None else end for end in (figure.low, figure.high))
    kept = {"name": figure.name, "value": figure.value, "low": low, "high": high}
    return {**kept, "target": figure.target, "met": figure.met, "how": figure.how}


def figure_table(figures: Sequence[Figure]) -> str:
    """Return a table of figures and targets, followed by notes on how they were measured."""
    spread = any(one.low is not None for one in figures)
    lines = []
    for one in figures:
        ends = f"{one.low:.3g} to {one.high:.3g}" if one.low is not None else ""
        lines.append([one.name, f"{one.value:.3g}{one.unit}", *[ends] * spread, one.target, one.outcome])
    notes = dict.fromkeys(f"{one.name}: {one.how}" for one in figures if one.how)
    header = ["figure", *(["median", "spread"] if spread else ["reached"]), "target", ""]
    return "\n".join([table(header, lines), *(["", *notes] if notes else [])])
