"""Presets: whole, valid configurations that fit one another from cache to search."""

from dataclasses import replace

import pytest

from vos.config import (
    AS_TRAINED,
    CacheConfig,
    DemoConfig,
    EvaluateConfig,
    JobConfig,
    SegmentConfig,
    TrainConfig,
    TuneConfig,
)
from vos.config.presets import PRESETS, preset
from vos.errors import InputError
from vos.models import names

NAMES = ("smoke", "demo", "paper")
JOBS = list(PRESETS)


@pytest.mark.parametrize("cls", JOBS)
def test_every_job_has_every_preset_under_its_own_name(cls: type[JobConfig]):
    for name in NAMES:
        config = preset(cls, name)
        assert type(config) is cls and config.preset == name


@pytest.mark.parametrize("cls", JOBS)
def test_without_a_name_the_preset_is_the_one_that_the_flag_shows(cls: type[JobConfig]):
    assert preset(cls, None).preset == cls().preset


def test_without_a_preset_every_job_does_the_whole_work():
    evaluation = preset(EvaluateConfig, None)
    assert (evaluation.max_frames, evaluation.size_px) == (0, AS_TRAINED)
    assert preset(TrainConfig, None) == preset(TrainConfig, "paper")
    assert preset(CacheConfig, None) == preset(CacheConfig, "paper")
    assert not any(preset(cls, None).preset == "smoke" for cls in JOBS if cls.smoke_is_less)


def test_without_a_preset_a_video_is_segmented_by_the_fastest_runtime():
    config = preset(SegmentConfig, None)
    assert (config.runtime, config.precision) == ("auto", "auto")


@pytest.mark.parametrize("cls", JOBS)
def test_an_unknown_preset_is_refused_with_the_known_ones(cls: type[JobConfig]):
    with pytest.raises(InputError, match="--preset turbo.*smoke, demo, paper"):
        preset(cls, "turbo")


@pytest.mark.parametrize("name", NAMES)
def test_the_jobs_of_one_preset_speak_of_the_same_videos_and_clips(name: str):
    cache, train, tune = preset(CacheConfig, name), preset(TrainConfig, name), preset(TuneConfig, name)
    videos = {config.data for config in (cache, train, tune, preset(EvaluateConfig, name), preset(DemoConfig, name))}
    assert len(videos) == 1
    assert train.clip == cache.clip
    assert tune.train == train


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_trains_a_model_that_exists_and_saves_it_before_its_end(name: str):
    config = preset(TrainConfig, name)
    assert config.model in names()
    assert config.checkpoint_every <= config.steps and config.optimiser.warmup_steps < config.steps


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_samples_no_more_cells_than_its_grid_has(name: str):
    config = preset(CacheConfig, name)
    assert config.samples <= (config.clip.crop_px // 4) ** 2


def test_presets_are_values_so_asking_twice_gives_equals_and_changing_one_leaves_the_other():
    first = preset(TrainConfig, "demo")
    changed = replace(first, steps=1)
    assert preset(TrainConfig, "demo") == first != changed


def test_presets_grow_from_smoke_over_demo_to_paper():
    smoke, demo, paper = (preset(TrainConfig, name) for name in NAMES)
    assert smoke.steps * smoke.batch < demo.steps * demo.batch < paper.steps * paper.batch
    assert smoke.clip.crop_px < demo.clip.crop_px < paper.clip.crop_px


def test_the_paper_preset_is_the_recipe_of_the_paper():
    train = preset(TrainConfig, "paper")
    assert (train.clip.crop_px, train.clip.num_frames, train.loss.w) == (384, 3, 0.95)
