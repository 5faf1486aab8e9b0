"""Run the training loop on Ray Train: DDP over 1 to N workers, restart after a worker's failure, one MLflow run over all restarts.

With `here` the same loop runs in this process without Ray Train, so that a trial of a search starts no workers.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypedDict

from pipelines import storage, tracking
from pipelines.cache.read import CachedClips, DrawnClips
from pipelines.runtime.output_folder import claimed_folder, folder_run, run_id_of
from pipelines.runtime.progress import Reporter, StopRequest, followed, new_board, progress_bar
from pipelines.runtime.ray_storage import ray_storage
from pipelines.runtime.session import ray_session
from pipelines.runtime.sources import announce_sources, log_sources, source_metrics
from pipelines.runtime.videos import announce_check, check_tag, log_cache, log_videos
from pipelines.training import state as training_state
from pipelines.training.loop import (
    TRAIN,
    Listener,
    assure_cache,
    cache_of,
    make_source,
    manner,
    new_model,
    run_training,
    validation_videos,
)
from vos.config import TrainConfig, fields
from vos.distillation.ranks import Ranks
from vos.errors import InputError
from vos.files.canonical import differences, fingerprint
from vos.files.written import Written
from vos.models.checkpoint import DESCRIPTION, WEIGHTS
from vos.printed import JOB, command
from vos.stopping import asked, deferred, keeping, take_signals

RESULT = "result.json"
MODEL = (WEIGHTS, DESCRIPTION)
"""Files that a finished training publishes."""


class Outcome(TypedDict):
    """The content of `result.json` of a finished training."""

    run_id: str
    version: str
    metrics: dict[str, float]
    sha256: dict[str, str]
    """Digests of the model's files."""


@dataclass(frozen=True)
class TrainResult:
    """A finished training: the path of its checkpoint, and the metrics of its last steps."""

    checkpoint: str
    run_id: str
    version: str
    """name/number in the registry, "" where it was not registered"""
    metrics: dict[str, float]


def next_command(result: TrainResult) -> str:
    """Return the shell command that evaluates the checkpoint."""
    return command(*JOB, "jobs.evaluate", "--checkpoint", result.checkpoint)


def train(
    config: TrainConfig,
    label: str = "",
    tags: dict[str, str] | None = None,
    here: bool = False,
    register: bool = True,
    on_validated: Listener | None = None,
    wait_s: float = 0,
    from_cache: str = "",
) -> TrainResult:
    """Train as configured, or resume an interrupted run of the same configuration.

    here          run in this process, without Ray Train (one worker) and without a bar, since a search draws its own
    on_validated  called after each validation, with `here`
    wait_s        how long to wait for another process that writes to `config.out`
    from_cache    fingerprint that the cache must have, "" for any; all trials of a search use the same cache
    Raises InputError for bad input.
    """
    source = check(config)
    cache = cache_of(source)
    if from_cache:
        assure_cache(config, source, from_cache)
    identity = run_identity(config, cache)
    with claimed_folder(config, TRAIN, "a training", of=identity, wait_s=wait_s) as folder:
        if (finished := _finished(folder)) is not None:
            print(f"already finished: {config.out} (delete it to train again)")
            return TrainResult(config.out, finished["run_id"], finished["version"], finished["metrics"])
        folder.check(MODEL)
        known = {"cache.fingerprint": cache, "model": config.model, "role": config.role}
        known["world_size"] = str(config.workers)
        begun = _announce_continuation(config, folder)
        name = label or f"{config.model}-{fingerprint(identity)[:6]}"
        with (
            keeping(lambda: _kept(config, folder)),
            folder_run(folder, config, config.experiment, name, known | (tags or {})) as run,
        ):
            if isinstance(source, CachedClips):
                log_cache(run, config.cache, source.manifest, "training")
                data, read = source.data, source.manifest["identity"]["data"]
                run.set_tags(check_tag(data, read))
            else:
                data = config.data
                read = log_videos(run, data, "train", source.videos, "training")
            log_sources(run, data, "train", source.videos, "training")
            if not from_cache:  # a search has printed it for all its trials
                announce_check(data, read)
                announce_sources(source.sources(), config.steps * config.batch)
            about = {"role": config.role, "config": identity, "cache": cache, "commit": tracking.commit()}
            about["size_px"] = source.clip.frame_size_px
            if here or config.here:
                _fit_here(config, about, run, on_validated, "" if here else name, begun)
            else:
                with ray_session(num_cpus=2 * config.workers + 2):
                    _fit(config, folder, about, run, name, begun)
            described = f"{config.role}, {config.steps} steps, cache {cache}" if register else ""
            outcome = _concluded(config, source, folder, run, described)
    return TrainResult(config.out, outcome["run_id"], outcome["version"], outcome["metrics"])


