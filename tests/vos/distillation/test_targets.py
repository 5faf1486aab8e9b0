"""What is kept of the teacher for one query frame."""

from typing import Any

import numpy as np
import pytest
import torch

from vos.distillation.boundary import boundary_mask, nested_order
from vos.distillation.representation import correlation
from vos.distillation.targets import query_targets

O, C, SIDE = 2, 5, 12
CELLS = SIDE * SIDE


@pytest.fixture
def labels() -> np.ndarray:
    """(h, w) with two objects, one of them a single cell."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[2:7, 3:8] = 1
    labels[9, 9] = 2
    return labels


def targets_of(labels: np.ndarray, samples: int = 50, seed: int = 3, **changes: Any) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    logits, features = (
        torch.randn(O, SIDE, SIDE, generator=random),
        torch.randn(O, C, SIDE, SIDE, generator=random),
    )
    settings: dict[str, Any] = {"rank": O * C, "radius_px": 1, "factor_dtype": "fp16", "logits": "fp16"}
    return query_targets(labels, logits, features, samples=samples, seed=(seed,), **settings | changes)


def factor_of(kept: dict[str, Any]) -> torch.Tensor:
    """Z_t (N, r) as it was stored, in double precision."""
    return torch.from_numpy(kept["factor"].T * np.float64(kept.get("factor_scale", 1.0)))


def rows_at(index: np.ndarray) -> torch.Tensor:
    """The teacher's features at cells, objects side by side, as targets_of makes them."""
    random = torch.Generator().manual_seed(0)
    torch.randn(O, SIDE, SIDE, generator=random)
    return torch.randn(O, C, SIDE, SIDE, generator=random).flatten(2)[:, :, torch.from_numpy(index)].flatten(0, 1).T


@pytest.mark.parametrize("samples", [2, 17, CELLS])
def test_the_sample_is_a_prefix_of_the_nested_order_of_the_boundary_mask(labels: np.ndarray, samples: int):
    order = nested_order(boundary_mask(labels, 1), (3,))
    np.testing.assert_array_equal(targets_of(labels, samples)["sample_index"], order[:samples])


@pytest.mark.parametrize("samples", [2, 17, CELLS])
def test_a_uniform_sample_is_a_prefix_of_the_order_that_knows_no_boundary(labels: np.ndarray, samples: int):
    uniform, usual = (targets_of(labels, samples, sampling=sampling) for sampling in ("uniform", "boundary"))
    np.testing.assert_array_equal(uniform["sample_index"], nested_order(np.ones((SIDE, SIDE), bool), (3,))[:samples])
    np.testing.assert_array_equal(uniform["boundary"], usual["boundary"])  # the band of kd_boundary stays
    np.testing.assert_array_equal(uniform["sample_label"], labels.reshape(-1)[uniform["sample_index"]])


def test_a_smaller_sample_is_the_beginning_of_a_larger_one_with_the_same_correlations(labels: np.ndarray):
    small, large = targets_of(labels, samples=20), targets_of(labels, samples=60)
    for name in ("sample_index", "sample_label"):
        np.testing.assert_array_equal(small[name], large[name][:20])
    gram = [factor @ factor.T for factor in (factor_of(small), factor_of(large))]
    np.testing.assert_allclose(gram[0], gram[1][:20, :20], atol=5e-3)


def test_every_sampled_label_is_the_label_of_its_cell(labels: np.ndarray):
    kept = targets_of(labels, CELLS)
    np.testing.assert_array_equal(kept["sample_label"], labels.reshape(-1)[kept["sample_index"]])
    assert set(kept["sample_label"]) == {0, 1, 2}


@pytest.mark.parametrize("rank", [O * C, O * C + 7])
def test_the_factor_at_full_rank_is_the_teachers_correlation_to_half_precision(labels: np.ndarray, rank: int):
    kept = targets_of(labels, rank=rank)
    assert kept["factor"].shape == (rank, 50)
    factor = factor_of(kept)
    wanted = correlation(rows_at(kept["sample_index"]).double())
    torch.testing.assert_close(factor @ factor.T, wanted, rtol=0, atol=4e-3)


