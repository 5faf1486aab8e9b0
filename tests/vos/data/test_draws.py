import json
import pickle
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest

from vos.config import ClipConfig
from vos.data import datasets
from vos.data.clips import read_clip
from vos.data.draw_records import ClipDraw, Paste
from vos.data.draws import draw_clip, viewing_order, with_context
from vos.data.synthetic import synthetic_index
from vos.errors import InputError

CLIP = ClipConfig(crop_px=64, max_skip_frames=4)


@dataclass(frozen=True)
class Fake:
    """A video of squares in memory: `shown[i]` are the objects of frame i, None where there is no mask."""

    shown: tuple[tuple[int, ...] | None, ...]
    name: str = "fake"
    size: tuple[int, int] = (40, 60)

    @property
    def num_frames(self) -> int:
        return len(self.shown)

    @property
    def annotated(self) -> tuple[int, ...]:
        return tuple(i for i, shown in enumerate(self.shown) if shown is not None)

    @property
    def first_seen(self) -> dict[int, int]:
        return {o: i for i in reversed(self.annotated) for o in self.shown[i] or ()}

    def frame_name(self, index: int) -> str:
        return str(index)

    def frame(self, index: int) -> np.ndarray:
        return np.full((*self.size, 3), index, np.uint8)

    def mask(self, index: int) -> np.ndarray | None:
        shown = self.shown[index]
        if shown is None:
            return None
        labels = np.zeros(self.size, np.uint8)
        for number in shown:
            labels[10:25, 12 * number : 12 * number + 9] = number
        return labels

    def signature(self) -> str:
        return repr(self)

    def files(self) -> tuple[str, ...]:
        return ()


@pytest.fixture(scope="module")
def videos():
    return synthetic_index(7, 20, (64, 96))


