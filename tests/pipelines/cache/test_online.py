"""The teacher at every step: the cache's clips, and what the cache rounds to."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.cache.online import OnlineClips
from pipelines.cache.read import CachedClips
from pipelines.training.launch import train
from vos.config import DataConfig, TrainConfig
from vos.distillation.representation import relative_correlation_error
from vos.errors import InputError


def test_the_teacher_says_online_what_the_cache_holds_to_the_cache_s_own_error(cache: str):
    cached, online = CachedClips(cache, DataConfig()), OnlineClips(cache, DataConfig())
    assert online.num_draws == cached.num_draws
    stored, fresh = cached.batch([5, 2]), online.batch([5, 2])
    assert torch.equal(stored.frames, fresh.frames) and torch.equal(stored.num_objects, fresh.num_objects)
    assert stored.targets is not None and fresh.targets is not None
    assert torch.equal(stored.targets.sample_index, fresh.targets.sample_index)
    assert torch.equal(stored.targets.boundary, fresh.targets.boundary)
    bound = cached.manifest["quantisation"]
    assert (stored.targets.object_logits - fresh.targets.object_logits).abs().max() <= bound["logit_error_max"] + 0.02
    for ours, exact in zip(stored.targets.factor.flatten(0, 1), fresh.targets.factor.flatten(0, 1), strict=True):
        assert relative_correlation_error(exact, ours) <= bound["factor_error_max"] + 0.01


def test_a_training_with_its_teacher_online_counts_its_forwards_and_ends_near_the_cached_one(
    train_config: TrainConfig, tmp_path: Path
):
    cached = train(replace(train_config, here=True), register=False)
    online = replace(train_config, here=True, teacher_online=True, out=str(tmp_path / "online"))
    done = train(online, register=False)
    assert cached.metrics["train/teacher_forwards"] == 0
    assert done.metrics["train/teacher_forwards"] >= online.steps * online.batch
    assert done.metrics["train/total"] == pytest.approx(cached.metrics["train/total"], rel=0.02)
    assert cached.metrics["train/cpu_seconds"] > 0


def test_an_online_teacher_without_a_cache_is_refused():
    with pytest.raises(InputError, match="--teacher-online"):
        TrainConfig(teacher_online=True)
