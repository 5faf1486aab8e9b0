"""The results: plan -> queue of jobs -> records -> tables, plots and page. What `jobs.report` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines import storage, tracking
from pipelines.runtime.output_folder import CONFIG, check_links, claim, existing, folder_run, output_folder
from pipelines.runtime.tables import table
from pipelines.runtime.videos import data_fingerprint, index_videos
from pipelines.studies.davis import page as results_page
from pipelines.studies.davis import records as records_of
from pipelines.studies.davis.plan import PRETRAINED, SCALES, TEACHER, Planned, chosen, plan
from pipelines.studies.davis.queue import Queue, failure_file, running
from pipelines.studies.davis.records import REPORT, Record
from pipelines.studies.davis.results import Results
from pipelines.studies.davis.site import Site
from pipelines.training.launch import RESULT, Outcome
from pipelines.training.loop import TRAIN
from vos.config import ReportConfig, TrainConfig
from vos.config.as_json import from_dict
from vos.data.contents import FORM, index_fingerprint, same_videos
from vos.errors import InputError
from vos.files.canonical import differences, dumps
from vos.files.written import Written

CHECKOUT = Path(__file__).resolve().parents[3]


def listed(config: ReportConfig) -> str:
    """The plan as a table: every run's state and its expected CPU minutes."""
    every = plan(config.preset)
    runs = chosen(every, config.only)
    records = records_of.valid(every, records_of.read_all(config.docs))
    state = running(config.out)
    rows = [[one.name, one.kind, *_state(config, one, records, state), f"{one.minutes:.0f}"] for one in runs]
    left = sum(one.minutes for one in runs if one.name not in records)
    done = sum(one.name in records for one in runs)
    note = f"{done} of {len(runs)} runs finished, about {left:.0f} CPU-minutes left, {left / config.workers / 60:.1f} hours"
    return f"{table(['run', 'kind', 'state', '', 'CPU min'], rows)}\n\n{note} with --workers {config.workers}"


def run(config: ReportConfig, tell: Callable[[str], None]) -> bool:
    """Run what is missing, then build the page; returns whether everything that was asked for is there.

    Raises InputError for what is missing before anything is started.
    """
    every = plan(config.preset)
    runs = chosen(every, config.only)
    for option, folder in (("--out", config.out), ("--docs", config.docs)):
        if storage.is_uri(folder):
            raise InputError(f"{option} {folder}: trainings and their logs are written here; give a local folder")
    records = records_of.valid(every, records_of.read_all(config.docs))
    weights = _weights(config, [one for one in runs if one.name not in records])
    data = _data(config, records)
    _check_teacher(config, every, records, weights, data)
    records_of.docs_folder(config.docs, config.overwrite)
    with _claimed(config) as folder:
        records = records_of.valid(every, records_of.read_all(config.docs))
        site = Site(config, weights, data, records)
        queued = site.check(runs)
        tell(_publish(config, folder))  # also makes the MLflow store, before two jobs would at once
        environment = {**os.environ, **tracking.environment(), **_one_thread(config.threads)}
        environment.pop("DAVIS_ROOT", None)  # every configuration names its data
        queue = Queue(config.out, config.workers, environment, str(CHECKOUT))
        try:
            outcome = queue.run([site.task(one) for one in queued])
        finally:
            text = _publish(config, folder)
        tell(text)
    for name, reason in {**outcome.failed, **outcome.blocked}.items():
        tell(f"not run  {name}: {reason}")
    tell(f"runs     {len(runs) - len(queued) + len(outcome.finished)} of {len(runs)} finished")
    return not (outcome.failed or outcome.blocked)


@contextmanager
def _claimed(config: ReportConfig) -> Iterator[Written]:
    with output_folder(config, REPORT) as folder:
        check_links(folder)
        claim(folder, config, {"preset": config.preset}, "results", replaces=True)
        yield folder


def publish(config: ReportConfig) -> str:
    """Build the page as `--page` does; returns what to look at."""
    with _claimed(config) as folder:
        return _publish(config, folder)


def _publish(config: ReportConfig, folder: Written) -> str:
    """Build tables, plots and page from the records, and keep them in one MLflow run; returns what to look at."""
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


