"""The results: plan -> queue of jobs -> records -> tables, plots and page. What `jobs.report` runs."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pipelines import results_page, storage, tracking
from pipelines import results_records as records_of
from pipelines.folders import folder_run, read_json
from pipelines.plan import index_videos
from pipelines.report import table
from pipelines.results_plan import PRETRAINED, SCALES, TEACHER, Planned, chosen, plan
from pipelines.results_queue import STATE, Command, Queue, Spent, Task, failure_file
from pipelines.results_records import Record
from pipelines.schema import MANIFEST
from vos.config import CacheConfig, EvaluateConfig, JobConfig, ReportConfig, TrainConfig
from vos.config_json import differences, dumps, from_dict
from vos.datasets import fingerprint as data_fingerprint
from vos.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[1]
WEIGHTS = CHECKOUT.parent / "shared" / "data" / "weights" / PRETRAINED
JOBS: dict[type[JobConfig], str] = {TrainConfig: "train", CacheConfig: "cache", EvaluateConfig: "evaluate"}
SPENT = re.compile(r"^spent +([\d.]+) CPU-seconds of the teacher on (\d+) new draws", re.MULTILINE)
"""What jobs.cache says of its cost."""


def listed(config: ReportConfig) -> str:
    """The plan as a table: every run's state and its expected CPU minutes."""
    every = plan(config.preset)
    runs = chosen(every, config.only)
    records = records_of.valid(every, records_of.read_all(config.docs))
    state = read_json(os.path.join(config.out, STATE)) or {}
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
    weights = _weights(config, runs)
    data = _data(config)
    _check_teacher(config, every, weights, data)
    storage.make_folder(config.out)
    with storage.only_writer(config.out):
        records = records_of.valid(every, records_of.read_all(config.docs), data)
        missing = [one for one in runs if one.name not in records]
        site = _Site(config, weights, data, records)
        site.check(missing)
        tell(publish(config))  # also makes the MLflow store, before two jobs would at once
        environment = {**os.environ, **tracking.environment(), **_one_thread(config.threads)}
        environment.pop("DAVIS_ROOT", None)  # every configuration names its data
        queue = Queue(config.out, config.workers, environment, str(CHECKOUT))
        try:
            outcome = queue.run([site.task(one) for one in missing])
        finally:
            text = publish(config)
        tell(text)
    for name, reason in {**outcome.failed, **outcome.blocked}.items():
        tell(f"not run  {name}: {reason}")
    tell(f"runs     {len(runs) - len(missing) + len(outcome.finished)} of {len(runs)} finished")
    return not (outcome.failed or outcome.blocked)


def publish(config: ReportConfig) -> str:
    """Build tables, plots and page from the records, and keep them in one MLflow run; returns what to look at."""
    every = plan(config.preset)
    records = records_of.valid(every, found := records_of.read_all(config.docs))
    paths = results_page.write(config, every, records, sorted(found.keys() - records.keys()))
    storage.make_folder(config.out)
    with folder_run(config, "results", f"results-{config.preset}", {"runs": str(len(records))}) as run:
        for path in paths:
            run.log_artifact(path)
        run.log_metrics(results_page.metrics(every, records))
    return f"page     {paths[0]}  ({len(records)} of {len(every)} runs)"


