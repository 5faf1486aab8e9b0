"""Make the results: plan -> missing runs -> records -> tables, plots and page. Used by `jobs.report`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pipelines import storage, tracking
from pipelines.runtime.output_folder import (
    CONFIG,
    check_folder,
    check_links,
    claim,
    folder_run,
    identity_of,
    output_folder,
)
from pipelines.runtime.tables import table
from pipelines.runtime.videos import data_fingerprint, index_videos
from pipelines.studies.davis import page as results_page
from pipelines.studies.davis import queue
from pipelines.studies.davis import records as records_of
from pipelines.studies.davis.plan import SCALES, Planned, chosen, plan
from pipelines.studies.davis.records import REPORT, Record
from pipelines.studies.davis.results import Results
from pipelines.studies.davis.site import Site
from vos.config import ReportConfig, TrainConfig, TuneConfig
from vos.data.contents import FORM, index_fingerprint
from vos.errors import InputError
from vos.files.canonical import dumps
from vos.files.written import Written

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that set the threads of libraries which otherwise use all cores."""


def listed(config: ReportConfig) -> str:
    """Return the plan as a table: every run's state and its expected CPU minutes."""
    every = plan(config.preset)
    runs = chosen(every, config.only)
    records = records_of.valid(every, records_of.read_all(config.docs))
    rows = []
    for one in runs:
        state, detail = ("finished", "") if one.name in records else queue.state_of(config.out, one.name)
        needed = [name for name in one.needs if name not in records]
        detail = f"for {', '.join(needed)}" if state == "waiting" and needed else detail[:90]
        rows.append([one.name, one.kind, state, detail, f"{one.minutes:.0f}"])
    left = sum(one.minutes for one in runs if one.name not in records)
    done = sum(one.name in records for one in runs)
    note = f"{done} of {len(runs)} runs finished, about {left:.0f} CPU-minutes left, {left / config.workers / 60:.1f} hours"
    return f"{table(['run', 'kind', 'state', '', 'CPU min'], rows)}\n\n{note} with --workers {config.workers}"


def run(config: ReportConfig, tell: Callable[[str], None]) -> bool:
    """Make the missing runs, then build the page; returns whether every requested run is finished.

    Raises InputError for missing input before anything is started.
    """
    runs = chosen(plan(config.preset), config.only)
    site = _site(config, runs)
    queued = site.missing(runs)
    records_of.docs_folder(config.docs, config.overwrite)
    with _claimed(config) as folder:
        tell(_publish(config, folder))  # also makes the MLflow store, which two runs must not make at once
        environment = {**os.environ, **tracking.environment(), **dict.fromkeys(THREADS, str(config.threads))}
        environment.pop("DAVIS_ROOT", None)  # the configuration names its data
        command = [sys.executable, "-m", "jobs.report", "--config", folder.path(CONFIG), "--run"]
        try:
            failed = queue.work_off(queued, lambda one: [*command, one.name], config.workers, config.out, environment)
        finally:
            text = _publish(config, folder)
        tell(text)
    for name, reason in failed.items():
        tell(f"not run  {name}: {reason}")
    tell(f"runs     {len(runs) - len(failed)} of {len(runs)} finished")
    return not failed


def run_one(config: ReportConfig) -> str:
    """Make one run of the plan in this process, and write its record; returns the line to print. Raises InputError for bad input."""
    planned = next((one for one in plan(config.preset) if one.name == config.run), None)
    if planned is None:
        raise InputError(f"--run {config.run}: no run of the plan; --list shows them all")
    folder = check_folder(config, REPORT)
    if identity_of(folder) is None:  # started without the queue, as the first run of its --out
        _mark(config, folder)
    _site(config, [planned]).make(planned)
    return f"record  {config.docs}/runs/{planned.name}.json"


def publish(config: ReportConfig) -> str:
    """Build the page, for `--page`; returns the line to print."""
    with _claimed(config) as folder:
        return _publish(config, folder)


@contextmanager
def _claimed(config: ReportConfig) -> Iterator[Written]:
    with output_folder(config, REPORT) as folder:
        check_links(folder)
        _mark(config, folder)
        yield folder


def _mark(config: ReportConfig, folder: Written) -> None:
    claim(folder, config, {"preset": config.preset}, "results", replaces=True)


def _publish(config: ReportConfig, folder: Written) -> str:
    """Build tables, plots and page from the records, and log them to one MLflow run; returns the line to print."""
    every = plan(config.preset)
    records = records_of.valid(every, found := records_of.read_all(config.docs))
    of_data: dict[str, str] = {}
    for name, record in records.items():
        of_data.setdefault(dumps(record["data"]), name)
    if len(of_data) > 1:
        raise InputError(
            f"{config.docs}/runs: {' and '.join(of_data.values())} are of different videos; keep the records of one data set"
        )
    paths = results_page.write(config, every, records, sorted(found.keys() - records.keys()))
    with folder_run(folder, config, "results", f"results-{config.preset}", {"runs": str(len(records))}) as run:
        for path in paths:
            run.log_artifact(path)
        run.log_metrics(results_page.metrics(every, Results(config.preset, records)))
    return f"page     {paths[0]}  ({len(records)} of {len(every)} runs)"


def _site(config: ReportConfig, runs: list[Planned]) -> Site:
    """Return the configured site. Raises InputError where it lacks input for those of `runs` that have no record."""
    for option, folder in (("--out", config.out), ("--docs", config.docs)):
        if storage.is_uri(folder):
            raise InputError(f"{option} {folder}: trainings and their logs are written here; give a local folder")
    every = plan(config.preset)
    records = records_of.valid(every, records_of.read_all(config.docs))
    jobs = [one.job.train if isinstance(one.job, TuneConfig) else one.job for one in runs if one.name not in records]
    begin = any(isinstance(job, TrainConfig) and job.trunk_weights for job in jobs)
    if begin and not os.path.isfile(config.trunk_weights):
        raise InputError(
            f"--trunk-weights {config.trunk_weights or '(none)'}: no such file; name ImageNet weights for the MobileNetV2 students "
            "(.safetensors or .pth, torchvision's names)"
        )
    return Site(config, config.trunk_weights if begin else "", _data(config, records), records)


def _data(config: ReportConfig, records: Mapping[str, Record]) -> dict[str, str]:
    """Return the fingerprints of the videos in the form of the existing records: of contents, or, for older ones, of names and sizes.

    Raises InputError where the protocol needs real video and none is named.
    """
    if SCALES[config.preset].pretrained and not config.data.root:
        raise InputError(f"--preset {config.preset}: real video is needed; give --data.root (or DAVIS_ROOT)")
    older = any(not record["data"]["train"].startswith(FORM) for record in records.values())
    form = index_fingerprint if older else data_fingerprint
    return {split: form(index_videos(config.data, split)) for split in ("train", "val")}
