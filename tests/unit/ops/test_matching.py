"""Mutual nearest neighbours against their definition."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from delfjax.ops.matching import mutual_nearest

MATCH = jax.jit(mutual_nearest)


def unit_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    values = rng.normal(size=(count, 6))
    rows: np.ndarray = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return rows


def test_exactly_the_mutual_nearest_neighbours_are_paired(rng: np.random.Generator) -> None:
    first, second = unit_rows(rng, 40), unit_rows(rng, 30)
    nearest, cosine, mutual = MATCH(first, second, np.ones(40, bool), np.ones(30, bool))
    exact = first.astype(np.float64) @ second.astype(np.float64).T
    np.testing.assert_array_equal(nearest, exact.argmax(axis=1))
    # Sums of six float32 products.
    np.testing.assert_allclose(cosine, exact.max(axis=1), atol=1e-6)
    expected = {
        (i, int(j)) for i, j in enumerate(exact.argmax(axis=1)) if exact[:, j].argmax() == i
    }
    assert {(i, int(nearest[i])) for i in np.flatnonzero(mutual).tolist()} == expected
    assert 0 < len(expected) < 30


def test_slots_without_a_feature_match_nothing_and_change_nothing(rng: np.random.Generator) -> None:
    first, second = unit_rows(rng, 40), unit_rows(rng, 30)
    valid_first, valid_second = np.arange(40) < 25, np.arange(30) < 20
    # Padding that would win every comparison if it counted.
    first[25:], second[20:] = second[:15] * 9, first[:10] * 9
    nearest, cosine, mutual = MATCH(first, second, valid_first, valid_second)
    alone = MATCH(first[:25], second[:20], np.ones(25, bool), np.ones(20, bool))
    for ours, theirs in zip((nearest, mutual), (alone[0], alone[2]), strict=True):
        np.testing.assert_array_equal(np.asarray(ours)[:25], theirs)
    # On some processors, matrix products of different shapes add in different orders, which changes
    # the last digit.
    np.testing.assert_allclose(np.asarray(cosine)[:25], alone[1], atol=1e-6)
    assert not np.asarray(mutual)[25:].any()


@pytest.mark.parametrize("side", ["first", "second"])
def test_an_image_without_features_has_no_pairs(rng: np.random.Generator, side: str) -> None:
    first, second = unit_rows(rng, 40), unit_rows(rng, 30)
    valid_first, valid_second = np.full(40, side != "first"), np.full(30, side != "second")
    assert not np.asarray(MATCH(first, second, valid_first, valid_second)[2]).any()