def test_a_draw_is_a_function_of_its_number_alone(videos):
    forward = [draw_clip(videos, CLIP, 3, n) for n in range(40)]
    backward = [draw_clip(pickle.loads(pickle.dumps(videos)), CLIP, 3, n) for n in reversed(range(40))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 40
    assert forward != [draw_clip(videos, CLIP, 4, n) for n in range(40)]


def test_a_draw_survives_json_exactly(videos):
    for n in range(10):
        draw = draw_clip(videos, CLIP, 0, n)
        assert ClipDraw.from_dict(json.loads(json.dumps(draw.to_dict()))) == draw


def test_every_pass_takes_every_video_once_in_its_own_order(videos):
    names = [draw_clip(videos, CLIP, 0, n).video for n in range(21)]
    passes = [names[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(names) == sorted(video.name for video in videos) for names in passes)
    assert len({tuple(names) for names in passes}) == 3


def test_frames_keep_the_largest_gap_and_go_both_ways(videos):
    directions = Counter()
    for n in range(80):
        steps = np.diff(draw_clip(videos, replace(CLIP, num_frames=4), 0, n).frames)
        assert (steps > 0).all() or (steps < 0).all()
        assert np.abs(steps).max() <= 4
        directions[int(np.sign(steps[0]))] += 1
    assert min(directions.values()) > 20
    gaps = {abs(b - a) for n in range(80) for a, b in [draw_clip(videos, CLIP, 0, n).frames[:2]]}
    assert gaps == {1, 2, 3, 4}


def test_sparse_masks_are_taken_although_they_lie_farther_apart_than_the_largest_gap():
    video = Fake(tuple((1,) if i % 5 == 0 else None for i in range(31)))
    for n in range(20):
        frames = draw_clip([video], CLIP, 0, n).frames
        assert set(frames) <= set(video.annotated) and set(np.abs(np.diff(frames))) == {5}
    gaps = {
        abs(b - a)
        for n in range(60)
        for a, b in [draw_clip([video], replace(CLIP, max_skip_frames=12), 0, n).frames[:2]]
    }
    assert gaps == {5, 10}


def test_a_short_video_repeats_its_last_frame_and_one_with_a_first_mask_only_is_refused():
    assert {draw_clip([Fake(((1,), (1,)))], CLIP, 0, n).frames for n in range(20)} == {(0, 1, 1), (1, 1, 0)}
    with pytest.raises(InputError, match="fake.*mask"):
        draw_clip([Fake(((1,), None, None))], CLIP, 0, 0)
    with pytest.raises(InputError, match="no video"):
        draw_clip([], CLIP, 0, 0)


def test_the_first_frame_shows_an_object_even_if_that_is_rare():
    rare = Fake(tuple((2,) if i == 17 else () for i in range(60)))
    for n in range(20):
        draw = draw_clip([rare], CLIP, 0, n)
        assert draw.frames[0] == 17 and draw.objects == (2,) and len(draw.frames) == 3
    last = Fake(tuple((1,) if i == 59 else () for i in range(60)))
    assert draw_clip([last], CLIP, 0, 0).frames[0] == 59
    with pytest.raises(InputError, match="no mask of this video shows an object"):
        draw_clip([Fake(((), (), ()))], CLIP, 0, 0)


@pytest.mark.parametrize("max_objects", [1, 2, 3])
def test_the_crop_shows_every_chosen_object_in_the_first_frame(max_objects):
    clip, videos = replace(CLIP, max_objects=max_objects), synthetic_index(20, 20, (64, 96))
    by_name = {video.name: video for video in videos}
    counts = Counter()
    for n in range(60):
        draw = draw_clip(videos, clip, 1, n)
        labels = read_clip(by_name[draw.video], draw, clip.crop_px).labels
        assert set(np.unique(labels[0])) - {0} == set(range(1, len(draw.objects) + 1))
        assert set(np.unique(labels)) <= {0, *range(1, len(draw.objects) + 1)}
        counts[len(draw.objects)] += 1
    assert set(counts) == set(range(1, max_objects + 1))


def test_without_augmentation_the_crop_spans_the_shorter_side(videos):
    plain = replace(CLIP, flip=False, scale_min=1, scale_max=1, rotate_deg=0, shear_deg=0, colour=0)
    for n in range(10):
        shown = draw_clip(videos, plain, 0, n).augmentation
        a, b, c, d, e, f = shown.affine
        assert (a, b, d, e) == (1, 0, 0, 1) and shown.gain == (1, 1, 1) and shown.offset == (0, 0, 0)
        assert abs(f) < 1e-9 and -1e-9 <= c <= 96 - 64 + 1e-9, "inside the frame"


def test_half_of_the_draws_are_mirrored_if_asked_for(videos):
    def mirrored(clip: ClipConfig) -> int:
        affines = [draw_clip(videos, clip, 0, n).augmentation.affine for n in range(100)]
        return sum(a * e - b * d < 0 for a, b, _, d, e, _ in affines)

    assert 30 < mirrored(CLIP) < 70 and mirrored(replace(CLIP, flip=False)) == 0


def test_the_shared_davis_gives_draws_with_an_object_in_view(shared):
    videos = datasets.load_index(str(shared / "data" / "DAVIS"))
    by_name = {video.name: video for video in videos}
    for n in range(30):
        draw = draw_clip(videos, ClipConfig(crop_px=128), 0, n)
        assert (read_clip(by_name[draw.video], draw, 128).labels[0] == 1).any()


# Context frames.

CONTEXT_CLIP = ClipConfig(crop_px=64, max_skip_frames=6)
LONG = Fake(((1,),) * 40)


def drawn(frames: tuple[int, ...]) -> ClipDraw:
    return replace(draw_clip([LONG], CONTEXT_CLIP, 0, 0), frames=frames)


@pytest.mark.parametrize("frames", [(12, 17, 20), (20, 17, 12), (0, 5, 9), (39, 38, 30), (3, 3, 3)])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 100])
def test_context_lies_before_and_between_the_clips_frames_and_is_none_of_them(frames: tuple[int, ...], count: int):
    draw = with_context(drawn(frames), LONG, CONTEXT_CLIP, count, annotated_only=False)
    ahead = 1 if frames[-1] >= frames[0] else -1
    span = range(frames[0] - ahead * CONTEXT_CLIP.max_skip_frames, frames[-1] + ahead, ahead)
    passed = [i for i in span if 0 <= i < 40 and i not in frames]
    assert len(draw.context) == len(set(draw.context)) == min(count, len(passed))
    assert set(draw.context) <= set(passed)
    assert replace(draw, context=()) == drawn(frames)
    if count == 100:
        assert set(draw.context) == set(passed)


def test_context_is_spread_evenly_over_the_way():
    draw = with_context(drawn((12, 18, 30)), LONG, CONTEXT_CLIP, 4, annotated_only=False)
    places = sorted(draw.context)
    assert places[0] < 12 and places[-1] > 24
    gaps = np.diff(places)
    assert gaps.max() - gaps.min() <= 2


