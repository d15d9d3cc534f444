"""MAC, R-MAC, GeM, the projection of regions, and both whitenings, against float64 versions written
from the papers' formulas."""

from __future__ import annotations

from fractions import Fraction

import jax
import numpy as np
import pytest

from delfjax.ops import pooling
from delfjax.ops.whitening import learned_whitening, pca_whitening

Regions = list[tuple[int, int, int, int]]
# float32 against float64, of values of at most 1.
CLOSE = 1e-6


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def papers_regions(height: int, width: int, levels: int) -> Regions:
    """Tolias et al. 2016, section 3.2, in exact fractions: at level l there are l squares of side
    2·min/(l + 1) along the shorter side, and l + m along the longer, m such that squares of level 1
    overlap by a share closest to 0.4."""
    short, long = min(height, width), max(height, width)

    def off(more: int) -> Fraction:
        return abs(1 - Fraction(long - short, more * short) - Fraction(2, 5))

    more = 0 if short == long else min(range(1, 7), key=off)
    found: Regions = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)

        def starts(length: int, extra: int, side: int = side, level: int = level) -> list[int]:
            count = level + extra
            return [k * (length - side) // max(count - 1, 1) for k in range(count)]

        found += [
            (y, x, y + side, x + side)
            for y in starts(height, more if height > width else 0)
            for x in starts(width, more if width > height else 0)
        ]
    return found


# Height and width of maps, cells: square, the usual shapes of photographs, a panorama, a tower.
SHAPES = [(12, 12), (24, 32), (32, 24), (22, 32), (18, 32), (16, 64), (50, 9)]


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_regions_are_those_of_the_paper(shape: tuple[int, int], levels: int) -> None:
    ours = pooling.rmac_regions(*shape, levels=levels)
    assert len(ours) == pooling.most_regions(levels)
    held = [tuple(region) for region in ours.tolist() if region[2] > region[0]]
    assert held == papers_regions(*shape, levels)


def test_dir_has_eight_regions_at_four_to_three_and_siamac_one_more_than_tolias() -> None:
    two = pooling.rmac_regions(24, 32, levels=2)
    assert (two[:, 2] > two[:, 0]).sum() == 8
    three = pooling.rmac_regions(24, 32)
    whole = pooling.rmac_regions(24, 32, whole_image=True)
    assert (three[:, 2] > three[:, 0]).sum() == 20
    extra = {tuple(r) for r in whole.tolist()} - {tuple(r) for r in three.tolist()}
    assert extra == {(0, 0, 24, 32)}


@pytest.mark.parametrize("whole_image", [False, True])
@pytest.mark.parametrize("project", [False, True])
def test_regional_maxima_are_projected_normalised_and_summed(
    rng: np.random.Generator, project: bool, whole_image: bool
) -> None:
    shape, channels = (9, 13), 8
    values = rng.gamma(0.5, size=(*shape, channels)).astype(np.float32)
    shift = 0.1 * rng.normal(size=channels).astype(np.float32)
    matrix = rng.normal(size=(channels, 5)).astype(np.float32)
    wide = values.astype(np.float64)
    places = papers_regions(*shape, 2) + ([(0, 0, *shape)] if whole_image else [])
    expected = np.zeros(5 if project else channels)
    for top, left, bottom, right in places:
        best = unit(wide[top:bottom, left:right].max(axis=(0, 1)))
        expected += unit((best - shift) @ matrix) if project else best
    regions = pooling.rmac_regions(*shape, levels=2, whole_image=whole_image)
    cells = np.indices(shape, np.int32).reshape(2, -1).T
    ours = jax.jit(
        lambda x, yx, r: pooling.regional_maximum(
            x, yx, r, (lambda best: pooling.projected(best, shift, matrix)) if project else None
        )
    )(values.reshape(1, -1, channels), cells[None], regions[None])
    np.testing.assert_allclose(unit(np.asarray(ours)[0]), unit(expected), atol=CLOSE)


@pytest.mark.parametrize("exponent", [1.0, 2.5, 3.0, 10.0])
def test_the_generalised_mean_has_any_exponent(rng: np.random.Generator, exponent: float) -> None:
    values = rng.uniform(size=(1, 50, 8)).astype(np.float32)
    held = np.ones((1, 50), bool)
    expected = (values.astype(np.float64) ** exponent).mean(axis=1) ** (1 / exponent)
    ours = jax.jit(pooling.generalised_mean)(values, held, np.float32(exponent))
    np.testing.assert_allclose(ours, expected, atol=CLOSE)
    # A number in place of an array makes the same of it.
    fixed = jax.jit(lambda x, own: pooling.generalised_mean(x, own, exponent))(values, held)
    np.testing.assert_allclose(fixed, expected, atol=CLOSE)


def test_the_maximum_is_that_of_every_channel(rng: np.random.Generator) -> None:
    values = rng.normal(size=(2, 50, 8)).astype(np.float32)
    ours = jax.jit(pooling.maximum)(values, np.ones((2, 50), bool))
    np.testing.assert_array_equal(ours, values.max(axis=1))


@pytest.mark.parametrize("shrinkage", [0.0, 1.0])
def test_pca_whitening_divides_principal_components_by_their_deviations(
    rng: np.random.Generator, shrinkage: float
) -> None:
    """By singular values, where the library takes the eigenvectors of the covariance."""
    found = rng.normal(size=(300, 12)) * np.linspace(3, 0.5, 12) + 1
    centred = found - found.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / (len(found) - 1)
    expected = unit(centred @ rows.T / np.sqrt(variances + shrinkage * variances.mean()))[:, :7]
    ours = pca_whitening(found.astype(np.float32), dim=7, shrinkage=shrinkage)
    mapped = ours(found)
    signs = np.sign((mapped * expected).sum(axis=0))
    np.testing.assert_allclose(mapped * signs, unit(expected), atol=CLOSE)
    largest = ours.matrix[np.abs(ours.matrix).argmax(axis=0), np.arange(7)]
    assert (largest > 0).all()


def test_learned_whitening_is_that_of_radenovic(rng: np.random.Generator) -> None:
    things = rng.normal(size=(80, 10)) * np.linspace(2, 0.5, 10)
    views = things.repeat(3, axis=0) + 0.4 * rng.normal(size=(240, 10)) @ rng.normal(size=(10, 10))
    found = unit(views)
    pairs = np.array([(3 * k, 3 * k + m) for k in range(80) for m in (1, 2)])
    # m = mean of the queries; P = inverse of the Cholesky factor of C_S; eigenvectors of the
    # covariance of P(x − m), descending.
    mean = np.mean([found[q] for q, _ in pairs], axis=0)
    within = sum(np.outer(found[q] - found[p], found[q] - found[p]) for q, p in pairs) / len(pairs)
    whitened = np.linalg.inv(np.linalg.cholesky(within)) @ (found - mean).T
    values, vectors = np.linalg.eig(whitened @ whitened.T)
    directions = np.real(vectors[:, np.argsort(-np.real(values))[:6]])
    expected = unit(whitened.T @ directions)
    ours = learned_whitening(found, pairs, dim=6)(found)
    signs = np.sign((ours * expected).sum(axis=0))
    np.testing.assert_allclose(ours * signs, expected, atol=CLOSE)
