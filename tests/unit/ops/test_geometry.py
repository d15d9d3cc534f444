"""The parts of the robust fit, on cases that can be checked by hand."""

from __future__ import annotations

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delfjax.ops.geometry import (
    Affine,
    Limits,
    PointPairs,
    allowed,
    as_matrices,
    hypotheses,
    one_to_one,
    refit,
    support,
)


def _limits(
    *,
    scale: float = 8.0,
    anisotropy: float = 3.0,
    rotation: float = np.pi / 3,
    spread: float = 0.25,
) -> Limits:
    return Limits(
        *(jnp.asarray(bound, jnp.float32) for bound in (scale, anisotropy, rotation, spread))
    )


def _points(
    source: list[complex], target: list[complex], *, enlargement: float = 1.0, slots: int = 64
) -> PointPairs:
    count = len(source)
    valid = np.arange(slots) < count

    def padded(values: list[complex]) -> jax.Array:
        return jnp.asarray(np.r_[values, np.zeros(slots - count)], jnp.complex64)

    own = jnp.arange(slots, dtype=jnp.int32)
    return PointPairs(
        source=padded(source),
        target=padded(target),
        enlargement=jnp.full(slots, enlargement, jnp.float32),
        weight=jnp.asarray(valid, jnp.float32),
        valid=jnp.asarray(valid),
        source_id=own,
        target_id=own,
    )


def _apply(maps: Affine, source: np.ndarray) -> np.ndarray:
    homogeneous = np.stack([source.real, source.imag, np.ones_like(source.real)])
    mapped = np.asarray(as_matrices(maps)) @ homogeneous
    return np.asarray(mapped[:, 0] + 1j * mapped[:, 1])


def _one(
    linear: complex, antilinear: complex = 0, offset: complex = 0, centre: complex = 0
) -> Affine:
    return Affine(
        *(jnp.asarray([part], jnp.complex64) for part in (linear, antilinear, offset, centre))
    )


def test_an_affine_map_is_converted_to_its_matrix() -> None:
    # (1+2i)(p − 1) + 3·conj(p − 1) + i: x' = 4x − 2y − 4, y' = 2x − 2y − 1.
    matrix = as_matrices(_one(1 + 2j, 3, 1j, 1))[0]
    np.testing.assert_allclose(matrix, [[4, -2, -4], [2, -2, -1], [0, 0, 1]])


def test_short_lists_are_exhausted_and_every_pair_is_mapped_exactly() -> None:
    source = np.array([0, 10, 10j, 7 + 9j, -8 + 3j])
    target = np.array([1, 12, 2 + 11j, 9 + 9j, -6 + 1j])
    maps, possible = hypotheses(
        _points(list(source), list(target)), _limits(), pairs=20, rotations=()
    )
    mapped = _apply(maps, source)[np.asarray(possible)]
    met = {tuple(np.flatnonzero(row).tolist()) for row in np.abs(mapped - target[None]) < 1e-4}
    assert met == set(combinations(range(5), 2))


def test_a_single_match_fixes_a_similarity_for_each_rotation() -> None:
    points = _points([3 + 4j], [10 - 2j], enlargement=2.0)
    maps, possible = hypotheses(points, _limits(), pairs=4, rotations=(0.0, np.pi / 6))
    found = np.flatnonzero(np.asarray(possible))
    # None of the pairs exists; the 64 slots of each rotation follow.
    np.testing.assert_array_equal(found, [4, 4 + 64])
    np.testing.assert_allclose(
        np.asarray(maps.linear)[found], 2 * np.exp([0, 1j * np.pi / 6]), rtol=1e-6
    )
    np.testing.assert_allclose(_apply(maps, np.array([3 + 4j]))[found, 0], 10 - 2j, rtol=1e-6)


def test_points_closer_than_a_threshold_give_no_hypothesis() -> None:
    _, possible = hypotheses(_points([0, 0.9], [0, 5]), _limits(), pairs=4, rotations=())
    assert not np.asarray(possible).any()


@pytest.mark.parametrize(
    ("linear", "antilinear", "fine"),
    [
        (1, 0, True),
        (7.9, 0, True),
        (8.1, 0, False),
        (0.126, 0, True),
        (0.124, 0, False),
        (1, 0.49, True),  # singular values 1.49 and 0.51
        (1, 0.51, False),  # 1.51 / 0.49 > 3
        (0.5, 1, False),  # a reflection
        (np.exp(1j), 0, True),  # 57°
        (np.exp(1.1j), 0, False),  # 63°
        (0, 0, False),
    ],
)
def test_limits_apply_to_scale_anisotropy_orientation_and_rotation(
    linear: complex, antilinear: complex, fine: bool
) -> None:
    one = _one(linear, antilinear)
    assert bool(allowed(one.linear, one.antilinear, _limits())[0]) is fine


def test_padding_adds_no_support() -> None:
    points = _points([0, 5, 10], [0, 5, 10.5])
    # Under the identity, two matches are exact and one is off by half the threshold; the 61 slots
    # at the origin do not count.
    assert float(support(_one(1), points, 1.0)[0]) == pytest.approx(2.75)


def test_a_refit_to_points_on_a_line_stays_a_similarity() -> None:
    line = list(np.linspace(-10, 10, 9) * (1 + 1j))
    fitted = refit(_one(1.01), _points(line, [1.03 * p for p in line]), 2.0)
    # Nothing was observed across the line; along it the points are mapped exactly.
    assert abs(complex(fitted.antilinear[0])) < 1e-3
    np.testing.assert_allclose(_apply(fitted, np.array(line))[0], 1.03 * np.array(line), atol=1e-3)


def test_a_refit_without_two_inliers_changes_nothing() -> None:
    points = _points([0, 10, 10j], [0, 90, 90j])
    start = _one(1)
    fitted = refit(start, points, 1.0)
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(fitted), strict=True):
        np.testing.assert_array_equal(before, after)


def test_of_matches_that_share_a_point_the_nearest_wins_and_ties_go_to_the_more_similar() -> None:
    points = _points([0] * 4, [0] * 4)
    slots = points.valid.shape[0]
    # Matches 0 and 1 share a query point, 1 and 2 a database point; 2 and 3 tie for a query point.
    source_id = jnp.arange(slots, dtype=jnp.int32).at[1].set(0).at[3].set(2)
    target_id = jnp.arange(slots, dtype=jnp.int32).at[2].set(1)
    shared = PointPairs(**{**vars(points), "source_id": source_id, "target_id": target_id})
    residual2 = jnp.ones(slots).at[:4].set(jnp.asarray([0.2, 0.1, 0.5, 0.5]))
    kept = np.flatnonzero(np.asarray(one_to_one(residual2, points.valid, shared)))
    # 1 beats 0 (query point) and 2 (database point), which leaves 3 its query point.
    np.testing.assert_array_equal(kept, [1, 3])
    kept = np.flatnonzero(
        np.asarray(one_to_one(residual2, points.valid & (jnp.arange(slots) != 1), shared))
    )
    np.testing.assert_array_equal(kept, [0, 2])
