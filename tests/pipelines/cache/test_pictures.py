"""Pictures of draws."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.cache.pictures import layer_names, page, show_cache, title
from pipelines.cache.read import CachedClips
from vos.config import CacheConfig, ClipConfig
from vos.data.draws import draw_clip
from vos.data.mixtures import Mixture, Source
from vos.data.stills import index_stills
from vos.data.synthetic import synthetic_index
from vos.errors import InputError
from vos.media import images


def test_each_shown_draw_is_a_picture_in_the_caches_folder_and_an_artifact_of_the_run(cache: str, store: str):
    import mlflow

    paths = show_cache(CacheConfig(out=cache, show=3))
    assert [Path(path).name for path in paths] == ["draw-000000.png", "draw-000004.png", "draw-000009.png"]
    for path in paths:
        picture = cv2.imread(path)
        assert picture is not None and min(picture.shape[:2]) > 500 and picture.std() > 10
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("cache")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id], "tags.mlflow.runName LIKE 'show-%'")[0]
    assert len(client.list_artifacts(run.info.run_id, "draws")) == 3
    for path in paths:
        Path(path).unlink()
    Path(cache, "show").rmdir()


def test_no_more_draws_are_shown_than_there_are_and_other_content_gives_another_picture(cache: str):
    source = CachedClips(cache, CacheConfig().data)
    row, clip = source.row_and_clip(3)
    first = page(row, clip)
    assert page(row, clip) == first
    assert page(row | {"factor": np.zeros_like(row["factor"])}, clip) != first
    without_logits = {name: value for name, value in row.items() if not name.startswith("logit")}
    assert page(without_logits, clip) != first
    assert json.loads(row["record"])["number"] == 3


def test_an_absent_cache_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="absent or unfinished"):
        show_cache(replace(CacheConfig(), out=str(tmp_path / "nothing"), show=1))


def test_a_draw_of_a_mixture_names_its_source_and_a_clip_of_stills_its_layers(tmp_path: Path):
    labels = np.zeros((64, 64), np.uint8)
    labels[8:40, 8:40] = 7
    for name in ("ant", "bee"):
        images.write_frame(str(tmp_path / f"images/{name}.jpg"), np.zeros((64, 64, 3), np.uint8))
        images.write_mask(str(tmp_path / f"masks/{name}.png"), labels)
    stills = tuple(index_stills(str(tmp_path), "train", lambda fault: None))
    mixture = Mixture([Source("stills", 1, stills), Source("synthetic", 1, tuple(synthetic_index(2, 4, (64, 64))))])
    draws = [draw_clip(mixture, ClipConfig(crop_px=64, compose=0.7), 0, number) for number in range(24)]
    for draw in draws:
        names, followed = layer_names(draw), f"draw {draw.number}: source {draw.source}, {draw.video}, "
        assert title(draw).startswith(followed) and "\n" not in title(draw)
        if not draw.layers:
            assert not names and "frames" in title(draw)
            continue
        assert sorted(label for label, _ in names if label) == list(range(1, draw.num_objects + 1))
        assert all((label > 0) == name.endswith("followed") for label, name in names)
        assert all(any(layer.image in name for _, name in names) for layer in draw.layers)
    assert len({len(draw.layers) for draw in draws}) >= 3, "videos, single images and composed ones"
