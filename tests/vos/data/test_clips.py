import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from vos.config import ClipConfig
from vos.data import datasets
from vos.data.clips import Clip, Cropper, checksum, decode_clip, encode_clip, read_clip, read_context, replay
from vos.data.draw_records import Augmentation, ClipDraw
from vos.data.draws import draw_clip
from vos.data.synthetic import synthetic_index
from vos.errors import InputError

CLIP = ClipConfig(crop_px=64, max_skip_frames=4)
PLAIN = Augmentation((1, 0, 0, 0, 1, 0), (1, 1, 1), (0, 0, 0))

REPLAY = """
import hashlib, json, sys
from vos.data.clips import replay
from vos.data.datasets import load_index
from vos.data.draw_records import ClipDraw
root, lines = sys.argv[1], sys.stdin.read().splitlines()
videos = {video.name: video for video in load_index(root)}
for line in reversed(lines):
    draw = ClipDraw.from_dict(json.loads(line))
    clip = replay(videos, draw, 64)
    print(draw.number, hashlib.sha256(clip.frames).hexdigest(), hashlib.sha256(clip.labels).hexdigest())
"""


def digests_here(videos, draws: list[ClipDraw]) -> dict[str, list[str]]:
    by_name = {video.name: video for video in videos}
    clips = {str(draw.number): replay(by_name, draw, 64) for draw in draws}
    return {
        n: [hashlib.sha256(a.tobytes()).hexdigest() for a in (clip.frames, clip.labels)] for n, clip in clips.items()
    }


def digests_elsewhere(root: str, draws: list[ClipDraw]) -> dict[str, list[str]]:
    lines = "\n".join(json.dumps(draw.to_dict()) for draw in draws)
    done = subprocess.run([sys.executable, "-c", REPLAY, root], input=lines, capture_output=True, text=True, check=True)
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


def test_another_process_in_another_order_replays_the_same_bytes_of_synthetic_video():
    videos = datasets.load_index("")
    draws = [draw_clip(videos, CLIP, 9, n) for n in range(12)]
    assert digests_elsewhere("", draws) == digests_here(videos, draws)


PASTED = replace(CLIP, paste=1.0, max_objects=2)


def test_another_process_replays_pasted_objects_too():
    videos = datasets.load_index("")
    draws = [draw for n in range(12) if (draw := draw_clip(videos, PASTED, 9, n)).paste]
    assert len(draws) > 3
    assert digests_elsewhere("", draws) == digests_here(videos, draws)


def test_a_pasted_object_changes_only_the_pixels_it_covers_and_bears_the_last_label():
    videos = datasets.load_index("")
    by_name = {video.name: video for video in videos}
    seen = set()
    for number in range(40):
        draw = draw_clip(videos, PASTED, 3, number)
        if draw.paste is None:
            continue
        with_paste, without = replay(by_name, draw, 64), replay(by_name, replace(draw, paste=None), 64)
        covered = (with_paste.frames != without.frames).any(-1) | (with_paste.labels != without.labels)
        changed = with_paste.labels[covered]
        assert np.isin(changed, [draw.num_objects] if draw.paste.labelled else [0]).all()
        if draw.paste.behind:
            assert not (without.labels[covered] > 0).any()
        own = [(clip.labels[0] == 1).sum() for clip in (with_paste, without)]
        assert own[0] >= own[1] // 2  # half of an object stays in sight in the first frame, however it is covered
        seen.add((draw.paste.behind, draw.paste.labelled))
    assert len(seen) == 4


def test_context_frames_show_the_pasted_object_where_its_own_video_has_gone():
    videos = datasets.load_index("")
    by_name = {video.name: video for video in videos}
    draw = next(draw for n in range(40) if (draw := draw_clip(videos, PASTED, 5, n)).paste)
    assert draw.paste is not None
    as_context = replace(draw, context=draw.frames)
    pasted = by_name[draw.paste.video]
    context = read_context(by_name[draw.video], as_context, 64, masks=True, pasted=pasted)
    clip = replay(by_name, draw, 64)
    assert np.array_equal(context.frames, clip.frames) and np.array_equal(context.labels, clip.labels)


