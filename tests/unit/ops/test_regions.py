"""Regions around keypoints: read where and how they lie, with the direction of their gradients."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from delfjax.ops import regions
from delfjax.ops.regions import Stack

SAMPLES = 20


def stack(*images: np.ndarray) -> Stack:
    lengths = [image.size for image in images]
    return Stack(
        pixels=jnp.asarray(np.concatenate([image.ravel() for image in images]), jnp.float32),
        start=jnp.asarray(np.cumsum([0, *lengths[:-1]]), jnp.int32),
        width=jnp.asarray([image.shape[1] for image in images], jnp.int32),
        extent=jnp.asarray([image.shape for image in images], jnp.int32),
    )


def sampled(held: Stack, image: int, at: tuple[float, float], *, spacing: float, angle: float):
    return np.asarray(
        regions.sample_regions(
            held,
            jnp.asarray([image], jnp.int32),
            jnp.asarray([at], jnp.float32),
            spacing=jnp.asarray([spacing], jnp.float32),
            direction=jnp.asarray([angle], jnp.float32),
            samples=SAMPLES,
        )
    )[0]


def test_a_region_of_a_plane_is_the_plane_at_its_samples() -> None:
    """Bilinear interpolation is exact for a plane, so every sample tells where it was read."""
    y, x = np.mgrid[:60, :80].astype(np.float64)
    held = stack(np.ones((7, 9)), y * 100 + x)
    angle, spacing = 0.4, 0.8
    found = sampled(held, 1, (30.3, 40.6), spacing=spacing, angle=angle)
    steps = (np.arange(SAMPLES) - (SAMPLES - 1) / 2) * spacing
    at_y = 30.3 + np.sin(angle) * steps[None] + np.cos(angle) * steps[:, None]
    at_x = 40.6 + np.cos(angle) * steps[None] - np.sin(angle) * steps[:, None]
    np.testing.assert_allclose(found, at_y * 100 + at_x, rtol=1e-5)


def test_beyond_its_extent_an_image_is_continued() -> None:
    image = np.zeros((30, 30))
    image[:, 20:] = 5.0
    held = stack(image)
    cut = Stack(held.pixels, held.start, held.width, jnp.asarray([[30, 20]], jnp.int32))
    assert not sampled(cut, 0, (15.0, 19.0), spacing=1.0, angle=0.0).any()


def turned_ramp(angle: float) -> np.ndarray:
    """Grey values that rise along ``angle``, with a bump that makes the direction unique."""
    axis = np.arange(SAMPLES) - (SAMPLES - 1) / 2
    along = np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None]
    across = -np.sin(angle) * axis[None] + np.cos(angle) * axis[:, None]
    return np.tanh(along / 4) + 0.1 * np.cos(across / 3)


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.1, 2.2, 3.3, 4.6, 6.1])
def test_the_direction_is_that_of_the_gradients(angle: float) -> None:
    found, held = regions.directions(jnp.asarray(turned_ramp(angle)[None], jnp.float32), share=0.8)
    assert held.tolist() == [[True, False]]
    difference = np.angle(np.exp(1j * (float(found[0, 0]) - angle)))
    assert abs(difference) < 0.02


def test_two_equally_strong_directions_are_both_found() -> None:
    half = SAMPLES // 2
    image = np.where(np.arange(SAMPLES)[:, None] < half, turned_ramp(0.5), turned_ramp(2.5))
    found, held = regions.directions(jnp.asarray(image[None], jnp.float32), share=0.8)
    assert held.tolist() == [[True, True]]
    # Where the halves meet, there are gradients of neither.
    np.testing.assert_allclose(np.sort(np.asarray(found)[0]), [0.5, 2.5], atol=0.2)


def test_a_uniform_region_has_the_direction_0() -> None:
    found, held = regions.directions(jnp.zeros((1, SAMPLES, SAMPLES)), share=0.8)
    assert found[0].tolist() == [0.0, 0.0]
    assert held.tolist() == [[True, False]]
