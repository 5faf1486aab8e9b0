"""Make the results of a protocol: plan -> missing runs -> records -> tables, plots and page. Used by `jobs.report`."""

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
from pipelines.studies.protocols import queue
from pipelines.studies.protocols import records as records_of
from pipelines.studies.protocols.families import Families
from pipelines.studies.protocols.planned import WEIGHTS, Planned, chosen
from pipelines.studies.protocols.protocol import Protocol
from pipelines.studies.protocols.records import REPORT, Record
from pipelines.studies.protocols.site import Site
from vos.config import ReportConfig, TrainConfig, TuneConfig
from vos.errors import InputError
from vos.files.written import Written

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that set the threads of libraries which otherwise use all cores."""


def listed(protocol: Protocol, config: ReportConfig) -> str:
    """Return the plan as a table: every run's state and its expected CPU minutes."""
    every = protocol.plan(config.preset)
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


def run(protocol: Protocol, config: ReportConfig, tell: Callable[[str], None]) -> bool:
    """Make the missing runs, then build the page; returns whether every requested run is finished.

    Raises InputError for missing input before anything is started.
    """
    runs = chosen(protocol.plan(config.preset), config.only)
    config = _prepared(protocol, config, runs)
    site = _site(protocol, config, runs)
    queued = site.missing(runs)
    records_of.docs_folder(config.docs, config.overwrite)
    with _claimed(config) as folder:
        tell(_publish(protocol, config, folder))  # also makes the MLflow store, which two runs must not make at once
        environment = {**os.environ, **tracking.environment(), **dict.fromkeys(THREADS, str(config.threads))}
        environment.pop("DAVIS_ROOT", None)  # the configuration names its data
        command = [sys.executable, "-m", "jobs.report", "--config", folder.path(CONFIG), "--run"]
        try:
            failed = queue.work_off(queued, lambda one: [*command, one.name], config.workers, config.out, environment)
        finally:
            text = _publish(protocol, config, folder)
        tell(text)
    for name, reason in failed.items():
        tell(f"not run  {name}: {reason}")
    tell(f"runs     {len(runs) - len(failed)} of {len(runs)} finished")
    return not failed


def run_one(protocol: Protocol, config: ReportConfig) -> str:
    """Make one run of the plan in this process, and write its record; returns the line to print. Raises InputError for bad input."""
    planned = next((one for one in protocol.plan(config.preset) if one.name == config.run), None)
    if planned is None:
        raise InputError(f"--run {config.run}: no run of the plan; --list shows them all")
    config = _prepared(protocol, config, [planned])
    folder = check_folder(config, REPORT)
    if identity_of(folder) is None:  # started without the queue, as the first run of its --out
        _mark(config, folder)
    _site(protocol, config, [planned]).make(planned)
    return f"record  {config.docs}/runs/{planned.name}.json"


def publish(protocol: Protocol, config: ReportConfig) -> str:
    """Build the page, for `--page`; returns the line to print."""
    with _claimed(config) as folder:
        return _publish(protocol, config, folder)


@contextmanager
def _claimed(config: ReportConfig) -> Iterator[Written]:
    with output_folder(config, REPORT) as folder:
        check_links(folder)
        _mark(config, folder)
        yield folder


def _mark(config: ReportConfig, folder: Written) -> None:
    # Folders of the older protocol do not name it.
    named = {} if config.protocol == "validation" else {"protocol": config.protocol}
    claim(folder, config, {"preset": config.preset, **named}, "results", replaces=True)


def _publish(protocol: Protocol, config: ReportConfig, folder: Written) -> str:
    """Build tables, plots and page from the records, and log them to one MLflow run; returns the line to print."""
    every = protocol.plan(config.preset)
    records = records_of.valid(every, found := records_of.read_all(config.docs))
    _check_one_data_set(config, records)
    paths = protocol.write(config, every, records, sorted(found.keys() - records.keys()))
    name = f"{protocol.title}-{config.preset}"
    with folder_run(folder, config, "results", name, {"runs": str(len(records))}) as run:
        for path in paths:
            run.log_artifact(path)
        run.log_metrics(metrics(protocol.title, every, records))
    return f"page     {paths[0]}  ({len(records)} of {len(every)} runs)"


def metrics(title: str, plan: list[Planned], records: Mapping[str, Record]) -> dict[str, float]:
    """Return the mean J&F of every family and the number of finished and planned runs, by their MLflow names."""
    results = Families(records)
    families = dict.fromkeys(one.family for one in plan if one.kind not in ("cache", "search", "labels"))
    means = {f"{title}/{family}": value for family in families if (value := results.mean(family)) is not None}
    return {**means, f"{title}/runs": float(len(records)), f"{title}/runs_planned": float(len(plan))}


def _check_one_data_set(config: ReportConfig, records: Mapping[str, Record]) -> None:
    """Raise InputError, naming two records, where they were made from different data sets."""
    first: dict[str, tuple[str, str]] = {}
    for name, record in records.items():
        for part, digest in record["data"].items():
            known, other = first.setdefault(part, (digest, name))
            if known != digest:
                raise InputError(
                    f"{config.docs}/runs: {other} and {name} are of different videos; keep the records of one data set"
                )


def _prepared(protocol: Protocol, config: ReportConfig, runs: list[Planned]) -> ReportConfig:
    """Return the configuration with all data sets. Raises InputError where `runs` lack input that the protocol does not make."""
    for option, folder in (("--out", config.out), ("--docs", config.docs)):
        if storage.is_uri(folder):
            raise InputError(f"{option} {folder}: trainings and their logs are written here; give a local folder")
    records = records_of.valid(protocol.plan(config.preset), records_of.read_all(config.docs))
    missing = [one for one in runs if one.name not in records]
    for name, option in WEIGHTS.items():
        file = getattr(config, option)
        if name in _weights(missing) and not os.path.isfile(file):
            whose = "MobileNetV2 students" if option == "trunk_weights" else "teacher"
            raise InputError(
                f"--{option.replace('_', '-')} {file or '(none)'}: no such file; name ImageNet weights for the {whose} "
                "(.safetensors or .pth, torchvision's names)"
            )
    return protocol.prepare(config, missing)


def _weights(runs: list[Planned]) -> set[str]:
    """Return the plan's names of the ImageNet weights with which these runs start."""
    jobs = [one.job.train if isinstance(one.job, TuneConfig) else one.job for one in runs]
    return {job.trunk_weights for job in jobs if isinstance(job, TrainConfig)} - {""}


def _site(protocol: Protocol, config: ReportConfig, runs: list[Planned]) -> Site:
    """Return the configured site, with the weights for those of `runs` that have no record."""
    records = records_of.valid(protocol.plan(config.preset), records_of.read_all(config.docs))
    names = _weights([one for one in runs if one.name not in records])
    weights = {name: getattr(config, option) for name, option in WEIGHTS.items() if name in names}
    return Site(protocol, config, weights, protocol.fingerprints(config, records), records)
