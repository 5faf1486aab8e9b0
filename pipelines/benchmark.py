"""What every benchmark shares: figures beside their targets, as a table, as JSON and as MLflow metrics.

Each ratio compares two sides that take turns in one run; a figure is the median over the rounds, its spread the smallest and largest.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines import storage, tracking
from pipelines.folders import OutputFile, check_links, claim, output_folder
from pipelines.report import table
from pipelines.session import ray_session, set_threads
from pipelines.teacher_cache import build_cache
from vos.config import BenchmarkConfig, CacheConfig
from vos.config_json import fingerprint, without

BENCHMARK, ROWS = "benchmark", "rows.json"


@dataclass(frozen=True)
class Row:
    """One figure beside what it should be."""

    name: str
    value: float
    low: float
    high: float
    target: str
    met: bool | None
    how: str


Measure = Callable[[BenchmarkConfig], Iterable[Row]]


def benchmark(config: BenchmarkConfig) -> str:
    """Measure, write the rows as JSON, log them to MLflow; returns the table."""
    from pipelines import benchmark_cache, benchmark_data, benchmark_train

    parts = {"cache": benchmark_cache.MEASURES, "train": benchmark_train.MEASURES, "data": benchmark_data.MEASURES}
    measures: Sequence[Measure] = parts[config.what]
    json_file = OutputFile(config.json, BENCHMARK, config.overwrite) if config.json else None
    if json_file:
        json_file.check()
    set_threads(1)
    rows: list[Row] = []
    name = f"benchmark-{config.what}-{config.preset}"
    with output_folder(config, BENCHMARK) as folder:
        check_links(folder)
        folder.check([ROWS])
        claim(folder, config, without(config, ("out", "overwrite", "debug", "json")), "a benchmark", replaces=True)
        with tracking.start_run("benchmark", name, config) as run, ray_session(num_cpus=6):
            path = ""
            for measure in measures:
                for row in measure(config):
                    print(f"{row.name}: {row.value:.3g}", flush=True)
                    rows.append(row)
                # After each measure: what an hour has found is kept where a later one fails.
                text = (json.dumps([asdict(row) for row in rows], indent=1) + "\n").encode()
                path = json_file.write(text) if json_file else folder.write(ROWS, text)
            run.log_metrics({f"benchmark/{slug(row.name)}": row.value for row in rows})
            if not storage.is_uri(path):
                run.log_artifact(path)
    return _table(rows)


def figure(name: str, values: list[float], target: str, reached: Callable[[float], bool], how: str) -> Row:
    """The median of some rounds beside its target."""
    middle = statistics.median(values)
    return Row(name, middle, min(values), max(values), target, reached(middle), how)


def built(cache: CacheConfig) -> CacheConfig:
    """Build a cache in a folder that is its configuration's own, so that a benchmark of other sizes into the same --out finds none of
    another one's."""
    cache = replace(cache, out=f"{cache.out}-{fingerprint(replace(cache, out=''))[:8]}")
    build_cache(cache)
    return cache


def seconds(call: Callable[..., Any], *arguments: Any) -> float:
    began = time.monotonic()
    call(*arguments)
    return time.monotonic() - began


def slug(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name.lower()).strip("_")


def _table(rows: list[Row]) -> str:
    lines = [
        [
            row.name,
            f"{row.value:.3g}",
            f"{row.low:.3g} to {row.high:.3g}",
            row.target,
            {True: "reached", False: "below target", None: ""}[row.met],
        ]
        for row in rows
    ]
    notes = dict.fromkeys(f"{row.name}: {row.how}" for row in rows if row.how)
    return "\n".join([table(["figure", "median", "spread", "target", ""], lines), "", *notes])
