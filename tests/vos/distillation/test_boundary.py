"""The boundary mask against its definition written as loops, and the properties of the sampling order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vos.distillation.boundary import boundary_mask, nested_order
from vos.errors import InputError

LABELS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))
RADII = st.sampled_from([0, 0.5, 1, 1.4, 1.5, 2, 2.5, 3, 5, 20])


def boundary_by_definition(labels: np.ndarray, radius_px: float) -> np.ndarray:
    height, width = labels.shape
    contour = [
        (y, x)
        for y in range(height)
        for x in range(width)
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))
        if 0 <= y + dy < height and 0 <= x + dx < width and labels[y + dy, x + dx] != labels[y, x]
    ]
    mask = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            mask[y, x] = any((y - cy) ** 2 + (x - cx) ** 2 <= radius_px**2 for cy, cx in contour)
    return mask


@settings(max_examples=80, deadline=None)
@given(labels=LABELS, radius_px=RADII)
def test_the_boundary_is_every_pixel_within_the_radius_of_a_pixel_with_another_label_beside_it(labels, radius_px):
    np.testing.assert_array_equal(boundary_mask(labels, radius_px), boundary_by_definition(labels, radius_px))


@settings(max_examples=30, deadline=None)
@given(labels=LABELS)
def test_a_larger_radius_never_loses_a_pixel(labels):
    masks = [boundary_mask(labels, radius) for radius in (0, 1, 2, 4)]
    assert all((small <= large).all() for small, large in zip(masks, masks[1:], strict=False))


@settings(max_examples=30, deadline=None)
@given(labels=LABELS, radius_px=RADII)
def test_renaming_the_objects_leaves_the_boundary_unchanged(labels, radius_px):
    renamed = np.array([70000, -3, 12, 0], dtype=np.int64)[labels]
    np.testing.assert_array_equal(boundary_mask(renamed, radius_px), boundary_mask(labels, radius_px))


def test_a_border_between_two_objects_is_a_boundary_as_one_with_background_is():
    labels = np.full((6, 8), 1)
    labels[:, 4:] = 2
    expected = np.zeros((6, 8), bool)
    expected[:, 3:5] = True
    np.testing.assert_array_equal(boundary_mask(labels, 0), expected)


def test_a_mask_of_one_label_has_no_boundary_at_any_radius():
    assert not boundary_mask(np.full((5, 7), 9), 0).any()
    assert not boundary_mask(np.full((5, 7), 9), 1e6).any()
    assert boundary_mask(np.eye(7, dtype=int), 1e6).all()


def test_tensors_give_the_same_boundary_and_order_as_arrays():
    labels = np.random.default_rng(0).integers(0, 3, (12, 17)).repeat(2, 0)
    mask = boundary_mask(torch.from_numpy(labels), 1)
    assert isinstance(mask, torch.Tensor) and mask.dtype == torch.bool
    np.testing.assert_array_equal(mask.numpy(), boundary_mask(labels, 1))
    order = nested_order(mask, 5)
    assert isinstance(order, torch.Tensor) and order.dtype == torch.int64
    np.testing.assert_array_equal(order.numpy(), nested_order(mask.numpy(), 5))


@settings(max_examples=50, deadline=None)
@given(boundary=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), seed=st.integers(0, 2**63 - 1))
def test_the_order_holds_every_pixel_once_and_the_whole_boundary_first(boundary, seed):
    order = nested_order(boundary, seed)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(boundary.size))
    count = int(boundary.sum())
    assert boundary.ravel()[order[:count]].all() and not boundary.ravel()[order[count:]].any()


def test_two_pixels_keep_their_relative_order_when_the_boundary_around_them_changes():
    everywhere = nested_order(np.ones((20, 30), bool), 3)
    part = np.random.default_rng(1).random((20, 30)) < 0.4
    inside = part.ravel()[everywhere]
    np.testing.assert_array_equal(nested_order(part, 3), np.concatenate([everywhere[inside], everywhere[~inside]]))


def test_the_order_is_the_same_on_every_platform():
    boundary = np.zeros((4, 5), bool)
    boundary[1:3, 2] = True
    assert nested_order(boundary, 7).tolist() == [12, 7, 6, 3, 11, 4, 10, 13, 9, 14, 15, 18, 0, 2, 17, 8, 5, 1, 19, 16]
    assert nested_order(boundary, (7, 1, 2)).tolist() == [
        12,
        7,
        13,
        5,
        2,
        18,
        15,
        17,
        4,
        16,
        3,
        14,
        11,
        1,
        10,
        6,
        8,
        9,
        0,
        19,
    ]


def test_every_pixel_is_equally_likely_to_come_first():
    first = [int(nested_order(np.ones((3, 4), bool), seed)[0]) for seed in range(1200)]
    counts = np.bincount(first, minlength=12)
    assert counts.min() > 60 and counts.max() < 140


@pytest.mark.parametrize(
    "call",
    [
        lambda: boundary_mask(np.zeros((3, 3), np.float32), 1),
        lambda: boundary_mask(np.zeros((1, 3, 3), np.uint8), 1),
        lambda: boundary_mask(np.zeros((0, 3), np.uint8), 1),
        lambda: boundary_mask(np.zeros((3, 3), np.uint8), -1),
        lambda: boundary_mask(np.zeros((3, 3), np.uint8), float("nan")),
        lambda: nested_order(np.zeros((3, 3), np.uint8), 1),
        lambda: nested_order(np.zeros(3, bool), 1),
        lambda: nested_order(np.zeros((3, 3), bool), -1),
    ],
)
def test_input_that_has_no_boundary_or_order_is_refused_in_one_line(call):
    with pytest.raises(InputError, match="give") as error:
        call()
    assert "\n" not in str(error.value)