class _Site:
    """Where things are on this machine: turns the plan's names into paths, and finished folders into records."""

    def __init__(self, config: ReportConfig, weights: str, data: dict[str, str], records: dict[str, Record]) -> None:
        self.config, self.weights, self.data, self.records = config, weights, data, records

    def check(self, missing: list[Planned]) -> None:
        """Raises InputError where runs that are finished cannot be built upon: they are not here, or began with other weights."""
        digests = {record["trunk_weights"]["sha256"] for record in self.records.values() if record.get("trunk_weights")}
        if self.weights and missing and digests - {records_of.sha256(self.weights)}:
            raise InputError(
                f"--trunk-weights {self.weights}: not the file that the records in {self.config.docs}/runs began with; "
                "name that one, or delete these records"
            )
        for name in dict.fromkeys(name for one in missing for name in one.needs if name in self.records):
            record = os.path.join(self.config.docs, "runs", f"{name}.json")
            result = MANIFEST if self.records[name]["kind"] == "cache" else "result.json"
            if not _exists(self._place(name), result):
                teacher = "name its folder with --teacher, or " if name == TEACHER else ""
                raise InputError(
                    f"{self._place(name)}: {name} has a record, but its result is not here; {teacher}delete {record} to make it again"
                )

    def task(self, planned: Planned) -> Task:
        return Task(
            planned.name,
            lambda: self._commands(planned),
            lambda spent: self._conclude(planned, spent),
            tuple(name for name in planned.needs if name not in self.records),
            (planned.copies,) if planned.copies else (),
            planned.minutes,
        )

    def folder(self, name: str, identity: str, part: str = "runs") -> str:
        """Another configuration is another folder: what it once was is never mixed with what it is."""
        if name == TEACHER and part == "runs" and self.config.teacher:
            return self.config.teacher
        return os.path.join(self.config.out, part, f"{name}-{identity[:8]}")

    def _folder_of(self, planned: Planned, part: str = "runs") -> str:
        return self.folder(planned.name, records_of.identity(planned, self.records, self.data), part)

    def _commands(self, planned: Planned) -> list[Command]:
        folder, commands = self._folder_of(planned), []
        if planned.kind == "cache":
            self._copy_shards(planned, folder)
        if planned.kind == "cache" or not _exists(folder, "result.json" if planned.evaluation else "summary.json"):
            commands.append(self._command(planned, JOBS[type(planned.job)], planned.job, folder))
        if planned.evaluation is not None:
            scored = self._folder_of(planned, "evaluations")
            if not _exists(scored, "summary.json"):
                job = replace(planned.evaluation, checkpoint=folder)
                commands.append(self._command(planned, "evaluate", job, scored))
        return commands

    def _command(self, planned: Planned, label: str, job: JobConfig, folder: str) -> Command:
        path = os.path.join(self.config.out, "configs", f"{planned.name}-{label}.json")
        storage.write_bytes(path, dumps(self._resolved(job, folder)).encode())
        return Command(label, (sys.executable, "-m", f"jobs.{label}", "--config", path))

    def _resolved(self, job: JobConfig, folder: str) -> JobConfig:
        """A configuration of the plan with this machine's paths."""
        job = replace(job, out=folder, data=self.config.data)
        if isinstance(job, CacheConfig):
            return replace(job, teacher=replace(job.teacher, checkpoint=self._place(job.teacher.checkpoint)))
        if isinstance(job, EvaluateConfig):
            return replace(job, checkpoint=self._place(job.checkpoint))
        assert isinstance(job, TrainConfig)
        return replace(job, cache=self._place(job.cache), trunk_weights=self.weights if job.trunk_weights else "")

    def _place(self, name: str) -> str:
        """The folder of a finished run; anything else is a path already."""
        return self.folder(name, self.records[name]["fingerprint"]) if name in self.records else name

    def _copy_shards(self, planned: Planned, folder: str) -> None:
        """Take over shards of a larger cache, and of this one when it was shorter; jobs.cache proves each by its recipe and makes
        what is missing or another's."""
        job, parent, target = planned.job, os.path.dirname(folder), os.path.join(folder, "shards")
        assert isinstance(job, CacheConfig)
        if storage.list_names(target):  # begun before
            return
        heads = tuple(f"{name}-" for name in (planned.name, planned.copies) if name)
        for other in storage.list_folders(parent):
            source = os.path.join(parent, other, "shards")
            if other.startswith(heads) and os.path.join(parent, other) != folder:
                for name in storage.list_names(source)[: math.ceil(job.draws / job.shard_draws)]:
                    storage.write_bytes(os.path.join(target, name), storage.read_bytes(os.path.join(source, name)))

    def _conclude(self, planned: Planned, spent: Mapping[str, Spent]) -> None:
        folder = self._folder_of(planned)
        record = records_of.about(planned, self.records, self.data)
        if planned.kind == "cache":
            cost = self._spent_on(planned)
            record |= {"commit": tracking.commit(), **records_of.of_cache(folder, *cost)}
        elif planned.kind == "evaluation":
            record |= {"commit": tracking.commit(), **records_of.of_evaluation(folder)}
        else:
            record |= records_of.of_training(folder)
            record |= records_of.of_evaluation(self._folder_of(planned, "evaluations"))
        record["process_cpu_s"] = {label: round(cost.cpu_s, 1) for label, cost in spent.items()}
        records_of.write(self.config.docs, record)
        self.records[planned.name] = record

    def _spent_on(self, planned: Planned) -> tuple[float, int]:
        """CPU seconds and draws of the last build that made any, from the log."""
        with open(
            os.path.join(self.config.out, "logs", f"{planned.name}.log"), encoding="utf-8", errors="replace"
        ) as file:
            said = [(float(seconds), int(draws)) for seconds, draws in SPENT.findall(file.read())]
        made = [one for one in said if one[1]]
        return made[-1] if made else (0.0, 0)


