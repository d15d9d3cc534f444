"""Coordinates under a resize: the corners of pixels stay the corners of the image, and NumPy, JAX
and the matrix agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delfjax.ops.half_pixel import resize_matrices, to_original_px, to_resized_px

POINTS = np.array([[0.0, 0.0], [10.0, 20.5], [-0.5, 63.5]], np.float32)
FACTORS = np.array([[2.0, 0.5]], np.float32)


def test_the_outer_edges_of_an_image_stay_its_outer_edges() -> None:
    edges = np.array([-0.5, 9.5])
    np.testing.assert_array_equal(to_resized_px(edges, 2.0), [-0.5, 19.5])
    np.testing.assert_array_equal(to_original_px(edges, 2.0), [-0.5, 4.5])
    # Two pixels become one, which lies between them.
    np.testing.assert_array_equal(to_resized_px(np.array([0.0, 1.0]), 0.5), [-0.25, 0.25])


def test_positions_survive_a_resize_and_back() -> None:
    np.testing.assert_allclose(
        to_original_px(to_resized_px(POINTS, FACTORS), FACTORS), POINTS, atol=1e-5
    )


@pytest.mark.parametrize("mapped", [to_resized_px, to_original_px])
def test_jax_gives_what_numpy_gives(mapped: object) -> None:
    assert callable(mapped)
    expected = mapped(POINTS, FACTORS)
    found = mapped(jnp.asarray(POINTS), jnp.asarray(FACTORS))
    assert isinstance(expected, np.ndarray) and isinstance(found, jax.Array)
    assert expected.dtype == found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(jax.jit(mapped)(POINTS, FACTORS), expected, rtol=1e-6)


def test_a_matrix_maps_like_the_function() -> None:
    factors = np.array([0.3, 1.0, 2.5])
    ones = np.ones((len(POINTS), 1))
    for factor, matrix in zip(factors, resize_matrices(factors), strict=True):
        mapped = np.concatenate([POINTS, ones], axis=1) @ matrix.T
        np.testing.assert_allclose(mapped[:, :2], to_resized_px(POINTS, float(factor)), atol=1e-5)
        np.testing.assert_array_equal(mapped[:, 2], 1)
