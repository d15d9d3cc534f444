"""Positions on the globe: distances, clusters of photographs taken near each other, medians.

Positions are ``(latitude, longitude)`` in degrees, NaN where not known. Clusters and medians are
computed with unit vectors from the centre of the Earth, which need no special case at the
antimeridian or the poles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

# Mean radius of the Earth, km. Source: International Union of Geodesy and Geophysics, R1 of the
# ellipsoid GRS 80.
EARTH_RADIUS_KM = 6371.0088
_EARTH_RADIUS_M = 1000 * EARTH_RADIUS_KM
# Photographs whose neighbours are looked up at a time: bounds the memory where many of them were
# taken in one place.
_BLOCK = 4096
# Distances to the median are clipped to at least this, metres: it may lie on one of its positions.
_NEAREST_M = 0.01
# A median is found once a step moves it by less than this, metres.
_MEDIAN_M = 0.001
# Largest number of such steps.
_MEDIAN_STEPS = 1000


def haversine_km(
    first_deg: Float[np.ndarray, "*#batch 2"], second_deg: Float[np.ndarray, "*#batch 2"]
) -> Float[np.ndarray, "*batch"]:
    """Distance between two positions, or between rows of positions.

    Args:
        first_deg: latitude and longitude, degrees.
        second_deg: latitude and longitude, degrees.

    Returns:
        Kilometres along the great circle; NaN where a position is not known (NaN).

    Source: Sinnott 1984, "Virtues of the Haversine".
    """
    first, second = np.radians(first_deg), np.radians(second_deg)
    half = (second - first) / 2
    cosines = np.cos(first[..., 0]) * np.cos(second[..., 0])
    chord = np.sin(half[..., 0]) ** 2 + cosines * np.sin(half[..., 1]) ** 2
    # Rounding can lift the value of two antipodes above 1 by a few units in the last place.
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(chord, 1.0))))


def known_positions(positions_deg: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Which positions are known."""
    return np.asarray(np.isfinite(positions_deg).all(axis=1))


def geographic_clusters(
    positions_deg: Float[np.ndarray, "n 2"], *, radius_m: float
) -> Int64[np.ndarray, " n"]:
    """Single-linkage clusters of photographs.

    Two photographs are in one cluster if steps of at most ``radius_m``, from photograph to
    photograph, lead from one to the other. Time and memory grow with the number of pairs within
    ``radius_m``, not with the square of the number of photographs.

    Args:
        positions_deg: latitude and longitude, degrees; NaN where not known.
        radius_m: longest step, metres along the great circle.

    Returns:
        Cluster of each photograph, numbered from 0 in the order of their first members; −1 where
        the position is not known.
    """
    known = np.flatnonzero(known_positions(positions_deg))
    points = unit_vectors(positions_deg[known])
    label = np.arange(len(known), dtype=np.int64)
    for near in _near_pairs(points, radius_m):
        joined = coo_array(
            (np.ones(len(near), bool), (label[near[:, 0]], label[near[:, 1]])),
            shape=(len(known), len(known)),
        )
        label = connected_components(joined, directed=False)[1][label].astype(np.int64)
    clusters = np.full(len(positions_deg), -1, np.int64)
    clusters[known] = in_order_of_appearance(label)
    return clusters


def pairs_within(
    positions_deg: Float[np.ndarray, "n 2"], *, reach_m: float
) -> Int64[np.ndarray, "pairs 2"]:
    """Pairs ``i < j`` of photographs at most ``reach_m`` metres apart, in ascending order.

    A photograph without a known position is in no pair.
    """
    known = np.flatnonzero(known_positions(positions_deg))
    blocks = list(_near_pairs(unit_vectors(positions_deg[known]), reach_m))
    pairs = known[np.concatenate([np.empty((0, 2), np.int64), *blocks])]
    return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], np.int64)


def geometric_median(positions_deg: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " 2"]:
    """The point with the least sum of distances to the positions.

    Unlike the mean it withstands outliers, as long as they are fewer than half of the positions.

    Args:
        positions_deg: at least one position, all of them known, degrees.

    Returns:
        Latitude and longitude, degrees.

    Source: Weiszfeld 1937, "Sur le point pour lequel la somme des distances de n points donnés est
        minimum".
    """
    points = unit_vectors(positions_deg)
    middle = _normalised(np.median(points, axis=0))
    for _ in range(_MEDIAN_STEPS):
        away = np.linalg.norm(points - middle, axis=1) * _EARTH_RADIUS_M
        moved = _normalised((points / np.maximum(away, _NEAREST_M)[:, None]).sum(axis=0))
        step = float(np.linalg.norm(moved - middle)) * _EARTH_RADIUS_M
        middle = moved
        if step < _MEDIAN_M:
            break
    x, y, z = (float(part) for part in middle)
    return np.array([math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))])


def unit_vectors(positions_deg: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Directions from the centre of the Earth: x to (0°, 0°), z to the north pole."""
    latitude, longitude = np.radians(np.asarray(positions_deg, np.float64)).T
    return np.stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ],
        axis=1,
    )


def in_order_of_appearance(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The same labels, renumbered from 0 in the order of their first occurrence."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def _near_pairs(
    points: Float[np.ndarray, "n 3"], reach_m: float
) -> Iterator[Int64[np.ndarray, "pairs 2"]]:
    """Pairs ``i < j`` of unit vectors at most ``reach_m`` metres apart, block by block."""
    chord = 2 * math.sin(min(reach_m / _EARTH_RADIUS_M, math.pi) / 2)
    tree = cKDTree(points) if len(points) else None
    for start in range(0, len(points), _BLOCK):
        block = cKDTree(points[start : start + _BLOCK])
        found = block.sparse_distance_matrix(tree, chord, output_type="ndarray")
        pairs = np.stack([found["i"].astype(np.int64) + start, found["j"].astype(np.int64)], axis=1)
        yield pairs[pairs[:, 0] < pairs[:, 1]]


def _normalised(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    # Positions that cancel out have no mean direction; any point will do.
    return vector / length if length > 0 else np.array([1.0, 0.0, 0.0])
