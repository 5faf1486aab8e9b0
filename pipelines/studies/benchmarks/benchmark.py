"""Run a benchmark of `python -m jobs.benchmark`, print it as a table, and save it as JSON and as MLflow metrics."""

from __future__ import annotations

from pipelines.runtime.session import ray_session, set_threads
from pipelines.studies.benchmarks import cache, data, mixture, start, training
from pipelines.studies.benchmarks.rows import as_row, figure_table, recorded
from vos.config import BenchmarkConfig
from vos.published.bounds import Figure

KINDS = {"cache": cache, "train": training, "data": data, "start": start, "mixture": mixture}


def measure(config: BenchmarkConfig) -> str:
    """Measure, write the rows as JSON and log them to MLflow; returns the table."""
    set_threads(1)
    found: list[Figure] = []
    with recorded(config, config.what) as record, ray_session(num_cpus=6):
        path = ""
        for measure in KINDS[config.what].MEASURES:
            for figure in measure(config):
                print(f"{figure.name}: {figure.value:.3g}", flush=True)
                found.append(figure)
            path = record.write_rows([as_row(one) for one in found])  # after each: a later one may fail
        record.log(found, [path])
    return f"{figure_table(found)}\nrows   {path}"
