"""The training loop: clips in, metrics and checkpoints out, with exact resume. It is the same with and without Ray Train.

The global batch of a step depends only on (seed, step), so the number of workers does not change the training data. The averaged
weights are validated and published.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pipelines import storage
from pipelines.cache.manifest import data_of_cache
from pipelines.cache.read import CachedClips, DrawnClips, prefetched
from pipelines.evaluation.sequences import ground_truth, segment_and_score
from pipelines.evaluation.sources import index_sequences, named_by_source, score_metrics
from pipelines.runtime.models import load_model
from pipelines.runtime.session import set_threads
from pipelines.runtime.videos import index_videos
from pipelines.training import state as training_state
from pipelines.training.state import Progress
from vos.config import MemoryConfig, TrainConfig
from vos.data.videos import Video
from vos.distillation.ranks import Ranks
from vos.distillation.training_step import TrainingStep
from vos.errors import InputError
from vos.files.canonical import fingerprint
from vos.files.written import Written
from vos.inference.whole_video import memory_policy
from vos.metrics.scores import SequenceScore
from vos.models import build
from vos.models.checkpoint import DESCRIPTION, WEIGHTS, load_trunk_weights
from vos.models.interface import VOSModel
from vos.models.mobilevos import MobileVOS

TRAIN = "train"
"""The job that owns a training's folder."""
BEST = "best"
STANDARD_CLIPS = 24
RECENT = 100
"""Steps whose metrics a checkpoint keeps; more than can still be unsent to MLflow when a process is killed."""
Listener = Callable[[int, dict[str, float]], None]
"""Called with (finished steps, metrics) on rank 0."""


