"""A full reading finds, at once and beforehand, whatever would stop a training on the data in mid-run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vos.config import ClipConfig
from vos.data import datasets
from vos.data.checking import Findings, check_video
from vos.data.clips import replay
from vos.data.draws import draw_clip, with_context
from vos.errors import InputError
from vos.media import images

H, W = 32, 48
CLIP = ClipConfig(crop_px=32, max_skip_frames=2, paste=0.5)
NAMES = ("ant", "bear", "cat", "dog")


def labels_with(*objects: int) -> np.ndarray:
    labels = np.zeros((H, W), np.uint8)
    for place, number in enumerate(objects):
        labels[4:20, 4 + 12 * place : 14 + 12 * place] = number
    return labels


def frame(root: Path, name: str, index: int = 2) -> Path:
    return root / f"JPEGImages/480p/{name}/{index:05d}.jpg"


def mask(root: Path, name: str, index: int = 2) -> Path:
    return root / f"Annotations/480p/{name}/{index:05d}.png"


def write_davis(root: Path, names: tuple[str, ...] = NAMES, year: str = "2017") -> Path:
    draws = np.random.default_rng(0)
    for name in names:
        for index in range(4):
            images.write_frame(str(frame(root, name, index)), draws.integers(0, 256, (H, W, 3), dtype=np.uint8))
            images.write_mask(str(mask(root, name, index)), labels_with(1, 2))
    (root / f"ImageSets/{year}").mkdir(parents=True)
    (root / f"ImageSets/{year}/train.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def checked(root: Path, kind: str = "auto", split: str = "train") -> Findings:
    """All that an index and a reading find, as jobs.check puts it together."""
    faults: list[str] = []
    videos = datasets.load_index(str(root), kind, split, lambda fault: faults.append(str(fault)))
    found = [check_video(video, split == "train") for video in videos]
    every = {*faults, *(fault for one in found for fault in one.faults)}
    return Findings(tuple(sorted(every)), tuple(warning for one in found for warning in one.warnings))


def take_clips(root: Path, kind: str = "auto", count: int = 16) -> None:
    """What a training does with the data. Raises InputError as it would."""
    videos = datasets.load_index(str(root), kind)
    by_name = {video.name: video for video in videos}
    for number in range(count):
        draw = draw_clip(videos, CLIP, 0, number)
        replay(by_name, with_context(draw, by_name[draw.video], CLIP, 2, annotated_only=True), CLIP.crop_px)


# Damage to a video of a DAVIS tree; each returns what the fault must name.


def truncated_frame(root: Path, name: str) -> Path:
    path = frame(root, name)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def end_without_middle(root: Path, name: str) -> Path:
    """Header and end are there, so an index is content with it."""
    path = frame(root, name)
    data = path.read_bytes()
    path.write_bytes(data[:200] + data[-2:])
    return path


def empty_frame(root: Path, name: str) -> Path:
    frame(root, name, 0).write_bytes(b"")
    return frame(root, name, 0)


def text_for_a_mask(root: Path, name: str) -> Path:
    mask(root, name).write_text("not an image")
    return mask(root, name)


def truncated_mask(root: Path, name: str) -> Path:
    path = mask(root, name, 0)
    path.write_bytes(path.read_bytes()[:-9])
    return path


def damaged_pixels(root: Path, name: str) -> Path:
    """A checksum in the middle of the file is wrong, which only a reading of all of it can see."""
    path = mask(root, name)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(data)
    return path


def missing_mask(root: Path, name: str) -> Path:
    mask(root, name).unlink()
    return mask(root, name)


def frame_of_another_size(root: Path, name: str) -> Path:
    images.write_frame(str(frame(root, name)), np.zeros((H, W + 2, 3), np.uint8))
    return frame(root, name)


def mask_of_another_size(root: Path, name: str) -> Path:
    images.write_mask(str(mask(root, name)), np.ones((H - 2, W), np.uint8))
    return mask(root, name)


def colours_for_a_mask(root: Path, name: str) -> Path:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (H, W, 3), dtype=np.uint8)).save(mask(root, name))
    return mask(root, name)


def a_frame_for_a_mask(root: Path, name: str) -> Path:
    """JPEG bytes under a mask's name: a whole image of the right size."""
    mask(root, name).write_bytes(frame(root, name).read_bytes())
    return mask(root, name)


