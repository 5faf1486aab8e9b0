"""Mixtures of data sets are reported source by source: in caches, trainings and evaluations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from pipelines.cache.build import build_cache
from pipelines.cache.forecast import summary
from pipelines.cache.manifest import read_manifest
from pipelines.cache.pictures import show_cache
from pipelines.evaluation.evaluate import Evaluation, evaluate_model
from pipelines.evaluation.sequences import COPY
from pipelines.evaluation.sources import named_by_source
from pipelines.evaluation.tables import sequence_table
from pipelines.runtime.sources import draws_of_sources, source_metrics, source_table
from pipelines.runtime.videos import data_fingerprint, index_videos
from pipelines.training.launch import train
from vos.config import CacheConfig, DataConfig, EvaluateConfig, TrainConfig
from vos.config.presets import preset
from vos.data.mixtures import by_key
from vos.data.synthetic import synthetic_index, write_davis
from vos.media.images import read_mask, write_frame, write_mask

SIZE = (64, 96)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Two DAVIS data sets whose sequences have the same names but other frame numbers, and four stills."""
    root = tmp_path_factory.mktemp("sources")
    for folder, frames in (("A", 4), ("B", 5)):
        for split, count in (("train", 4), ("val", 2)):
            write_davis(synthetic_index(count, frames, SIZE, split=split), str(root / folder), split)
    for video in synthetic_index(4, 1, SIZE, seed=7):
        write_frame(str(root / f"S/images/{video.name}.jpg"), video.frame(0))
        write_mask(str(root / f"S/masks/{video.name}.png"), video.mask(0))
    return DataConfig(
        sources=(f"davis2017={root / 'A'}:0.5", f"davis2017={root / 'B'}:0.25", f"stills={root / 'S'}:0.25")
    )


@pytest.fixture(scope="module")
def evaluated(
    mixed: DataConfig, ray_cluster: None, store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Evaluation]:
    out = str(tmp_path_factory.mktemp("mixed") / "evaluation")
    yield evaluate_model(replace(preset(EvaluateConfig, "smoke"), out=out, checkpoint=COPY, data=mixed, max_frames=0))


def test_shares_clips_and_epochs_of_the_sources_are_those_of_the_draws(mixed: DataConfig) -> None:
    videos = index_videos(mixed, "train")
    sources = draws_of_sources(videos, 0, 256)
    assert [(one["name"], one["videos"], one["draws"]) for one in sources] == [
        ("davis2017", 4, 128),
        ("davis2017-2", 4, 64),
        ("stills", 4, 64),
    ]
    metrics = source_metrics(sources, num_clips=512)
    assert metrics["data/davis2017/share"] == 0.5
    assert metrics["data/stills/epochs"] == 32
    assert sum(value for name, value in metrics.items() if name.endswith("/share")) == pytest.approx(1)
    assert re.search(r"stills +4 images +25.0 % +25.0 % +128 +32.0", source_table(sources, 512))
    assert draws_of_sources(synthetic_index(2, 4, SIZE), 0, 256) == [] and source_metrics([], 8) == {}


def test_a_cache_of_a_mixture_lists_its_sources_and_one_of_a_single_data_set_does_not(
    mixed: DataConfig, ray_cluster: None, store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = replace(preset(CacheConfig, "smoke"), draws=8, shard_draws=4, out=str(tmp_path / "mixed"), data=mixed)
    result = build_cache(base)
    assert read_manifest(base.out)["sources"] == draws_of_sources(index_videos(mixed, "train"), base.seed, 8)
    assert "davis2017-2" in capfd.readouterr().err and "davis2017-2" in summary(base, result)
    assert len(show_cache(replace(base, show=2))) == 2
    trained = train(
        replace(preset(TrainConfig, "smoke"), cache=base.out, out=str(tmp_path / "student"), steps=2), here=True
    )
    run = mlflow.MlflowClient(tracking_uri=store).get_run(trained.run_id)
    inputs = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
    for source in index_videos(mixed, "train").sources:  # pyright: ignore[reportAttributeAccessIssue]
        assert data_fingerprint(source.videos).startswith(inputs[f"{source.name}-train"])
        assert run.data.metrics[f"data/{source.name}/epochs"] > 0
    assert run.data.tags["data.sources"] == " ".join(mixed.sources)
    assert "stills" in trained.sources
    single = replace(base, out=str(tmp_path / "single"), draws=2, data=preset(CacheConfig, "smoke").data)
    assert "sources" not in build_cache(single).manifest


def test_equal_names_of_two_sources_keep_their_own_masks_and_scores(mixed: DataConfig, evaluated: Evaluation) -> None:
    videos = named_by_source(index_videos(mixed, "val"))
    assert len({video.name for video in videos}) == len(videos) == len(evaluated.sequences) == 4
    for video in videos:
        for index in range(video.num_frames):
            assert read_mask(f"{evaluated.masks}/{video.name}/{video.frame_name(index)}.png").shape == SIZE
    for source in ("davis2017", "davis2017-2"):
        own = [row for row in evaluated.sequences if row["sequence"].startswith(f"{source}/")]
        assert len(own) == 2 and 0 < evaluated.metrics[f"val/{source}/j_and_f"] <= 1
        assert f"source {source} " in sequence_table(evaluated)
    assert not any("stills" in name for name in evaluated.metrics)


def test_the_run_of_an_evaluation_names_each_source(evaluated: Evaluation, store: str) -> None:
    client = mlflow.MlflowClient(tracking_uri=store)
    run = client.get_run(evaluated.run_id)
    assert run.data.metrics["val/davis2017-2/j"] == pytest.approx(evaluated.metrics["val/davis2017-2/j"])
    assert {one.dataset.name for one in run.inputs.dataset_inputs} >= {"davis2017-val", "davis2017-2-val"}
    table = Path(evaluated.masks).parent / "pages" / "sequences.csv"
    assert {line.partition("/")[0] for line in table.read_text().splitlines()[1:]} == {"davis2017", "davis2017-2"}


def test_each_source_has_its_turn_among_the_first_sequences(mixed: DataConfig) -> None:
    first = named_by_source(index_videos(mixed, "val"))[:2]
    assert {video.name.partition("/")[0] for video in first} == {"davis2017", "davis2017-2"}


def test_a_source_of_synthetic_video_is_named_without_changing_its_frames() -> None:
    videos = index_videos(DataConfig(sources=("synthetic=:1",), synthetic_videos=6, synthetic_frames=3), "val")
    named = named_by_source(videos)
    assert [video.name for video in named] == [f"synthetic/{video.name}" for video in videos]
    assert (named[0].frame(1) == videos[0].frame(1)).all()


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_the_splits_of_a_fold_have_no_name_in_common(mixed: DataConfig, fold: int) -> None:
    data = replace(mixed, fold=fold, fold_videos=1)
    train_videos, val_videos = (by_key(index_videos(data, split)) for split in ("train", "val"))
    assert len(val_videos) == 2 and train_videos.keys().isdisjoint(val_videos)
