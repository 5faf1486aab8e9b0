"""What is kept of the teacher for one query frame."""

import numpy as np
import pytest
import torch

from vos.boundary import boundary_mask, nested_order
from vos.distillation import correlation
from vos.targets import query_targets

O, C, SIDE = 2, 5, 12
CELLS = SIDE * SIDE


@pytest.fixture
def labels() -> np.ndarray:
    """(h, w) with two objects, one of them a single cell."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[2:7, 3:8] = 1
    labels[9, 9] = 2
    return labels


def targets_of(
    labels: np.ndarray, samples: int = 50, rank: int = O * C, radius_px: int = 1, seed: int = 3
) -> dict[str, np.ndarray]:
    random = torch.Generator().manual_seed(0)
    logits, features = (
        torch.randn(O, SIDE, SIDE, generator=random),
        torch.randn(O, C, SIDE, SIDE, generator=random),
    )
    return query_targets(labels, logits, features, samples=samples, rank=rank, radius_px=radius_px, seed=seed)


def rows_at(index: np.ndarray) -> torch.Tensor:
    """The teacher's features at cells, objects side by side, as targets_of makes them."""
    random = torch.Generator().manual_seed(0)
    torch.randn(O, SIDE, SIDE, generator=random)
    return torch.randn(O, C, SIDE, SIDE, generator=random).flatten(2)[:, :, torch.from_numpy(index)].flatten(0, 1).T


@pytest.mark.parametrize("samples", [2, 17, CELLS])
def test_the_sample_is_a_prefix_of_the_nested_order_of_the_boundary_mask(labels: np.ndarray, samples: int):
    order = nested_order(boundary_mask(labels, 1), 3)
    np.testing.assert_array_equal(targets_of(labels, samples)["sample_index"], order[:samples])


def test_a_smaller_sample_is_the_beginning_of_a_larger_one_with_the_same_correlations(labels: np.ndarray):
    small, large = targets_of(labels, samples=20), targets_of(labels, samples=60)
    for name in ("sample_index", "sample_label"):
        np.testing.assert_array_equal(small[name], large[name][:20])
    gram = [factor.astype(np.float64) @ factor.astype(np.float64).T for factor in (small["factor"], large["factor"])]
    np.testing.assert_allclose(gram[0], gram[1][:20, :20], atol=5e-3)


def test_every_sampled_label_is_the_label_of_its_cell(labels: np.ndarray):
    kept = targets_of(labels, CELLS)
    np.testing.assert_array_equal(kept["sample_label"], labels.reshape(-1)[kept["sample_index"]])
    assert set(kept["sample_label"]) == {0, 1, 2}


@pytest.mark.parametrize("rank", [O * C, O * C + 7])
def test_the_factor_at_full_rank_is_the_teachers_correlation_to_half_precision(labels: np.ndarray, rank: int):
    kept = targets_of(labels, rank=rank)
    assert kept["factor"].shape == (50, rank)
    factor = torch.from_numpy(kept["factor"].astype(np.float64))
    wanted = correlation(rows_at(kept["sample_index"]).double())
    torch.testing.assert_close(factor @ factor.T, wanted, rtol=0, atol=4e-3)


def test_a_smaller_rank_loses_correlation_and_never_adds_length(labels: np.ndarray):
    wanted = correlation(rows_at(targets_of(labels)["sample_index"]).double())
    errors = []
    for rank in (1, 4, 8, O * C):
        factor = torch.from_numpy(targets_of(labels, rank=rank)["factor"].astype(np.float64))
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


def test_the_seed_alone_decides_the_sample(labels: np.ndarray):
    first, again, other = targets_of(labels), targets_of(labels), targets_of(labels, seed=4)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["sample_index"], other["sample_index"])


def test_a_frame_without_objects_is_sampled_all_over():
    kept = targets_of(np.zeros((SIDE, SIDE), np.uint8))
    assert len(set(kept["sample_index"].tolist())) == 50
    assert not kept["boundary"].any() and not kept["sample_label"].any()