def values_above_255(root: Path, name: str) -> Path:
    Image.fromarray(np.full((H, W), 300, np.uint16)).save(mask(root, name))
    return mask(root, name)


def object_that_appears_later(root: Path, name: str) -> Path:
    images.write_mask(str(mask(root, name, 3)), labels_with(1, 2, 3))
    return mask(root, name, 3)


def empty_first_mask(root: Path, name: str) -> Path:
    images.write_mask(str(mask(root, name, 0)), labels_with())
    return mask(root, name, 0)


def one_frame(root: Path, name: str) -> str:
    for index in (1, 2, 3):
        frame(root, name, index).unlink()
        mask(root, name, index).unlink()
    return f"{name}: 1 frame with a mask"


def no_folder(root: Path, name: str) -> Path:
    frame(root, name).parent.rename(root / "elsewhere")
    return frame(root, name).parent


def no_frame(root: Path, name: str) -> Path:
    for index in range(4):
        frame(root, name, index).unlink()
    return frame(root, name).parent


def two_files_for_a_frame(root: Path, name: str) -> Path:
    images.write_frame(str(frame(root, name).with_suffix(".png")), np.zeros((H, W, 3), np.uint8))
    return frame(root, name).with_suffix("")


def link_to_elsewhere(root: Path, name: str) -> Path:
    frame(root, name).unlink()
    frame(root, name).symlink_to("/etc/hostname")
    return frame(root, name)


def pipe_for_a_frame(root: Path, name: str) -> Path:
    frame(root, name).unlink()
    os.mkfifo(frame(root, name))
    return frame(root, name)


def all_files_empty(root: Path, name: str) -> Path:
    for index in range(4):
        frame(root, name, index).write_bytes(b"")
        mask(root, name, index).write_bytes(b"")
    return mask(root, name, 3)


DAMAGES: list[Callable[[Path, str], Path | str]] = [
    *(truncated_frame, end_without_middle, empty_frame, text_for_a_mask, truncated_mask, damaged_pixels, missing_mask),
    *(frame_of_another_size, mask_of_another_size, colours_for_a_mask, a_frame_for_a_mask, values_above_255),
    *(object_that_appears_later, empty_first_mask, one_frame, no_folder, no_frame, two_files_for_a_frame),
    *(link_to_elsewhere, pipe_for_a_frame, all_files_empty),
]


def test_every_kind_of_damage_is_found_in_one_run_and_nothing_else(tmp_path: Path):
    names = tuple(f"{number:02d}-{damage.__name__}" for number, damage in enumerate(DAMAGES))
    root = write_davis(tmp_path, ("00-whole", *names))
    named = [str(damage(root, name)) for damage, name in zip(DAMAGES, names, strict=True)]
    found = checked(root)
    assert list(found.faults) == sorted(set(found.faults))
    for one in named:
        assert any(fault.startswith(one) for fault in found.faults), one
    for fault in found.faults:
        assert fault.isprintable() and "00-whole" not in fault
    rest = [fault for fault in found.faults if not fault.startswith(tuple(named)) and "all_files_empty" not in fault]
    assert rest == []


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_training_is_stopped_by_no_fault_that_was_not_listed(damage: Callable[[Path, str], object], tmp_path: Path):
    root = write_davis(tmp_path)
    damage(root, "bear")
    with pytest.raises(InputError) as stopped:
        take_clips(root)
    assert str(stopped.value) in checked(root).faults


