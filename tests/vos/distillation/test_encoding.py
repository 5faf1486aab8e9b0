"""Numbers as int8 with a scale."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vos.distillation.encoding import LEVELS, dequantise, quantise


@given(seed=st.integers(0, 10**6), size=st.floats(1e-20, 1e20), axes=st.sampled_from([(0,), (1, 2), (0, 1, 2)]))
def test_the_error_is_at_most_half_a_step(seed: int, size: float, axes: tuple[int, ...]):
    values = (np.random.default_rng(seed).standard_normal((3, 4, 5)) * size).astype(np.float32)
    q, scale = quantise(values, axes)
    assert q.dtype == np.int8 and scale.dtype == np.float32 and np.abs(q.astype(int)).max() == LEVELS
    step = np.expand_dims(scale, axes)
    assert (np.abs(dequantise(q, scale, axes) - values) <= 0.5001 * step).all()


def test_each_position_along_the_other_axes_has_its_own_scale():
    values = np.array([[1.0, -2.0], [100.0, 50.0]], np.float32)
    q, scale = quantise(values, (1,))
    np.testing.assert_allclose(scale, [2 / 127, 100 / 127], rtol=1e-6)
    np.testing.assert_array_equal(q, [[64, -127], [127, 64]])


@pytest.mark.parametrize("shape", [(2, 3), (1, 1)])
def test_zeros_stay_zeros(shape: tuple[int, int]):
    q, scale = quantise(np.zeros(shape, np.float32), (1,))
    assert not q.any() and (scale == 1).all() and not dequantise(q, scale, (1,)).any()
