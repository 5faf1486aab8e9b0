"""Ray Tune around the training: Optuna proposes, ASHA stops what is behind, every trial distils a student from the one cache.

No trial runs the teacher: density is a prefix of the cached order, w, temperature and weights are chosen when the targets are read; how
often a teacher was asked is counted. A trial with one worker trains in its own process (the loop that Ray Train runs, to the same bits)
and so saves the half minute that a trainer takes to start. A trial's folder is named by its parameters and holds its outcome: whatever
is killed, the same command trains no finished trial again and loses none.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines import search_pages, storage, tracking, training
from pipelines.folders import claim_folder, folder_run, read_json, run_id_of
from pipelines.manifest import data_of_cache, read_manifest
from pipelines.progress import progress_bar
from pipelines.session import ray_session, set_threads
from pipelines.trials import RECORD, Trial, repeat_rows, trial_name
from vos.config import TrainConfig, TuneConfig, ValidationConfig
from vos.config_json import dumps, fingerprint, without
from vos.errors import InputError, NotFiniteError

COSMETIC = (
    *("out", "debug", "preset", "resume", "concurrent", "repeat", "workers", "threads"),
    *("data", "train.data", "train.cache", "train.seed", "train.validation"),  # decided by the cache and by the search
    *(f"train.{name}" for name in training.COSMETIC),
)
REPEATED = 3


@dataclass(frozen=True)
class SearchResult:
    """The trials, and the configuration of the winner as a file that jobs.train --config takes."""

    trials: list[Trial]
    repeats: list[Trial]
    """the best trials' parameters again, with other seeds"""
    winner: dict[str, float]
    best_config: str
    page: str
    wall_s: float
    """of this command's trials, Ray's start excluded"""


def search(config: TuneConfig) -> SearchResult:
    """Run or continue a search. Raises InputError for bad input and when no trial finished."""
    manifest = read_manifest(config.cache)
    data, _ = data_of_cache(config.cache, manifest, config.data)
    base = _base(config, data)
    training.check(base)  # what is wrong with every trial is said before the first
    storage.make_folder(config.out)
    with storage.only_writer(config.out):
        identity = {**without(config, COSMETIC), "cache": manifest["fingerprint"]}
        if config.resume and "identity.json" not in storage.list_names(config.out):
            raise InputError(f"--resume: {config.out} holds no search; leave --resume out to begin one there")
        claim_folder(config, identity, "a search")
        name = f"search-{fingerprint(identity)[:8]}"
        tags = {"cache.fingerprint": manifest["fingerprint"]}
        with folder_run(config, "tune", name, tags) as run:
            with ray_session(num_cpus=config.concurrent * (1 + base.workers) + 2):
                began = time.monotonic()
                cache = manifest["fingerprint"]
                trials = _run_trials(config, base, cache, name, run.run_id)
                finished = [trial for trial in trials if trial.status == "finished"]
                if not finished:
                    raise InputError(f"{config.out}: no trial finished; look at the errors in {config.out}/ray/{name}")
                best = sorted(finished, key=lambda trial: (-trial.score, trial.name))[:REPEATED]
                repeats = _run_repeats(config, base, cache, name, run.run_id, best) if config.repeat else []
                wall_s = time.monotonic() - began
            winner = winner_of(best, repeats)
            path = storage.join(config.out, "best.json")
            found = replace(
                configured(base, winner, config.seed),
                experiment="train",
                out="runs/best",
                validation=ValidationConfig(),
            )
            storage.write_bytes(path, dumps(found).encode())
            page = _log(config, run, trials, repeats, winner, path)
    return SearchResult(trials, repeats, winner, path, page, wall_s)


def next_commands(best_config: str) -> list[str]:
    """What trains the winner, as lines for a shell in the checkout: `--config` reads files only, so one at a URI is copied first."""
    if not storage.is_uri(best_config):
        return [f"python -m jobs.train --config {best_config} --out runs/best"]
    here = "runs/best.json"
    copy = f"storage.write_bytes({here!r}, storage.read_bytes({best_config!r}))"
    return [f'python -c "from pipelines import storage; {copy}"', *next_commands(here)]