def test_several_faults_of_one_video_are_all_listed(tmp_path: Path):
    root = write_davis(tmp_path)
    named = [
        frame(root, "cat", 0),
        mask(root, "cat", 0),
        mask(root, "cat", 1),
        mask(root, "cat", 2),
        frame(root, "cat"),
    ]
    text_for_a_mask(root, "cat").rename(mask(root, "cat", 1))
    for damage in (truncated_mask, truncated_frame, object_that_appears_later, empty_frame):
        damage(root, "cat")
    found = checked(root)
    assert sorted(fault.partition(": ")[0] for fault in found.faults) == sorted(map(str, named))
    # Whether an object may appear later is known once the first mask can be read.
    images.write_mask(str(mask(root, "cat", 0)), labels_with(1, 2))
    assert any(fault.startswith(f"{mask(root, 'cat', 3)}: palette index 3") for fault in checked(root).faults)


@pytest.mark.parametrize("year", ["2016", "2017"])
@pytest.mark.parametrize("seed", range(12))
def test_what_passes_loads_in_every_clip_draw_and_what_stops_one_was_found(seed: int, year: str, tmp_path: Path):
    """Random damage: planted kinds, and bytes changed anywhere, which may or may not matter."""
    root, rng = write_davis(tmp_path, year=year), np.random.default_rng(seed)
    for name in NAMES:
        action = int(rng.integers(4))
        if action == 0:
            DAMAGES[int(rng.integers(len(DAMAGES) - 1))](root, name)
        elif action == 1:
            path = (frame, mask)[int(rng.integers(2))](root, name, int(rng.integers(4)))
            data = bytearray(path.read_bytes())
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
        elif action == 2:
            labels = rng.integers(0, 3, (H, W)).astype(np.uint8) * int(rng.integers(2))
            images.write_mask(str(mask(root, name, int(rng.integers(4)))), labels)
    found = checked(root)
    try:
        take_clips(root, count=40)
    except InputError as fault:
        assert str(fault) in found.faults
    else:
        assert found.faults == ()


def test_a_video_without_any_object_is_found_although_each_of_its_masks_can_be_read(tmp_path: Path):
    root = write_davis(tmp_path, year="2016")
    for index in range(4):
        images.write_mask(str(mask(root, "bear", index)), labels_with())
    (fault,) = checked(root).faults
    assert fault.startswith("bear: no mask of this video shows an object")
    with pytest.raises(InputError, match="bear: no mask"):
        take_clips(root)


def test_a_first_mask_without_object_is_allowed_in_training_and_refused_where_it_is_followed(tmp_path: Path):
    root = write_davis(tmp_path, year="2016")
    empty_first_mask(root, "bear")
    (root / "ImageSets/2016/val.txt").write_text("bear\n")
    found = checked(root)
    assert found.faults == () and found.warnings[0].startswith("bear: object 1 is not in the mask of frame 00000")
    take_clips(root)
    (fault,) = checked(root, split="val").faults
    assert fault.startswith("bear: the mask of frame 00000 shows no object")


def test_a_video_that_is_too_wide_to_crop_is_refused_instead_of_failing_in_the_crop(tmp_path: Path):
    root = write_davis(tmp_path)
    for index in range(4):
        images.write_frame(str(frame(root, "dog", index)), np.zeros((8, 32_767, 3), np.uint8))
        images.write_mask(str(mask(root, "dog", index)), np.ones((8, 32_767), np.uint8))
    (fault,) = checked(root).faults
    assert fault.startswith("dog: 32767x8 pixels")
    with pytest.raises(InputError, match="dog: 32767x8"):
        take_clips(root)


