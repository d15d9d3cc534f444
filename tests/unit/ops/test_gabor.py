"""Gabor wavelets: no constant part, the direction and frequency that they are made for."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from delfjax.ops import gabor

SIDE, DIRECTIONS = 32, 8


def kernels(wavelengths: tuple[float, ...] = (0.25, 0.5, 1.0)) -> np.ndarray:
    return gabor.wavelets(
        SIDE,
        wavelengths=wavelengths,
        places=(4, 2, 1)[: len(wavelengths)],
        directions=DIRECTIONS,
        envelope=np.pi,
    )


def test_wavelets_have_no_constant_part_and_low_frequencies_have_fewer_places() -> None:
    found = kernels()
    assert found.shape == ((16 + 4 + 1) * DIRECTIONS, SIDE, SIDE)
    assert np.abs(found.sum(axis=(1, 2))).max() < 1e-6


def test_a_wave_answers_most_to_the_wavelet_of_its_direction_and_wavelength() -> None:
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    # One place, in the middle, for each wavelength.
    made = gabor.wavelets(
        SIDE, wavelengths=(0.2, 0.4), places=(1, 1), directions=DIRECTIONS, envelope=np.pi
    )
    for order, wavelength in enumerate((0.2, 0.4)):
        for number in range(DIRECTIONS):
            angle = np.pi * number / DIRECTIONS
            along = np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None]
            wave = np.sin(2 * np.pi * along / (wavelength * SIDE) + 0.3).astype(np.float32)
            answer = gabor.amplitudes(jnp.asarray(wave)[None], made, power=1.0)
            assert int(np.argmax(answer)) == order * DIRECTIONS + number


def test_amplitudes_equal_the_formula_in_float64(rng: np.random.Generator) -> None:
    regions = rng.random((5, SIDE, SIDE))
    made = kernels()
    centred = regions - regions.mean(axis=(1, 2), keepdims=True)
    centred /= centred.std(axis=(1, 2), keepdims=True)
    expected = np.abs(np.einsum("nyx,kyx->nk", centred, made)) ** 0.5
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = gabor.amplitudes(jnp.asarray(regions, jnp.float32), made, power=0.5)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(
        gabor.normalised(jnp.asarray(regions, jnp.float32)), centred, atol=1e-5
    )


def test_brightness_and_contrast_change_nothing(rng: np.random.Generator) -> None:
    region = jnp.asarray(rng.random((1, SIDE, SIDE)), jnp.float32)
    first, second = (
        gabor.amplitudes(part, kernels(), power=0.5) for part in (region, 0.4 * region + 0.3)
    )
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_uniform_region_has_the_descriptor_zero() -> None:
    flat = jnp.full((1, SIDE, SIDE), 0.7, jnp.float32)
    assert not np.any(gabor.amplitudes(flat, kernels(), power=0.5))


def test_a_region_upside_down_has_the_places_of_its_amplitudes_exchanged(
    rng: np.random.Generator,
) -> None:
    """An amplitude does not know the sign of a direction: half a turn moves it to the opposite
    place."""
    region = rng.random((1, SIDE, SIDE)).astype(np.float32)
    turned = region[:, ::-1, ::-1]
    first, second = (
        np.asarray(gabor.amplitudes(jnp.asarray(part), kernels((0.25,)), power=1.0))
        for part in (region, turned)
    )
    by_place = first.reshape(4, 4, DIRECTIONS)[::-1, ::-1]
    np.testing.assert_allclose(by_place.ravel(), second[0], atol=1e-5)
    assert np.abs(first - second).max() > 0.01
    assert second.sum() == pytest.approx(first.sum(), rel=1e-4)
