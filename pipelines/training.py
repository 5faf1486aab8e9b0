"""Ray Train around the training step: DDP over 1 to N workers, checkpoints, resume. The mathematics is called, not written, here.

The global batch of a step is a function of (seed, step) alone, so the number of workers does not change what is learnt from, and a
killed run that is started again continues from its last checkpoint. The averaged weights are what is saved as the model.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from dataclasses import dataclass
from typing import Any

from pipelines import storage, tracking
from pipelines.cached_clips import CachedClips, DrawnClips, prefetched
from pipelines.inputs import log_cache, log_videos
from pipelines.plan import index_videos
from pipelines.progress import Entry, Reporter, followed, new_board
from pipelines.session import ray_session, set_threads
from vos.checkpoint import DESCRIPTION, WEIGHTS
from vos.config import TrainConfig
from vos.config_json import differences, dumps, fingerprint, without
from vos.errors import InputError

STATE = "trainer_state.pt"
COSMETIC = ("out", "debug", "workers", "threads", "experiment", "checkpoint_every")


@dataclass(frozen=True)
class TrainResult:
    """A finished training: where its checkpoint is and what the last steps measured."""

    checkpoint: str
    run_id: str
    version: str
    metrics: dict[str, float]


def train(config: TrainConfig, label: str = "", tags: dict[str, str] | None = None) -> TrainResult:
    """Train as configured, or continue an interrupted run of the same configuration. Raises InputError for bad input."""
    source = make_source(config)
    cache = source.manifest["fingerprint"] if isinstance(source, CachedClips) else "none"
    new_model(config)
    storage.make_folder(config.out)
    identity = run_identity(config, cache)
    finished = _claim_folder(config, identity)
    name = label or f"{config.model}-{fingerprint(identity)[:6]}"
    known = {"cache.fingerprint": cache, "model": config.model, "role": config.role, "world_size": str(config.workers)}
    if finished is not None:
        print(f"already finished: {config.out} (delete it to train again)")
        return TrainResult(config.out, **finished)
    with tracking.start_run(config.experiment, name, config, known | (tags or {})) as run:
        if isinstance(source, CachedClips):
            log_cache(run, config.cache, source.manifest, "training")
        else:
            log_videos(run, config.data, "train", source.videos, "training")
        with ray_session(num_cpus=2 * config.workers + 2):
            history = _fit(config, identity, run, name)
        metrics = history[-1][2] if history else {}
        version = run.register(config.model, config.out, f"{config.role}, {config.steps} steps, cache {cache}")
        outcome = {"run_id": run.run_id, "version": version, "metrics": metrics}
        storage.write_bytes(storage.join(config.out, "result.json"), dumps(outcome).encode())
    return TrainResult(config.out, run.run_id, version, metrics)


def run_identity(config: TrainConfig, cache_fingerprint: str) -> dict[str, Any]:
    """What decides the outcome of a training; folders and numbers of processes do not."""
    identity = without(config, COSMETIC)
    identity["cache"] = cache_fingerprint
    if config.cache:  # the cache decides both
        del identity["data"], identity["clip"]
    return identity


def make_source(config: TrainConfig) -> CachedClips | DrawnClips:
    """Where the clips come from: the cache, or draws from the videos."""
    if config.cache:
        distil = bool(config.loss.kd or config.loss.representation)
        return CachedClips(config.cache, config.data, with_targets=distil, need_logits=bool(config.loss.kd))
    return DrawnClips(
        index_videos(config.data, "train"), config.clip, config.seed, num_draws=config.steps * config.batch
    )


def new_model(config: TrainConfig) -> Any:
    """The network to train: from scratch (a function of the seed), from a checkpoint, or with ImageNet trunks."""
    import torch

    from pipelines.models import load_model
    from vos.checkpoint import load_trunk_weights
    from vos.models import build

    if config.init:
        model, info = load_model(config.init)
        if info["model"] != config.model:
            raise InputError(
                f"--init {config.init}: holds {info['model']}, not {config.model}; pass --model {info['model']}"
            )
    else:
        torch.manual_seed(config.seed)
        model = build(config.model)
    if config.trunk_weights:
        load_trunk_weights(model, config.trunk_weights)
        model.freeze_batch_norm()
    return model.train()


def _claim_folder(config: TrainConfig, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The outcome if this very training is finished already; refuses the folder of another one."""
    names = storage.list_names(config.out)
    if "identity.json" in names:
        old = json.loads(storage.read_bytes(storage.join(config.out, "identity.json")))
        new = json.loads(dumps(identity))
        if old != new:
            changed = "; ".join(differences(old, new))
            raise InputError(
                f"{config.out}: holds a training with another configuration ({changed}); choose another --out or delete it"
            )
        if "result.json" in names:
            return json.loads(storage.read_bytes(storage.join(config.out, "result.json")))
    storage.write_bytes(storage.join(config.out, "identity.json"), dumps(identity).encode())
    storage.write_bytes(storage.join(config.out, "config.json"), dumps(config).encode())
    return None


