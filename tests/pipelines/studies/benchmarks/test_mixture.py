"""The benchmark of mixtures runs both sides, and its rows say what they are. Speed itself is never a test."""

from dataclasses import replace

from pipelines.studies.benchmarks.mixture import steps_of_a_mixture
from vos.config import BenchmarkConfig, DataConfig
from vos.config.presets import preset


def test_a_step_of_a_mixture_is_compared_with_one_of_its_first_source() -> None:
    data = DataConfig(sources=("synthetic=:0.75", "synthetic@other=:0.25"), synthetic_videos=2, synthetic_frames=4)
    figures = {one.name: one for one in steps_of_a_mixture(replace(preset(BenchmarkConfig, "smoke"), data=data))}
    ratio = figures["CPU of a step, mixture / synthetic alone"]
    assert ratio.target == "<= 1.1" and "synthetic 75 %, synthetic-2 25 %" in ratio.how
    for side in ("the mixture", "synthetic alone"):
        assert 0 < figures[f"CPU s of its clips, {side}"].value < figures[f"CPU s of a step of {side}"].value


def test_without_sources_the_first_frames_of_the_videos_are_the_stills() -> None:
    config = replace(preset(BenchmarkConfig, "smoke"), data=DataConfig(synthetic_videos=2, synthetic_frames=4))
    figures = list(steps_of_a_mixture(config))
    assert "videos 50 %, stills 50 %" in figures[-1].how and figures[-1].value > 0
