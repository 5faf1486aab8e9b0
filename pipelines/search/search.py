"""Search with Ray Tune: Optuna proposes parameters, ASHA stops weak trials, every trial distils a student from one cache.

No trial runs the teacher: density takes a prefix of the cached order, and w, temperature and weights apply when the targets are read.
Teacher forwards are counted. A trial with one worker trains in its own process, with the loop of Ray Train and the same bits; this
saves the half minute that Ray Train takes to start. A trial's folder is named by its parameters and holds its outcome. So after any kill
the same command repeats no finished trial. Tune's searcher and scheduler are rebuilt from the trials' JSON, never from Tune's pickles.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from pipelines import storage, tracking
from pipelines.cache.manifest import data_of_cache, read_manifest
from pipelines.runtime.output_folder import check_folder, claimed_folder, folder_run, identity_of
from pipelines.runtime.progress import progress_bar
from pipelines.runtime.ray_storage import ray_storage
from pipelines.runtime.session import ray_session, unlogged_credentials
from pipelines.runtime.videos import announce_check, check_tag
from pipelines.search import page as search_pages
from pipelines.search.one_trial import (
    chosen,
    configured,
    folder_name,
    records,
    run_trial,
    settled,
    trials_closed,
)
from pipelines.search.trials import Trial, repeat_rows
from pipelines.training import launch as training
from vos.config import TrainConfig, TuneConfig, ValidationConfig, fields
from vos.errors import InputError
from vos.files.canonical import fingerprint, to_dict
from vos.files.written import Written
from vos.printed import JOB, command
from vos.stopping import keeping

TUNE, BEST = "tune", "best.json"
REPEATED = 3


@dataclass(frozen=True)
class SearchResult:
    """A search's trials, and the winner's configuration as a file for jobs.train --config."""

    trials: list[Trial]
    repeats: list[Trial]
    """the best trials' parameters again, with other seeds"""
    winner: dict[str, float]
    best_config: str
    page: str
    wall_s: float
    """of this command's trials, without the start of Ray"""


def search(config: TuneConfig) -> SearchResult:
    """Run or resume a search. Raises InputError for bad input and when no trial finished."""
    manifest = read_manifest(config.cache)
    data, _ = data_of_cache(config.cache, manifest, config.data)
    base = _base(config, data)
    training.check(base)  # an error of every trial is raised before the first
    identity = {**fields.identity(config), "cache": manifest["fingerprint"]}
    if config.resume and identity_of(check_folder(config, TUNE)) is None:
        raise InputError(f"--resume: {config.out} holds no search; omit --resume to start one there")
    names = [BEST, *search_pages.page_names()]
    with claimed_folder(config, TUNE, "a search", names=names, of=identity, shared=True) as folder:
        name = f"search-{fingerprint(identity)[:8]}"
        read = None if manifest["identity"]["frames"] == "store" else data
        tags = {"cache.fingerprint": manifest["fingerprint"]} | check_tag(read, manifest["identity"]["data"])
        announce_check(read, manifest["identity"]["data"])
        with (
            keeping(lambda: _kept(folder, config)),
            folder_run(folder, config, "tune", name, tags) as run,
            trials_closed(folder, run),
        ):
            with ray_session(num_cpus=config.concurrent * (1 + base.workers) + 2):
                began = time.monotonic()
                trials = run_trials(folder, config, base, manifest["fingerprint"], run.run_id)
                finished = [trial for trial in trials if trial.status == "finished"]
                if not finished:
                    raise InputError(
                        f"{config.out}: no trial finished; see the reasons above, then run the same command again"
                    )
                best = sorted(finished, key=lambda trial: (-trial.score, trial.name))[:REPEATED]
                repeats = (
                    _run_repeats(folder, config, base, manifest["fingerprint"], run.run_id, best)
                    if config.repeat
                    else []
                )
                wall_s = time.monotonic() - began
            winner = winner_of(best, repeats)
            found = replace(
                configured(base, winner, config.seed),
                experiment="train",
                out="runs/best",
                validation=ValidationConfig(),
            )
            path = folder.write_json(BEST, to_dict(found))
            page = _log(folder, config, run, trials, repeats, winner, path)
    return SearchResult(trials, repeats, winner, path, page, wall_s)


