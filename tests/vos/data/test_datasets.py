import json
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vos.data import datasets
from vos.data.synthetic import synthetic_index
from vos.errors import InputError
from vos.media import images

H, W = 32, 48


def labels_with(*objects: int) -> np.ndarray:
    labels = np.zeros((H, W), np.uint8)
    for place, number in enumerate(objects):
        labels[4:20, 4 + 12 * place : 14 + 12 * place] = number
    return labels


def frame_at(index: int) -> np.ndarray:
    return np.full((H, W, 3), 40 * index + 10, np.uint8)


def fill(frames: Path, masks: Path, labels: list[np.ndarray | None], step: int = 1) -> None:
    for i, mask in enumerate(labels):
        images.write_frame(str(frames / f"{i * step:05d}.jpg"), frame_at(i))
        if mask is not None:
            images.write_mask(str(masks / f"{i * step:05d}.png"), mask)


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def davis(tmp_path) -> Path:
    """Two videos of three frames, two objects, both years."""
    for name in ("bear", "ant"):
        labels: list[np.ndarray | None] = [labels_with(1, 2), labels_with(1, 2), labels_with(2)]
        fill(tmp_path / "JPEGImages/480p" / name, tmp_path / "Annotations/480p" / name, labels)
    for year in ("2016", "2017"):
        write_lines(tmp_path / f"ImageSets/{year}/train.txt", "bear", "ant", "")
        write_lines(tmp_path / f"ImageSets/{year}/val.txt", "ant")
    return tmp_path


@pytest.fixture
def youtubevos(tmp_path) -> Path:
    """One video of three annotated frames, five apart; object 2 appears in the second."""
    frames, masks = tmp_path / "train/JPEGImages/v1", tmp_path / "train/Annotations/v1"
    fill(frames, masks, [labels_with(1), labels_with(1, 2), labels_with(2)], step=5)
    objects = {"1": {"frames": ["00000", "00005"]}, "2": {"frames": ["00005", "00010"]}}
    (tmp_path / "train/meta.json").write_text(json.dumps({"videos": {"v1": {"objects": objects}}}))
    return tmp_path


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("cat", "dog"):
        fill(tmp_path / "frames" / name, tmp_path / "masks" / name, [labels_with(3), None, None])
    return tmp_path


