"""Whitening helps where it should, survives few descriptors, and refuses what it cannot use."""

from __future__ import annotations

import numpy as np
import pytest

from delfjax.ops.whitening import Projection, WhiteningError, learned_whitening, pca_whitening

PAIRS = np.array([[0, 1], [2, 3], [4, 5]])


def views(
    rng: np.random.Generator, *, things: int, dims: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two descriptors of each thing, far apart in the first two dimensions, which say nothing of
    it; the pairs; and the thing of each descriptor."""
    of_things = np.repeat(rng.normal(size=(things, dims)), 2, axis=0)
    noise = rng.normal(size=(2 * things, dims)) * np.where(np.arange(dims) < 2, 8.0, 0.2)
    found = of_things + noise
    pairs = np.arange(2 * things).reshape(-1, 2)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit.astype(np.float32), pairs, np.arange(2 * things) // 2


def found_first(descriptors: np.ndarray, things: np.ndarray) -> float:
    """Share of the descriptors whose nearest other one shows the same thing."""
    cosines = descriptors @ descriptors.T
    np.fill_diagonal(cosines, -2)
    return float((things[cosines.argmax(axis=1)] == things).mean())


def test_learned_whitening_ignores_what_differs_within_pairs(rng: np.random.Generator) -> None:
    descriptors, pairs, things = views(rng, things=200, dims=16)
    learned = learned_whitening(descriptors, pairs[:100], dim=12)
    unseen = things >= 100
    before = found_first(descriptors[unseen], things[unseen])
    after = found_first(learned(descriptors[unseen]), things[unseen])
    assert before < 0.6 and after > 0.95


def test_fewer_pairs_than_dimensions_still_make_a_whitening(rng: np.random.Generator) -> None:
    descriptors, pairs, things = views(rng, things=200, dims=64)
    learned = learned_whitening(descriptors, pairs[:20])
    assert learned.matrix.shape == (64, 64) and np.isfinite(learned.matrix).all()
    unseen = things >= 20
    assert found_first(learned(descriptors[unseen]), things[unseen]) > found_first(
        descriptors[unseen], things[unseen]
    )


def test_shrinkage_keeps_a_pca_of_few_descriptors_from_ruin(rng: np.random.Generator) -> None:
    """Forty descriptors of 64 dimensions: 25 variances are estimated as zero."""
    dims = np.where(np.arange(64) < 10, 1.0, 0.01)
    of_things = rng.normal(size=(200, 64)) * dims
    both = np.repeat(of_things, 2, axis=0) + 0.02 * rng.normal(size=(400, 64))
    things = np.arange(400) // 2
    shrunk = pca_whitening(both[:40], shrinkage=1.0)(both)
    barely = pca_whitening(both[:40], shrinkage=1e-6)(both)
    assert found_first(shrunk, things) > 0.95 > found_first(barely, things) + 0.3


def test_the_result_is_of_unit_length_in_float32_and_zero_stays_zero() -> None:
    projection = Projection(np.array([1.0, 0.0]), np.array([[2.0], [1.0]]))
    found = projection(np.array([[0, 0], [1, 5], [3, -1]], np.float32))
    assert found.dtype == np.float32 and found.tolist() == [[0], [1], [1]]


def test_rows_do_not_depend_on_their_company(rng: np.random.Generator) -> None:
    descriptors = rng.normal(size=(9000, 8)).astype(np.float32)
    projection = pca_whitening(descriptors)
    np.testing.assert_allclose(
        projection(descriptors)[8500:8501], projection(descriptors[8500:8501]), atol=1e-7
    )


def test_what_no_pca_can_be_fitted_on_is_refused(rng: np.random.Generator) -> None:
    few = rng.normal(size=(5, 8))
    with pytest.raises(WhiteningError, match="at least 2 descriptors, got 1"):
        pca_whitening(few[:1])
    with pytest.raises(WhiteningError, match="all 5 descriptors are equal"):
        pca_whitening(np.ones((5, 8)))
    with pytest.raises(WhiteningError, match="9 dimensions are to be kept of 8"):
        pca_whitening(few, dim=9)
    with pytest.raises(WhiteningError, match="span only 4 of 8 dimensions"):
        pca_whitening(few, shrinkage=0.0)
    few[3, 2] = np.nan
    with pytest.raises(WhiteningError, match="descriptor 3 holds values that are not finite"):
        pca_whitening(few)


def test_what_no_whitening_can_be_learned_from_is_refused(rng: np.random.Generator) -> None:
    descriptors = rng.normal(size=(6, 4))
    with pytest.raises(WhiteningError, match="at least 2 pairs, got 1"):
        learned_whitening(descriptors, PAIRS[:1])
    with pytest.raises(WhiteningError, match="pairs name the descriptors 0 to 5, but there are 4"):
        learned_whitening(descriptors[:4], PAIRS)
    with pytest.raises(WhiteningError, match="positives equal their queries"):
        learned_whitening(np.repeat(descriptors[::2], 2, axis=0), PAIRS)
    descriptors[5, 0] = np.inf
    with pytest.raises(WhiteningError, match="descriptor 5 holds values that are not finite"):
        learned_whitening(descriptors, PAIRS)


def test_descriptors_of_another_length_are_refused(rng: np.random.Generator) -> None:
    projection = pca_whitening(rng.normal(size=(20, 4)))
    with pytest.raises(WhiteningError, match="have 5 dimensions, but the whitening was"):
        projection(np.zeros((2, 5)))
    with pytest.raises(WhiteningError, match="descriptor 1 holds"):
        projection(np.array([[0, 0, 0, 0], [0, 0, np.nan, 0.0]]))