def _kept(folder: Written, config: TuneConfig) -> str:
    """Return what a stopped search keeps."""
    done = sum(trial.done for trial in records(folder) if trial.seed == config.seed)
    return f"{done} of {config.trials} trials are done and kept in {config.out}; run the same command again to continue"


def next_commands(best_config: str) -> list[str]:
    """Return the shell commands that train the winner; a configuration at a URI is copied first, since `--config` reads local files."""
    if not storage.is_uri(best_config):
        return [command(*JOB, "jobs.train", "--config", best_config, "--out", "runs/best")]
    here = "runs/best.json"
    copy = f"storage.write_bytes({here!r}, storage.read_bytes({best_config!r}))"
    return [command("python", "-c", f"from pipelines import storage; {copy}"), *next_commands(here)]


def _base(config: TuneConfig, data: Any) -> TrainConfig:
    """Return the configuration that all trials share, without the searched parameters."""
    train_config = config.train
    validation = ValidationConfig(
        every=max(1, train_config.steps // config.rungs),
        videos=config.val_videos,
        size_px=config.size_px,
        max_frames=config.max_frames,
    )
    # A killed trial is resumed from its last checkpoint; a search writes one at least at every validation.
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


def winner_of(best: list[Trial], repeats: list[Trial]) -> dict[str, float]:
    """Return the parameters with the best J&F: the mean over seeds where trials were repeated, else that of the one trial."""
    if not repeats:
        return best[0].parameters
    return repeat_rows(repeats)[0][0]


def run_trials(folder: Written, config: TuneConfig, base: TrainConfig, cache: str, parent: str) -> list[Trial]:
    """Run the missing trials of the search, without repeats; returns the trials that its folder then holds.

    cache   fingerprint of the search's cache
    parent  MLflow run of the search
    """
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter

    known = [trial for trial in records(folder) if trial.seed == config.seed]
    done = [trial for trial in known if trial.done]
    missing = config.trials - len(done)
    if missing > 0:
        searcher = searcher_after(config, known)
        tune_config = tune.TuneConfig(
            num_samples=missing,
            search_alg=ConcurrencyLimiter(searcher, max_concurrent=config.concurrent),
            scheduler=_scheduler_after(config, base, done),
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        )
        trials = _tuned(folder, config, base, cache, parent, {}, tune_config, (len(done), config.trials), "search")
    else:
        trials = records(folder)
    return [trial for trial in trials if trial.seed == config.seed]


def searcher_after(config: TuneConfig, known: list[Trial]) -> Any:
    """Return Optuna's searcher for a new or resumed search: it knows the finished trials, and starts with the unfinished ones.

    Its seed depends on the search's seed and the known trials, because the same seed would propose the same trials again.
    """
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: Any = {
        name: optuna.distributions.FloatDistribution(*bounds, log=name != "w")
        for name, bounds in config.space.ranges().items()
    }
    seed = int(fingerprint(str(config.seed), *(trial.name for trial in known))[:7], 16) if known else config.seed
    begun = [trial.parameters for trial in known if not trial.done]
    searcher = OptunaSearch(space, metric=tracking.SCORE, mode="max", points_to_evaluate=begun, seed=seed)
    for trial in known:
        if trial.done:
            searcher.add_evaluated_point(trial.parameters, max(0.0, trial.score))
    return searcher


def _scheduler_after(config: TuneConfig, base: TrainConfig, done: list[Trial]) -> Any:
    """Return an ASHA scheduler that knows the validations of finished trials; None where no trial is stopped early."""
    from ray.tune.schedulers import ASHAScheduler

    if not config.asha or config.rungs < 2 or base.workers > 1:
        return None
    # Beyond the last step, so that a trial that reaches it ends by itself.
    scheduler = ASHAScheduler(
        time_attr="step",
        metric=tracking.SCORE,
        mode="max",
        max_t=base.steps + 1,
        grace_period=base.validation.every,
        reduction_factor=2,
    )
    controller: Any = None  # the scheduler does not use it here
    for trial in done:
        stand_in: Any = SimpleNamespace(trial_id=trial.name)
        scheduler.on_trial_add(controller, stand_in)
        for step, score in trial.validations:
            scheduler.on_trial_result(controller, stand_in, {"step": step, tracking.SCORE: score})
        scheduler.on_trial_remove(controller, stand_in)
    return scheduler


def _run_repeats(
    folder: Written, config: TuneConfig, base: TrainConfig, cache: str, parent: str, best: list[Trial]
) -> list[Trial]:
    """Train the best parameters again, with seeds that were not used to choose them; returns the finished trials."""
    from ray import tune

    again = [
        {"parameters": trial.parameters, "seed": config.seed + 1 + number}
        for number in range(config.repeat)
        for trial in best
    ]
    wanted = {folder_name(item["parameters"], item["seed"]): item for item in again}
    trials = records(folder)
    done = {trial.name for trial in trials if trial.done}
    if missing := [item for name, item in wanted.items() if name not in done]:
        tune_config = tune.TuneConfig(
            max_concurrent_trials=config.concurrent, trial_dirname_creator=lambda trial: trial.trial_id
        )
        space = {"again": tune.grid_search(missing)}
        counts = (len(again) - len(missing), len(again))
        trials = _tuned(folder, config, base, cache, parent, space, tune_config, counts, "repeat")
    return [trial for trial in trials if trial.name in wanted and trial.status == "finished"]


def _tuned(
    folder: Written,
    config: TuneConfig,
    base: TrainConfig,
    cache: str,
    parent: str,
    space: dict[str, Any],
    tune_config: Any,
    counts: tuple[int, int],
    label: str,
) -> list[Trial]:
    """Run one experiment of Ray Tune; returns the trials that the search's folder then holds.

    counts  (trials done before, all trials)
    """
    # Ctrl-C must reach this job; Tune would take it for the end of the search.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    import ray
    from ray import tune
    from tqdm import tqdm

    fixed = {"folder": folder, "search_config": config, "base": base, "cache": cache, "parent": parent}
    fixed["store"] = tracking.environment() | unlogged_credentials()
    gpus = ray.cluster_resources().get("GPU", 0) if base.workers == 1 else 0
    resources = {"cpu": 1.0, "gpu": min(1.0, gpus / config.concurrent)}
    trainable = tune.with_resources(tune.with_parameters(run_trial, **fixed), resources)
    with ray_storage(folder) as place, progress_bar(label, counts[1], "trial", counts[0]) as bar:
        run_config = tune.RunConfig(
            name=label,
            storage_path=place,
            verbose=0,
            callbacks=[_counter(bar)],
            failure_config=tune.FailureConfig(max_failures=2),  # deaths of a trial's process
        )
        results = tune.Tuner(trainable, param_space=space, tune_config=tune_config, run_config=run_config).fit()
        bar.update(counts[1] - bar.n)
    errors = [str(result.error).strip().splitlines()[-1] for result in results if result.error is not None]
    known = {folder_name(*chosen(result.config, base)): result.error for result in results if result.config}
    trials = [settled(folder, config, trial, known) for trial in records(folder)]
    for error in [*errors, *(f"{trial.name}: {trial.problem}" for trial in trials if trial.problem)]:
        tqdm.write(f"trial failed: {error}")
    return trials


def _counter(bar: Any) -> Any:
    """Return a callback that moves the bar by one at the end of each trial."""
    from ray import tune

    class Counter(tune.Callback):
        def __init__(self, bar: Any) -> None:
            self.bar = bar

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune pickles callbacks, and a bar cannot be pickled

        def on_trial_complete(self, *_arguments: Any, **_event: Any) -> None:
            self.bar.update()

        on_trial_error = on_trial_complete

    return Counter(bar)


def _log(
    folder: Written,
    config: TuneConfig,
    run: tracking.Run,
    trials: list[Trial],
    repeats: list[Trial],
    winner: dict[str, float],
    best_config: str,
) -> str:
    """Make the table, plots and page, and log them to the parent run; returns the page's path."""
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
    page = search_pages.write(folder, list(config.space.ranges()), trials, repeats, winner, metrics)
    if storage.is_uri(page):  # the pictures are inside the page
        for path in (page, best_config):
            run.log_text(storage.read_bytes(path).decode(), os.path.basename(path))
    else:
        run.log_artifact(os.path.dirname(page))
        run.log_artifact(best_config)
    return page
