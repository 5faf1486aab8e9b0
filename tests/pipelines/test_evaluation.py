"""Evaluation: masks on disk, scores and speed of real networks on real files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation import COPY, evaluate, score_two_folders
from pipelines.plan import index_videos
from vos.config import EvaluateConfig
from vos.images import read_mask, write_mask
from vos.presets import preset
from vos.video_segmentation import memory_policy, segment_video


@pytest.fixture
def config(ray_cluster: None, tmp_path: Path) -> EvaluateConfig:
    return replace(preset(EvaluateConfig, "smoke"), out=str(tmp_path / "evaluation"))


def test_repeating_the_first_mask_writes_that_mask_for_every_frame(config: EvaluateConfig) -> None:
    result = evaluate(replace(config, checkpoint=COPY))
    for video in index_videos(config.data, "val"):
        for index in range(config.max_frames):
            mask = read_mask(f"{result.masks}/{video.name}/{video.frame_name(index)}.png")
            for label, first in video.first_seen.items():
                if first == 0:
                    assert ((mask == label) == (video.mask(0) == label)).all()
    assert 0 < result.metrics["val/j_and_f"] < 1
    assert "fps/short" not in result.metrics


def test_the_same_masks_scored_from_folders_give_the_same_figures(config: EvaluateConfig, tmp_path: Path) -> None:
    result = evaluate(replace(config, checkpoint=COPY))
    truth = tmp_path / "truth"
    for video in index_videos(config.data, "val"):
        for index in range(config.max_frames):
            mask = video.mask(index)
            assert mask is not None
            write_mask(str(truth / video.name / f"{video.frame_name(index)}.png"), mask)
    scores, path = score_two_folders(
        replace(config, gt=str(truth), pred=result.masks, csv=str(tmp_path / "scores.csv"))
    )
    assert scores.j_and_f == pytest.approx(result.metrics["val/j_and_f"], abs=1e-9)
    assert Path(path).read_text() == Path(config.out, "scores.csv").read_text()


def test_a_network_is_scored_and_timed_and_all_of_it_reaches_mlflow(config: EvaluateConfig, store: str) -> None:
    import mlflow

    result = evaluate(replace(config, size_px=64))
    run = mlflow.MlflowClient(tracking_uri=store).get_run(result.run_id)
    for name in ("val/j_and_f", "val/j", "val/f", "fps/short", "fps/long"):
        assert run.data.metrics[name] == pytest.approx(result.metrics[name])
    assert result.metrics["fps/long"] > 0
    assert "first frame" in run.data.tags["fps.protocol"]
    assert json.loads(Path(config.out, "config.json").read_text())["size_px"] == 64


def test_a_smaller_working_size_still_gives_masks_of_the_original_size(ray_cluster: None) -> None:
    from pipelines.models import load_model
    from vos.config import BUILTIN_TEACHER, MemoryConfig

    model, _ = load_model(BUILTIN_TEACHER)
    video = index_videos(preset(EvaluateConfig, "smoke").data, "val")[0]
    policy = memory_policy(MemoryConfig(), infinite=True)
    predicted = dict(segment_video(model, video, policy, size_px=48, max_frames=3))
    assert sorted(predicted) == [0, 1, 2]
    assert all(labels.shape == video.size and labels.dtype == np.uint8 for labels in predicted.values())