def write_youtube(root: Path) -> tuple[Path, Path]:
    """One video; object 2 appears in frame 2, and meta.json says so. Returns the masks' folder and meta.json."""
    frames, masks = root / "train/JPEGImages/v1", root / "train/Annotations/v1"
    for index in range(4):
        images.write_frame(str(frames / f"{index:05d}.jpg"), np.full((H, W, 3), 40 * index, np.uint8))
        images.write_mask(str(masks / f"{index:05d}.png"), labels_with(1, 2) if index > 1 else labels_with(1))
    objects = {"1": {"frames": ["00000", "00001"]}, "2": {"frames": ["00002", "00003"]}}
    meta = root / "train/meta.json"
    meta.write_text(json.dumps({"videos": {"v1": {"objects": objects}}}))
    return masks, meta


def test_an_object_that_meta_json_introduces_later_is_no_fault_and_one_that_it_lacks_is(tmp_path: Path):
    masks, _ = write_youtube(tmp_path)
    assert checked(tmp_path) == Findings((), ())
    take_clips(tmp_path)
    images.write_mask(str(masks / "00003.png"), labels_with(1, 2, 9))
    (fault,) = checked(tmp_path).faults
    assert fault.startswith(f"{masks}/00003.png: palette index 9, but meta.json has only objects 1, 2")


def test_faults_of_meta_json_are_listed_beside_those_of_files(tmp_path: Path):
    masks, meta = write_youtube(tmp_path)
    content = json.loads(meta.read_text())
    objects = content["videos"]["v1"]["objects"]
    objects |= {"3": {"frames": []}, "4": {"frames": ["99999"]}}
    meta.write_text(json.dumps(content))
    (masks / "00001.png").write_bytes(b"")
    faults = checked(tmp_path).faults
    assert [fault.partition(": ")[2][:8] for fault in faults] == ["the file", "object 3", "object 4"]
    content["videos"]["v1"]["objects"] = {}
    meta.write_text(json.dumps(content))
    for path in masks.iterdir():
        images.write_mask(str(path), labels_with())
    (tmp_path / "train").rename(tmp_path / "valid")
    (fault,) = checked(tmp_path, split="val").faults
    assert fault.startswith("v1: meta.json lists no object")


def test_what_is_allowed_and_may_not_be_meant_is_a_warning(tmp_path: Path):
    masks, meta = write_youtube(tmp_path)
    content = json.loads(meta.read_text())
    content["videos"]["v1"]["objects"] |= {"5": {"frames": ["00001"]}, "2": {"frames": ["00001"]}}
    meta.write_text(json.dumps(content))
    images.write_mask(str(masks / "00007.png"), labels_with(1))
    images.write_mask(str(masks / "00008.png"), labels_with(1))
    found = checked(tmp_path)
    assert found.faults == ()
    assert [warning.partition(": ")[2] for warning in found.warnings] == [
        "object 2 is not in the mask of frame 00001, listed as its first frame",
        "object 5 is in no mask",
        "no frame has this name; not read",
    ]
    assert found.warnings[-1].startswith(f"{masks}/00007.png and 1 more masks")
    take_clips(tmp_path)
    for index in (2, 3):
        (masks / f"{index:05d}.png").unlink()
    assert "v1: 2 frames with masks; clips of 3 frames repeat the last of them" in checked(tmp_path).warnings
    take_clips(tmp_path)


def test_a_folder_of_videos_with_first_masks_can_be_segmented_and_not_trained_on(tmp_path: Path):
    for name in ("cat", "dog"):
        for index in range(3):
            images.write_frame(str(tmp_path / f"frames/{name}/{index:05d}.jpg"), np.zeros((H, W, 3), np.uint8))
        images.write_mask(str(tmp_path / f"masks/{name}/00000.png"), labels_with(3))
    assert checked(tmp_path, split="val").faults == ()
    assert [fault.partition(";")[0] for fault in checked(tmp_path).faults] == [
        f"{name}: 1 frame with a mask" for name in ("cat", "dog")
    ]


def test_real_video_has_no_faults(shared: Path):
    root = shared / "data" / "DAVIS"
    for split in ("train", "val"):
        video = datasets.load_index(str(root), split=split)[0]
        assert check_video(video, split == "train") == Findings((), ())
