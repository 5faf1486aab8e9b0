"""Labelling: which frames are kept, and what following a video keeps of what was given."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vos.data.datasets import load_index
from vos.data.synthetic import synthetic_index
from vos.data.videos import Video
from vos.errors import InputError
from vos.inference.labelling import (
    HELD_OUT,
    Following,
    LabelledFrame,
    Rules,
    judged,
    label_video,
    with_given_masks,
)
from vos.media.images import write_frame, write_mask
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import load_checkpoint
from vos.models.interface import VOSModel
from vos.models.memory import MemoryPolicy

RULES = Rules(min_confidence=0.8, min_agreement=0.6)
HOW = Following(MemoryPolicy("infinite", every=5, top_k=20, include_last=True), check_every=4)
NOTHING = np.zeros((0, 0), np.uint8)


@pytest.fixture(scope="module")
def teacher() -> VOSModel:
    return load_checkpoint(BUILTIN["builtin"])[0].eval()


def frame(index: int, shown: dict[int, float], **more: object) -> LabelledFrame:
    return replace(LabelledFrame(index, NOTHING, NOTHING, shown), **more)


def kept(frames: list[LabelledFrame], rules: Rules = RULES) -> list[int]:
    return [one.index for one, reason in zip(frames, judged(frames, rules), strict=True) if not reason]


# The rules.


def test_an_object_that_is_another_one_backwards_is_not_trusted_until_a_given_mask_shows_it():
    frames = [
        frame(0, {1: 1.0}, given=(1,), begins=True, agreement={1: 0.9}),
        frame(1, {1: 0.99}, agreement={1: 0.9}),
        frame(2, {1: 0.99}, begins=True, agreement={1: 0.1}),  # the way back from 4 ends somewhere else
        frame(3, {1: 0.99}, agreement={1: 0.95}),
        frame(4, {1: 0.99}, begins=True, agreement={1: 0.95}),
        frame(5, {1: 0.99}, agreement={1: 0.95}),
        frame(6, {1: 1.0}, given=(1,), begins=True, agreement={1: 0.95}),
        frame(7, {1: 0.99}),
    ]
    assert kept(frames) == [0, 1, 2, 6, 7]
    assert "backwards from frame 2 on" in judged(frames, RULES)[4]


def test_a_doubted_object_spoils_only_the_frames_that_show_it():
    frames = [
        frame(0, {1: 1.0, 2: 1.0}, given=(1, 2), begins=True, agreement={1: 0.9, 2: 0.1}),
        frame(1, {1: 0.99, 2: 0.99}, agreement={1: 0.9}),
        frame(2, {1: 0.99}, agreement={1: 0.9}),
    ]
    assert kept(frames) == [0, 2]


def test_frames_without_confidence_without_agreement_or_without_any_object_are_left_out():
    frames = [
        frame(0, {1: 1.0}, given=(1,), begins=True, agreement={1: 1.0}),
        frame(1, {1: 0.79}, agreement={1: 1.0}),
        frame(2, {1: 0.9}, agreement={1: 0.59}),
        frame(3, {}, agreement={1: 0.0}),  # lost forwards, found backwards
        frame(4, {}),  # gone in both directions
        frame(5, {1: 0.9}, agreement={1: 0.6}),
    ]
    assert kept(frames) == [0, 5]


def test_every_nth_kept_frame_is_held_out_and_never_a_given_one():
    frames = [
        frame(i, {1: 0.5 if i == 4 else 1.0}, given=(1,) if i in (0, 3) else (), begins=i % 4 == 0) for i in range(9)
    ]
    reasons = judged(frames, replace(RULES, hold_out=2))
    assert [i for i, reason in enumerate(reasons) if reason == HELD_OUT] == [2, 6, 8]
    assert "confidence" in reasons[4]


# Following a video.


def folder_of(video: Video, root: Path, masks: range, ids: dict[int, int] | None = None) -> Video:
    """The video in kind `folder`, lossless, with these of its masks, under other ids."""
    for index in range(video.num_frames):
        write_frame(str(root / f"frames/v/{index:05d}.png"), video.frame(index))
    for index in masks:
        mask = video.mask(index)
        assert mask is not None
        table = np.arange(256, dtype=np.uint8)
        for old, new in (ids or {}).items():
            table[old] = new
        write_mask(str(root / f"masks/v/{index:05d}.png"), table[mask])
    return load_index(str(root), "folder")[0]


def test_the_first_frame_has_exactly_the_given_mask_and_ids_may_have_gaps(teacher: VOSModel, tmp_path: Path):
    video = synthetic_index(3, 6, (64, 96), seed=3)[2]
    ids = {one: 7 + 100 * k for k, one in enumerate(video.first_seen)}
    labelled = folder_of(video, tmp_path, range(1), ids)
    frames = list(label_video(teacher, labelled, HOW))
    mask = labelled.mask(0)
    assert [one.index for one in frames] == list(range(6))
    np.testing.assert_array_equal(frames[0].labels, mask)
    assert (frames[0].confidence == 255).all() and frames[0].given == tuple(sorted(ids.values()))
    for one in frames:
        assert {*one.shown} == {int(i) for i in np.unique(one.labels) if i} <= {*ids.values()}
        assert one.labels.shape == one.confidence.shape == (64, 96)


def test_a_video_that_stands_still_agrees_with_itself_backwards(teacher: VOSModel, tmp_path: Path):
    video = synthetic_index(1, 1, (96, 144))[0]
    for index in range(6):
        write_frame(str(tmp_path / f"frames/v/{index:05d}.png"), video.frame(0))
    write_mask(str(tmp_path / "masks/v/00000.png"), video.mask(0))
    frames = list(label_video(teacher, load_index(str(tmp_path), "folder")[0], HOW))
    assert all(min(one.agreement.values()) > 0.9 for one in frames[1:-1])
    assert frames[0].agreement[1] > 0.7  # its mask was given, and is not what the teacher would have drawn
    assert [one.begins for one in frames] == [True, False, False, False, True, True]
    assert kept(frames) == list(range(6))


def test_labels_with_flips_do_not_depend_on_left_and_right(teacher: VOSModel, tmp_path: Path):
    video = synthetic_index(1, 4, (64, 96))[0]
    how = replace(HOW, scales=(1.0, 1.25), flip=True)
    labels = [one.labels for one in label_video(teacher, folder_of(video, tmp_path / "a", range(1)), how)]
    for index in range(4):
        write_frame(str(tmp_path / f"b/frames/v/{index:05d}.png"), video.frame(index)[:, ::-1])
    write_mask(str(tmp_path / "b/masks/v/00000.png"), video.mask(0)[:, ::-1])
    mirrored = [one.labels for one in label_video(teacher, load_index(str(tmp_path / "b"), "folder")[0], how)]
    assert np.mean([a == b[:, ::-1] for a, b in zip(labels, mirrored, strict=True)]) > 0.995


def test_given_masks_replace_the_prediction_only_if_all_are_read(teacher: VOSModel, tmp_path: Path):
    labelled = folder_of(synthetic_index(1, 6, (64, 96))[0], tmp_path, range(0, 6, 3))
    first = list(label_video(teacher, with_given_masks(labelled, every=False), HOW))
    every = list(label_video(teacher, with_given_masks(labelled, every=True), HOW, every=True))
    truth = labelled.mask(3)
    assert (first[3].labels != truth).any() and not first[3].given
    np.testing.assert_array_equal(every[3].labels, truth)
    assert every[3].given and every[3].begins
    np.testing.assert_array_equal(first[1].labels, every[1].labels)


def test_an_object_without_a_pixel_at_the_teachers_size_is_named(teacher: VOSModel, tmp_path: Path):
    video = synthetic_index(1, 3, (128, 160))[0]
    labelled = folder_of(video, tmp_path, range(1))
    dot = np.zeros((128, 160), np.uint8)
    dot[0, 1] = 1
    write_mask(str(tmp_path / "masks/v/00000.png"), dot)
    with pytest.raises(InputError, match="no pixel of its objects is left at .*--size-px"):
        list(label_video(teacher, labelled, replace(HOW, size_px=32)))
