"""Confidence interval of the difference between two methods: a paired bootstrap over seeds and sequences.

Both methods are trained with the same seeds and scored on the same sequences, so scores are compared in pairs. Seeds and sequences are
both samples, so both are resampled, with replacement and independently; pairs stay together. The result is the percentile interval
(Efron and Tibshirani 1993, chapter 13). With few seeds or sequences it is too narrow: in the simulation of its test, with 3 seeds and
8 sequences, it covers the true value in about nine of ten cases.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vos.errors import InputError

RESAMPLES = 10_000


class Difference(NamedTuple):
    """The mean of a - b and its confidence interval."""

    mean: float
    low: float
    high: float


def paired_difference(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Return the mean of a - b with its bootstrap interval.

    a, b     (seeds, sequences) scores; equal positions have the same seed and the same sequence
    returns  in the unit of a and b; the interval has width 0 if all differences are equal
    Raises InputError if the shapes differ or are not (seeds, sequences), an array is empty, or a score is not finite.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise InputError(f"paired_difference: {a.shape} and {b.shape}; give two arrays of one shape (seeds, sequences)")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("paired_difference: a score is not finite; leave such runs out")
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(
            f"paired_difference: confidence={confidence}, resamples={resamples}; use 0 to 1, and 1 or more"
        )
    difference = a - b
    mean = float(difference.mean())
    rng = np.random.default_rng(seed)
    num_seeds, num_sequences = difference.shape
    # Shares of each seed and sequence in a resample; its mean is their product with the differences.
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples) / num_seeds
    sequences = (
        rng.multinomial(num_sequences, np.full(num_sequences, 1 / num_sequences), size=resamples) / num_sequences
    )
    # Relative to the mean, so that equal differences give an interval of width exactly 0.
    means = np.einsum("rs,sq,rq->r", seeds, difference - mean, sequences, optimize=True)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(mean, mean + float(low), mean + float(high))
