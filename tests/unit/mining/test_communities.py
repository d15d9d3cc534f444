"""Communities of small graphs, drawn by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from delfjax.config import MiningConfig
from delfjax.mining.communities import landmark_communities, triangle_communities, triangles

CONFIG = MiningConfig(min_inliers=10, min_photos=3)


def _edges(*cliques: tuple[int, ...]) -> np.ndarray:
    return np.array(
        sorted({pair for clique in cliques for pair in itertools.combinations(clique, 2)}), np.int64
    ).reshape(-1, 2)


def _landmarks(edges: np.ndarray, count: int, inliers: np.ndarray | None = None) -> list[int]:
    given = np.full(len(edges), 10, np.int64) if inliers is None else inliers
    return landmark_communities(edges, given, count=count, config=CONFIG).tolist()


def test_triangles_are_those_found_by_trying_all_triples(rng: np.random.Generator) -> None:
    edges = np.array(
        [pair for pair in itertools.combinations(range(25), 2) if rng.uniform() < 0.3], np.int64
    )
    number = {tuple(edge): k for k, edge in enumerate(edges.tolist())}
    expected = [
        [number[i, j], number[j, k], number[i, k]]
        for i, j, k in itertools.combinations(range(25), 3)
        if (i, j) in number and (j, k) in number and (i, k) in number
    ]
    assert sorted(triangles(edges, count=25).tolist()) == sorted(expected)


def test_a_bridge_does_not_join_two_landmarks() -> None:
    edges = _edges((0, 1, 2), (3, 4, 5, 6), (2, 3))
    assert _landmarks(edges, 7) == [1, 1, 1, 0, 0, 0, 0]


def test_a_photo_of_two_landmarks_goes_to_the_one_it_shares_most_with() -> None:
    edges = _edges((0, 1, 2), (2, 3, 4))
    inliers = np.where((edges == 2).any(axis=1) & (edges < 2).any(axis=1), 11, 10)
    assert _landmarks(edges, 5, inliers) == [0, 0, 0, -1, -1]
    assert triangle_communities(edges, count=5).tolist() == [0, 0, 0, 1, 1, 1]


def test_triangles_with_a_common_side_are_one_landmark() -> None:
    assert _landmarks(_edges((0, 1, 2), (1, 2, 3), (2, 3, 4)), 6) == [0, 0, 0, 0, 0, -1]


def test_a_pair_with_too_few_inliers_is_not_an_edge() -> None:
    edges = _edges((0, 1, 2))
    assert _landmarks(edges, 3, np.array([10, 10, 9])) == [-1, -1, -1]


@pytest.mark.parametrize("edges", [np.empty((0, 2), np.int64), _edges((0, 1), (1, 2))])
def test_a_graph_without_triangles_has_no_landmarks(edges: np.ndarray) -> None:
    assert _landmarks(edges, 3) == [-1, -1, -1]


def test_landmarks_are_ordered_by_size_and_then_by_their_first_photo() -> None:
    found = _landmarks(_edges((0, 1, 2), (3, 4, 5), (6, 7, 8, 9)), 10)
    assert found == [1, 1, 1, 2, 2, 2, 0, 0, 0, 0]
