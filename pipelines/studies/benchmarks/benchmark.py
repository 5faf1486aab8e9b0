"""The benchmarks of `python -m jobs.benchmark`: measured, printed as a table, kept as JSON and as MLflow metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from pipelines import storage, tracking
from pipelines.runtime.output_folder import OutputFile, check_links, claim, output_folder
from pipelines.runtime.session import ray_session, set_threads
from pipelines.studies.benchmarks import cache, data, start, training
from pipelines.studies.benchmarks.figures import BENCHMARK, ROWS, Measure, Row, row_table, slug
from vos.config import BenchmarkConfig
from vos.config.as_json import without

MEASURES: dict[str, Sequence[Measure]] = {
    "cache": cache.MEASURES,
    "train": training.MEASURES,
    "data": data.MEASURES,
    "start": start.MEASURES,
}


def measure(config: BenchmarkConfig) -> str:
    """Measure, write the rows as JSON, log them to MLflow; returns the table."""
    measures = MEASURES[config.what]
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
    return f"{row_table(rows)}\nrows   {path}"