def _kept(config: TrainConfig, folder: Written) -> str:
    """Return what a stopped training keeps."""
    saved = training_state.newest(folder)
    if saved is None:
        return f"{config.out} has no checkpoint yet; run the same command again to start again"
    step = f"the checkpoint of step {saved.progress.step} of {config.steps}"
    return f"{step} is kept in {config.out}; run the same command again to continue"


def check(config: TrainConfig) -> CachedClips | DrawnClips:
    """Check the input before anything is started; returns the source of the clips. Raises InputError."""
    source = make_source(config)
    new_model(config)
    validation_videos(config, source)
    return source


def _finished(folder: Written) -> Outcome | None:
    """Return the result of a finished training, None where it is not finished.

    Raises InputError where the model in the folder is not the one that it made.
    """
    repair = "delete it to finish this training again from its last checkpoint, or choose another --out"
    outcome = folder.read_json(RESULT, Outcome, repair)
    if outcome is None:
        return None
    path, run_id = folder.path(RESULT), run_id_of(folder)
    if run_id and run_id != outcome["run_id"]:
        problem = f"{path}: belongs to MLflow run {outcome['run_id']}, but this folder to {run_id}; {repair}"
    elif changed := [name for name in MODEL if _digest(folder, name) != outcome["sha256"].get(name)]:
        problem = (
            f"{folder.path(changed[0])}: is not the file that this training made (its digest differs); restore it, "
            "or give --overwrite to publish the model of the last checkpoint again"
        )
    else:
        return outcome
    if folder.overwrite:
        return None
    raise InputError(problem)


def _digest(folder: Written, name: str) -> str:
    """Return the SHA-256 of a file, "" where there is none."""
    try:
        return hashlib.sha256(storage.read_bytes(folder.path(name))).hexdigest()
    except OSError:
        return ""


def _concluded(
    config: TrainConfig, source: CachedClips | DrawnClips, folder: Written, run: tracking.Run, description: str
) -> Outcome:
    """Log the last metrics, register the model if it has a description, and write the file that marks the training as finished."""
    saved = training_state.newest(folder)
    assert saved is not None, "a training ends with a checkpoint"
    progress = saved.progress
    best = {"val/j_and_f": progress.best_score, "best_step": float(progress.best_step)} if progress.best_step else {}
    spent = {
        "train/seconds": progress.seconds,
        "train/cpu_seconds": progress.cpu_seconds,
        "train/teacher_forwards": float(progress.teacher_forwards),
    }
    spent |= source_metrics(source.sources(), progress.step * config.batch)
    run.log_metrics(spent, progress.step)
    key = f"training-{run.run_id}"  # if this process is killed after this, no second version is made
    version = run.register(config.model, config.out, description, key) if description else ""
    outcome = Outcome(
        run_id=run.run_id,
        version=version,
        metrics={**progress.metrics, **best, **spent},
        sha256={name: _digest(folder, name) for name in MODEL},
    )
    folder.write_json(RESULT, outcome)
    return outcome


def run_identity(config: TrainConfig, cache_fingerprint: str) -> dict[str, Any]:
    """Return every setting that decides the outcome of a training; folders and numbers of processes do not."""
    identity = fields.identity(config)
    identity["cache"] = cache_fingerprint
    if config.cache:  # the cache decides both
        del identity["data"], identity["clip"]
    return identity


def _announce_continuation(config: TrainConfig, folder: Written) -> int:
    """Return the steps that an earlier process has done; prints them, and which settings end bit-identity."""
    saved = training_state.newest(folder)
    if saved is None:
        return 0
    changed = "; ".join(differences(saved.manner, manner(config)))
    note = f" (same batch of {config.batch} clips, but not bit for bit the same weights: {changed})" if changed else ""
    print(f"continuing {config.out} after step {saved.progress.step}{note}", file=sys.stderr)
    return saved.progress.step