def _base(config: TuneConfig, data: Any) -> TrainConfig:
    """The training of every trial, but for what is searched."""
    train_config = config.train
    validation = ValidationConfig(
        every=max(1, train_config.steps // config.rungs),
        videos=config.val_videos,
        size_px=config.size_px,
        max_frames=config.max_frames,
    )
    # A killed trial goes on from its last checkpoint; a search's checkpoints come with its validations.
    return replace(
        train_config,
        cache=config.cache,
        data=data,
        experiment="tune",
        seed=config.seed,
        threads=config.threads,
        workers=config.workers,
        validation=validation,
        checkpoint_every=min(train_config.checkpoint_every, validation.every),
    )


def configured(base: TrainConfig, parameters: Mapping[str, float], seed: int, out: str = "") -> TrainConfig:
    """The training that a trial's parameters stand for."""
    loss = {name: value for name, value in parameters.items() if name != "lr"}
    optimiser = replace(base.optimiser, lr=parameters.get("lr", base.optimiser.lr))
    return replace(base, loss=replace(base.loss, **loss), optimiser=optimiser, seed=seed, out=out or base.out)


def winner_of(best: list[Trial], repeats: list[Trial]) -> dict[str, float]:
    """The parameters with the best J&F: over several seeds where they were repeated, of the one trial otherwise."""
    if not repeats:
        return best[0].parameters
    return repeat_rows(repeats)[0][0]


def _run_trials(config: TuneConfig, base: TrainConfig, cache: str, name: str, parent: str) -> list[Trial]:
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def tune_config() -> Any:
        searcher = OptunaSearch(metric=tracking.SCORE, mode="max", seed=config.seed)
        scheduler = None
        if config.asha and config.rungs > 1 and base.workers == 1:
            # Beyond the last step, so that a trial that gets there ends by itself.
            scheduler = ASHAScheduler(
                time_attr="step",
                metric=tracking.SCORE,
                mode="max",
                max_t=base.steps + 1,
                grace_period=base.validation.every,
                reduction_factor=2,
            )
        return tune.TuneConfig(
            num_samples=config.trials,
            search_alg=ConcurrencyLimiter(searcher, max_concurrent=config.concurrent),
            scheduler=scheduler,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        )

    spread = {"w": tune.uniform}
    space = {key: spread.get(key, tune.loguniform)(*bounds) for key, bounds in config.space.ranges().items()}
    trials = _tuned(config, base, cache, name, parent, space, tune_config, config.trials, "search")
    return [trial for trial in trials if trial.seed == config.seed]


def _run_repeats(
    config: TuneConfig, base: TrainConfig, cache: str, name: str, parent: str, best: list[Trial]
) -> list[Trial]:
    """The best parameters again with seeds that took no part in choosing them."""
    from ray import tune

    again = [
        {"parameters": trial.parameters, "seed": config.seed + 1 + number}
        for number in range(config.repeat)
        for trial in best
    ]

    def tune_config() -> Any:
        return tune.TuneConfig(
            max_concurrent_trials=config.concurrent, trial_dirname_creator=lambda trial: trial.trial_id
        )

    space = {"again": tune.grid_search(again)}
    # The name says what is repeated: with more seeds, it is another experiment, of which finished trials are done at once.
    name = f"{name}-repeat-{fingerprint(*map(dumps, again))[:8]}"
    trials = _tuned(config, base, cache, name, parent, space, tune_config, len(again), "repeat")
    wanted = {_folder_name(item["parameters"], item["seed"]) for item in again}
    return [trial for trial in trials if trial.name in wanted and trial.status == "finished"]


def _tuned(
    config: TuneConfig,
    base: TrainConfig,
    cache: str,
    name: str,
    parent: str,
    space: dict[str, Any],
    tune_config: Callable[[], Any],
    total: int,
    label: str,
) -> list[Trial]:
    """Run or continue one experiment of Ray Tune; returns the trials of the search that its folder holds afterwards."""
    # A driver that is killed forgets what happened since its last snapshot.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")
    # Ctrl-C is for us: Tune would take it for the end of the search.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    import ray
    from ray import tune
    from tqdm import tqdm

    fixed = {"search_config": config, "base": base, "cache": cache, "parent": parent, "store": tracking.environment()}
    gpus = ray.cluster_resources().get("GPU", 0) if base.workers == 1 else 0
    resources = {"cpu": 1.0, "gpu": min(1.0, gpus / config.concurrent)}
    trainable = tune.with_resources(tune.with_parameters(_trial, **fixed), resources)
    folder = storage.join(config.out, "ray")
    global _bar
    with progress_bar(label, total, "trial") as _bar:
        if tune.Tuner.can_restore(storage.join(folder, name)):
            tuner = tune.Tuner.restore(
                storage.join(folder, name), trainable, resume_unfinished=True, restart_errored=True
            )
        else:
            run_config = tune.RunConfig(
                name=name,
                storage_path=folder,
                verbose=0,
                callbacks=[_counter()],
                failure_config=tune.FailureConfig(max_failures=2),  # deaths of a trial's process
            )
            tuner = tune.Tuner(trainable, param_space=space, tune_config=tune_config(), run_config=run_config)
        results = tuner.fit()
        _bar.update(total - _bar.n)
    errors = [str(result.error).strip().splitlines()[-1] for result in results if result.error is not None]
    known = {_folder_name(*_chosen(result.config, base)): result.error for result in results if result.config}
    trials = [_settled(config, trial, known) for trial in _records(config)]
    for error in [*errors, *(f"{trial.name}: {trial.problem}" for trial in trials if trial.problem)]:
        tqdm.write(f"trial failed: {error}")
    return trials


_bar: Any = None
"""The bar of the experiment that runs now: Tune keeps callbacks in a file, where no bar can be."""


def _counter() -> Any:
    from ray import tune

    return type("Counter", (tune.Callback,), {"on_trial_complete": _count, "on_trial_error": _count})()


def _count(_self: Any, **_event: Any) -> None:
    if _bar is not None:
        _bar.update()


def _records(config: TuneConfig) -> list[Trial]:
    folder = storage.join(config.out, "trials")
    found = (read_json(storage.join(folder, name, RECORD)) for name in storage.list_folders(folder))
    return [Trial(**values) for values in found if values]


def _settled(config: TuneConfig, trial: Trial, known: dict[str, Any]) -> Trial:
    """A trial that will not go on: what ended it, in its folder and in its MLflow run."""
    if trial.status != "running" or (trial.name not in known and trial.seed != config.seed):
        return trial
    status = "interrupted" if trial.name not in known else "failed" if known[trial.name] else "stopped"
    settled = replace(trial, status=status)
    _write(config, settled)
    if trial.run_id:
        run = tracking.existing_run(trial.run_id)
        run.set_tags({"trial.status": status})
        run.end("FINISHED" if status == "stopped" else "FAILED" if status == "failed" else "KILLED")
    return settled


def _write(config: TuneConfig, trial: Trial) -> None:
    folder = storage.join(config.out, "trials", trial.name)
    storage.write_bytes(storage.join(folder, RECORD), dumps(asdict(trial)).encode())


def _folder_name(parameters: Mapping[str, float], seed: int) -> str:
    return fingerprint(dict(parameters), str(seed))[:12]


def _chosen(sampled: dict[str, Any], base: TrainConfig) -> tuple[dict[str, float], int]:
    """Parameters and seed of a trial of either experiment."""
    if "again" in sampled:
        return sampled["again"]["parameters"], sampled["again"]["seed"]
    return {name: float(value) for name, value in sampled.items()}, base.seed


def _trial(
    sampled: dict[str, Any],
    search_config: TuneConfig,
    base: TrainConfig,
    cache: str,
    parent: str,
    store: dict[str, str],
) -> None:
    """One trial: distil, scored on the way; told to Tune and kept in its folder.

    cache  fingerprint of the search's: a trial from another one would be compared with those before it
    """
    from ray import tune

    # A trial's working folder is its own; the store must be the driver's.
    os.environ.update(store)
    set_threads(search_config.threads)
    parameters, seed = _chosen(sampled, base)
    name = _folder_name(parameters, seed)
    config = configured(base, parameters, seed, storage.join(search_config.out, "trials", name))
    before = read_json(storage.join(config.out, RECORD)) or {}
    if before.get("status") == "finished":
        tune.report({tracking.SCORE: before["score"], "step": config.steps})
        return
    trial = Trial(name, parameters, seed, before.get("score", -1.0), before.get("step", 0), "running")

    def validated(step: int, metrics: dict[str, float]) -> None:
        nonlocal trial
        score = metrics[tracking.SCORE]
        trial = replace(
            trial,
            score=max(trial.score, score),
            step=step,
            seconds=metrics["train/seconds"],
            run_id=run_id_of(config.out),
        )
        _write(search_config, trial)
        if step < config.steps:  # the last word is said when everything is kept
            tune.report({tracking.SCORE: score, "step": step})

    label = trial_name(parameters, seed - search_config.seed)
    tags = {"mlflow.parentRunId": parent, "trial": name}
    alone = config.workers == 1
    try:
        # A killed search's last trial may still be dying.
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
    except NotFiniteError as error:  # as bad as can be, and no reason to try again
        _write(search_config, replace(trial, status="failed", problem=str(error)))
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
    )
    tracking.existing_run(done.run_id).set_tags({"trial.status": "finished"})
    _write(search_config, trial)
    tune.report({tracking.SCORE: trial.score, "step": config.steps})