def run_training(
    config: TrainConfig,
    about: dict[str, Any],
    ranks: Ranks,
    wrap: Callable[[nn.Module], nn.Module],
    on_metrics: Listener,
    on_validated: Listener | None = None,
) -> Progress:
    """Train from the newest checkpoint in `config.out` (or from the start) to the end, and publish the model there.

    When one of the ranks was asked to stop, a checkpoint is saved and nothing is published.

    about  entries of every checkpoint's description: `role`, `config`, `cache`, `commit`, `size_px`
    Raises InputError, the same on every rank.
    """
    set_threads(config.threads)
    folder = training_folder(config, about["config"])
    with ranks.together():
        source = make_source(config)
        assure_cache(config, source, about["cache"])
        model = new_model(config).to(ranks.device)
        if config.trunk_weights:
            standardise(model, source)
        videos = validation_videos(config, source)
    take = TrainingStep(model, config, ranks, wrap)
    progress, measured = _restored(config, folder, take, ranks)
    recent = deque(measured, maxlen=RECENT)
    if ranks.rank == 0:
        for step, metrics in recent:  # a killed process may not have reported them
            on_metrics(step, metrics)
    steps = range(config.steps if progress.stopped else progress.step, config.steps)
    batches = prefetched(source, steps, config.batch, config.seed, ranks.rank, ranks.size, config.mirror)
    started, saved = progress, progress.step
    entered = began = time.monotonic()
    cpu_entered = time.process_time()

    def save() -> None:
        nonlocal progress, saved
        used = sum(ranks.gather(source.teacher_forwards))
        progress, saved = replace(progress, teacher_forwards=started.teacher_forwards + used), progress.step
        clips = progress.step * config.batch
        place = {"epoch": clips // source.num_draws, "next_clip": clips}
        _save(config, folder, take, {**about, "data": place, "recent": list(recent)}, progress, ranks)

    for step in steps:
        with ranks.together():
            batch = next(batches).to(ranks.device)
        if ranks.stopped:
            if progress.step > saved:
                save()
            return progress
        terms = take(step, batch.frames, batch.labels, batch.num_objects, batch.targets, batch.draws)
        now = time.monotonic()
        metrics = {f"train/{name}": value for name, value in terms.items()}
        metrics["train/clips_per_s"], began = config.batch / (now - began), now
        last = step + 1 == config.steps
        progress = replace(
            progress,
            step=step + 1,
            metrics=metrics,
            seconds=started.seconds + now - entered,
            cpu_seconds=started.cpu_seconds + time.process_time() - cpu_entered,
        )
        if config.validation.every and (last or (step + 1) % config.validation.every == 0):
            scores = validate(take.average, config, videos, ranks)
            progress = progress.validated(step + 1, scores["val/j_and_f"], config.validation.patience)
            metrics |= scores
            if progress.best_step == step + 1:
                _save_best(config, folder, take, about, progress, ranks)
            began = time.monotonic()
        if ranks.rank == 0:
            on_metrics(step + 1, metrics)
            recent.append((step + 1, metrics))
        if last or progress.stopped or (step + 1) % config.checkpoint_every == 0:
            save()
            began = time.monotonic()
        # After the checkpoint, since this call may end the process.
        if on_validated is not None and "val/j_and_f" in metrics and ranks.rank == 0:
            on_validated(step + 1, metrics | {"train/seconds": progress.seconds})
        if progress.stopped:
            break
    with ranks.together():
        if ranks.rank == 0:
            _publish(folder)
    return progress


def training_folder(config: TrainConfig, identity: dict[str, Any]) -> Written:
    """Return the folder of a training that the driver has claimed."""
    return Written(config.out, TRAIN, fingerprint(identity), config.overwrite, storage.FILES)


def make_source(config: TrainConfig) -> CachedClips | DrawnClips:
    """Return the source of the clips: the cache, or draws from the videos."""
    if not config.cache:
        seed = config.seed if config.draw_seed < 0 else config.draw_seed
        num_draws = config.draws or config.steps * config.batch
        return DrawnClips(index_videos(config.data, "train"), config.clip, seed, num_draws)
    distil = bool(config.loss.kd or config.loss.representation)
    if config.teacher_online and distil:
        from pipelines.cache.online import OnlineClips

        return OnlineClips(config.cache, config.data, config.threads)
    source = CachedClips(config.cache, config.data, with_targets=distil, need_logits=bool(config.loss.kd))
    stored = source.manifest["identity"]["shapes"]["rank"]
    if config.loss.rank > stored:
        raise InputError(f"--loss.rank {config.loss.rank}: {config.cache} stores {stored} columns; use at most that")
    return source


def cache_of(source: CachedClips | DrawnClips) -> str:
    """Return the fingerprint of the cache that clips come from, "none" without one."""
    return source.manifest["fingerprint"] if isinstance(source, CachedClips) else "none"


def assure_cache(config: TrainConfig, source: CachedClips | DrawnClips, wanted: str) -> None:
    """Raise InputError where the cache is not the one with which the training or search started.

    Each process reads the manifest itself, and an extended cache has another order of draws.
    """
    found = cache_of(source)
    if found != wanted:
        raise InputError(
            f"{config.cache}: this cache was extended or replaced since the run started (fingerprint {wanted[:12]} -> {found[:12]}); "
            "start with another --out, or build the earlier cache (same number of draws) in another folder and continue with --cache"
        )


def new_model(config: TrainConfig) -> VOSModel:
    """Return the network to train: from scratch (a function of the seed), from a checkpoint, or with ImageNet trunks."""
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
    if config.trunk_weights or config.freeze_batch_norm:
        model.freeze_batch_norm()
    if config.freeze_early:
        if not (config.trunk_weights or config.init):
            raise InputError(
                "--freeze-early: these layers are not trained yet; start with --trunk-weights or --init, or add --no-freeze-early"
            )
        model.freeze_early()
    return model.train()


def standardise(model: VOSModel, source: CachedClips | DrawnClips) -> None:
    """Scale the features of ImageNet trunks to unit scale, measured on the first draws; every worker finds the same."""
    if not isinstance(model, MobileVOS):
        return
    batch = source.batch(list(range(min(STANDARD_CLIPS, source.num_draws))))
    device = next(model.parameters()).device
    frames, masks = batch.frames[:, 0].to(device), (batch.labels[:, :1] == 1).to(device, batch.frames.dtype)
    model.standardise(frames, masks)


def validation_videos(config: TrainConfig, source: CachedClips | DrawnClips) -> list[Video]:
    """Return the sequences that score a model in training; none without validation.

    Raises InputError where none of them has ground truth, since the run would fail at its first validation.
    """
    if not config.validation.every:
        return []
    data = config.data
    if isinstance(source, CachedClips):
        data, _ = data_of_cache(config.cache, source.manifest, data)
    chosen = config.validation
    videos = named_by_source(index_sequences(data, "val"))[: chosen.videos]
    if not any(ground_truth(video, chosen.max_frames)[1] for video in videos):
        frames = f" in the frames of --validation.max-frames {chosen.max_frames}" if chosen.max_frames else ""
        raise InputError(
            f"--validation.every {chosen.every}: none of the {len(videos)} sequences that --validation.videos takes has true masks to "
            f"score{frames}, except those that introduce objects; name other --data, or omit --validation.every"
        )
    return videos


def validate(model: VOSModel, config: TrainConfig, videos: list[Video], ranks: Ranks) -> dict[str, float]:
    """Return `val/j_and_f`, `val/j`, `val/f` of these videos, each segmented in full, as jobs.evaluate does.

    Of a mixture also `val/SOURCE/j_and_f`, … of each source.
    """
    # Each rank has its own BatchNorm statistics; those of rank 0 are saved.
    ranks.take_first(model.buffers())
    chosen, policy = config.validation, memory_policy(MemoryConfig(), infinite=config.role == "teacher")
    own = []
    with ranks.together():
        for video in videos[ranks.rank :: ranks.size]:
            score = segment_and_score(model, video, policy, chosen.size_px, chosen.max_frames)
            own += [score.to_json()] if score is not None else []
    return score_metrics([SequenceScore.from_json(score) for part in ranks.gather(own) for score in part])


def manner(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that change only the last bits of the weights."""
    names = ("workers", "micro_batch", "threads", "compile")
    return {name: getattr(config, name) for name in names}


def _restored(
    config: TrainConfig, folder: Written, take: TrainingStep, ranks: Ranks
) -> tuple[Progress, list[tuple[int, dict[str, float]]]]:
    """Restore the newest checkpoint; returns its progress and the metrics of its last steps."""
    with ranks.together():
        saved = training_state.newest(folder)
    seen = ranks.gather(saved.progress.step if saved else 0)
    if len(set(seen)) > 1:
        raise InputError(
            f"{config.out}: the workers see different checkpoints (steps {seen}); choose an --out that all of them share"
        )
    training_state.seed_everything(config.seed, ranks.rank)
    if saved is None:
        return Progress(), []
    with ranks.together():
        path = storage.join(saved.folder, training_state.STATE)
        if saved.progress.step > config.steps:
            raise InputError(
                f"{path}: holds step {saved.progress.step}, beyond the last one, {config.steps}; delete {saved.folder}"
            )
        try:
            take.restore(saved.tensors())
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(
                f"{path}: its tensors do not fit this network ({reason}); delete {saved.folder}"
            ) from error
        if len(saved.random) == ranks.size:
            training_state.set_random_state(saved.random[ranks.rank], path)
    return saved.progress, saved.recent


def _save(
    config: TrainConfig, folder: Written, take: TrainingStep, about: dict[str, Any], progress: Progress, ranks: Ranks
) -> None:
    """Save a checkpoint: rank 0 writes it, with the random states of every rank."""
    states = ranks.gather(training_state.random_state())
    about = {**about, "manner": manner(config), "random": states}
    with ranks.together():
        if ranks.rank == 0:
            with _writing():
                training_state.write(folder, progress, take.average, take.state(), about, config.half)
                _drop_worse(folder)


def _save_best(
    config: TrainConfig, folder: Written, take: TrainingStep, about: dict[str, Any], progress: Progress, ranks: Ranks
) -> None:
    with ranks.together():
        if ranks.rank == 0:
            with _writing():
                description = training_state.describe(about, progress) | {"val/j_and_f": progress.best_score}
                files = training_state.model_files(take.average, description, config.half)
                training_state.write_model(folder, _best_place(progress.best_step), files)


def _publish(folder: Written) -> None:
    saved = training_state.newest(folder)
    assert saved is not None, "a training ends with a checkpoint"
    with _writing():
        best = saved.progress.best_step
        place = os.path.dirname(folder.path(f"{_best_place(best)}/{WEIGHTS}")) if best else saved.folder
        training_state.publish(place, folder)


def _best_place(step: int) -> str:
    """Return the folder of a best model, one per step: a checkpoint's best model must stay until the next checkpoint is written."""
    return f"{BEST}/{training_state.folder_name(step)}"


def _drop_worse(folder: Written) -> None:
    """Delete best models that no checkpoint refers to any more; folders of other names are the user's."""
    steps = training_state.steps_in(os.path.dirname(folder.path(f"{BEST}/{WEIGHTS}")))
    for step in sorted(set(steps) - training_state.best_steps(folder)):
        training_state.remove_model(folder, _best_place(step), (DESCRIPTION, WEIGHTS))


@contextmanager
def _writing() -> Iterator[None]:
    """Turn an OSError of a write into an InputError, which is raised on every rank."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"{error.filename or 'checkpoint'}: {reason}; fix this and run the same command again to continue"
        ) from error
