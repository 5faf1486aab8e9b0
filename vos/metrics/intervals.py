"""How sure a difference between two methods is: a paired bootstrap over seeds and sequences.

Two methods that were trained with the same seeds and scored on the same sequences are compared pair by pair. Both the seeds and the
sequences are a sample of what could have been taken, so both are drawn again, with replacement and independently; a resample keeps a
pair together. The interval is the percentile interval (Efron and Tibshirani 1993, chapter 13). With few seeds or sequences it is too
narrow, as every bootstrap is: in the simulation of its test, 3 seeds of 8 sequences hold the truth in some nine cases of ten.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vos.errors import InputError

RESAMPLES = 10_000


class Difference(NamedTuple):
    """The mean of a - b, and the interval in which it lies with `confidence`."""

    mean: float
    low: float
    high: float


def paired_difference(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Mean of a - b with its bootstrap interval.

    a, b     (seeds, sequences) scores; the same place in both is the same seed and the same sequence
    returns  in the unit of a and b; the interval has no width where the differences are all equal
    Raises InputError where the two are not of one shape (seeds, sequences), empty, or hold a score that is not finite.
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
    # How often each was drawn: the mean of a resample is a product of these counts with the differences.
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples) / num_seeds
    sequences = (
        rng.multinomial(num_sequences, np.full(num_sequences, 1 / num_sequences), size=resamples) / num_sequences
    )
    # Around the mean, so that equal differences leave exactly nothing to vary.
    means = np.einsum("rs,sq,rq->r", seeds, difference - mean, sequences, optimize=True)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(mean, mean + float(low), mean + float(high))
