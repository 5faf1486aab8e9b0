"""Apply the plan to this machine: find each run's folder, list the missing runs, and make one run with the pipelines of the jobs.

OUT/runs/NAME-DIGEST          a training, cache, evaluation or search; the digest is of its configuration and the runs it is made from
OUT/evaluations/NAME-DIGEST   the evaluation of a training
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines import tracking
from pipelines.cache.build import build_cache
from pipelines.cache.schema import MANIFEST
from pipelines.evaluation.evaluate import SUMMARY, evaluate_model
from pipelines.labelling.build import build_labels
from pipelines.runtime.output_folder import existing, read_plain
from pipelines.search.search import search
from pipelines.studies.protocols import records as records_of
from pipelines.studies.protocols.planned import TEACHER, WEIGHTS, Planned
from pipelines.studies.protocols.protocol import Protocol
from pipelines.studies.protocols.records import Record
from pipelines.training.launch import RESULT, Outcome, train
from pipelines.training.loop import TRAIN
from vos.config import (
    BUILTIN_DAVIS_TEACHER,
    CacheConfig,
    EvaluateConfig,
    JobConfig,
    LabelConfig,
    ReportConfig,
    TrainConfig,
    TuneConfig,
)
from vos.data.labels import LIST
from vos.errors import InputError
from vos.files.canonical import fingerprint
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import DESCRIPTION


class Site:
    """Turns the plan's names into paths, and runs into records.

    weights  the files that the plan's names of ImageNet weights stand for
    data     fingerprints of the data sets
    """

    def __init__(
        self,
        protocol: Protocol,
        config: ReportConfig,
        weights: Mapping[str, str],
        data: dict[str, str],
        records: dict[str, Record],
    ) -> None:
        self.protocol, self.config = protocol, config
        self.weights, self.data, self.records = weights, data, records

    def missing(self, runs: list[Planned]) -> list[Planned]:
        """Return the runs to make, in order: runs without a record, and needed caches whose files are on another machine.

        Raises InputError where finished runs cannot be used: they are of other videos, started with other weights, or their model is
        not on this machine.
        """
        docs, own = f"{self.config.docs}/runs", "or give --docs and --out folders of your own"
        if others := [name for name, record in self.records.items() if not record["data"].items() <= self.data.items()]:
            some = ", ".join(others[:3]) + ", …" * (len(others) > 3)
            raise InputError(
                f"--data.root {self.config.data.root or '(synthetic)'}: not the videos that the records in {docs} were "
                f"made from ({some}); name these videos, {own}"
            )
        begin = any(one.name not in self.records for one in runs)
        for name, file in self.weights.items() if begin else ():
            began = [record for record in self.records.values() if record["config"].get("trunk_weights") == name]
            digests = {record["trunk_weights"]["sha256"] for record in began if record.get("trunk_weights")}
            if digests - {records_of.sha256(file)}:
                raise InputError(
                    f"--{WEIGHTS[name].replace('_', '-')} {file}: not the file that the records in {docs} started with; name that "
                    f"file, {own}"
                )
        queued: list[Planned] = []
        for one in reversed(runs):  # a run comes after the runs that it needs
            if one.name in self.records:
                if not any(one.name in later.needs for later in queued) or self.is_here(one):
                    continue
                if one.kind not in records_of.REMADE:
                    raise InputError(
                        f"{self.place(one.name)}: {one.name} has a record, but its result is not on this machine; copy it from where "
                        f"it was made, or delete {docs}/{one.name}.json to make it again"
                    )
            queued.append(one)
        return queued[::-1]

    def make(self, planned: Planned) -> None:
        """Make or resume one run, and write its record.

        Raises InputError for bad input, and for a cache that differs from its record.
        """
        if lost := [name for name in planned.needs if name not in self.records]:
            raise InputError(f"{planned.name}: needs {', '.join(lost)} first")
        folder = self._folder_of(planned)
        job = self._resolved(planned, planned.job, folder)
        record = records_of.about(planned, self.records, self.data) | {"commit": tracking.commit()}
        if isinstance(job, CacheConfig | LabelConfig):
            labels = isinstance(job, LabelConfig)
            record |= records_of.of_labels(build_labels(job)) if labels else records_of.of_cache(build_cache(job))
            if planned.name in self.records:  # on another machine, or it would not be missing
                self._prove_the_same(record)
                return
        elif isinstance(job, TuneConfig):
            search(job)
            record |= records_of.of_search(folder)
        else:
            scored = job
            if isinstance(job, TrainConfig):
                assert planned.evaluation is not None, "every training of a plan is scored"
                train(job)
                record |= records_of.of_training(folder)
                evaluation = replace(planned.evaluation, checkpoint=folder)
                scored = self._resolved(planned, evaluation, self._folder_of(planned, "evaluations"))
            assert isinstance(scored, EvaluateConfig)
            if not os.path.exists(os.path.join(scored.out, SUMMARY)):
                evaluate_model(scored)
            record |= records_of.of_evaluation(scored.out)
        records_of.write(self.config.docs, record, self.config.overwrite)

    def place(self, name: str) -> str:
        """Return the folder of a finished run; another name is already a path.

        A teacher that is not on this machine may be the built-in one.
        """
        if name not in self.records:
            return name
        folder = self._folder(name, self.records[name]["fingerprint"])
        here = os.path.exists(os.path.join(folder, DESCRIPTION))
        return BUILTIN[BUILTIN_DAVIS_TEACHER] if name == TEACHER and not here and self.teacher_ships() else folder

    def scored(self, planned: Planned) -> str:
        """Return the folder of a finished run's evaluation."""
        return self._folder(planned.name, self.records[planned.name]["fingerprint"], "evaluations")

    def is_here(self, planned: Planned) -> bool:
        """Return whether this machine holds the result of a record, not another result of the same configuration."""
        folder, record = self.place(planned.name), self.records[planned.name]
        if planned.kind == "cache":
            manifest = read_plain(os.path.join(folder, MANIFEST), dict[str, Any], "make this cache again")
            return manifest is not None and manifest.get("fingerprint") == record["cache"]
        if planned.kind == "labels":
            found = read_plain(os.path.join(folder, LIST), dict[str, Any], "make these labels again")
            return found is not None and fingerprint(found.get("identity")) == record["labels"]
        if planned.name == TEACHER and folder == BUILTIN[BUILTIN_DAVIS_TEACHER]:
            return True
        if not all(os.path.exists(os.path.join(folder, name)) for name in (RESULT, DESCRIPTION)):
            return False
        result = existing(folder, TRAIN).read_json(RESULT, Outcome, records_of.REPAIR)
        return result is not None and result["run_id"] == record["mlflow_run"]

    def teacher_ships(self) -> bool:
        """Return whether the teacher in the package is the one of these records."""
        path = os.path.join(BUILTIN[BUILTIN_DAVIS_TEACHER], DESCRIPTION)
        shipped = read_plain(path, dict[str, Any], "restore the package's file")
        return shipped is not None and shipped.get("run") == self.run_of(TEACHER)

    def run_of(self, name: str) -> dict[str, str]:
        """Return name and fingerprint of a run, for the description of its shipped model."""
        return {"name": name, "fingerprint": self.records[name]["fingerprint"]}

    def _folder(self, name: str, identity: str, part: str = "runs") -> str:
        """Return the folder of a run; each configuration has its own, so that results of different ones are never mixed."""
        return os.path.join(self.config.out, part, f"{name}-{identity[:8]}")

    def _folder_of(self, planned: Planned, part: str = "runs") -> str:
        return self._folder(planned.name, records_of.identity(planned, self.records, self.data), part)

    def _resolved(self, planned: Planned, job: JobConfig, folder: str) -> JobConfig:
        """Return a configuration of a run of the plan with this machine's paths."""
        job = self.protocol.with_videos(self.config, planned, job, self.place)
        job = replace(job, out=folder, overwrite=self.config.overwrite)
        if isinstance(job, LabelConfig):
            return replace(job, teacher=replace(job.teacher, checkpoint=self.place(job.teacher.checkpoint)))
        if isinstance(job, CacheConfig):
            return replace(job, teacher=replace(job.teacher, checkpoint=self.place(job.teacher.checkpoint)))
        if isinstance(job, EvaluateConfig):
            return replace(job, checkpoint=self.place(job.checkpoint))
        if isinstance(job, TuneConfig):
            train = replace(job.train, trunk_weights=self._file_of(job.train))
            return replace(job, cache=self.place(job.cache), train=train)
        assert isinstance(job, TrainConfig)
        return replace(job, cache=self.place(job.cache), init=self.place(job.init), trunk_weights=self._file_of(job))

    def _file_of(self, job: TrainConfig) -> str:
        return self.weights[job.trunk_weights] if job.trunk_weights else ""

    def _prove_the_same(self, made: Record) -> None:
        """Raise InputError where a rebuilt cache, or labels, differ from their record.

        The record is kept, since its cost was measured on the machine of the finished students.
        """
        name, kind = made["name"], made["kind"]
        before = self.records[name][kind]
        if made[kind] != before:
            raise InputError(
                f"{self.place(name)}: made again, {name} is {made[kind]}, its record's was {before}; delete "
                f"{os.path.join(self.config.docs, 'runs', f'{name}.json')} to replace it and all that was made from it"
            )
