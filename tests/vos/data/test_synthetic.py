import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from vos.data import datasets
from vos.data.synthetic import synthetic_index, write_davis
from vos.errors import InputError
from vos.metrics.davis import score_masks


def masks_of(video) -> np.ndarray:
    return np.stack([video.mask(i) for i in range(video.num_frames)])


MAKE_BACKWARDS = """
from hashlib import md5
from vos.data.synthetic import synthetic_index
for video in reversed(synthetic_index(3, 12, (64, 96), seed=5)):
    for i in (11, 0, 7):
        print(video.name, i, md5(video.frame(i)).hexdigest(), md5(video.mask(i)).hexdigest())
"""


def test_a_frame_does_not_depend_on_what_was_made_before_it():
    done = subprocess.run([sys.executable, "-c", MAKE_BACKWARDS], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 9
    for video in synthetic_index(3, 12, (64, 96), seed=5):
        made = [(video.name, str(i), video.frame(i).tobytes(), video.mask(i).tobytes()) for i in range(12)]
        here = [
            [name, i, hashlib.md5(frame).hexdigest(), hashlib.md5(mask).hexdigest()] for name, i, frame, mask in made
        ]
        assert sum(line in here for line in lines) == 3


def test_a_longer_video_begins_with_the_shorter_one():
    (short,), (long,) = synthetic_index(1, 5, (64, 96)), synthetic_index(1, 400, (64, 96))
    np.testing.assert_array_equal(short.frame(4), long.frame(4))
    assert long.frame(399).shape == (64, 96, 3)
    with pytest.raises(IndexError):
        short.frame(5)


def test_splits_seeds_and_numbers_give_different_videos():
    some = [synthetic_index(2, 2, (64, 96), seed, split) for seed in (0, 1) for split in ("train", "val", "test")]
    frames = {video.frame(0).tobytes() for videos in some for video in videos}
    names = {video.name for videos in some for video in videos}
    assert len(frames) == len(names) == 12


def test_every_object_is_seen_in_the_first_frame_and_there_are_one_to_three():
    counts = set()
    for size in ((96, 144), (160, 240), (48, 48)):
        for video in synthetic_index(20, 3, size):
            present = np.bincount(video.mask(0).ravel(), minlength=4)[1:]
            assert list(video.first_seen) == [i for i in (1, 2, 3) if present[i - 1]]
            assert min(present[present > 0]) > 0.005 * size[0] * size[1]
            counts.add(len(video.first_seen))
    assert counts == {1, 2, 3}


def test_objects_hide_each_other_leave_and_come_back():
    videos = synthetic_index(24, 30, (96, 144))
    hides = returns = 0
    for video in videos:
        scene = video._scene()
        for label in video.first_seen:
            (sprite,) = [s for s in scene.sprites if s.label == label]
            alone = [sprite.cover(i, video.size) for i in range(30)]
            whole = np.array([np.count_nonzero(c[2] >= 128) if c else 0 for c in alone])
            seen = np.array([np.count_nonzero(mask == label) for mask in masks_of(video)])
            assert (seen <= whole).all()
            hides += int((seen < 0.5 * whole).any())
            gone = np.flatnonzero(whole == 0)
            returns += int(len(gone) > 0 and whole[gone[0] :].max() > 0)
    assert hides >= 5 and returns >= 3


def test_objects_share_colours_with_their_background():
    """Telling pixels apart by their colour alone, even with the answer at hand, must leave many of them wrong."""
    wrong = []
    for video in synthetic_index(8, 1):
        colour = (video.frame(0) // 32).astype(int) @ (64, 8, 1)
        inside = video.mask(0) > 0
        inner, outer = (np.bincount(colour[part], minlength=512) for part in (inside, ~inside))
        wrong.append(np.minimum(inner, outer).sum() / inside.sum())
    assert np.mean(wrong) > 0.1


def test_copying_the_first_mask_scores_low():
    scores = []
    for video in synthetic_index(12, 30, (96, 144), split="val"):
        masks = masks_of(video)
        score = score_masks(masks, np.repeat(masks[:1], len(masks), axis=0), sorted(video.first_seen))
        scores.append((score.j + score.f) / 2)
    assert np.mean(scores) < 0.35


def test_light_changes_and_the_background_moves():
    (video,) = synthetic_index(1, 30)
    outside = (video.mask(0) == 0) & (video.mask(20) == 0)
    means = [float(video.frame(i)[outside].mean()) for i in range(30)]
    assert max(means) - min(means) > 4
    assert np.abs(video.frame(0).astype(int) - video.frame(20))[outside].mean() > 10


def test_a_video_pickles_to_a_few_numbers_and_equals_its_copy():
    (video,) = synthetic_index(1)
    video.frame(0)
    assert len(pickle.dumps(video)) < 300
    assert pickle.loads(pickle.dumps(video)) == video


def test_a_written_copy_has_the_same_masks_and_nearly_the_same_frames(tmp_path):
    videos = synthetic_index(2, 4, (64, 96))
    split_file = write_davis(videos, str(tmp_path), "train")
    assert split_file == str(tmp_path / "ImageSets/2017/train.txt")
    copies = datasets.load_index(str(tmp_path))
    assert [copy.name for copy in copies] == [video.name for video in videos]
    for video, copy in zip(videos, copies, strict=True):
        assert copy.first_seen == video.first_seen and copy.annotated == video.annotated
        for i in range(4):
            np.testing.assert_array_equal(copy.mask(i), video.mask(i))
            assert np.abs(copy.frame(i).astype(int) - video.frame(i)).mean() < 5


def test_the_module_writes_a_data_set_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "vos.data.synthetic", "--out", str(tmp_path), "--videos", "1", "--frames", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train.txt" in done.stdout
    assert len(datasets.load_index(str(tmp_path))) == 1
    refused = subprocess.run([*command[:-1], "0"], capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.startswith("error: synthetic data")


@pytest.mark.parametrize("bad", [{"num_videos": 0}, {"num_frames": 0}, {"size": (16, 96)}, {"seed": -1}])
def test_numbers_that_make_no_video_are_refused(bad):
    with pytest.raises(InputError, match="at least"):
        synthetic_index(**bad)