def _weights(config: ReportConfig, runs: list[Planned]) -> str:
    """The file of the ImageNet weights, where a run begins with them. Raises InputError where there is none."""
    if not any(isinstance(one.job, TrainConfig) and one.job.trunk_weights for one in runs):
        return ""
    path = config.trunk_weights
    if not os.path.isfile(path):
        raise InputError(
            f"--trunk-weights {config.trunk_weights or '(none)'}: no such file; the MobileNetV2 students begin with ImageNet weights "
            "(.safetensors or .pth, torchvision's names)"
        )
    return path


def _check_teacher(
    config: ReportConfig, every: list[Planned], records: Mapping[str, Record], weights: str, data: Mapping[str, str]
) -> None:
    """Raises InputError where --teacher is no finished training, not the record's, or, where there is no record, not the plan's, of
    other videos, or begun with other weights."""
    if not config.teacher:
        return
    try:
        folder = existing(config.teacher, TRAIN)
        job = folder.read_json(CONFIG, dict[str, Any], records_of.REPAIR)
        result = folder.read_json(RESULT, Outcome, records_of.REPAIR)
    except InputError as error:
        raise InputError(f"--teacher {config.teacher}: no finished training ({error})") from None
    if job is None or result is None:
        raise InputError(f"--teacher {config.teacher}: no finished training; name the --out folder of one")
    if TEACHER in records:
        if result["run_id"] != records[TEACHER]["mlflow_run"]:
            raise InputError(
                f"--teacher {config.teacher}: not the training that {config.docs}/runs/{TEACHER}.json tells of; leave it out, or delete "
                "that record"
            )
        return
    trained = from_dict(TrainConfig, job, TrainConfig(), os.path.join(config.teacher, "config.json"))
    began_with, trained = (
        trained.trunk_weights,
        replace(trained, trunk_weights=PRETRAINED if trained.trunk_weights else ""),
    )
    planned = next(one.job for one in every if one.name == TEACHER)
    if changed := differences(records_of.lasting(planned), records_of.lasting(trained)):
        raise InputError(
            f"--teacher {config.teacher}: not the plan's teacher ({'; '.join(changed)}); leave it out, or change the plan"
        )
    try:
        same_data = trained.data == config.data or same_videos(index_videos(trained.data, "train"), data["train"])
        same_weights = not (began_with and weights) or records_of.sha256(began_with) == records_of.sha256(weights)
    except InputError as error:  # its configuration names files of another machine
        raise InputError(f"--teacher {config.teacher}: what it was trained on cannot be compared: {error}") from None
    if not same_data:
        raise InputError(
            f"--teacher {config.teacher}: trained on other videos ({trained.data.root or 'synthetic'}); leave it out"
        )
    if not same_weights:
        raise InputError(
            f"--teacher {config.teacher}: began with other ImageNet weights, {began_with}; name them with --trunk-weights"
        )


def _data(config: ReportConfig, records: Mapping[str, Record]) -> dict[str, str]:
    """Fingerprints of the videos, in the form of the records that are there: of contents, or, for older ones, of names and sizes.

    Raises InputError where the protocol is about real video and none is named.
    """
    if SCALES[config.preset].pretrained and not config.data.root:
        raise InputError(f"--preset {config.preset}: real video is needed; give --data.root (or DAVIS_ROOT)")
    older = any(not record["data"]["train"].startswith(FORM) for record in records.values())
    form = index_fingerprint if older else data_fingerprint
    return {split: form(index_videos(config.data, split)) for split in ("train", "val")}


def _state(config: ReportConfig, one: Planned, records: Mapping[str, Record], state: Sequence[str]) -> tuple[str, str]:
    """A run's state in a word, and what there is to say about it."""
    if one.name in records:
        return "finished", ""
    if one.name in state and _is_held(config.out):
        return "running", ""
    failure = failure_file(config.out, one.name)
    if os.path.exists(failure):
        return "failed", storage.read_bytes(failure).decode().strip()[:90]
    needed = [name for name in one.needs if name not in records]
    return "waiting", f"for {', '.join(needed)}" if needed else ""


def _is_held(folder: str) -> bool:
    """Whether a queue works in this folder now."""
    try:
        with storage.only_writer(folder):
            return False
    except InputError:
        return True


def _one_thread(threads: int) -> dict[str, str]:
    """Libraries that count the machine's cores by themselves are told."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict.fromkeys(names, str(threads))
