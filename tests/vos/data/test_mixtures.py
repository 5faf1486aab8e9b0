"""A mixture's draws: shares, passes, independence of what was asked before; folds."""

import pickle
from collections import Counter

import numpy as np
import pytest

from vos.config import ClipConfig
from vos.data.contents import fingerprint
from vos.data.draws import draw_clip
from vos.data.mixtures import BLOCK, Mixture, Source, by_key, fold_of
from vos.data.synthetic import synthetic_index
from vos.errors import InputError

WEIGHTS = [
    (1.0,),
    (0.5, 0.3, 0.2),
    (1.0, 1.0, 1.0),
    (0.3, 1 / 256, 0.7 - 1 / 256),
    (3.0, 1e-2, 0.0131, 0.017),
    (7.0,) * 11,
]


def mixed(*weights: float, videos: int = 3) -> Mixture:
    sources = [
        Source(f"s{i}", weight, tuple(synthetic_index(videos + i, 4, (32, 48), seed=i)))
        for i, weight in enumerate(weights)
    ]
    return Mixture(sources)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_source_has_its_share_after_every_block(weights: tuple[float, ...]):
    mixture = mixed(*weights)
    before = dict.fromkeys((source.name for source in mixture.sources), 0)
    for block in range(1, 300):
        counts = mixture.counts(5, block * BLOCK)
        assert sum(counts.values()) == block * BLOCK
        for source, share in zip(mixture.sources, mixture.shares, strict=True):
            assert abs(counts[source.name] - share * block * BLOCK) <= 1 + 1e-6
            assert abs(counts[source.name] - before[source.name] - share * BLOCK) < 2
        before = counts
    assert mixture.place(5, 300 * BLOCK + 7).number >= 0


def test_a_source_smaller_than_its_rounding_never_counts_backwards():
    """Shares between edges that round to and fro, at the smallest share that is allowed."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        first = rng.uniform(0, 1 - 1 / BLOCK)
        mixture = mixed(first, 1 / BLOCK, 1 - 1 / BLOCK - first, videos=1)
        found = [mixture.counts(0, block * BLOCK)["s1"] for block in range(200)]
        assert all(a <= b for a, b in zip(found, found[1:], strict=False))
        for block in range(20):
            mixture.place(0, block * BLOCK)


def test_counts_are_those_of_the_places_and_numbers_follow_each_other():
    mixture = mixed(0.5, 0.3, 0.2)
    numbers: dict[str, list[int]] = {"s0": [], "s1": [], "s2": []}
    for number in range(700):
        if number % 97 == 0:
            assert mixture.counts(1, number) == {name: len(found) for name, found in numbers.items()}
        place = mixture.place(1, number)
        numbers[place.source.name].append(place.number)
    assert all(found == list(range(len(found))) for found in numbers.values())


def test_a_draw_depends_on_its_number_alone_and_every_pass_takes_each_video_once():
    mixture, clip = mixed(0.6, 0.4), ClipConfig(crop_px=32, max_skip_frames=2)
    draws = [draw_clip(mixture, clip, 2, number) for number in range(60)]
    again = pickle.loads(pickle.dumps(mixture))
    assert [draw_clip(again, clip, 2, number) for number in reversed(range(60))] == draws[::-1]
    assert [draw.source for draw in draws] != [draw_clip(mixture, clip, 3, number).source for number in range(60)]
    for source in mixture.sources:
        taken = [draw.video for draw in draws if draw.source == source.name]
        size = len(source.videos)
        for start in range(0, len(taken) - size + 1, size):
            assert Counter(taken[start : start + size]) == {video.name: 1 for video in source.videos}
    assert all(by_key(mixture)[draw.video_key].name == draw.video for draw in draws)


def test_a_mixture_is_the_list_of_its_videos_and_pickles():
    mixture = mixed(0.5, 0.5)
    assert list(mixture) == [video for source in mixture.sources for video in source.videos]
    again = pickle.loads(pickle.dumps(mixture))
    assert isinstance(again, Mixture) and again.sources == mixture.sources and again == mixture
    assert len(by_key(mixture)) == len(mixture), "videos of equal names in two sources have two keys"


def test_the_fingerprint_depends_on_weights_and_order():
    one, two = mixed(0.5, 0.5).sources
    found = {
        fingerprint(Mixture(sources)) for sources in ([one, two], [two, one], [Source("s0", 0.4, one.videos), two])
    }
    assert len(found | {fingerprint(list(Mixture([one, two])))}) == 4
    assert fingerprint(Mixture([one, two])) in found


def test_folds_are_disjoint_and_do_not_depend_on_the_order_of_the_videos():
    videos = synthetic_index(30, 4, (32, 48))
    held = [{video.name for video in fold_of(videos, fold, 8, True)} for fold in (1, 2, 3)]
    assert all(len(one) == 8 for one in held) and len(set.union(*held)) == 24
    for fold, one in enumerate(held, 1):
        assert {video.name for video in fold_of(videos[::-1], fold, 8, False)} == {video.name for video in videos} - one
    for fold, size, said in ((4, 8, "use 1 to 3"), (1, 30, "lower --data.fold-videos")):
        with pytest.raises(InputError, match=said):
            fold_of(videos, fold, size, True)