def _fit(config: TrainConfig, identity: dict[str, Any], run: tracking.Run, label: str) -> list[Entry]:
    """Run the workers and put the final model into the folder."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    board = new_board()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config, "identity": identity, "board": board},
        scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=bool(ray.cluster_resources().get("GPU"))),
        run_config=RunConfig(
            # The same name continues an old run under whatever configuration, so the name is the configuration.
            name=fingerprint(identity, str(config.workers)),
            storage_path=storage.join(config.out, "ray"),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=2),
        ),
    )
    with followed(board, run, label, config.steps) as history:
        result = trainer.fit()
    assert result.checkpoint is not None, "a training ends with a checkpoint"
    with result.checkpoint.as_directory() as folder:
        for name in (WEIGHTS, DESCRIPTION):
            with open(os.path.join(folder, name), "rb") as file:
                storage.write_bytes(storage.join(config.out, name), file.read())
    return history


def train_worker(arguments: dict[str, Any]) -> None:
    """One DDP worker: every rank computes its part of each global batch, rank 0 reports and saves."""
    import ray.train
    import ray.train.torch
    import torch

    from vos.training_step import TrainingStep

    config: TrainConfig = arguments["config"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    set_threads(config.threads)
    device = ray.train.torch.get_device()
    source = make_source(config)
    model = new_model(config).to(device).to(memory_format=torch.channels_last)

    def wrap(module: torch.nn.Module) -> torch.nn.Module:
        settings = {"forward_sync_buffers": False}
        return ray.train.torch.prepare_model(module, move_to_device=False, parallel_strategy_kwargs=settings)

    take = TrainingStep(model, config, wrap)
    start = _restore(ray.train.get_checkpoint(), take)
    reporter = Reporter(arguments["board"])
    for step, item in enumerate(
        prefetched(source, range(start, config.steps), config.batch, config.seed, rank, world), start
    ):
        batch = item.to(device)
        terms, rates = take(step, batch.frames, batch.labels, batch.num_objects, batch.targets, batch.draws)
        means = _mean_over_ranks(terms, world)
        if rank == 0:
            reporter.add(step + 1, means | rates)
        if step + 1 == config.steps or (step + 1) % config.checkpoint_every == 0:
            description = {"role": config.role, "step": step + 1, "config": arguments["identity"]}
            _report(description, rank, take, config.half)
    reporter.flush()


def _mean_over_ranks(terms: dict[str, Any], world: int) -> dict[str, float]:
    """The terms of the whole batch: every rank has an equal part of it."""
    import torch

    values = torch.stack([value.detach().float() for value in terms.values()])
    if world > 1:
        torch.distributed.all_reduce(values)
    means = {f"train/{name}": value / world for name, value in zip(terms, values.tolist(), strict=True)}
    return {"train/total": means.pop("train/total"), **means}


def _restore(checkpoint: Any, take: Any) -> int:
    """Continue from a checkpoint; returns the number of steps that are done."""
    import torch

    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        state = torch.load(os.path.join(folder, STATE), map_location="cpu", weights_only=True)
    take.restore(state)
    return int(state["step"])


def _report(description: dict[str, Any], rank: int, take: Any, half: bool) -> None:
    """Every rank reports (Ray Train waits for all of them); rank 0 brings the checkpoint."""
    import ray.train
    import torch

    from vos.checkpoint import save_checkpoint

    step = description["step"]
    if rank != 0:
        ray.train.report({"step": step})
        return
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, copy.deepcopy(take.average).half() if half else take.average, description)
        torch.save(take.state() | {"step": step}, os.path.join(folder, STATE))
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": step}, checkpoint=checkpoint, checkpoint_dir_name=f"step-{step:07d}")
