"""Mixtures of data sets are reported source by source: in caches, trainings and evaluations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from pipelines.cache import schema
from pipelines.cache.build import build_cache
from pipelines.cache.forecast import plan_and_truth, plan_cache
from pipelines.cache.manifest import data_of_cache, read_manifest, sealed
from pipelines.cache.pictures import show_cache
from pipelines.cache.read import CachedClips
from pipelines.evaluation.evaluate import Evaluation, evaluate_model
from pipelines.evaluation.sequences import COPY
from pipelines.evaluation.sources import index_sequences, named_by_source
from pipelines.evaluation.tables import sequence_table
from pipelines.runtime.sources import announce_sources, draws_of_sources, source_metrics
from pipelines.runtime.videos import announce_check, data_fingerprint, index_videos, say_once
from pipelines.search.search import _base
from pipelines.training.launch import train
from pipelines.training.loop import validation_videos
from vos.config import CacheConfig, DataConfig, EvaluateConfig, TrainConfig, TuneConfig, ValidationConfig
from vos.config.presets import preset
from vos.data.checking import check_video
from vos.data.mixtures import Mixture, by_key
from vos.data.synthetic import synthetic_index, write_davis
from vos.errors import InputError
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


def names_of(videos: object) -> set[str]:
    """Names of the videos of each source, SOURCE/NAME."""
    assert isinstance(videos, Mixture)
    return set(by_key(videos))


def test_shares_clips_and_epochs_of_the_sources_are_those_of_the_draws(
    mixed: DataConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    sources = draws_of_sources(index_videos(mixed, "train"), 0, 256)
    assert [(one["name"], one["videos"], one["draws"]) for one in sources] == [
        ("davis2017", 4, 128),
        ("davis2017-2", 4, 64),
        ("stills", 4, 64),
    ]
    metrics = source_metrics(sources, num_clips=512)
    assert metrics["data/davis2017/share"] == 0.5
    assert metrics["data/stills/epochs"] == 32
    assert sum(value for name, value in metrics.items() if name.endswith("/share")) == pytest.approx(1)
    announce_sources(sources, 512)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("data    source") and len({len(line) for line in lines}) == 1
    assert re.fullmatch(r" +stills +4 images +25.0 % +128 +32.0", lines[-1])


def test_of_a_single_data_set_nothing_more_is_printed_or_logged(capfd: pytest.CaptureFixture[str]) -> None:
    assert draws_of_sources(synthetic_index(2, 4, SIZE), 0, 256) == [] and source_metrics([], 8) == {}
    announce_sources([])
    assert capfd.readouterr().err == ""


def test_a_mixture_is_checked_by_one_command(mixed: DataConfig, capfd: pytest.CaptureFixture[str]) -> None:
    announce_check(replace(mixed, fold=1), data_fingerprint(index_videos(mixed, "train")))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(f"jobs.check --data.sources {' '.join(mixed.sources)} --data.fold 1 --data.fold-videos 8")
    notes = check_video(index_videos(replace(mixed, sources=mixed.sources[2:]), "train")[0], for_clips=True)
    assert notes.faults == notes.warnings == ()
    synthetic = DataConfig(sources=("synthetic=:1",))
    announce_check(synthetic, data_fingerprint(index_videos(synthetic, "train")))
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def mixed_cache(
    mixed: DataConfig, ray_cluster: None, store: str, tmp_path_factory: pytest.TempPathFactory
) -> CacheConfig:
    """A finished cache of the mixture's first fold, which was planned before."""
    out = str(tmp_path_factory.mktemp("mixed-cache") / "cache")
    data = replace(mixed, fold=1, fold_videos=1)
    config = replace(preset(CacheConfig, "smoke"), draws=8, shard_draws=4, out=out, data=data)
    plan, text = plan_cache(config)
    assert plan.draws == 8 and "8 draws in 2 shards" in text
    assert "planned" in plan_and_truth(config, build_cache(config))
    return config


def test_a_cache_of_a_mixture_lists_the_draws_of_its_sources(mixed_cache: CacheConfig) -> None:
    manifest = read_manifest(mixed_cache.out)
    assert manifest["sources"] == draws_of_sources(index_videos(mixed_cache.data, "train"), mixed_cache.seed, 8)
    clips = CachedClips(mixed_cache.out, DataConfig())
    drawn = [clips.row_and_clip(number)[0]["record"] for number in range(8)]
    for source in manifest["sources"]:
        assert sum(f'"source":"{source["name"]}"' in re.sub(r"\s", "", record) for record in drawn) == source["draws"]
    assert len(show_cache(replace(mixed_cache, show=2))) == 2


def test_a_manifest_whose_sources_do_not_add_up_is_refused(mixed_cache: CacheConfig, tmp_path: Path) -> None:
    manifest = read_manifest(mixed_cache.out)
    for changed in ({"draws": 99}, {"videos": 0}):
        sources = [{**manifest["sources"][0], **changed}, *manifest["sources"][1:]]
        content = {name: value for name, value in manifest.items() if name != "sha256"}
        Path(tmp_path, schema.MANIFEST).write_bytes(sealed({**content, "sources": sources}))
        with pytest.raises(InputError, match="sources"):
            read_manifest(str(tmp_path))


def test_the_manifest_of_a_single_data_set_has_no_sources(cache: str) -> None:
    assert "sources" not in read_manifest(cache) and CachedClips(cache, DataConfig()).sources() == []