def _weights(config: ReportConfig, runs: list[Planned]) -> str:
    """The file of the ImageNet weights, where a run begins with them. Raises InputError where there is none."""
    if not any(isinstance(one.job, TrainConfig) and one.job.trunk_weights for one in runs):
        return ""
    path = config.trunk_weights or str(WEIGHTS)
    if not os.path.isfile(path):
        raise InputError(
            f"--trunk-weights {config.trunk_weights or '(none)'}: no such file; the MobileNetV2 students begin with ImageNet weights "
            "(.safetensors or .pth, torchvision's names)"
        )
    return path


def _check_teacher(config: ReportConfig, every: list[Planned], weights: str, data: Mapping[str, str]) -> None:
    """Raises InputError where --teacher is no finished training, not the plan's, of other videos, or begun with other weights."""
    if not config.teacher:
        return
    job = read_json(os.path.join(config.teacher, "config.json"))
    if not isinstance(job, dict) or not _exists(config.teacher, "result.json"):
        raise InputError(f"--teacher {config.teacher}: no finished training; name the --out folder of one")
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
    if trained.data != config.data and data_fingerprint(index_videos(trained.data, "train")) != data["train"]:
        raise InputError(
            f"--teacher {config.teacher}: trained on other videos ({trained.data.root or 'synthetic'}); leave it out"
        )
    if began_with and weights and records_of.sha256(began_with) != records_of.sha256(weights):
        raise InputError(
            f"--teacher {config.teacher}: began with other ImageNet weights, {began_with}; name them with --trunk-weights"
        )


def _data(config: ReportConfig) -> dict[str, str]:
    """Fingerprints of the videos. Raises InputError where the protocol is about real video and none is named."""
    if SCALES[config.preset].pretrained and not config.data.root:
        raise InputError(f"--preset {config.preset}: real video is needed; give --data.root (or DAVIS_ROOT)")
    return {split: data_fingerprint(index_videos(config.data, split)) for split in ("train", "val")}


def _state(
    config: ReportConfig, one: Planned, records: Mapping[str, Record], state: Mapping[str, list[str]]
) -> tuple[str, str]:
    """A run's state in a word, and what there is to say about it."""
    if one.name in records:
        return "finished", ""
    if one.name in state.get("running", []) and _is_held(config.out):
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


def _exists(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))


def _one_thread(threads: int) -> dict[str, str]:
    """Libraries that count the machine's cores by themselves are told."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict.fromkeys(names, str(threads))
