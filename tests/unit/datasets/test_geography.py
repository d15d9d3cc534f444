"""Clusters, pairs and medians against all distances, at the antimeridian and the poles too."""

from __future__ import annotations

import numpy as np
import pytest

from delfjax.datasets import geography
from delfjax.datasets.geography import (
    geographic_clusters,
    geometric_median,
    haversine_km,
    pairs_within,
)

# One degree along a meridian, metres.
DEGREE_M = np.pi * 1000 * geography.EARTH_RADIUS_KM / 180
# An ordinary place, and where special cases would be: both poles and the antimeridian.
PLACES = {
    "equator": (0.0, 0.0),
    "north": (90.0, 0.0),
    "south": (-89.9999, 120.0),
    "fiji": (-17.0, 180.0),
}


def _around(
    place: tuple[float, float], count: int, spread_m: float, rng: np.random.Generator
) -> np.ndarray:
    """Positions whose directions scatter around a place, by normal steps in three dimensions."""
    vectors = geography.unit_vectors(np.array([place])) + rng.normal(
        0, spread_m / DEGREE_M * np.pi / 180, (count, 3)
    )
    x, y, z = vectors.T
    return np.degrees(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=1))


def _flooded(positions: np.ndarray, radius_m: float) -> np.ndarray:
    """Single linkage by its definition: grow each cluster by everything near enough."""
    near = 1000 * haversine_km(positions[:, None], positions[None]) <= radius_m
    label = np.full(len(positions), -1)
    for start in range(len(positions)):
        if label[start] < 0 and np.isfinite(positions[start]).all():
            reached = np.zeros(len(positions), bool)
            reached[start] = True
            while (grown := near[reached].any(axis=0) | reached).sum() > reached.sum():
                reached = grown
            label[reached] = label.max() + 1
    return label


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_clusters_agree_with_all_distances(
    place: tuple[float, float], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geography, "_BLOCK", 50)
    positions = _around(place, 200, 600.0, rng)
    positions[::17] = np.nan
    for radius_m in (20.0, 80.0, 300.0):
        found = geographic_clusters(positions, radius_m=radius_m)
        assert found.tolist() == _flooded(positions, radius_m).tolist()
    assert found[0] == -1


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_pairs_agree_with_all_distances(
    place: tuple[float, float], rng: np.random.Generator
) -> None:
    positions = _around(place, 120, 600.0, rng)
    expected = np.argwhere(
        np.triu(1000 * haversine_km(positions[:, None], positions[None]) <= 400, 1)
    )
    assert pairs_within(positions, reach_m=400.0).tolist() == expected.tolist()


def test_a_chain_is_one_cluster_and_a_longer_step_ends_it() -> None:
    steps_m = np.array([0, 90, 180, 270, 371, 461])
    positions = np.stack([steps_m / DEGREE_M, np.zeros(6)], axis=1)
    assert geographic_clusters(positions, radius_m=100.0).tolist() == [0, 0, 0, 0, 1, 1]


def test_two_sides_of_the_antimeridian_are_neighbours() -> None:
    positions = np.array([[10.0, 179.9999], [10.0, -179.9999], [10.0, 0.0]])
    assert geographic_clusters(positions, radius_m=100.0).tolist() == [0, 0, 1]


def test_photographs_without_a_position_are_in_no_cluster() -> None:
    assert geographic_clusters(np.empty((0, 2)), radius_m=100.0).shape == (0,)
    assert geographic_clusters(np.full((2, 2), np.nan), radius_m=100.0).tolist() == [-1, -1]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_median_minimises_the_sum_of_distances(
    place: tuple[float, float], rng: np.random.Generator
) -> None:
    positions = _around(place, 31, 50.0, rng)
    median = geometric_median(positions)
    around = np.concatenate(
        [median[None], _around((float(median[0]), float(median[1])), 300, 2.0, rng)]
    )
    sums = haversine_km(positions[:, None], around[None]).sum(axis=0)
    assert sums[0] <= sums.min() + 1e-9


def test_outliers_do_not_move_the_median(rng: np.random.Generator) -> None:
    positions = _around((48.0, 2.0), 40, 10.0, rng)
    positions[:8] += 0.05
    assert 1000 * haversine_km(geometric_median(positions), np.array([48.0, 2.0])) < 20
    assert 1000 * haversine_km(positions.mean(axis=0), np.array([48.0, 2.0])) > 500


def test_a_median_may_lie_on_a_position() -> None:
    cross = np.array([[0.0, 0.0], [0.001, 0.0], [-0.001, 0.0], [0.0, 0.001], [0.0, -0.001]])
    assert geometric_median(cross) == pytest.approx([0, 0], abs=1e-7)
    assert geometric_median(np.array([[12.0, 34.0]])) == pytest.approx([12, 34], abs=1e-9)
