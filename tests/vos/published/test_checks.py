"""The checks hold for the code as it is, on any seed, and notice when it is wrong."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from vos.distillation.boundary import boundary_mask, nested_order
from vos.distillation.representation import representation_loss
from vos.distillation.supervised import dice_loss
from vos.models.memory import MemoryPolicy, read_memory
from vos.published import checks, loss_checks
from vos.published.bounds import Figure
from vos.published.checks import (
    largest_difference,
    memory_checks,
    reference_checks,
    sampling_checks,
    size_checks,
)
from vos.published.figures import PUBLISHED
from vos.published.loss_checks import representation_checks, supervised_checks

SEEDED = (memory_checks, representation_checks, supervised_checks, sampling_checks)


def failed(found) -> list[str]:
    return [check.name for check in found if not check.met]


@pytest.mark.parametrize("group", SEEDED)
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_every_property_holds_on_every_seed(group: Callable, seed: int):
    assert failed(group(seed)) == []


@pytest.mark.parametrize("group", [size_checks, reference_checks])
def test_sizes_and_the_published_table_are_as_they_should(group: Callable):
    assert failed(group()) == []


@pytest.mark.parametrize(
    ("value", "relation", "bound", "met"),
    [
        (3, "=", 3, True),
        (3, "=", 4, False),
        ("float32", "=", "float32", True),
        (1e-7, "<=", 1e-6, True),
        (2e-6, "<=", 1e-6, False),
        (4.0, ">=", 4, True),
        (3.9, ">=", 4, False),
        (4.0, ">", 4, False),
        (math.nan, "<=", 1.0, False),
        (math.nan, ">=", 0, False),
        (None, "=", "-", None),
        (3.0, "", "", None),
    ],
)
def test_a_figure_is_met_when_its_value_keeps_the_bound(value, relation: str, bound, met: bool | None):
    figure = Figure("name", value, relation, bound)
    assert figure.met is met
    assert figure.outcome == ("not run" if value is None else {True: "reached", False: "below target", None: ""}[met])


def test_a_difference_shows_nan_and_other_shapes():
    zero = torch.zeros(2, 3)
    assert largest_difference([zero, zero], [zero, zero - 2]) == 2
    assert math.isnan(largest_difference([zero, zero * math.nan], [zero, zero]))
    assert largest_difference(zero, zero[:1]) == math.inf


def other_representation(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    return lambda z_s, z_t, labels, w: representation_loss(change(z_s), z_t, labels, w)


@pytest.mark.parametrize(
    ("group", "module", "name", "wrong", "notices"),
    [
        (representation_checks, loss_checks, "representation_loss", other_representation(torch.relu), "signs of student"),
        (representation_checks, loss_checks, "representation_loss", other_representation(torch.relu), "rotated"),
        (representation_checks, loss_checks, "representation_loss", other_representation(torch.relu), "SupCon"),
        (representation_checks, loss_checks, "representation_loss", lambda *a: -representation_loss(*a), "smallest"),
        (representation_checks, loss_checks, "representation_loss", lambda *a: 2 * representation_loss(*a), "explicit"),
        (
            representation_checks,
            loss_checks,
            "representation_loss",
            other_representation(lambda z: z @ torch.eye(z.shape[1], dtype=z.dtype)),
            "autocast",
        ),
        (supervised_checks, loss_checks, "logit_kl", lambda s, t, tau, weight=None: (s - t).mean(), "KL"),
        (supervised_checks, loss_checks, "dice_loss", lambda p, y: dice_loss(p, y.clamp(max=2)), "Dice"),
        (memory_checks, checks, "MemoryPolicy", lambda kind: MemoryPolicy("infinite", every=1), "first_recent holds"),
        (memory_checks, checks, "MemoryPolicy", lambda kind: MemoryPolicy("infinite", every=1), "T = 4"),
        (memory_checks, checks, "read_memory", lambda *a, **k: 1.001 * read_memory(*a, **k), "formula"),
        (memory_checks, checks, "read_memory", lambda *a, chunk_scores=0: read_memory(*a) + chunk_scores, "chunked"),
        (sampling_checks, checks, "boundary_mask", lambda labels, r: boundary_mask(labels, r + 0.5), "unlike"),
        (sampling_checks, checks, "nested_order", lambda b, seed: nested_order(~b, seed), "boundary-first"),
        (sampling_checks, checks, "nested_order", lambda b, seed: np.zeros(b.size, np.int64), "missing"),
        (sampling_checks, checks, "nested_order", lambda b, seed: nested_order(b, (*seed, 1) if seed else 1), "digest"),
        (reference_checks, checks, "PUBLISHED", PUBLISHED[:-1], "methods in the table"),
    ],
)  # fmt: skip
def test_a_wrong_result_is_noticed(
    group: Callable, module, name: str, wrong, notices: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, name, wrong)
    assert any(notices in check for check in failed(group(0) if group in SEEDED else group()))
