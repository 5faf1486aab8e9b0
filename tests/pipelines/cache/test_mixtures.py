"""A cache of a mixture of synthetic video and stills, and a training from it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.cache.build import build_cache
from pipelines.cache.read import CachedClips
from pipelines.cache.row_checks import check_videos
from pipelines.cache.verify import verify_cache
from pipelines.training.launch import train
from tests.pipelines.cache.test_build import shard_digests
from tests.pipelines.training.test_launch import assert_same_weights, stop_after
from vos.config import CacheConfig, ClipConfig, TrainConfig
from vos.config.presets import preset
from vos.data.clips import checksum
from vos.data.draw_records import ClipDraw
from vos.data.draws import draw_clip
from vos.data.mixtures import by_key
from vos.data.stills import index_stills
from vos.errors import InputError
from vos.files.json_files import parse_json


@pytest.fixture(scope="module")
def mixture_config(tmp_path_factory: pytest.TempPathFactory, cache_config: CacheConfig) -> CacheConfig:
    """Half synthetic video, half stills of squares."""
    root = tmp_path_factory.mktemp("stills")
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir()
    for number in range(3):
        labels = np.zeros((72, 96), np.uint8)
        labels[10:50, 8:40], labels[20:60, 50:90] = 1, 2
        image = np.where(labels[..., None] > 0, rng.integers(0, 256, 3), rng.integers(0, 256, (72, 96, 3))).astype(
            np.uint8
        )
        assert cv2.imwrite(str(root / "JPEGImages" / f"{number}.png"), image)
        assert cv2.imwrite(str(root / "Annotations" / f"{number}.png"), labels)
    data = replace(cache_config.data, sources=("synthetic=:1", f"stills={root}:1"))
    return replace(cache_config, draws=8, data=data, out=str(tmp_path_factory.mktemp("mixture")))


@pytest.fixture(scope="module")
def mixed(ray_cluster: None, mixture_config: CacheConfig) -> str:
    build_cache(mixture_config)
    return mixture_config.out


def test_a_cache_of_a_mixture_replays_verifies_and_is_made_the_same_again(
    mixed: str, mixture_config: CacheConfig, tmp_path: Path
):
    clips = CachedClips(mixed, mixture_config.data)
    rows = [clips.row_and_clip(number) for number in range(8)]
    draws = [ClipDraw.from_dict(parse_json(row["record"], "", "")) for row, _ in rows]
    assert Counter(draw.source for draw in draws).keys() == {"synthetic", "stills"}
    assert all(bool(draw.layers) == (draw.source == "stills") for draw in draws)
    assert all(checksum(clip) == row["clip_crc32"] for row, clip in rows)
    assert "FAILED" not in verify_cache(replace(mixture_config, verify_rows=2))
    build_cache(replace(mixture_config, out=str(tmp_path)))
    assert shard_digests(str(tmp_path)) == shard_digests(mixed)


def test_stored_frames_need_no_stills(mixed: str, mixture_config: CacheConfig, tmp_path: Path):
    build_cache(replace(mixture_config, draws=4, frames="store", out=str(tmp_path)))
    clips = CachedClips(str(tmp_path), mixture_config.data)
    replayed = CachedClips(mixed, mixture_config.data)
    for number in range(4):
        row, clip = clips.row_and_clip(number)
        assert checksum(clip) == row["clip_crc32"]
        np.testing.assert_array_equal(clip.labels, replayed.row_and_clip(number)[1].labels)


def test_a_changed_still_is_noticed(mixed: str, mixture_config: CacheConfig):
    path = next(Path(mixture_config.data.mixture[1].root, "JPEGImages").glob("*.png"))
    before = path.read_bytes()
    picture = cv2.imread(str(path))
    assert picture is not None
    try:
        assert cv2.imwrite(str(path), 255 - picture)
        with pytest.raises(InputError):
            clips = CachedClips(mixed, mixture_config.data)
            for number in range(8):
                clips.row_and_clip(number)
    finally:
        path.write_bytes(before)


def test_a_training_from_a_mixture_resumes_to_the_same_weights(
    mixed: str, mixture_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base = replace(preset(TrainConfig, "smoke"), cache=mixed, data=mixture_config.data, steps=4, checkpoint_every=2)
    whole, broken = (replace(base, out=str(tmp_path / name)) for name in ("whole", "broken"))
    train(whole, here=True)
    stop_after(broken, 3, monkeypatch)
    train(broken, here=True)
    assert_same_weights(broken.out, whole.out)


def test_draws_of_long_thin_images_fit_their_own_images(tmp_path: Path):
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder).mkdir()
        assert cv2.imwrite(str(tmp_path / folder / "long.png"), np.ones((16, 1500), np.uint8))
    stills = list(index_stills(str(tmp_path), "train", lambda fault: None))
    for number in range(20):
        draw = draw_clip(stills, ClipConfig(crop_px=32, compose=1.0), 0, number)
        check_videos(draw, by_key(stills), "row")