def test_true_context_masks_that_are_not_there_are_named_and_not_taken_for_background():
    video = datasets.load_index("")[0]
    draw = replace(draw_clip([video], CLIP, 5, 0), context=(0, 1))

    class Sparse:
        """The video with its second mask gone."""

        def __getattr__(self, name: str):
            return getattr(video, name)

        def mask(self, index: int) -> np.ndarray | None:
            return None if index == 1 else video.mask(index)

    with pytest.raises(InputError, match="has no mask"):
        read_context(Sparse(), draw, 64, masks=True)  # type: ignore[arg-type]
    assert not read_context(Sparse(), draw, 64, masks=False).labels.any()  # type: ignore[arg-type]


def test_another_process_in_another_order_replays_the_same_bytes_of_davis(shared):
    root = str(shared / "data" / "DAVIS")
    videos = datasets.load_index(root)
    draws = [draw_clip(videos, CLIP, 9, n) for n in range(12)]
    assert digests_elsewhere(root, draws) == digests_here(videos, draws)


def test_the_plain_crop_is_the_corner_of_the_frame_with_objects_renumbered_in_order():
    video = next(v for v in synthetic_index(20, 4, (64, 96)) if len(v.first_seen) == 3)
    draw = ClipDraw(0, video.name, (2, 0), (3, 1), PLAIN)
    clip = read_clip(video, draw, 48)
    for t, index in enumerate((2, 0)):
        np.testing.assert_array_equal(clip.frames[t], video.frame(index)[:48, :48])
        expected = np.array([0, 2, 0, 1])[video.mask(index)[:48, :48]]
        np.testing.assert_array_equal(clip.labels[t], expected)
    assert clip.labels.dtype == clip.frames.dtype == np.uint8


def test_frames_and_labels_move_together():
    """A frame that shows its own labels must, cropped, show the cropped labels, whatever the augmentation."""
    (video,) = synthetic_index(1, 1, (96, 144))
    labels = (video.mask(0) > 0).astype(np.uint8)
    for n in range(30):
        augmentation = draw_clip([replace(video, num_frames=5)], CLIP, 0, n).augmentation
        crop = Cropper(replace(augmentation, gain=(1, 1, 1), offset=(0, 0, 0)), 64)
        shown = crop.frame(np.repeat(labels[..., None] * 255, 3, axis=2))[..., 0] > 127
        moved = crop.labels(labels, (1,)) > 0
        assert (shown != moved).mean() < 0.02


def test_frames_and_labels_continue_past_the_edge_as_their_reflection():
    (video,) = synthetic_index(1, 1, (48, 64))
    frame, labels, ids = video.frame(0), video.mask(0), tuple(video.first_seen)
    crop = Cropper(replace(PLAIN, affine=(1, 0, -9, 0, 1, -5)), 64)  # from 9 pixels left of the frame and 5 above it
    around = ((5, 11), (9, 0))
    np.testing.assert_array_equal(crop.frame(frame), np.pad(frame, (*around, (0, 0)), mode="reflect")[:, :64])
    expected = np.searchsorted((0, *ids), np.pad(labels, around, mode="reflect")[:, :64])
    np.testing.assert_array_equal(crop.labels(labels, ids), expected)
    assert expected[:5].any() or expected[53:].any() or expected[:, :9].any(), "an object goes on there"


def test_a_small_crop_of_a_large_frame_is_averaged_and_not_picked():
    stripes = np.zeros((400, 600, 3), np.uint8)
    stripes[:, ::2] = 200
    crop = Cropper(Augmentation((6.0, 0, 10, 0, 6.0, 10), (1, 1, 1), (0, 0, 0)), 64).frame(stripes)
    assert np.abs(crop.astype(int) - 100).max() <= 2


