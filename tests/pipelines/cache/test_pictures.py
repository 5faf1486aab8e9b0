"""Pictures of draws."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.cache.pictures import page, show_cache
from pipelines.cache.read import CachedClips
from vos.config import CacheConfig
from vos.errors import InputError


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
