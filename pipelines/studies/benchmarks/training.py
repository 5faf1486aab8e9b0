"""Measure the cost of Ray, several workers, the representation loss, metrics and a search against work without them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch

from pipelines import storage, tracking
from pipelines.cache import schema
from pipelines.cache.read import Batch, draws_of_step
from pipelines.runtime.progress import Reporter, new_board
from pipelines.search.search import TUNE, search
from pipelines.studies.benchmarks.rows import built, emptied, median, seconds, stepped
from pipelines.training.launch import train
from pipelines.training.loop import TRAIN, make_source, new_model
from vos.config import BenchmarkConfig, CacheConfig, ClipConfig, FactorConfig, TrainConfig, TuneConfig
from vos.config.presets import preset
from vos.distillation.clip_forward import sampled_features
from vos.distillation.representation import representation_losses
from vos.distillation.training_step import TrainingStep
from vos.published.bounds import Figure

STEPS = 12
WARM_UP = 3
FRAMES = 3


def _cache(config: BenchmarkConfig) -> str:
    """Return a cache at the paper's sizes; the teacher does not matter, since it does not change the student's step time."""
    cache = CacheConfig(
        out=storage.join(config.out, "train-cache"),
        draws=config.draws,
        clip=ClipConfig(crop_px=config.crop_px),
        samples=config.samples,
        data=config.data,
        seed=config.seed,
    )
    return built(cache).out


def _config(config: BenchmarkConfig, name: str) -> TrainConfig:
    # Only one checkpoint, at the end, since its cost depends on the chosen interval.
    base = TrainConfig(
        model=config.student, data=config.data, cache=_cache(config), steps=STEPS, batch=2, seed=config.seed
    )
    return replace(base, out=storage.join(config.out, name), checkpoint_every=STEPS, experiment="benchmark")


def _rate_through_ray(config: TrainConfig) -> float:
    """Return images per second of a training through the pipeline of jobs.train, from its metric, without the first steps."""
    result = train(emptied(config, TRAIN), label=os.path.basename(config.out), register=False)
    rates = tracking.existing_run(result.run_id).history("train/clips_per_s")
    return FRAMES * statistics.harmonic_mean([rate for step, rate in rates.items() if step > WARM_UP])


def _batches(config: TrainConfig) -> list[Batch]:
    """Return the training's own batches, in memory, since the time of clips differs."""
    source = make_source(config)
    numbers = [draws_of_step(step, source.num_draws, config.batch, config.seed) for step in range(STEPS)]
    return [source.batch(one) for one in numbers]


def _rate_of_bare_loop(config: TrainConfig, batches: list[Batch]) -> float:
    take = TrainingStep(new_model(config), config)
    times = [seconds(stepped, take, step, one) for step, one in enumerate(batches)]
    return FRAMES * config.batch / statistics.mean(times[WARM_UP:])


def _workers(config: BenchmarkConfig) -> Iterator[Figure]:
    chosen = _config(config, "workers")
    batches = _batches(chosen)
    against_bare, against_one = [], []
    for _ in range(config.rounds):
        one = _rate_through_ray(chosen)
        against_bare.append(one / _rate_of_bare_loop(chosen, batches))
        against_one.append(_rate_through_ray(replace(chosen, workers=2)) / one)
    sizes = f"{config.student}, {config.crop_px} px, batch 2, {STEPS - WARM_UP} steps a side, the same clips"
    how = f"{sizes}; reading, metrics and Ray on one side only"
    yield median("images/s, Ray Train / bare loop", against_bare, ">=", 0.95, how)
    how = f"the same batch of 2 clips, one thread each, {os.cpu_count()} cores"
    yield median("images/s, 2 workers / 1", against_one, ">=", 1.7, how)


def _shares(config: BenchmarkConfig) -> Iterator[Figure]:
    """Measure L_repr and the reporting of metrics, as shares of a step."""
    chosen = replace(_config(config, "shares"), steps=1000)
    batch = _batches(chosen)[0]
    targets = batch.targets
    assert targets is not None
    take = TrainingStep(new_model(chosen), chosen)
    side, present = config.crop_px // schema.GRID_STRIDE, int(batch.num_objects.max())
    features = torch.randn(2, FRAMES - 1, present, take.model.decoder.pred.in_channels, side, side, requires_grad=True)

    def representation() -> None:
        z = sampled_features(features, targets.sample_index).flatten(0, 1)
        factor, labels = targets.factor.flatten(0, 1), targets.sample_label.flatten(0, 1)
        representation_losses(z, factor, labels, 0.95, normalise_teacher=False).mean().backward()
        features.grad = None

    reporter = Reporter(new_board().post.remote)
    losses, whole_s, reporting_s = [], [], []
    for step in range(4 * config.rounds + WARM_UP):
        terms: dict[str, float] = {}
        whole = seconds(lambda step=step, terms=terms: terms.update(stepped(take, step, batch)))
        losses.append(100 * seconds(representation) / whole)
        whole_s.append(whole)
        reporting_s.append(seconds(reporter.add, step, terms))
    sizes = f"{config.samples} samples, rank {targets.factor.shape[-1]}, {present} objects, 4 query frames"
    how = f"gather, forward and backward / a step; {sizes}"
    yield median("L_repr, % of a step", losses[WARM_UP:], "<=", 5, how)
    how = "time in the call that hands a step's metrics over / the step; MLflow is the driver's work"
    share = 100 * sum(reporting_s) / sum(whole_s)  # most calls only collect; one a second posts
    yield median("metrics, % of a step", [share], "<=", 1, how)


def _search(config: BenchmarkConfig) -> Iterator[Figure]:
    """Compare Ray Tune's wall time with the seconds that its trials spent in training, two trials at a time."""
    if not config.search:
        return
    small = preset(TrainConfig, "demo")
    data = replace(small.data, synthetic_videos=24) if not config.data.root else config.data
    smoke = config.preset == "smoke"
    cache = CacheConfig(
        out=storage.join(config.out, "search-cache"),
        draws=16 if smoke else 200,
        clip=ClipConfig(crop_px=config.crop_px) if smoke else small.clip,
        samples=min(256, config.samples),
        boundary_radius_px=1,
        factor=FactorConfig(rank=32),
        data=config.data if smoke else data,
    )
    cache = built(cache)
    chosen = TuneConfig(
        out=storage.join(config.out, "search"),
        cache=cache.out,
        data=cache.data,
        trials=config.trials,
        asha=False,
        val_videos=2,
        max_frames=10,
        train=replace(small, steps=config.trial_steps, workers=1, checkpoint_every=max(1, config.trial_steps // 3)),
    )
    result = search(emptied(chosen, TUNE))
    spent = sum(trial.seconds for trial in result.trials)
    sizes = f"{config.trials} trials of {spent / len(result.trials):.0f} s, {chosen.concurrent} at a time"
    how = f"{sizes}: wall time x {chosen.concurrent} / the sum of the trials' own seconds (steps, validations, checkpoints)"
    ratio = result.wall_s * chosen.concurrent / spent
    yield median("search / its trials' training", [ratio], "<=", 1.15, how)
    forwards = float(sum(trial.teacher_forwards for trial in result.trials))
    yield Figure("teacher forwards in the search", forwards, "=", 0, "counted where a teacher looks at a clip")


MEASURES = (_shares, _workers, _search)
