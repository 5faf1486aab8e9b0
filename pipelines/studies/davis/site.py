"""Where the runs of the results are on this machine: the plan's names as paths and commands, finished folders as records."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypedDict

from pipelines import storage, tracking
from pipelines.cache.build import CACHE, SHARDS
from pipelines.cache.schema import MANIFEST
from pipelines.runtime.output_folder import NOTHING, existing, identity_of, mark, read_plain
from pipelines.search.page import PAGE, PAGES
from pipelines.studies.davis import records as records_of
from pipelines.studies.davis.plan import TEACHER, Planned
from pipelines.studies.davis.queue import Command, Spent, Task
from pipelines.studies.davis.records import Record
from vos.config import (
    BUILTIN_DAVIS_TEACHER,
    CacheConfig,
    EvaluateConfig,
    JobConfig,
    ReportConfig,
    TrainConfig,
    TuneConfig,
)
from vos.errors import InputError
from vos.files.canonical import to_dict
from vos.files.written import Written
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import DESCRIPTION

JOBS: dict[type[JobConfig], str] = {
    TrainConfig: "train",
    CacheConfig: "cache",
    EvaluateConfig: "evaluate",
    TuneConfig: "tune",
}
RESULT = {
    "teacher": "result.json",
    "student": "result.json",
    "evaluation": "summary.json",
    "search": os.path.join(PAGES, PAGE),
}
"""The last file that a finished run's folder gets. A cache is looked through each time."""
SPENT = re.compile(r"^spent +([\d.]+) CPU-seconds of the teacher on (\d+) new draws", re.MULTILINE)
"""What jobs.cache says of its cost."""


class _OfRun(TypedDict):
    run_id: str


