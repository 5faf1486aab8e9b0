"""Evaluation: masks on disk, scores and speed of real networks on real files."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import storage
from pipelines.evaluation.evaluate import evaluate_model
from pipelines.evaluation.score import _sequence_names, score_two_folders
from pipelines.evaluation.sequences import COPY
from pipelines.runtime.videos import index_videos
from vos.config import DataConfig, EvaluateConfig, ScoreConfig
from vos.config.presets import preset
from vos.data.synthetic import synthetic_index, write_davis
from vos.errors import InputError
from vos.inference.whole_video import memory_policy, segment_video
from vos.media.images import read_mask, write_frame, write_mask


@pytest.fixture
def config(ray_cluster: None, tmp_path: Path) -> EvaluateConfig:
    return replace(preset(EvaluateConfig, "smoke"), out=str(tmp_path / "evaluation"))


def test_repeating_the_first_mask_writes_that_mask_for_every_frame(config: EvaluateConfig) -> None:
    result = evaluate_model(replace(config, checkpoint=COPY))
    for video in index_videos(config.data, "val"):
        for index in range(config.max_frames):
            mask = read_mask(f"{result.masks}/{video.name}/{video.frame_name(index)}.png")
            for label, first in video.first_seen.items():
                if first == 0:
                    assert ((mask == label) == (video.mask(0) == label)).all()
    assert 0 < result.metrics["val/j_and_f"] < 1
    assert "fps/short" not in result.metrics


def test_the_same_masks_scored_from_folders_give_the_same_figures(config: EvaluateConfig, tmp_path: Path) -> None:
    result = evaluate_model(replace(config, checkpoint=COPY))
    truth = tmp_path / "truth"
    for video in index_videos(config.data, "val"):
        for index in range(config.max_frames):
            mask = video.mask(index)
            assert mask is not None
            write_mask(str(truth / video.name / f"{video.frame_name(index)}.png"), mask)
    scores, path = score_two_folders(ScoreConfig(gt=str(truth), pred=result.masks, csv=str(tmp_path / "scores.csv")))
    assert scores.j_and_f == pytest.approx(result.metrics["val/j_and_f"], abs=1e-9)
    assert Path(path).read_text() == Path(config.out, "scores.csv").read_text()


def test_a_network_is_scored_and_timed_and_all_of_it_reaches_mlflow(config: EvaluateConfig, store: str) -> None:
    import mlflow

    result = evaluate_model(replace(config, size_px=64))
    run = mlflow.MlflowClient(tracking_uri=store).get_run(result.run_id)
    for name in ("val/j_and_f", "val/j", "val/f", "fps/short", "fps/long"):
        assert run.data.metrics[name] == pytest.approx(result.metrics[name])
    assert result.metrics["fps/long"] > 0
    assert "first frame" in run.data.tags["fps.protocol"]
    assert json.loads(Path(config.out, "config.json").read_text())["size_px"] == 64


def test_a_smaller_working_size_still_gives_masks_of_the_original_size(ray_cluster: None) -> None:
    from pipelines.runtime.models import load_model
    from vos.config import BUILTIN_TEACHER, MemoryConfig

    model, _ = load_model(BUILTIN_TEACHER)
    video = index_videos(preset(EvaluateConfig, "smoke").data, "val")[0]
    policy = memory_policy(MemoryConfig(), infinite=True)
    predicted = dict(segment_video(model, video, policy, size_px=48, max_frames=3))
    assert sorted(predicted) == [0, 1, 2]
    assert all(labels.shape == video.size and labels.dtype == np.uint8 for labels in predicted.values())


def files_of(folder: str) -> list[str]:
    """Relative paths of what an evaluation left, without its lock."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.*") if path.name != ".lock")


def test_an_interrupted_evaluation_leaves_nothing_of_an_earlier_one_that_reads_as_its_own(
    config: EvaluateConfig, tmp_path: Path
) -> None:
    videos = synthetic_index(2, 6, (48, 64), split="val")
    write_davis(videos, str(tmp_path / "data"), "val")
    config = replace(config, checkpoint=COPY, data=DataConfig(root=str(tmp_path / "data")), max_frames=0)
    first = evaluate_model(config)
    complete = files_of(config.out)
    assert {"summary.json", "scores.csv", "pages/sequences.csv"} <= set(complete)
    other = f"{first.masks}/of-another-split/00000.png"
    write_mask(other, videos[0].mask(0))
    bad = tmp_path / f"data/Annotations/480p/{videos[1].name}/00001.png"
    write_mask(str(bad), np.full((48, 64), 77, np.uint8))
    with pytest.raises(InputError, match="palette index 77"):
        evaluate_model(replace(config, max_frames=3))
    left = set(files_of(config.out))
    possible = {f"masks/{video.name}/{index:05d}.png" for video in videos for index in range(3)}
    assert left - possible == {".written", "config.json", "identity.json", "masks/of-another-split/00000.png"}
    write_mask(str(bad), videos[1].mask(1))
    again = evaluate_model(config)
    Path(other).unlink()
    assert again.metrics == first.metrics and files_of(config.out) == complete


def test_two_evaluations_never_write_to_one_folder(config: EvaluateConfig) -> None:
    storage.make_folder(config.out)
    with storage.only_writer(config.out), pytest.raises(InputError, match="another process is writing here"):
        evaluate_model(replace(config, checkpoint=COPY))
    assert files_of(config.out) == []


def test_predicted_masks_are_never_written_over_the_true_ones(config: EvaluateConfig, tmp_path: Path) -> None:
    video = synthetic_index(1, 4, (48, 64), split="val")[0]
    for index in range(4):
        write_frame(str(tmp_path / f"frames/v/{index:05d}.jpg"), video.frame(index))
        write_mask(str(tmp_path / f"masks/v/{index:05d}.png"), video.mask(index))
    with pytest.raises(InputError, match=f"--out {tmp_path}: .*masks/v holds the true masks"):
        evaluate_model(replace(config, checkpoint=COPY, data=DataConfig(root=str(tmp_path)), out=str(tmp_path)))
    assert (read_mask(str(tmp_path / "masks/v/00003.png")) == video.mask(3)).all()


def test_sequences_given_on_the_command_line_are_plain_names_or_a_file_of_them(tmp_path: Path):
    (tmp_path / "val.txt").write_text("bear\nant\n")
    assert _sequence_names(str(tmp_path / "val.txt")) == ["bear", "ant"]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe"):
        _sequence_names(str(tmp_path / "pipe"))
    assert _sequence_names("bear, ant") == ["bear", "ant"]
    for given in ("../bear", "bear,/etc/passwd", "..", "a\x1b]0;b", " , "):
        with pytest.raises(InputError, match="--sequences"):
            _sequence_names(given)