def test_a_training_reports_its_sources_and_scores_each(
    mixed_cache: CacheConfig, store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    validation = ValidationConfig(every=2, videos=2, max_frames=3)
    config = replace(
        preset(TrainConfig, "smoke"), cache=mixed_cache.out, out=str(tmp_path / "student"), steps=2, batch=2
    )
    trained = train(replace(config, validation=validation), here=True, register=False)
    assert capfd.readouterr().err.count("davis2017-2") == 1
    run = mlflow.MlflowClient(tracking_uri=store).get_run(trained.run_id)
    assert run.inputs is not None
    inputs = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
    videos = index_videos(mixed_cache.data, "train")
    assert isinstance(videos, Mixture)
    for source in videos.sources:
        assert data_fingerprint(source.videos).startswith(inputs[f"{source.name}-train"])
        assert run.data.metrics[f"data/{source.name}/epochs"] > 0
    assert run.data.tags["data.sources"] == " ".join(mixed_cache.data.sources)
    scores = [run.data.metrics[f"val/{source}/j_and_f"] for source in ("davis2017", "davis2017-2")]
    assert all(0 <= score <= 1 for score in scores)


def test_training_and_search_on_a_fold_validate_on_the_videos_that_were_held_out(mixed_cache: CacheConfig) -> None:
    learnt = names_of(index_videos(mixed_cache.data, "train"))
    every = ValidationConfig(every=1, videos=8)
    config = replace(preset(TrainConfig, "smoke"), cache=mixed_cache.out, validation=every)
    source = CachedClips(mixed_cache.out, DataConfig())
    held_out = {video.name for video in validation_videos(config, source)}
    assert {name.partition("/")[0] for name in held_out} == {"davis2017", "davis2017-2"}
    assert held_out and held_out.isdisjoint(learnt)
    tune = replace(preset(TuneConfig, "smoke"), cache=mixed_cache.out)
    data, _ = data_of_cache(mixed_cache.out, read_manifest(mixed_cache.out), tune.data)
    assert {video.name for video in validation_videos(_base(tune, data), source)} == held_out


def test_another_fold_than_the_one_of_the_cache_is_refused(mixed_cache: CacheConfig) -> None:
    other = replace(mixed_cache.data, fold=2)
    with pytest.raises(InputError, match=r"--data\.fold 2: .* all but fold 1 of 1 videos, not from all but fold 2"):
        CachedClips(mixed_cache.out, other)


def test_equal_names_of_two_sources_keep_their_own_masks_and_scores(mixed: DataConfig, evaluated: Evaluation) -> None:
    videos = named_by_source(index_sequences(mixed, "val"))
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
    assert run.inputs is not None
    assert {one.dataset.name for one in run.inputs.dataset_inputs} >= {"davis2017-val", "davis2017-2-val"}
    table = Path(evaluated.masks).parent / "pages" / "sequences.csv"
    assert {line.partition("/")[0] for line in table.read_text().splitlines()[1:]} == {"davis2017", "davis2017-2"}


def test_each_source_has_its_turn_among_the_first_sequences(mixed: DataConfig) -> None:
    first = named_by_source(index_sequences(mixed, "val"))[:2]
    assert {video.name.partition("/")[0] for video in first} == {"davis2017", "davis2017-2"}


def test_a_source_of_synthetic_video_is_named_without_changing_its_frames() -> None:
    videos = index_videos(DataConfig(sources=("synthetic=:1",), synthetic_videos=6, synthetic_frames=3), "val")
    named = named_by_source(videos)
    assert [video.name for video in named] == [f"synthetic/{video.name}" for video in videos]
    assert (named[0].frame(1) == videos[0].frame(1)).all()


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_the_splits_of_a_fold_have_no_name_in_common(mixed: DataConfig, fold: int) -> None:
    data = replace(mixed, fold=fold, fold_videos=1)
    held_out = names_of(index_sequences(data, "val"))
    assert len(held_out) == 2 and held_out.isdisjoint(names_of(index_videos(data, "train")))


def test_an_evaluation_on_a_fold_scores_the_videos_that_were_held_out(
    mixed: DataConfig, ray_cluster: None, store: str, tmp_path: Path
) -> None:
    data = replace(mixed, fold=2, fold_videos=1)
    config = replace(preset(EvaluateConfig, "smoke"), out=str(tmp_path / "e"), checkpoint=COPY, data=data, max_frames=3)
    scored = {row["sequence"] for row in evaluate_model(config).sequences}
    assert scored == names_of(index_sequences(data, "val"))


def test_sources_without_videos_are_left_out_of_the_scores_with_one_note(
    mixed: DataConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    for split in ("val", "train", "val"):
        assert not any(name.startswith("stills") for name in names_of(index_sequences(mixed, split)))
    assert capfd.readouterr().err == "note    stills: for training only, not scored\n"
    with pytest.raises(InputError, match="add a source of videos"):
        index_sequences(replace(mixed, sources=mixed.sources[2:]), "val")


def test_the_weights_of_the_sources_do_not_change_what_is_evaluated(mixed: DataConfig) -> None:
    other = replace(mixed, sources=tuple(text.replace(":0.5", ":0.1") for text in mixed.sources))
    first, second = (data_fingerprint(index_sequences(data, "val")) for data in (mixed, other))
    assert first == second
    assert data_fingerprint(index_videos(mixed, "train")) != data_fingerprint(index_videos(other, "train"))