def _fit(
    config: TrainConfig, folder: Written, about: dict[str, Any], run: tracking.Run, label: str, begun: int
) -> None:
    """Run the loop on Ray Train's workers."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from pipelines.runtime.process_group import PrivateTorchConfig

    class Trainer(TorchTrainer):
        """Leaves Ctrl-C to the job; Ray Train's own handler would end the training as a failure."""

        def _register_sigint_handler(self, controller: Any) -> None:
            take_signals()

    board = new_board()
    try:
        with (
            ray_storage(folder) as place,
            followed(board, run, label, config.steps, done=begun) as history,
            deferred(lambda: bool(history)),
        ):
            trainer = Trainer(
                train_worker,
                train_loop_config={"config": config, "about": about, "board": board},
                torch_config=PrivateTorchConfig(timeout_s=config.peer_timeout_s),
                scaling_config=ScalingConfig(
                    num_workers=config.workers, use_gpu=bool(ray.cluster_resources().get("GPU"))
                ),
                run_config=RunConfig(
                    name=fingerprint(about["config"])[:16],
                    storage_path=place,
                    failure_config=FailureConfig(max_failures=config.max_failures),
                ),
            )
            trainer.fit()
    except TrainingFailedError as error:
        if (reason := lost_peer(error)) is None:
            raise
        raise InputError(
            f"{config.out}: the workers lost their connection ({reason}); checkpoints are kept: run the same command again to continue, "
            "with --workers 1 if the network between them is not reliable"
        ) from error
    if problem := ray.get(board.problem.remote()):
        raise InputError(str(problem))


def lost_peer(error: BaseException) -> str | None:
    """Return torch.distributed's error about a lost, silent or incompatible peer, in one line; None for every other failure."""
    import torch.distributed as dist

    failures = [getattr(error, "controller_failure", None), *getattr(error, "worker_failures", {}).values()]
    for failure in failures:
        while failure is not None:
            text = str(failure)
            if isinstance(failure, dist.DistError) or (isinstance(failure, RuntimeError) and "gloo" in text):
                return re.sub(r"^\[\S+\] ", "", " ".join(text.split()))[:160]
            failure = getattr(failure, "_base_exc", None) or getattr(failure, "cause", None) or failure.__cause__
    return None


def train_worker(arguments: dict[str, Any]) -> None:
    """Run one DDP worker: every rank computes its part of each global batch; rank 0 reports and saves."""
    import ray.train.torch
    import torch

    config: TrainConfig = arguments["config"]
    board = arguments["board"]
    rank = ray.train.get_context().get_world_rank()
    ranks = Ranks(ray.train.torch.get_device(), *([StopRequest(board)] if rank == 0 else []))

    def wrap(module: torch.nn.Module) -> torch.nn.Module:
        # With more than two ranks the order of a sum changes its last bits. The search for unused parameters keeps DDP from
        # regrouping its buckets after the first step, so a restarted worker sums in the same order.
        settings = {"forward_sync_buffers": False, "find_unused_parameters": ranks.size > 2}
        return ray.train.torch.prepare_model(module, move_to_device=False, parallel_strategy_kwargs=settings)

    reporter = Reporter(board.post.remote)
    try:
        run_training(config, arguments["about"], ranks, wrap, reporter.add)
    except InputError as error:
        # Raised on every rank, and returned as a result, since Ray Train would restart the workers in vain.
        if ranks.rank == 0:
            ray.get(board.fail.remote(str(error)))
    reporter.flush()
    if ranks.stopped and ranks.rank == 0:
        ray.get(board.end.remote())


def _fit_here(
    config: TrainConfig, about: dict[str, Any], run: tracking.Run, on_validated: Listener | None, label: str, begun: int
) -> None:
    """Run the loop in this process, while a thread logs to MLflow. Without a label there is no bar."""
    import torch

    logged = max(run.history("train/total"), default=0)
    sent: list[Future[None]] = []
    seen: list[int] = []
    bar = progress_bar(label, config.steps, "step", begun) if label else None

    def listen(step: int, metrics: dict[str, float]) -> None:
        seen.append(step)
        reporter.add(step, metrics)
        if bar is not None:
            bar.set_postfix({"total": f"{metrics['train/total']:.3f}"}, refresh=False)
            bar.update(max(0, step - bar.n))

    with ThreadPoolExecutor(1) as sender, contextlib.nullcontext() if bar is None else bar:
        reporter = Reporter(
            lambda entries: sent.append(
                sender.submit(run.log_series, [entry for entry in entries if entry[0] > logged])
            )
        )
        try:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            with deferred(lambda: bool(seen)):
                run_training(config, about, Ranks(device, asked), lambda module: module, listen, on_validated)
        finally:
            reporter.flush()
    for one in sent:
        one.result()
