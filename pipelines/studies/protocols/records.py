"""Read and write the record of a finished run: a small, committed JSON file from which every table can be rebuilt on any machine.

    docs/results/runs/NAME.json   configuration (without paths), seed, commit, cost, figures, scores of every sequence

A record is valid while it fits the plan: the same configuration, made from records that are valid too. For options newer than a record,
their default is assumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, NotRequired, TypedDict

from pipelines import storage
from pipelines.cache.build import CacheResult
from pipelines.evaluation.evaluate import EVALUATE, SUMMARY, Summary
from pipelines.labelling.build import LabelResult
from pipelines.runtime.output_folder import CONFIG, existing, read_plain, run_id_of
from pipelines.search.one_trial import records as records_of_search
from pipelines.search.search import TUNE
from pipelines.search.trials import Trial, trial_of
from pipelines.studies.protocols.planned import SEARCH, Planned
from pipelines.training.launch import RESULT, Outcome
from pipelines.training.loop import TRAIN
from vos.config import CacheConfig, EvaluateConfig, JobConfig, LabelConfig, TrainConfig, TuneConfig
from vos.errors import InputError
from vos.files.canonical import differences, dumps, fingerprint, to_dict
from vos.files.json_files import checked
from vos.files.written import Written
from vos.models.checkpoint import DESCRIPTION

REPORT = "report"
REPAIR = "name the folder of a finished run, or make it again with another --out"
Record = dict[str, Any]
FORMAT = 1
REMADE = ("cache", "labels")
"""Kinds of runs that are made again, bit for bit, where their files are on another machine; the digest in the record has the same name."""
NEEDED = {"name", "kind", "fingerprint", "made_from", "data", "config"}
"""Fields that every record has."""


class RecordFields(TypedDict):
    """Types of the fields of a record that tables and plots read."""

    format: int
    name: str
    kind: str
    fingerprint: str
    made_from: dict[str, str]
    data: dict[str, str]
    config: dict[str, Any]
    videos: NotRequired[dict[str, Any]]
    seed: NotRequired[int]
    steps: NotRequired[int]
    figures: NotRequired[dict[str, float]]
    mlflow_run: NotRequired[str]
    draws: NotRequired[int]
    bytes: NotRequired[int]


EVERY_JOB = ("out", "overwrite", "preset", "debug", "workers", "data")
OF_TRAINING = ("threads", "experiment", "checkpoint_every", "micro_batch", "compile", "max_failures", "here", "half")
LEFT_OUT: dict[type[JobConfig], tuple[str, ...]] = {
    TrainConfig: (*OF_TRAINING, "clip"),  # with a cache, the clip is the cache's
    TuneConfig: (
        *("resume", "concurrent", "threads"),
        *(f"train.{name}" for name in (*EVERY_JOB, *OF_TRAINING, "clip")),
        *("train.cache", "train.seed", "train.validation"),  # the search decides them
    ),
    CacheConfig: ("extend", "plan", "verify", "verify_rows", "show", "teacher.workers", "teacher.gpus"),
    LabelConfig: ("split", "plan", "verify", "show", "teacher.gpus"),  # the split is a file of this machine
    EvaluateConfig: (*("threads", "register", "fps", "csv"),),
}
"""Fields that do not change the outcome, only the place, speed or manner of a run."""


def lasting(job: JobConfig, like: JobConfig | None = None) -> dict[str, Any]:
    """Return the fields that decide a run's outcome, as JSON; with `like`, the fields that decide the outcome of that job."""
    like = like or job
    cosmetic = [*EVERY_JOB, *LEFT_OUT[type(job)]]
    if isinstance(like, TrainConfig) and not like.cache:
        cosmetic.remove("clip")
    return json.loads(dumps(_without(job, cosmetic)))


def identity(planned: Planned, records: Mapping[str, Record], data: Mapping[str, str]) -> str:
    """Return the digest of a run: its configuration, the runs that it is made from, and the videos.

    Fields at their default are omitted, so that a new option does not change the identity of existing runs.
    """
    made_from = {name: records[name]["fingerprint"] for name in planned.needs}
    parts = [_chosen(lasting(job), lasting(_default(job), job)) for job in _jobs(planned).values()]
    videos = [asdict(planned.videos)] if planned.videos else []
    return fingerprint(*parts, *videos, made_from, read_by(planned, data))