def test_true_masks_can_only_be_had_of_frames_that_have_them():
    sparse = Fake(tuple((1,) if i % 5 == 0 else None for i in range(40)))
    draw = replace(draw_clip([sparse], CONTEXT_CLIP, 0, 0), frames=(10, 15, 20))
    assert set(with_context(draw, sparse, CONTEXT_CLIP, 9, annotated_only=True).context) == {5}
    assert len(with_context(draw, sparse, CONTEXT_CLIP, 9, annotated_only=False).context) == 9


@pytest.mark.parametrize("frames", [(12, 17, 20), (20, 17, 12)])
def test_the_teacher_goes_back_first_and_then_on_as_the_clip_does(frames: tuple[int, ...]):
    draw = with_context(drawn(frames), LONG, CONTEXT_CLIP, 7, annotated_only=False)
    shown = (*draw.frames, *draw.context)
    order = viewing_order(draw)
    assert sorted(order) == list(range(1, len(shown)))
    way = [(shown[position] - frames[0]) * (1 if frames[-1] > frames[0] else -1) for position in order]
    back = [distance for distance in way if distance < 0]
    assert back == sorted(back, reverse=True) == way[: len(back)]
    assert way[len(back) :] == sorted(way[len(back) :])
    assert viewing_order(drawn((4, 4, 4))) == (1, 2)


# Gap curriculum.


def test_each_draw_keeps_to_the_gap_of_its_stage_and_some_draw_of_each_stage_needs_it():
    clip = replace(CONTEXT_CLIP, skip_curriculum=(1, 4, 9))
    widest = [0, 0, 0]
    for number in range(90):
        frames = draw_clip([LONG], clip, 0, number).frames
        gaps = [abs(a - b) for a, b in zip(frames, frames[1:], strict=False)]
        widest[number % 3] = max(widest[number % 3], *gaps)
    assert widest == [1, 4, 9]


def test_a_draw_with_context_survives_json():
    draw = with_context(drawn((12, 17, 20)), LONG, CONTEXT_CLIP, 3, annotated_only=False)
    assert ClipDraw.from_dict(json.loads(json.dumps(draw.to_dict()))) == draw


def test_a_draw_with_a_pasted_object_survives_json_and_one_without_is_stored_as_before(videos):
    clip = replace(CLIP, paste=1.0)
    draws = [draw_clip(videos, clip, 1, n) for n in range(20)]
    assert any(draw.paste for draw in draws)
    for draw in draws:
        assert ClipDraw.from_dict(json.loads(json.dumps(draw.to_dict()))) == draw
        assert ("paste" in draw.to_dict()) == (draw.paste is not None)


def test_pasting_leaves_the_rest_of_a_draw_as_it_was(videos):
    for n in range(20):
        assert replace(draw_clip(videos, replace(CLIP, paste=1.0), 1, n), paste=None) == draw_clip(videos, CLIP, 1, n)


def test_a_pasted_object_comes_from_another_video_and_counts_only_where_there_is_room(videos):
    for n in range(40):
        draw = draw_clip(videos, replace(CLIP, paste=1.0, max_objects=1), 2, n)
        assert draw.num_objects == 1
        assert draw.paste is None or draw.paste.video != draw.video


def test_a_pasted_object_that_is_one_of_the_clip_s_is_seen_in_its_first_frame():
    @dataclass(frozen=True)
    class Tiny(Fake):
        """An object of two pixels: in a small crop it vanishes as a rule."""

        def mask(self, index: int) -> np.ndarray:
            return np.pad(np.ones((2, 1), np.uint8), ((79, 79), (120, 119)))

    tiny, wide = Tiny(((1,),) * 8, name="tiny", size=(160, 240)), Fake(((1,),) * 8, name="wide")
    clip = replace(CLIP, crop_px=32, paste=1.0, max_objects=2)
    draws = [draw for n in range(80) if (draw := draw_clip([tiny, wide], clip, 3, n)).paste and draw.video == "wide"]
    labelled = [draw for draw in draws if draw.paste is not None and draw.paste.labelled]
    assert labelled and len(labelled) < len(draws)
    for draw in labelled:
        assert (read_clip(wide, draw, 32, tiny).labels[0] == 2).any()


def test_a_pasted_video_turns_round_at_its_ends_and_never_jumps():
    paste = Paste("other", 3, 1, 1, drawn((0, 1)).augmentation, False, False)
    for direction in (1, -1):
        frames = [replace(paste, direction=direction).frame(offset, 5) for offset in range(-12, 13)]
        assert set(frames) == set(range(5))
        assert all(abs(a - b) == 1 for a, b in zip(frames, frames[1:], strict=False))
        assert replace(paste, direction=direction).frame(0, 5) == 3
    assert paste.frame(7, 1) == 0