class Site:
    """Where things are on this machine: turns the plan's names into paths, and finished folders into records."""

    def __init__(self, config: ReportConfig, weights: str, data: dict[str, str], records: dict[str, Record]) -> None:
        self.config, self.weights, self.data, self.records = config, weights, data, records

    def check(self, runs: list[Planned]) -> list[Planned]:
        """What is to be run of `runs`, in their order: what has no record, and caches that have one, are needed, and are on another
        machine.

        Raises InputError where what is finished cannot be built upon: it is of other videos, began with other weights, or is a model
        that is not here.
        """
        if strange := [name for name, record in self.records.items() if record["data"] != self.data]:
            some = ", ".join(strange[:3]) + ", …" * (len(strange) > 3)
            raise InputError(
                f"--data.root {self.config.data.root or '(synthetic)'}: not the videos that the records in {self.config.docs}/runs were "
                f"made from ({some}); name those, or give --docs and --out folders of your own"
            )
        digests = {record["trunk_weights"]["sha256"] for record in self.records.values() if record.get("trunk_weights")}
        missing = any(one.name not in self.records for one in runs)
        if self.weights and missing and digests - {records_of.sha256(self.weights)}:
            raise InputError(
                f"--trunk-weights {self.weights}: not the file that the records in {self.config.docs}/runs began with; "
                "name that one, or give --docs and --out folders of your own"
            )
        queued: list[Planned] = []
        for one in reversed(runs):  # what needs a run stands behind it
            has_record = one.name in self.records
            needed = any(one.name in later.needs for later in queued)
            if has_record and (not needed or self.is_here(one)):
                continue
            if has_record and one.kind != "cache":
                record = os.path.join(self.config.docs, "runs", f"{one.name}.json")
                teacher = "name its folder with --teacher, or " if one.name == TEACHER else ""
                raise InputError(
                    f"{self.place(one.name)}: {one.name} has a record, but its result is not here; {teacher}delete {record} to make it "
                    "again"
                )
            queued.append(one)
        return queued[::-1]

    def task(self, planned: Planned) -> Task:
        return Task(
            planned.name,
            lambda: self._commands(planned),
            lambda spent: self._conclude(planned, spent),
            planned.needs,
            (planned.copies,) if planned.copies else (),
            planned.minutes,
        )

    def _folder(self, name: str, identity: str, part: str = "runs") -> str:
        """Another configuration is another folder: what it once was is never mixed with what it is."""
        if name == TEACHER and part == "runs" and self.config.teacher:
            return self.config.teacher
        return os.path.join(self.config.out, part, f"{name}-{identity[:8]}")

    def _folder_of(self, planned: Planned, part: str = "runs") -> str:
        return self._folder(planned.name, records_of.identity(planned, self.records, self.data), part)

    def _commands(self, planned: Planned) -> list[Command]:
        folder, commands = self._folder_of(planned), []
        if planned.kind == "cache":
            self._copy_shards(planned, folder)
        if planned.kind == "cache" or not exists(folder, RESULT[planned.kind]):
            commands.append(self._command(planned, JOBS[type(planned.job)], planned.job, folder))
        if planned.evaluation is not None:
            scored = self._folder_of(planned, "evaluations")
            if not exists(scored, "summary.json"):
                job = replace(planned.evaluation, checkpoint=folder)
                commands.append(self._command(planned, "evaluate", job, scored))
        return commands

    def _command(self, planned: Planned, label: str, job: JobConfig, folder: str) -> Command:
        out = Written(self.config.out, records_of.REPORT, overwrite=self.config.overwrite, files=storage.FILES)
        path = out.write_json(f"configs/{planned.name}-{label}.json", to_dict(self._resolved(job, folder)))
        return Command(label, (sys.executable, "-m", f"jobs.{label}", "--config", path))

    def _resolved(self, job: JobConfig, folder: str) -> JobConfig:
        """A configuration of the plan with this machine's paths."""
        job = replace(job, out=folder, data=self.config.data, overwrite=self.config.overwrite)
        if isinstance(job, CacheConfig):
            return replace(job, teacher=replace(job.teacher, checkpoint=self.place(job.teacher.checkpoint)))
        if isinstance(job, EvaluateConfig):
            return replace(job, checkpoint=self.place(job.checkpoint))
        if isinstance(job, TuneConfig):
            train = replace(job.train, trunk_weights=self.weights if job.train.trunk_weights else "")
            return replace(job, cache=self.place(job.cache), train=train)
        assert isinstance(job, TrainConfig)
        return replace(job, cache=self.place(job.cache), trunk_weights=self.weights if job.trunk_weights else "")

    def place(self, name: str) -> str:
        """The folder of a finished run; anything else is a path already. A teacher that is not here may be the one that ships."""
        if name not in self.records:
            return name
        folder = self._folder(name, self.records[name]["fingerprint"])
        if name == TEACHER and not exists(folder, DESCRIPTION) and self.teacher_ships():
            return BUILTIN[BUILTIN_DAVIS_TEACHER]
        return folder

    def is_here(self, planned: Planned) -> bool:
        """Whether this machine has the very result that a record tells of, not another one of the same configuration."""
        folder, record = self.place(planned.name), self.records[planned.name]
        if planned.kind == "cache":
            manifest = read_plain(os.path.join(folder, MANIFEST), dict[str, Any], "make this cache again")
            return manifest is not None and manifest.get("fingerprint") == record["cache"]
        if planned.name == TEACHER and folder == BUILTIN[BUILTIN_DAVIS_TEACHER]:
            return True
        if not (exists(folder, RESULT[planned.kind]) and exists(folder, DESCRIPTION)):
            return False
        result = existing(folder, JOBS[type(planned.job)]).read_json(RESULT[planned.kind], _OfRun, records_of.REPAIR)
        return result is not None and result["run_id"] == record["mlflow_run"]

    def scored(self, planned: Planned) -> str:
        """The folder of a finished run's evaluation."""
        return self._folder(planned.name, self.records[planned.name]["fingerprint"], "evaluations")

    def teacher_ships(self) -> bool:
        """Whether the teacher in the package is the one of these records."""
        path = os.path.join(BUILTIN[BUILTIN_DAVIS_TEACHER], DESCRIPTION)
        shipped = read_plain(path, dict[str, Any], "restore the package's file")
        return shipped is not None and shipped.get("run") == self.run_of(TEACHER)

    def run_of(self, name: str) -> dict[str, str]:
        """What the model of a run says of it where it ships."""
        return {"name": name, "fingerprint": self.records[name]["fingerprint"]}

    def _copy_shards(self, planned: Planned, folder: str) -> None:
        """Take over shards of a larger cache, and of this one when it was shorter; jobs.cache proves each by its recipe and makes
        what is missing or another's."""
        job, parent, target = planned.job, os.path.dirname(folder), os.path.join(folder, "shards")
        assert isinstance(job, CacheConfig)
        if storage.list_names(target):  # begun before
            return
        owned = Written(folder, CACHE, files=storage.FILES)
        older = storage.list_folders(parent)
        sources = [os.path.join(parent, name) for name in older if name.startswith(f"{planned.name}-")]
        if planned.copies in self.records:  # last, so that its shards stay: older folders may be another teacher's
            sources.append(self.place(planned.copies))
        for shards in [os.path.join(source, "shards") for source in sources if source != folder]:
            for name in storage.list_names(shards)[: math.ceil(job.draws / job.shard_draws)]:
                if identity_of(owned) is None:
                    mark(owned, NOTHING)
                owned.write(f"{SHARDS}/{name}", storage.read_bytes(os.path.join(shards, name)))

    def _conclude(self, planned: Planned, spent: Mapping[str, Spent]) -> None:
        folder = self._folder_of(planned)
        record = records_of.about(planned, self.records, self.data)
        if planned.kind == "cache":
            record |= {"commit": tracking.commit(), **records_of.of_cache(folder, *self._spent_on(planned))}
            if planned.name in self.records:  # on another machine, or it would not have been queued
                self._prove_the_same(record)
                return
        elif planned.kind == "search":
            record |= {"commit": tracking.commit(), **records_of.of_search(folder)}
        elif planned.kind == "evaluation":
            record |= {"commit": tracking.commit(), **records_of.of_evaluation(folder)}
        else:
            record |= records_of.of_training(folder)
            record |= records_of.of_evaluation(self._folder_of(planned, "evaluations"))
        record["process_cpu_s"] = {label: round(cost.cpu_s, 1) for label, cost in spent.items()}
        records_of.write(self.config.docs, record, self.config.overwrite)
        self.records[planned.name] = record

    def _prove_the_same(self, made: Record) -> None:
        """Raises InputError where a cache that was made again is not the one that its record tells of. The record stays: the cost
        that it tells was measured where the finished students were."""
        name, before = made["name"], self.records[made["name"]]["cache"]
        if made["cache"] != before:
            raise InputError(
                f"{self.place(name)}: made again, {name} is {made['cache']}, its record's was {before}; delete "
                f"{os.path.join(self.config.docs, 'runs', f'{name}.json')} to replace it and all that was made from it"
            )

    def _spent_on(self, planned: Planned) -> tuple[float, int]:
        """CPU seconds and draws of the last build that made any, from the log."""
        with open(
            os.path.join(self.config.out, "logs", f"{planned.name}.log"), encoding="utf-8", errors="replace"
        ) as file:
            said = [(float(seconds), int(draws)) for seconds, draws in SPENT.findall(file.read())]
        made = [one for one in said if one[1]]
        return made[-1] if made else (0.0, 0)


def exists(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))