def read_by(planned: Planned, data: Mapping[str, str]) -> dict[str, str]:
    """Return the fingerprints of the data sets that a run reads, of those of the protocol."""
    if planned.videos is None:
        return dict(data)
    names = {"train", planned.videos.scored_on, *(["stills"] if planned.videos.stills else [])}
    return {name: value for name, value in data.items() if name in names}


def is_valid(planned: Planned, records: Mapping[str, Record]) -> bool:
    """Return whether the record of a run fits the plan."""
    return planned.name in records and not changes(planned, records)


def changes(planned: Planned, records: Mapping[str, Record]) -> list[str]:
    """Return the differences of a run's record from the plan, as `field: record -> plan`.

    They include the runs that it was made from, where these have been made again since.
    """
    record = records[planned.name]
    found: list[str] = []
    for part, job in _jobs(planned).items():
        default = lasting(_default(job), job)
        found += differences(_chosen(record.get(part, {}), default), _chosen(lasting(job), default))
    if planned.videos is not None:
        found += [f"videos.{one}" for one in differences(record.get("videos", {}), asdict(planned.videos))]
    made_from = {name: records[name]["fingerprint"] if name in records else "absent" for name in planned.needs}
    results = record.get("results", {})  # none in the oldest records
    found += differences(results, {name: _result(records[name]) for name in results if name in records})
    return found + differences(record["made_from"], made_from)


def valid(plan: list[Planned], records: Mapping[str, Record]) -> dict[str, Record]:
    """Return the valid records that were made from valid ones, in the plan's order."""
    kept: dict[str, Record] = {}
    for one in plan:
        if all(name in kept for name in one.needs) and is_valid(one, records):
            kept[one.name] = records[one.name]
    return kept


def read_all(docs: str) -> dict[str, Record]:
    """Return every record by name. Raises InputError, naming the file, where one is not a record."""
    folder = storage.join(docs, "runs")
    found = {}
    for file in storage.list_all(folder):
        if not file.endswith(".json"):
            continue
        path, repair = storage.join(folder, file), "restore this record of jobs.report or delete it"
        record = read_plain(path, dict[str, Any], repair)
        if record is not None and record.get("format") == FORMAT and record.keys() >= NEEDED:
            checked(record, RecordFields, path, repair)
        else:
            raise InputError(f"{path}: not a record of jobs.report, or of another version; restore it or delete it")
        found[file.removesuffix(".json")] = record
    return found


def docs_folder(docs: str, overwrite: bool = False) -> Written:
    """Return the parent of the --docs folder, which holds the page. Its `.written` records which files jobs.report wrote.

    Raises InputError where the --docs folder holds only files that jobs.report did not write.
    """
    docs = docs.rstrip("/")
    folder = Written(os.path.dirname(docs) or ".", REPORT, overwrite=overwrite, files=storage.FILES)
    names = storage.list_all(docs)
    if names and not overwrite and not folder.knows_below(os.path.basename(docs)):
        raise InputError(
            f"--docs {docs}: holds files that jobs.report did not write ({', '.join(names[:3])}); choose another or give --overwrite"
        )
    return folder


def write(docs: str, record: Record, overwrite: bool = False) -> None:
    """Write one record. Raises InputError where it cannot be written, or would replace a file that jobs.report did not write."""
    text = (json.dumps(record, indent=1) + "\n").encode()
    docs_folder(docs, overwrite).write(f"{os.path.basename(docs.rstrip('/'))}/runs/{record['name']}.json", text)


def about(planned: Planned, records: Mapping[str, Record], data: Mapping[str, str]) -> Record:
    """Return the fields of a record that are known before its run."""
    return {
        "format": FORMAT,
        "name": planned.name,
        "kind": planned.kind,
        "fingerprint": identity(planned, records, data),
        "made_from": {name: records[name]["fingerprint"] for name in planned.needs},
        "results": {name: _result(records[name]) for name in planned.needs},
        "data": read_by(planned, data),
        "seed": planned.seed,
        **({"videos": asdict(planned.videos)} if planned.videos else {}),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {version('torch')}",
        **{part: lasting(job) for part, job in _jobs(planned).items()},
    }