def test_a_shrunk_crop_lies_where_its_labels_lie():
    frame = np.zeros((240, 240, 3), np.uint8)
    frame[60:120, 90:180] = 255
    augmentation = Augmentation((3.7, 0, 1.5, 0, 3.7, 0.5), (1, 1, 1), (0, 0, 0))
    crop = Cropper(augmentation, 64)
    shown, labels = crop.frame(frame)[..., 0] / 255, crop.labels(frame[..., 0] // 255, (1,))
    assert shown.sum() == pytest.approx(60 * 90 / 3.7**2, rel=0.02)
    for picture, exactness_px in ((shown, 0.05), (labels, 0.5)):
        centre = [np.average(axis, weights=picture) for axis in np.mgrid[:64, :64]]
        np.testing.assert_allclose(centre, [(89.5 - 0.5) / 3.7, (134.5 - 1.5) / 3.7], atol=exactness_px)


def test_colours_follow_gain_and_offset_and_are_clipped():
    frame = np.full((32, 32, 3), 100, np.uint8)
    crop = Cropper(replace(PLAIN, gain=(1.1, 3.0, 0.5), offset=(-10, 0, -60.0)), 32).frame(frame)
    assert tuple(crop[4, 4]) == (100, 255, 0)


def test_context_frames_are_cropped_like_the_clip():
    (video,) = synthetic_index(1, 12, (64, 96))
    draw = draw_clip([video], CLIP, 0, 0)
    context = read_clip(video, replace(draw, frames=(*draw.frames, 7)), 64)
    np.testing.assert_array_equal(context.frames[:3], read_clip(video, draw, 64).frames)


def test_a_frame_that_lost_its_mask_is_named(tmp_path):
    from vos.data.synthetic import write_davis

    write_davis(synthetic_index(1, 3, (64, 96)), str(tmp_path), "val")
    (video,) = datasets.load_index(str(tmp_path), split="val")
    draw = draw_clip([video], CLIP, 0, 0)
    for name in ("00001.png", "00002.png"):
        (tmp_path / "Annotations/480p" / video.name / name).unlink()
    (video,) = datasets.load_index(str(tmp_path), split="val")
    with pytest.raises(InputError, match="has no mask"):
        read_clip(video, draw, 64)


# Context frames, checksums and stored clips.


def test_context_frames_are_cropped_like_the_clips_own():
    videos = datasets.load_index("")
    draw = draw_clip(videos, CLIP, 0, 3)
    video = next(video for video in videos if video.name == draw.video)
    shown = replace(draw, context=draw.frames)
    clip = read_clip(video, draw, 64)
    told, blind = (read_context(video, shown, 64, masks) for masks in (True, False))
    np.testing.assert_array_equal(told.frames, clip.frames)
    np.testing.assert_array_equal(blind.frames, clip.frames)
    np.testing.assert_array_equal(told.labels, clip.labels)
    assert not blind.labels.any() and blind.labels.shape == clip.labels.shape


def random_clip() -> Clip:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return Clip(smooth, rng.integers(0, 3, (3, 32, 32), dtype=np.uint8))


def test_the_checksum_sees_every_pixel_and_every_label():
    clip = random_clip()
    for part in ("frames", "labels"):
        changed = getattr(clip, part).copy()
        changed.flat[changed.size // 2] ^= 1
        assert checksum(replace(clip, **{part: changed})) != checksum(clip)
    assert checksum(replace(clip, frames=clip.frames.copy())) == checksum(clip)


def test_a_stored_clip_keeps_its_labels_exactly_and_its_colours_nearly():
    clip = random_clip()
    decoded = decode_clip(*encode_clip(clip))
    np.testing.assert_array_equal(decoded.labels, clip.labels)
    assert np.abs(decoded.frames.astype(int) - clip.frames).mean() < 3
    again = decode_clip(*encode_clip(clip))
    np.testing.assert_array_equal(again.frames, decoded.frames)