def one_line(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_a_split_may_be_a_list_of_names_anywhere(davis, tmp_path_factory):
    names = tmp_path_factory.mktemp("lists") / "one.txt"
    write_lines(names, "bear")
    for kind in ("davis2016", "davis2017"):
        assert [video.name for video in datasets.load_index(str(davis), kind, str(names))] == ["bear"]
    write_lines(names, "cow")
    with pytest.raises(InputError) as error:
        datasets.load_index(str(davis), "davis2016", str(names))
    one_line(error, "cow", "missing")
    with pytest.raises(InputError) as error:
        datasets.load_index(str(davis), "davis2016", str(names.with_name("two.txt")))
    one_line(error, "two.txt: no such split file (found: one)")


def test_davis2016_makes_every_nonzero_index_object_1(davis):
    videos = datasets.load_index(str(davis), "davis2016", "train")
    assert [video.name for video in videos] == ["ant", "bear"]
    video = videos[0]
    assert (video.num_frames, video.size, video.annotated, video.first_seen) == (3, (H, W), (0, 1, 2), {1: 0})
    np.testing.assert_array_equal(video.mask(0), labels_with(1, 1))
    assert abs(int(video.frame(2)[0, 0, 0]) - 90) <= 2 and video.frame_name(2) == "00002"


def test_davis2016_reads_black_and_white_masks(davis):
    for path in (davis / "Annotations/480p/ant").iterdir():
        Image.fromarray(labels_with(255)).save(path)
    (video,) = datasets.load_index(str(davis), "davis2016", "val")
    np.testing.assert_array_equal(video.mask(1), labels_with(1))


def test_davis2017_takes_the_objects_of_the_first_mask(davis):
    (video,) = datasets.load_index(str(davis), "auto", "val")
    assert video.first_seen == {1: 0, 2: 0}
    np.testing.assert_array_equal(video.mask(2), labels_with(2))


def test_davis2017_reads_void_as_background(davis):
    images.write_mask(str(davis / "Annotations/480p/ant/00001.png"), labels_with(1, 2, 255))
    (video,) = datasets.load_index(str(davis), "davis2017", "val")
    np.testing.assert_array_equal(video.mask(1), labels_with(1, 2))


def test_a_split_with_first_masks_only_can_be_segmented_but_a_hole_is_refused(davis):
    masks = davis / "Annotations/480p/ant"
    (masks / "00001.png").unlink()
    for kind in ("davis2016", "davis2017"):
        for split in ("train", "val"):
            with pytest.raises(InputError) as error:
                datasets.load_index(str(davis), kind, split)
            one_line(error, "ant/00001.png", "mask", "missing")
    (masks / "00002.png").unlink()
    (video,) = datasets.load_index(str(davis), "davis2017", "val")
    assert video.annotated == (0,) and video.mask(1) is None
    with pytest.raises(InputError):
        datasets.load_index(str(davis), "davis2017", "train")


def test_youtubevos_knows_objects_that_appear_later_and_sparse_masks(youtubevos):
    for i in (1, 2, 3, 4, 6, 7, 8, 9):
        images.write_frame(str(youtubevos / f"train/JPEGImages/v1/{i:05d}.jpg"), frame_at(1))
    (video,) = datasets.load_index(str(youtubevos), "auto", "train")
    assert video.first_seen == {1: 0, 2: 5}
    assert video.annotated == (0, 5, 10) and video.num_frames == 11
    assert video.mask(3) is None
    np.testing.assert_array_equal(video.mask(5), labels_with(1, 2))


def test_youtubevos_is_found_in_its_split_folder_or_directly(youtubevos):
    assert len(datasets.load_index(str(youtubevos / "train"), "auto", "train")) == 1
    shutil.move(youtubevos / "train", youtubevos / "valid")
    (youtubevos / "valid/Annotations/v1/00010.png").unlink()
    (video,) = datasets.load_index(str(youtubevos), "auto", "val")
    assert video.annotated == (0, 1)
    with pytest.raises(InputError) as error:
        datasets.load_index(str(youtubevos), "auto", "train")
    one_line(error, "train/meta.json")


def test_youtubevos_names_what_is_missing(youtubevos):
    (youtubevos / "train/Annotations/v1/00010.png").unlink()
    with pytest.raises(InputError) as error:
        datasets.load_index(str(youtubevos))
    one_line(error, "v1/00010.png", "mask")
    (youtubevos / "train/JPEGImages/v1/00005.jpg").unlink()
    with pytest.raises(InputError) as error:
        datasets.load_index(str(youtubevos))
    one_line(error, "meta.json", "object 2", "00005")


def test_youtubevos_refuses_an_object_that_its_meta_does_not_have(youtubevos):
    images.write_mask(str(youtubevos / "train/Annotations/v1/00005.png"), labels_with(1, 2, 6))
    (video,) = datasets.load_index(str(youtubevos))
    with pytest.raises(InputError) as error:
        video.mask(1)
    one_line(error, "00005.png", "6", "meta.json", "1, 2")


@pytest.mark.parametrize("text", ["{", "[]", '{"videos": 3}', '{"videos": {"a": {"objects": {"x": {}}}}}'])
def test_a_broken_meta_is_named(youtubevos, text):
    (youtubevos / "train/meta.json").write_text(text)
    with pytest.raises(InputError) as error:
        datasets.load_index(str(youtubevos))
    one_line(error, "meta.json")


def test_a_folder_needs_only_first_masks(folder):
    videos = datasets.load_index(str(folder))
    assert [video.name for video in videos] == ["cat", "dog"]
    assert videos[0].annotated == (0,) and videos[0].first_seen == {3: 0} and videos[0].num_frames == 3
    (folder / "masks/dog/00000.png").unlink()
    with pytest.raises(InputError) as error:
        datasets.load_index(str(folder))
    one_line(error, "masks/dog/00000.png", "missing")


def test_a_folder_may_list_its_splits(folder):
    write_lines(folder / "val.txt", "dog")
    assert [video.name for video in datasets.load_index(str(folder), "folder", "val")] == ["dog"]
    with pytest.raises(InputError) as error:
        datasets.load_index(str(folder), "folder", "train")
    one_line(error, "train.txt", "val")


@pytest.mark.parametrize("place", [".", "frames"])
def test_a_folder_may_be_one_video_in_the_order_of_its_numbers_with_a_black_and_white_mask(tmp_path, place):
    root = tmp_path / "holiday"
    for i in (10, 2, 1):
        images.write_frame(str(root / place / f"shot {i}.png"), np.full((H, W, 3), i, np.uint8))
    (root / "masks").mkdir()
    Image.fromarray(labels_with(255)).save(root / "masks/shot 1.png")
    (video,) = datasets.load_index(str(root))
    assert video.name == "holiday"
    assert [video.frame_name(i) for i in range(3)] == ["shot 1", "shot 2", "shot 10"]
    assert video.frame(2)[0, 0, 0] == 10 and video.first_seen == {1: 0}
    np.testing.assert_array_equal(video.mask(0), labels_with(1))


def test_no_root_means_synthetic_video():
    videos = datasets.load_index("", split="val")
    assert videos == synthetic_index(split="val") == datasets.load_index("", "synthetic", "val")


def test_a_missing_root_an_unknown_kind_and_an_unknown_layout_are_said(tmp_path):
    for arguments, parts in [
        ((str(tmp_path / "absent"),), ("absent", "--data.root")),
        ((str(tmp_path), "imagenet"), ("imagenet", "davis2016")),
        (("", "davis2017"), ("--data.root",)),
        ((str(tmp_path),), ("looked for", "ImageSets/2017", "meta.json", "masks")),
    ]:
        with pytest.raises(InputError) as error:
            datasets.load_index(*arguments)
        one_line(error, *parts)


def test_an_empty_or_absent_split_is_named(davis):
    write_lines(davis / "ImageSets/2017/val.txt", "", " ")
    with pytest.raises(InputError) as error:
        datasets.load_index(str(davis), "davis2017", "val")
    one_line(error, "ImageSets/2017/val.txt", "empty")
    with pytest.raises(InputError) as error:
        datasets.load_index(str(davis), "davis2017", "test-dev")
    one_line(error, "ImageSets/2017/test-dev.txt", "train, val")


@pytest.mark.parametrize("name", ["../bear", "/etc", "..", "a/../../b", "a\\b"])
def test_a_name_that_leaves_its_folder_is_refused(davis, youtubevos, name):
    write_lines(davis / "ImageSets/2017/train.txt", "bear", name)
    with pytest.raises(InputError) as error:
        datasets.load_index(str(davis), "davis2017")
    one_line(error, "train.txt", "leaves")
    with pytest.raises(InputError) as error:
        datasets.load_index(str(davis), "davis2017", f"../{name}")
    one_line(error, "--data.split")
    (youtubevos / "train/meta.json").write_text(json.dumps({"videos": {name: {"objects": {}}}}))
    with pytest.raises(InputError) as error:
        datasets.load_index(str(youtubevos), "youtubevos")
    one_line(error, "meta.json", "leaves")


def test_a_video_without_frames_is_named(davis):
    write_lines(davis / "ImageSets/2017/val.txt", "wolf")
    with pytest.raises(InputError) as error:
        datasets.load_index(str(davis), "davis2017", "val")
    one_line(error, "JPEGImages/480p/wolf", "missing")
    (davis / "JPEGImages/480p/wolf").mkdir()
    with pytest.raises(InputError) as error:
        datasets.load_index(str(davis), "davis2017", "val")
    one_line(error, "wolf", "no frame")


def test_two_files_for_one_frame_are_refused(davis):
    images.write_frame(str(davis / "JPEGImages/480p/ant/00001.png"), frame_at(1))
    with pytest.raises(InputError) as error:
        datasets.load_index(str(davis))
    one_line(error, "ant/00001", "two files")


@pytest.mark.parametrize("which", ["JPEGImages/480p/ant/00002.jpg", "Annotations/480p/ant/00001.png"])
def test_a_bad_file_is_named_before_anything_is_decoded(davis, which):
    path = davis / which
    whole = path.read_bytes()
    smaller = labels_with(1)[:-2]
    for content, part in [
        (whole[:-20], "truncated"),
        (b"", "empty"),
        (b"text", "not a readable image"),
        (None, "pixels"),
    ]:
        if content is not None:
            path.write_bytes(content)
        else:
            Image.fromarray(smaller).save(path)
        with pytest.raises(InputError) as error:
            datasets.load_index(str(davis), "davis2017", "val")
        one_line(error, which, part)


def test_a_file_that_changes_after_the_index_was_made_is_named_when_read(davis):
    (video,) = datasets.load_index(str(davis), "davis2017", "val")
    Image.fromarray(labels_with(1)[:-2]).save(davis / "Annotations/480p/ant/00001.png")
    (davis / "JPEGImages/480p/ant/00001.jpg").unlink()
    for read, name in ((video.mask, "00001.png"), (video.frame, "00001.jpg")):
        with pytest.raises(InputError, match=name):
            read(1)


def test_davis2017_refuses_an_index_that_the_first_mask_does_not_have(davis):
    images.write_mask(str(davis / "Annotations/480p/ant/00002.png"), labels_with(1, 2, 5))
    (video,) = datasets.load_index(str(davis), "davis2017", "val")
    with pytest.raises(InputError) as error:
        video.mask(2)
    one_line(error, "ant/00002.png", "index 5", "ant/00000.png", "1, 2")


def test_an_index_opens_no_mask_and_survives_pickling_small(davis, monkeypatch):
    monkeypatch.setattr(images, "read_mask", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(images, "read_frame", lambda path: pytest.fail(f"{path} was read"))
    videos = datasets.load_index(str(davis), "davis2017")
    monkeypatch.undo()
    copied = pickle.loads(pickle.dumps(videos))
    assert copied == videos and hash(copied[0]) == hash(videos[0])
    assert len(pickle.dumps(videos[0])) < 1000
    np.testing.assert_array_equal(copied[0].mask(0), videos[0].mask(0))


def test_the_shared_davis_is_indexed_quickly_and_whole(shared):
    root = str(shared / "data" / "DAVIS")
    start = time.process_time()
    train, val = (datasets.load_index(root, split=split) for split in ("train", "val"))
    assert time.process_time() - start < 2
    assert len(train) == 30 and len(val) == 8
    assert {video.size for video in train} == {(240, 427)} and {video.size for video in val} == {(480, 854)}
    for video in val:
        assert video.annotated == tuple(range(video.num_frames))
        mask = video.mask(video.num_frames - 1)
        assert mask is not None and mask.shape == video.frame(0).shape[:2] and set(np.unique(mask)) <= {0, 1}
