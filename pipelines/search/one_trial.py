"""A trial of a search: a training whose folder is named by its parameters and holds its outcome."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from pipelines import storage, tracking
from pipelines.runtime.output_folder import existing, run_id_of
from pipelines.runtime.session import set_threads
from pipelines.search.trials import RECORD, Trial, trial_name, trial_of
from pipelines.training import launch as training
from vos import stopping
from vos.config import TrainConfig, TuneConfig
from vos.errors import InputError, NotFiniteError
from vos.files.canonical import fingerprint
from vos.files.written import Written

TRIALS = "trials"


def configured(base: TrainConfig, parameters: Mapping[str, float], seed: int, out: str = "") -> TrainConfig:
    """Return the training configuration of a trial's parameters."""
    loss = {name: value for name, value in parameters.items() if name != "lr"}
    optimiser = replace(base.optimiser, lr=parameters.get("lr", base.optimiser.lr))
    return replace(base, loss=replace(base.loss, **loss), optimiser=optimiser, seed=seed, out=out or base.out)


def records(folder: Written) -> list[Trial]:
    """Return the trials in a search's folder. Raises InputError for a record that is damaged or belongs to another trial."""
    trials = []
    for name in storage.list_folders(storage.join(folder.root, TRIALS)):
        if (record := _record(folder, name)) is not None:
            trials.append(record)
    return trials


def _record(folder: Written, name: str) -> Trial | None:
    place = f"{TRIALS}/{name}/{RECORD}"
    repair = "delete this file to train the trial again from its last checkpoint"
    record = folder.read_json(place, dict[str, Any], repair)
    if record is None:
        return None
    trial = trial_of(record, folder.path(place), repair)
    if trial.name != name or folder_name(trial.parameters, trial.seed) != name:
        raise InputError(f"{folder.path(place)}: belongs to another trial, {trial.name}; {repair}")
    return trial


def settled(folder: Written, config: TuneConfig, trial: Trial, known: dict[str, Any]) -> Trial:
    """Record in a trial's folder and MLflow run how it ended, if it was still running; returns the trial."""
    if trial.status != "running" or (trial.name not in known and trial.seed != config.seed):
        return trial
    status = "interrupted" if trial.name not in known else "failed" if known[trial.name] else "stopped"
    ended = replace(trial, status=status)
    _write(folder, ended)
    if trial.run_id:
        run = tracking.existing_run(trial.run_id)
        run.set_tags({"trial.status": status})
        run.end("FINISHED" if status == "stopped" else "FAILED" if status == "failed" else "KILLED")
    return ended


@contextmanager
def trials_closed(folder: Written, search: tracking.Run) -> Iterator[None]:
    """Close the trials of a search that a signal stops in this block; Ray has ended their processes when the block is left."""
    with stopping.closed_at_once(lambda: _close_trials(folder, search)):
        try:
            yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or stopping.received():
                stopping.unwinding()
                _close_trials(folder, search)
            raise


def _close_trials(folder: Written, search: tracking.Run) -> None:
    """Record that the trials that have not ended are interrupted, and end their MLflow runs as KILLED."""
    for trial in records(folder):
        if trial.status == "running":
            _write(folder, replace(trial, status="interrupted"))
    search.close_children()


def _write(folder: Written, trial: Trial) -> None:
    folder.write_json(f"{TRIALS}/{trial.name}/{RECORD}", asdict(trial))


def folder_name(parameters: Mapping[str, float], seed: int) -> str:
    return fingerprint(dict(parameters), str(seed))[:12]


def chosen(sampled: dict[str, Any], base: TrainConfig) -> tuple[dict[str, float], int]:
    """Return (parameters, seed) of a trial of either experiment."""
    if "again" in sampled:
        return sampled["again"]["parameters"], sampled["again"]["seed"]
    return {name: float(value) for name, value in sampled.items()}, base.seed


def run_trial(
    sampled: dict[str, Any],
    folder: Written,
    search_config: TuneConfig,
    base: TrainConfig,
    cache: str,
    parent: str,
    store: dict[str, str],
) -> None:
    """Train one trial with validations, which are reported to Tune and recorded in its folder.

    cache  fingerprint of the search's cache, since trials of different caches cannot be compared
    """
    from ray import tune

    # A trial runs in another working folder than the driver, but must use the same store.
    os.environ.update(store)
    set_threads(search_config.threads)
    parameters, seed = chosen(sampled, base)
    name = folder_name(parameters, seed)
    config = configured(base, parameters, seed, storage.join(search_config.out, TRIALS, name))
    config = replace(config, overwrite=search_config.overwrite)
    before = _record(folder, name)
    if before is not None and before.status == "finished":
        tune.report({tracking.SCORE: before.score, "step": config.steps})
        return
    trial = replace(before, status="running") if before else Trial(name, parameters, seed, -1.0, 0, "running")
    reported = {step: score for step, score in trial.validations}

    def validated(step: int, metrics: dict[str, float]) -> None:
        nonlocal trial
        score = reported[step] = metrics[tracking.SCORE]
        trial = replace(
            trial,
            score=max(trial.score, score),
            step=step,
            seconds=metrics["train/seconds"],
            run_id=run_id_of(existing(config.out, training.TRAIN)),
            validations=sorted(reported.items()),
        )
        _write(folder, trial)
        if step < config.steps:  # the last score is reported when everything is saved
            tune.report({tracking.SCORE: score, "step": step})

    label = trial_name(parameters, seed - search_config.seed)
    tags = {"mlflow.parentRunId": parent, "trial": name}
    alone = config.workers == 1
    try:
        # A trial of a killed search may still be ending.
        done = training.train(
            config,
            label,
            tags,
            here=alone,
            register=False,
            on_validated=validated if alone else None,
            wait_s=60,
            from_cache=cache,
        )
    except NotFiniteError as error:  # the lowest score; a restart would not help
        _write(folder, replace(trial, status="failed", problem=str(error)))
        tune.report({tracking.SCORE: 0.0, "step": config.steps})
        return
    trial = replace(
        trial,
        score=done.metrics[tracking.SCORE],
        step=config.steps,
        seconds=done.metrics["train/seconds"],
        teacher_forwards=int(done.metrics["train/teacher_forwards"]),
        run_id=done.run_id,
        status="finished",
        validations=sorted((reported | {config.steps: done.metrics[tracking.SCORE]}).items()),
    )
    tracking.existing_run(done.run_id).set_tags({"trial.status": "finished"})
    _write(folder, trial)
    tune.report({tracking.SCORE: trial.score, "step": config.steps})
