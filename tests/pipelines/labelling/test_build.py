"""Labels are a function of the frames and the first masks: of no other mask, and not of workers, kills or edits."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.cache.build import build_cache
from pipelines.labelling.build import build_labels
from pipelines.labelling.forecast import plan_labels, summary
from pipelines.labelling.pictures import show_labels
from pipelines.labelling.verify import verify_labels
from pipelines.training.launch import train
from tests.pipelines.labelling.conftest import FRAMES, label_config, write_videos
from vos.config import CacheConfig, DataConfig, LabelConfig, LossConfig, TrainConfig
from vos.config.presets import preset
from vos.data.datasets import load_index
from vos.data.labels import read_labels
from vos.errors import InputError
from vos.media.images import check_complete, write_mask


def digests(folder: str | Path, *places: str) -> dict[str, str]:
    files = (path for place in places for path in Path(folder, place).rglob("*.*"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


OUTPUTS = ("masks", "confidence", "videos")


def test_each_frame_has_a_mask_a_confidence_map_and_a_reason_if_it_is_left_out(labels: str, videos: str):
    listed = read_labels(labels)["videos"]
    assert [one["frames"] for one in listed] == [FRAMES, FRAMES]
    assert all(2 <= one["kept"] <= FRAMES for one in listed)
    assert len(digests(labels, *OUTPUTS)) == 2 * (2 * FRAMES + 1)
    for video, true in zip(load_index(labels), load_index(videos), strict=True):
        np.testing.assert_array_equal(video.mask(0), true.mask(0))
        np.testing.assert_array_equal(video.frame(3), true.frame(3))
        assert check_complete(f"{labels}/confidence/{video.name}/00003.png") == (64, 96)


def test_no_true_mask_but_the_first_is_read_by_labels_and_none_by_cache_and_training(labels: str, tmp_path: Path):
    """The proof: without the other masks the labels have the same bytes; without any, cache and student have."""
    root = write_videos(tmp_path / "videos", range(1))
    out = tmp_path / "labels"
    build_labels(label_config(root, out))
    assert digests(out, *OUTPUTS) == digests(labels, *OUTPUTS)

    shutil.rmtree(Path(root, "masks"))
    made = {name: distilled(folder, tmp_path / name) for name, folder in (("with", labels), ("without", str(out)))}
    assert made["with"] == made["without"] and len(made["with"]) == 3


def distilled(labels: str, out: Path) -> dict[str, str]:
    """Digests of a small cache and of a student that learned from it."""
    data = DataConfig(root=labels, kind="labels")
    cache = replace(preset(CacheConfig, "smoke"), data=data, draws=4, shard_draws=2, out=str(out / "cache"))
    build_cache(replace(cache, clip=replace(cache.clip, crop_px=48)))
    base = preset(TrainConfig, "smoke")
    student = replace(base, cache=cache.out, steps=2, loss=LossConfig(w=1.0), here=True, out=str(out / "student"))
    train(student, register=False)
    weights = hashlib.sha256((out / "student/model.safetensors").read_bytes()).hexdigest()
    return {**digests(out / "cache", "shards"), "weights": weights}


def test_two_workers_write_the_same_files_as_one(labels: str, videos: str, tmp_path: Path):
    build_labels(label_config(videos, tmp_path / "out", workers=2))
    assert digests(tmp_path / "out", *OUTPUTS) == digests(labels, *OUTPUTS)
    assert (tmp_path / "out/labels.json").read_bytes() == Path(labels, "labels.json").read_bytes()


@pytest.fixture
def copied(labels: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labels, tmp_path / "copied"))


def test_an_interrupted_run_labels_only_the_unfinished_video(labels: str, videos: str, copied: Path):
    """What a kill leaves: whole masks, the receipts of finished videos, no list."""
    first, second = sorted((copied / "videos").iterdir())
    (copied / "labels.json").unlink()
    second.unlink()
    (copied / "masks" / second.stem / "00006.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in (copied / "masks" / first.stem).iterdir()}
    with pytest.raises(InputError, match="absent or unfinished"):
        load_index(str(copied))
    assert build_labels(label_config(videos, copied)).videos_made == 1
    assert digests(copied, *OUTPUTS) == digests(labels, *OUTPUTS)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert build_labels(label_config(videos, copied)).videos_made == 0


def test_an_edited_mask_is_found_by_verify_and_made_again(labels: str, videos: str, copied: Path):
    config = LabelConfig(out=str(copied), verify=True)
    assert "2 of 2 videos" in verify_labels(config)
    path = next((copied / "masks").glob("*/00002.png"))
    write_mask(str(path), np.ones((64, 96), np.uint8))
    with pytest.raises(InputError, match=r"00002\.png: was changed after jobs\.label wrote it"):
        verify_labels(config)
    assert build_labels(label_config(videos, copied)).videos_made == 1
    assert digests(copied, *OUTPUTS) == digests(labels, *OUTPUTS)


def test_other_settings_are_refused_with_the_difference(videos: str, copied: Path):
    with pytest.raises(InputError, match=r"min_confidence: 0\.8 -> 0\.9"):
        build_labels(label_config(videos, copied, min_confidence=0.9))


def test_held_out_frames_are_left_out_of_the_clips_where_no_true_mask_scores_them(
    ray_cluster: None, videos: str, tmp_path: Path
):
    root = write_videos(tmp_path / "videos", range(1))
    build_labels(label_config(root, tmp_path / "a", hold_out=2))
    build_labels(label_config(videos, tmp_path / "b", hold_out=2))
    fewer, all_kept = (sum(one["kept"] for one in read_labels(str(tmp_path / name))["videos"]) for name in "ab")
    assert fewer < all_kept


def test_pictures_and_a_plan_change_no_label(labels: str, videos: str, copied: Path, store: str):
    paths = show_labels(LabelConfig(out=str(copied), show=5))
    assert len(paths) == 2 and all(min(check_complete(path)) > 400 for path in paths)
    assert digests(copied, *OUTPUTS) == digests(labels, *OUTPUTS)
    planned = plan_labels(label_config(videos, copied / "planned"))
    assert "2 videos" in planned and not (copied / "planned").exists()


def test_the_summary_names_the_next_command(labels: str, videos: str, copied: Path):
    config = label_config(videos, copied)
    assert f"jobs.cache --data.root {copied} --data.kind labels" in summary(config, build_labels(config))


# Bad input, before anything is written.


def test_a_video_without_any_mask_is_named(tmp_path: Path):
    root = write_videos(tmp_path / "videos", range(1))
    shutil.rmtree(next(Path(root, "masks").iterdir()))
    with pytest.raises(InputError, match=r"00000\.png: the mask of frame .* is missing"):
        build_labels(label_config(root, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_store_and_the_datas_own_folder_are_no_places_for_labels(videos: str, tmp_path: Path):
    with pytest.raises(InputError, match="local or shared folder"):
        build_labels(replace(label_config(videos, tmp_path), out="s3://bucket/labels"))
    with pytest.raises(InputError, match="is part of the data"):
        build_labels(label_config(videos, Path(videos)))


def test_a_teacher_that_loses_the_objects_at_once_is_named(ray_cluster: None, videos: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"train-0-00000 and 1 more videos: the teacher builtin loses the objects"):
        build_labels(label_config(videos, tmp_path / "out", min_confidence=1.0))
    assert not (tmp_path / "out/labels.json").exists()