def of_training(path: str) -> Record:
    """Return cost and origin of a finished training, from its folder. Raises InputError where a file in it is damaged."""
    folder = existing(path, TRAIN)
    result, job = folder.read_json(RESULT, Outcome, REPAIR), folder.read_json(CONFIG, dict[str, Any], REPAIR)
    model = read_plain(folder.path(DESCRIPTION), dict[str, Any], REPAIR)
    assert result and model and job, f"{path}: a finished training has {RESULT}, {DESCRIPTION} and {CONFIG}"
    metrics, steps = result["metrics"], int(model["step"])
    weights = job["trunk_weights"]
    spent = metrics.get("train/cpu_seconds") if job["workers"] == 1 else None
    return {
        "commit": model["commit"],
        "steps": steps,
        # None with several workers, since only the first one's process is measured, and for older trainings.
        "cpu_s": round(spent, 1) if spent is not None else None,
        "cpu_s_per_step": round(spent / steps, 4) if spent is not None else None,
        "wall_s": round(metrics["train/seconds"], 1),
        "teacher_forwards": int(metrics["train/teacher_forwards"]),
        "trunk_weights": {"file": os.path.basename(weights), "sha256": sha256(weights)} if weights else None,
        "mlflow_run": result["run_id"],
    }


def of_evaluation(path: str) -> Record:
    """Return the figures of a finished evaluation, from its folder. Scores are in [0, 1]."""
    summary = existing(path, EVALUATE).read_json(SUMMARY, Summary, REPAIR)
    assert summary, f"{path}: a finished evaluation has {SUMMARY}"
    figures = {name: round(summary["metrics"][f"val/{name}"], 5) for name in ("j_and_f", "j", "f")}
    sequences = [
        {"sequence": row["sequence"], **{name: round(row[name], 5) for name in figures}, "frames": row["frames"]}
        for row in summary["sequences"]
    ]
    return {
        "model": summary["model"],
        "parameters": summary["parameters"],
        "figures": figures,
        "sequences": sequences,
        "mlflow_evaluation": summary["run_id"],
    }


def of_search(path: str) -> Record:
    """Return every trial of a finished search, from its folder: parameters, J&F in [0, 1], steps, seconds."""
    folder = existing(path, TUNE)
    return {"trials": [asdict(trial) for trial in records_of_search(folder)], "mlflow_run": run_id_of(folder)}


def trials(records: Mapping[str, Record]) -> list[Trial]:
    """Return the trials in the search's record, none where it has not been run."""
    found = records[SEARCH]["trials"] if SEARCH in records else []
    origin, repair = f"the record {SEARCH}.json", "restore the record or delete it"
    return [trial_of(row, origin, repair) for row in checked(found, list[Any], origin, repair)]


def of_cache(result: CacheResult) -> Record:
    """Return size and cost of a finished cache.

    The cost is that of all draws, extrapolated from the draws that this build made; 0 if it made none.
    """
    manifest = result.manifest
    rate = result.teacher_cpu_s / result.draws_made if result.draws_made else 0.0
    return {
        "cache": manifest["fingerprint"],
        "draws": manifest["draws"],
        "bytes": manifest["bytes"],
        "teacher_cpu_s": round(rate * manifest["draws"], 1),
        "draws_made": result.draws_made,
        "quantisation": manifest["quantisation"],
    }


def of_labels(result: LabelResult) -> Record:
    """Return size and cost of finished labels. The cost is that of the videos that this run labelled."""
    videos = result.labels["videos"]
    return {
        "labels": result.fingerprint,
        "labelled_frames": sum(one["frames"] for one in videos),
        "kept_frames": sum(one["kept"] for one in videos),
        "labelled_videos": len(videos),
        "lost": list(result.lost),
        "teacher_cpu_s": round(result.teacher_cpu_s, 1),
        "videos_made": result.videos_made,
    }


def sha256(path: str) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(storage.read_bytes(path)).hexdigest()


def _result(record: Record) -> str:
    """Return the id that distinguishes a finished run from others of the same configuration."""
    return record[record["kind"] if record["kind"] in REMADE else "mlflow_run"]


def _jobs(planned: Planned) -> dict[str, JobConfig]:
    return {"config": planned.job, **({"evaluation": planned.evaluation} if planned.evaluation else {})}


def _default(job: JobConfig) -> JobConfig:
    return TrainConfig(role=job.role) if isinstance(job, TrainConfig) else type(job)()


def _chosen(values: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """Return only the values that differ from the default."""
    found = {}
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(default.get(name), dict):
            if inner := _chosen(value, default[name]):
                found[name] = inner
        elif value != default.get(name):
            found[name] = value
    return found


def _without(config: Any, fields: Sequence[str]) -> dict[str, Any]:
    """Return the JSON form without some fields, named like their flags: `out`, `teacher.workers`."""
    values = to_dict(config)
    for field in fields:
        *groups, name = field.split(".")
        inner = values
        for group in groups:
            inner = inner[group]
        del inner[name]
    return values