def test_a_smaller_rank_loses_correlation_and_never_adds_length(labels: np.ndarray):
    wanted = correlation(rows_at(targets_of(labels)["sample_index"]).double())
    errors = []
    for rank in (1, 4, 8, O * C):
        factor = factor_of(targets_of(labels, rank=rank))
        assert factor.norm(dim=1).max() < 1 + 2e-3
        errors.append(float((factor @ factor.T - wanted).norm()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 10 * errors[-1]


@pytest.mark.parametrize("radius_px", [0, 2])
def test_the_packed_bits_are_the_boundary_mask(labels: np.ndarray, radius_px: int):
    bits = np.unpackbits(targets_of(labels, radius_px=radius_px)["boundary"])
    np.testing.assert_array_equal(bits[:CELLS].reshape(SIDE, SIDE), boundary_mask(labels, radius_px))
    assert not bits[CELLS:].any()


def test_cells_of_the_boundary_are_sampled_before_any_other(labels: np.ndarray):
    boundary = boundary_mask(labels, 1).reshape(-1)
    inside = boundary[targets_of(labels, CELLS)["sample_index"]]
    assert inside[: boundary.sum()].all() and not inside[boundary.sum() :].any()


def test_the_logits_are_the_teachers_rounded_to_half_precision(labels: np.ndarray):
    logits = torch.randn(O, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    kept = targets_of(labels)["logits"]
    assert kept.dtype == np.float16
    np.testing.assert_array_equal(kept, logits.half().numpy())


def test_logits_beyond_what_aggregation_can_tell_apart_are_cut(labels: np.ndarray):
    logits = torch.tensor([-50.0, -16.0, 3.0, 40.0]).repeat(SIDE * SIDE // 4).reshape(1, SIDE, SIDE)
    features = torch.randn(1, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"samples": 9, "seed": (0,), "rank": 2, "radius_px": 1, "factor_dtype": "int8"}
    kept = query_targets(labels, logits, features, logits="int8", **settings)
    rebuilt = torch.from_numpy(kept["logits"] * kept["logit_scale"][:, None, None])
    step = 16.2 / 127
    assert kept["logit_error"] <= step / 2 + 1e-6
    torch.testing.assert_close(rebuilt, logits.clamp(-16.2, 16.2), rtol=0, atol=step)
    # Probabilities after aggregation's own clipping are what the student is compared with.
    torch.testing.assert_close(torch.sigmoid(rebuilt), torch.sigmoid(logits).clamp(1e-7, 1 - 1e-7), rtol=0, atol=0.016)
    assert "logits" not in query_targets(labels, logits, features, logits="none", **settings)


@pytest.mark.parametrize(("dtype", "bound"), [("int8", 0.012), ("fp16", 1e-3), ("fp32", 1e-6)])
def test_the_stored_error_is_the_error_of_the_correlations_that_are_rebuilt(
    labels: np.ndarray, dtype: str, bound: float
):
    kept = targets_of(labels, factor_dtype=dtype)
    factor, wanted = factor_of(kept), correlation(rows_at(kept["sample_index"]).double())
    error = float((factor @ factor.T - wanted).norm() / wanted.norm())
    assert error <= bound
    assert abs(error - kept["factor_error"]) < 1e-6


def test_absent_objects_may_be_left_out_of_the_features(labels: np.ndarray):
    features = torch.randn(1, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([features, torch.zeros(1, C, SIDE, SIDE)])
    settings: dict[str, Any] = {"samples": 40, "seed": (0,), "rank": C + 2, "radius_px": 1, "logits": "none"}
    short, full = (
        factor_of(query_targets(labels, torch.zeros(1, SIDE, SIDE), given, factor_dtype="fp32", **settings))
        for given in (features, padded)
    )
    torch.testing.assert_close(short @ short.T, full @ full.T, rtol=0, atol=1e-6)


def test_a_teacher_that_says_nothing_leaves_zeros(labels: np.ndarray):
    zeros = torch.zeros(1, C, SIDE, SIDE)
    kept = query_targets(
        labels, zeros[:, 0], zeros, samples=9, seed=(0,), rank=3, radius_px=1, factor_dtype="int8", logits="int8"
    )
    assert not kept["factor"].any() and kept["factor_error"] == 0 and not kept["logits"].any()


def test_the_seed_alone_decides_the_sample(labels: np.ndarray):
    first, again, other = targets_of(labels), targets_of(labels), targets_of(labels, seed=4)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["sample_index"], other["sample_index"])


def test_a_frame_without_objects_is_sampled_all_over():
    kept = targets_of(np.zeros((SIDE, SIDE), np.uint8))
    assert len(set(kept["sample_index"].tolist())) == 50
    assert not kept["boundary"].any() and not kept["sample_label"].any()
