"""Ray Tune around the training: Optuna proposes w, temperature and density, every trial distils a student from the one cache.

No trial runs the teacher: density is a prefix of the cached order, w and temperature are chosen when the targets are read. A search that
was killed continues where it stopped: finished trials are kept, and interrupted ones continue from their last checkpoint.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any

from pipelines import storage, tracking
from pipelines.evaluation import memory_policy, segment_and_score
from pipelines.manifest import data_of_cache, read_manifest
from pipelines.models import load_model
from pipelines.plan import index_videos
from pipelines.progress import followed, new_board
from pipelines.session import ray_session, set_threads
from pipelines.training import train
from vos.config import MemoryConfig, TuneConfig
from vos.config_json import dumps, fingerprint, to_dict
from vos.errors import InputError

PARAMETERS = ("w", "temperature", "density")


@dataclass(frozen=True)
class SearchResult:
    """The trials, one dict each, and the configuration of the best as a file that jobs.train --config takes."""

    trials: list[dict[str, Any]]
    best_config: str


def search(config: TuneConfig) -> SearchResult:
    """Run or continue a search. Raises InputError for bad input and when no trial finished."""
    manifest = read_manifest(config.cache)
    data, _ = data_of_cache(config.cache, manifest, config.data)
    base = replace(
        config.train, cache=config.cache, data=data, experiment="tune", seed=config.seed, threads=config.threads
    )
    index_videos(data, "val")
    storage.make_folder(config.out)
    identity = {**to_dict(config), "cache": manifest["fingerprint"], "out": "", "debug": False}
    name = f"search-{fingerprint(identity)[:8]}"
    storage.write_bytes(storage.join(config.out, "config.json"), dumps(config).encode())
    tags = {"cache.fingerprint": manifest["fingerprint"]}
    with tracking.start_run("tune", name, config, tags) as run:
        workers = config.concurrent * (1 + base.workers)
        with ray_session(num_cpus=workers + 2):
            trials = _run_trials(config, base, name, run.run_id)
        if not trials:
            raise InputError(f"{config.out}: no trial finished; look at the errors in {config.out}/ray/{name}")
        best = max(trials, key=lambda trial: trial[tracking.SCORE])
        loss = replace(base.loss, **{parameter: best[parameter] for parameter in PARAMETERS})
        path = storage.join(config.out, "best.json")
        storage.write_bytes(path, dumps(replace(base, loss=loss, experiment="train", out="runs/best")).encode())
        run.log_metrics({tracking.SCORE: best[tracking.SCORE], "tune/trials": float(len(trials))})
        run.log_dict({"trials": trials}, "trials.json")
        run.log_artifact(path)
    return SearchResult(trials, path)


def _run_trials(config: TuneConfig, base: Any, name: str, parent: str) -> list[dict[str, Any]]:
    import optuna
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch
    from tqdm import tqdm

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    board = new_board()
    fixed = {"search_config": config, "base": base, "parent": parent, "store": tracking.environment(), "board": board}
    trainable = tune.with_resources(tune.with_parameters(_trial, **fixed), {"cpu": 1})
    storage_path = storage.join(config.out, "ray")
    run_config = tune.RunConfig(name=name, storage_path=storage_path, verbose=0)
    space = {"w": tune.uniform(0, 1), "temperature": tune.loguniform(0.5, 8), "density": tune.loguniform(1 / 16, 1)}
    with followed(board, None, "search", config.trials, unit="trial"):
        if tune.Tuner.can_restore(storage.join(storage_path, name)):
            tuner = tune.Tuner.restore(
                storage.join(storage_path, name), trainable, resume_unfinished=True, restart_errored=True
            )
        else:
            searcher = ConcurrencyLimiter(
                OptunaSearch(metric=tracking.SCORE, mode="max", seed=config.seed), max_concurrent=config.concurrent
            )
            tuner = tune.Tuner(
                trainable,
                param_space=space,
                tune_config=tune.TuneConfig(
                    metric=tracking.SCORE,
                    mode="max",
                    num_samples=config.trials,
                    search_alg=searcher,
                    trial_name_creator=lambda trial: trial.trial_id,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=run_config,
            )
        results = tuner.fit()
    trials = []
    for result in results:
        if result.metrics and tracking.SCORE in result.metrics and result.config:
            row = {parameter: float(result.config[parameter]) for parameter in PARAMETERS}
            trials.append(
                {"trial": result.metrics["trial_id"], **row, tracking.SCORE: float(result.metrics[tracking.SCORE])}
            )
        elif result.error is not None:
            tqdm.write(f"trial failed: {str(result.error).strip().splitlines()[-1]}")
    return trials


def trial_name(parameters: dict[str, float]) -> str:
    """What a trial is called in MLflow's list, whose column holds some twenty letters: its parameters."""
    return " ".join(f"{sign} {parameters[name]:.2f}" for sign, name in zip(("w", "τ", "d"), PARAMETERS, strict=True))


def _trial(
    parameters: dict[str, float], search_config: TuneConfig, base: Any, parent: str, store: dict[str, str], board: Any
) -> None:
    """One trial: distil, then score on the validation videos."""
    from ray import tune

    # A trial's working folder is its own; the store must be the driver's.
    os.environ.update(store)
    set_threads(search_config.threads)
    trial = tune.get_context().get_trial_id()
    loss = replace(base.loss, **{parameter: float(parameters[parameter]) for parameter in PARAMETERS})
    config = replace(base, loss=loss, out=storage.join(search_config.out, "trials", trial))
    trained = train(config, label=trial_name(parameters), tags={"mlflow.parentRunId": parent, "trial": trial})
    model, _ = load_model(trained.checkpoint)
    policy = memory_policy(MemoryConfig(), infinite=False)
    videos = index_videos(config.data, "val")[: search_config.val_videos]
    scores = [
        segment_and_score(model, video, policy, search_config.size_px, search_config.max_frames) for video in videos
    ]
    mean = sum(score.j_and_f for score in scores if score) / max(1, sum(score is not None for score in scores))
    tracking.existing_run(trained.run_id).log_metrics({tracking.SCORE: mean})
    board.post.remote([(0, time.time(), {tracking.SCORE: mean})])
    tune.report({tracking.SCORE: mean})
