"""AQE, αQE and DBA equal the papers' formulas, written in plain Python with double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest

from delfjax.retrieval.expansion import (
    alpha_query,
    augmented_database,
    average_query,
    nearest_by_cosine,
)

Vector = list[float]


def unit_rows(count: int, dim: int, seed: int) -> np.ndarray:
    """Descriptors of unit length with positive cosines, as those pooled from a ReLU."""
    rows = np.random.default_rng(seed).uniform(size=(count, dim)) ** 4
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def dot(first: Vector, second: Vector) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def ranked(query: Vector, database: list[Vector], count: int) -> list[int]:
    """Numbers of the nearest, best first."""
    return sorted(range(len(database)), key=lambda i: -dot(query, database[i]))[:count]


def weighted(vectors: list[Vector], weights: list[float]) -> Vector:
    """Sum of weighted vectors."""
    columns = zip(*vectors, strict=True)
    return [math.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in columns]


QUERIES, DATABASE = unit_rows(9, 32, 1), unit_rows(70, 32, 2)


@pytest.mark.parametrize("k", [1, 10, 70])
def test_average_query_expansion_is_the_plain_mean_of_query_and_neighbours(k: int) -> None:
    cosines = QUERIES.astype(np.float64) @ DATABASE.astype(np.float64).T
    found = average_query(QUERIES, DATABASE, nearest_by_cosine(cosines, k))
    database = DATABASE.tolist()
    expected = [
        weighted([q, *(database[i] for i in ranked(q, database, k))], [1 / (k + 1)] * (k + 1))
        for q in QUERIES.tolist()
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("k", "alpha"), [(1, 3.0), (10, 3.0), (50, 0.5), (10, 0.0)])
def test_alpha_query_expansion_weights_by_powers_of_the_cosine(k: int, alpha: float) -> None:
    cosines = QUERIES.astype(np.float64) @ DATABASE.astype(np.float64).T
    found = alpha_query(QUERIES, DATABASE, nearest_by_cosine(cosines, k), alpha=alpha)
    database = DATABASE.tolist()
    expected = []
    for q in QUERIES.tolist():
        nearest = [database[i] for i in ranked(q, database, k)]
        summed = weighted([q, *nearest], [1, *(dot(q, d) ** alpha for d in nearest)])
        expected.append([x / math.sqrt(dot(summed, summed)) for x in summed])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 20, 69])
def test_database_side_augmentation_weights_neighbours_by_rank(k: int) -> None:
    rows = DATABASE.astype(np.float64)
    own = np.arange(len(rows))
    found = augmented_database(DATABASE, nearest_by_cosine(rows @ rows.T, k, own=own))
    database = DATABASE.tolist()
    expected = []
    for number, d in enumerate(database):
        others = [i for i in ranked(d, database, len(database)) if i != number][:k]
        # Source: weights 1, (k − 0)/k, (k − 1)/k, …, 1/k, divided by their sum.
        weights = [1.0, *((k - rank) / k for rank in range(k))]
        total = math.fsum(weights)
        vectors = [d, *(database[i] for i in others)]
        expected.append(weighted(vectors, [w / total for w in weights]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