def _log(
    config: TuneConfig,
    run: tracking.Run,
    trials: list[Trial],
    repeats: list[Trial],
    winner: dict[str, float],
    best_config: str,
) -> str:
    """Make table, plots and page, keep them with the parent run; returns the page's path."""
    every = trials + repeats
    of_winner = [trial.score for trial in repeats or trials if trial.parameters == winner]
    metrics = {
        tracking.SCORE: statistics.mean(of_winner),
        "tune/trials": float(len(trials)),
        "tune/stopped_early": float(sum(trial.status == "stopped" for trial in trials)),
        "tune/train_seconds": sum(trial.seconds for trial in every),
        "tune/teacher_forwards": float(sum(trial.teacher_forwards for trial in every)),
    }
    if len(of_winner) > 1:
        metrics["val/j_and_f_sd"] = statistics.stdev(of_winner)
    run.log_metrics(metrics)
    folder = storage.join(config.out, search_pages.PAGES)
    storage.make_folder(folder)
    page = search_pages.write(folder, list(config.space.ranges()), trials, repeats, winner, metrics)
    if storage.is_uri(folder):  # the pictures are inside the page
        for path in (page, best_config):
            run.log_text(storage.read_bytes(path).decode(), os.path.basename(path))
    else:
        run.log_artifact(folder)
        run.log_artifact(best_config)
    return page
