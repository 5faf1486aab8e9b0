"""The paired bootstrap: what must hold for any scores, and how often its interval holds the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vos.errors import InputError
from vos.metrics.intervals import paired_difference

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 9))
SCORES = SHAPES.flatmap(lambda shape: st.tuples(*(arrays(float, shape, elements=st.floats(0, 1)) for _ in "ab")))


@settings(max_examples=25, deadline=None)
@given(SCORES)
def test_a_method_does_not_differ_from_itself(scores: tuple[np.ndarray, np.ndarray]):
    assert paired_difference(scores[0], scores[0], resamples=50) == (0, 0, 0)


@settings(max_examples=25, deadline=None)
@given(SCORES)
def test_the_interval_holds_the_mean_and_turns_round_with_the_pair(scores: tuple[np.ndarray, np.ndarray]):
    a, b = scores
    there, back = paired_difference(a, b, resamples=400), paired_difference(b, a, resamples=400)
    assert there.mean == pytest.approx(np.mean(a - b), abs=1e-12)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low), abs=1e-9)
    assert there.low <= there.high


@settings(max_examples=25, deadline=None)
@given(SCORES, st.sampled_from([-0.5, 0.25, 2.0]))
def test_a_constant_added_to_one_side_moves_the_interval_by_it(scores: tuple[np.ndarray, np.ndarray], shift: float):
    a, b = scores
    before, after = paired_difference(a, b, resamples=100), paired_difference(a + shift, b, resamples=100)
    assert np.subtract(after, before) == pytest.approx([shift] * 3, abs=1e-9)


def test_equal_differences_have_an_interval_without_width():
    a = np.random.default_rng(0).random((3, 8))
    assert paired_difference(a + 0.25, a, resamples=200) == pytest.approx((0.25, 0.25, 0.25), abs=1e-12)


def test_what_seeds_and_sequences_share_widens_the_interval():
    """A difference that is one per sequence is no surer with more seeds; independent noise is."""
    rng = np.random.default_rng(1)
    zero = np.zeros((16, 8))
    of_sequences = np.repeat(rng.normal(size=(1, 8)), 16, axis=0)
    independent = rng.normal(size=(16, 8)) * of_sequences.std()
    wide, narrow = (paired_difference(one, zero) for one in (of_sequences, independent))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("seeds", "sequences", "least", "most"), [(10, 30, 0.89, 0.99), (3, 8, 0.82, 0.95)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(seeds: int, sequences: int, least: float, most: float):
    """Simulated: a true difference of 3, seeds and sequences that differ, and noise. Few of them make it too narrow."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        of_seed, of_sequence = rng.normal(size=(seeds, 1)), 2 * rng.normal(size=(1, sequences))
        truth = 3 + of_seed + of_sequence + rng.normal(size=(seeds, sequences))
        found = paired_difference(truth, np.zeros_like(truth), resamples=500)
        held += found.low <= 3 <= found.high
    assert least <= held / 300 <= most


def test_the_same_scores_give_the_same_interval():
    a, b = np.random.default_rng(3).random((2, 3, 8))
    assert paired_difference(a, b) == paired_difference(a, b)


@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "one shape"),
        (np.zeros(3), np.zeros(3), "one shape"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "one shape"),
        (np.full((1, 2), np.nan), np.zeros((1, 2)), "finite"),
    ],
)
def test_scores_that_are_no_pairs_are_refused(a: np.ndarray, b: np.ndarray, named: str):
    with pytest.raises(InputError, match=named):
        paired_difference(a, b)
