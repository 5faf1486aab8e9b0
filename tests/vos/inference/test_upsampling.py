"""From the working size to the frame's: probabilities stay probabilities, and contours can follow the frame's edges."""

import numpy as np
import pytest

from vos.inference.upsampling import enlarge


def disk(size: int, radius: float) -> np.ndarray:
    """A disk in the middle of a square, (size, size) float32."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    return (np.hypot(x, y) < radius * size / 64).astype(np.float32)


def scene(size: int) -> np.ndarray:
    """A bright disk on a dark ground, (size, size, 3) uint8."""
    return np.repeat((50 + 150 * disk(size, 20))[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("guided", [False, True])
def test_enlarged_probabilities_are_probabilities(guided: bool):
    rng = np.random.default_rng(0)
    prob = rng.random((3, 16, 20), dtype=np.float32)
    prob /= prob.sum(0)
    guide = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8) if guided else None
    large = enlarge(prob, (70, 90), guide)
    assert large.shape == (3, 70, 90) and large.min() >= 0
    np.testing.assert_allclose(large.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("guided", [False, True])
def test_a_flat_map_stays_flat(guided: bool):
    prob = np.stack([np.full((16, 16), 0.25, np.float32), np.full((16, 16), 0.75, np.float32)])
    np.testing.assert_allclose(enlarge(prob, (64, 64), scene(64) if guided else None)[1], 0.75, atol=1e-5)


def test_a_contour_that_is_a_little_off_moves_to_the_edge_of_the_frame():
    truth = disk(256, 20) > 0.5
    off = disk(64, 21)  # a small pixel too wide
    prob = np.stack([1 - off, off])
    wrong = {
        name: ((enlarge(prob, (256, 256), guide)[1] > 0.5) != truth).mean()
        for name, guide in (("bilinear", None), ("edge", scene(256)))
    }
    assert wrong["edge"] < 0.8 * wrong["bilinear"]
