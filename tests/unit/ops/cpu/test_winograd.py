"""Minimal filtering equals SciPy's correlation and is as exact as the plain convolution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from delfjax.ops import convolution
from delfjax.ops.cpu import winograd

_CHANNELS, _OUTPUTS = 24, 16


def _drawn(rng: np.random.Generator, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    shapes = (2, height, width, _CHANNELS), (3, 3, _CHANNELS, _OUTPUTS)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return x, kernel


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5), (1, 2), (4, 9)])
@pytest.mark.parametrize("pad", [(1, 1), (0, 2), (2, 0), (2, 2)])
def test_minimal_filtering_equals_scipy_and_is_as_exact_as_the_plain_convolution(
    height: int, width: int, pad: tuple[int, int], rng: np.random.Generator
) -> None:
    x, kernel = _drawn(rng, height, width)
    ours = jax.jit(lambda x, kernel: winograd.convolved(x, kernel, pad))(x, kernel)
    plain = jax.jit(lambda x, kernel: convolution._plain_convolved(x, kernel, 1, pad))(x, kernel)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), pad, pad, (0, 0)))
    taps = np.asarray(kernel, np.float64)
    expected = np.stack(
        [
            np.concatenate(
                [correlate(image, taps[..., d], "valid") for d in range(_OUTPUTS)], axis=-1
            )
            for image in padded
        ]
    )
    assert ours.shape == plain.shape == expected.shape
    # Sums of 216 products of size about one, with sums of four cells as factors.
    np.testing.assert_allclose(ours, expected, atol=4e-5)
    assert np.abs(ours - expected).mean() < 3 * np.abs(plain - expected).mean() + 1e-7


def test_a_cpu_uses_minimal_filtering_where_it_is_faster(
    rng: np.random.Generator,
) -> None:
    x, kernel = _drawn(rng, 6, 8)
    found = jax.jit(lambda x, kernel: convolution.dense(x, kernel, stride=1, pad=(1, 1)))(x, kernel)
    ours = jax.jit(lambda x, kernel: winograd.convolved(x, kernel, (1, 1)))(x, kernel)
    np.testing.assert_array_equal(found, ours)


@pytest.mark.parametrize(
    ("shape", "stride", "dtype"),
    [
        ((3, 3, 16, 16), 2, jnp.float32),
        ((5, 5, 16, 16), 1, jnp.float32),
        ((3, 3, 3, 64), 1, jnp.float32),
        ((3, 3, 16, 16), 1, jnp.bfloat16),
    ],
)
def test_other_convolutions_do_not_fit(
    shape: tuple[int, ...], stride: int, dtype: jnp.dtype
) -> None:
    assert not winograd.fits(jnp.zeros(shape, dtype), stride)
    assert winograd.fits(jnp.zeros((3, 3, 16, 16), jnp.float32), 1)
