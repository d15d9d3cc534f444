"""Guarantees of verification about the score, the transform and degenerate input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from delfjax.config import VerificationConfig
from delfjax.device import count_compilations
from delfjax.retrieval.verification import VerificationError, verify
from delfjax.types import Array, Matches, Verification

AFFINE = VerificationConfig()
HOMOGRAPHY = VerificationConfig(model="homography")
# x' = 0.9x − 0.3y + 40, y' = 0.2x + 1.1y − 25.
MAP = np.array([[0.9, -0.3, 40.0], [0.2, 1.1, -25.0], [0.0, 0.0, 1.0]])


def _matches(query_xy: np.ndarray, database_xy: np.ndarray, **parts: np.ndarray) -> Matches:
    count = len(query_xy)
    standard = {
        "query_yx": query_xy[:, ::-1].astype(np.float32),
        "database_yx": database_xy[:, ::-1].astype(np.float32),
        "query_scales": np.ones(count, np.float32),
        "database_scales": np.ones(count, np.float32),
        "similarity": np.linspace(1.0, 0.5, count, dtype=np.float32),
        "valid": np.ones(count, bool),
    }
    return Matches(**{**standard, **parts})


def _project(matrix: Array, xy: np.ndarray) -> np.ndarray:
    mapped = np.c_[xy, np.ones(len(xy))] @ np.asarray(matrix, np.float64).T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def _scene(
    rng: np.random.Generator, *, true: int = 30, false: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Points of a 640×480 query and where ``MAP`` takes them, the last ``false`` scattered."""
    query = rng.uniform(0, 1, (true + false, 2)) * [640, 480]
    database = _project(MAP, query)
    database[true:] = rng.uniform(0, 1, (false, 2)) * [640, 480]
    return query, database


def _stack(each: list[Matches]) -> Matches:
    slots = max(len(one.valid) for one in each)

    def padded(part: np.ndarray) -> np.ndarray:
        return np.concatenate([part, np.zeros((slots - len(part), *part.shape[1:]), part.dtype)])

    return Matches(
        **{
            name: np.stack([padded(getattr(one, name)) for one in each])
            for name, part in vars(each[0]).items()
            if part is not None
        }
    )


def _row(result: Verification, row: int, slots: int) -> tuple[int, bytes, bytes]:
    mask, transform = np.asarray(result.inlier_mask)[row, :slots], np.asarray(result.transform)[row]
    return int(np.asarray(result.inliers)[row]), mask.tobytes(), transform.tobytes()


def test_the_transform_takes_query_xy_to_database_xy(rng: np.random.Generator) -> None:
    query, database = _scene(rng, false=0)
    found = verify(_matches(query, database), config=AFFINE)
    assert int(found.inliers) == 30
    assert np.asarray(found.inlier_mask).all()
    # The prior towards similarities bends an exact fit by a hundredth of a pixel or so.
    np.testing.assert_allclose(_project(found.transform, query), database, atol=0.1)


def test_scattered_matches_are_not_inliers(rng: np.random.Generator) -> None:
    query, database = _scene(rng)
    mask = np.asarray(verify(_matches(query, database), config=AFFINE).inlier_mask)
    assert mask[:30].all()
    residual = np.hypot(*(_project(MAP, query) - database).T)
    # What is far beyond the threshold of the true map cannot be within that of the fitted one.
    assert not mask[residual > 2 * AFFINE.threshold_px].any()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_matches_are_no_inliers_and_the_identity(
    rng: np.random.Generator, count: int
) -> None:
    query, database = _scene(rng)
    found = verify(_matches(query[:count], database[:count]), config=AFFINE)
    assert int(found.inliers) == 0
    assert np.shape(found.inlier_mask) == (count,)
    assert not np.asarray(found.inlier_mask).any()
    np.testing.assert_array_equal(found.transform, np.eye(3))


def test_a_shortlist_may_be_empty_or_hold_nothing_valid(rng: np.random.Generator) -> None:
    one = _matches(*_scene(rng), valid=np.zeros(50, bool))
    found = verify(_stack([one, one]), config=AFFINE)
    np.testing.assert_array_equal(found.inliers, [0, 0])
    np.testing.assert_array_equal(found.transform, [np.eye(3)] * 2)
    none = verify(
        Matches(
            **{name: part[:0] for name, part in vars(_stack([one])).items() if part is not None}
        ),
        config=AFFINE,
    )
    assert np.shape(none.inliers) == (0,)
    assert np.shape(none.inlier_mask) == (0, 50)
    assert np.shape(none.transform) == (0, 3, 3)


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("reflection", np.diag([-1.0, 1.0, 1.0])),
        ("reduction to a sixteenth", np.diag([1 / 16, 1 / 16, 1.0])),
        ("enlargement by nine", np.diag([9.0, 9.0, 1.0])),
        ("collapse of one direction", np.diag([1.0, 0.1, 1.0])),
        ("quarter turn", np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])),
    ],
)
@pytest.mark.parametrize("config", [AFFINE, HOMOGRAPHY], ids=["affine", "homography"])
def test_a_degenerate_transform_is_not_found(
    rng: np.random.Generator, name: str, matrix: np.ndarray, config: VerificationConfig
) -> None:
    # Larger than the threshold even when reduced to a sixteenth.
    query = rng.uniform(0, 1, (40, 2)) * [6400, 4800]
    found = verify(_matches(query, _project(matrix, query)), config=config)
    assert int(found.inliers) < 20, name


def test_a_quarter_turn_is_found_where_the_limit_allows_it(rng: np.random.Generator) -> None:
    query = rng.uniform(0, 1, (40, 2)) * [640, 480]
    turned = np.c_[-query[:, 1], query[:, 0]]
    config = dataclasses.replace(AFFINE, max_rotation_deg=180.0)
    assert int(verify(_matches(query, turned), config=config).inliers) == 40


def test_inliers_on_one_line_or_in_one_place_do_not_count(rng: np.random.Generator) -> None:
    line = np.linspace(0, 600, 40)[:, None] * [0.8, 0.6]
    place = rng.uniform(0, 8, (40, 2)) + 300
    for points in (line, place):
        assert int(verify(_matches(points, points), config=AFFINE).inliers) == 0


def test_each_point_of_either_image_counts_once(rng: np.random.Generator) -> None:
    query, database = _scene(rng, true=30, false=0)
    # Ten more matches end on the first three database points, from query points a pixel away from
    # the true ones.
    again = np.arange(10) % 3
    query = np.concatenate([query, query[again] + rng.uniform(0.5, 1.0, (10, 2))])
    database = np.concatenate([database, database[again]])
    found = verify(_matches(query, database), config=AFFINE)
    assert int(found.inliers) == 30
    assert np.asarray(found.inlier_mask)[:30].all()


def test_many_matches_onto_one_place_do_not_verify(rng: np.random.Generator) -> None:
    query = rng.uniform(0, 1, (60, 2)) * [640, 480]
    database = (np.array([[100.0, 100.0], [104.0, 300.0], [500.0, 200.0]]))[np.arange(60) % 3]
    # Three points can be used at most once each.
    assert int(verify(_matches(query, database), config=AFFINE).inliers) <= 3


def test_every_candidate_gets_the_same_bits_alone_in_company_and_again(
    rng: np.random.Generator,
) -> None:
    sizes = (3, 12, 50, 64, 65, 130, 256, 0)
    each = [_matches(*_scene(rng, true=size // 3, false=size - size // 3)) for size in sizes]
    # A homography is fitted by the same lanes: lists of one length suffice for it.
    for config, longest in ((AFFINE, 256), (HOMOGRAPHY, 64)):
        each = [one for one in each if len(one.valid) <= longest]
        together, again = (verify(_stack(each * 2), config=config) for _ in range(2))
        for row, one in enumerate(each):
            size = len(one.valid)
            alone = verify(_stack([one]), config=config)
            expected = _row(alone, 0, size)
            assert expected == _row(together, row, size) == _row(together, row + len(each), size)
            assert expected == _row(again, row, size)


def test_lists_of_any_length_share_three_programs(rng: np.random.Generator) -> None:
    # Limits are data, not part of a program. Tests that ran before may have left some of the three.
    with count_compilations() as count:
        for size in (3, 17, 60, 65, 200, 257, 600, 1024, 1500):
            limit = dataclasses.replace(
                AFFINE, max_scale_change=4.0 + size / 1000, threshold_px=10.0 + size / 100
            )
            verify(_matches(*_scene(rng, true=size // 2, false=size - size // 2)), config=limit)
    assert count.programs <= 3


def test_only_the_most_similar_matches_of_a_long_list_are_judged(rng: np.random.Generator) -> None:
    query, database = _scene(rng, true=60, false=0)
    similarity = rng.permutation(np.linspace(0.1, 0.9, 60)).astype(np.float32)
    config = dataclasses.replace(AFFINE, max_matches=40)
    mask = np.asarray(
        verify(_matches(query, database, similarity=similarity), config=config).inlier_mask
    )
    np.testing.assert_array_equal(mask, similarity >= np.sort(similarity)[20])


def test_a_homography_keeps_a_plane_in_perspective_whole(rng: np.random.Generator) -> None:
    plane = np.array([[0.8, 0.1, 60.0], [0.05, 0.9, 20.0], [0.0009, 0.0002, 1.0]])
    query = rng.uniform(0, 1, (64, 2)) * [640, 480]
    matches = _matches(query, _project(plane, query) + rng.normal(size=(64, 2)))
    affine = verify(matches, config=dataclasses.replace(AFFINE, threshold_px=5.0))
    bent = verify(matches, config=dataclasses.replace(HOMOGRAPHY, threshold_px=5.0))
    assert int(bent.inliers) == 64 > int(affine.inliers)
    # One pixel of noise on 64 matches.
    np.testing.assert_allclose(_project(bent.transform, query), _project(plane, query), atol=1.5)


def test_no_inlier_of_a_homography_lies_beyond_its_horizon(rng: np.random.Generator) -> None:
    # The line x = 400 is mapped to infinity: points on either side are consistent with the matrix,
    # but not with a view.
    plane = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.0025, 0.0, 1.0]])
    query = np.concatenate(
        [
            rng.uniform(0, 1, (40, 2)) * [250, 480],
            rng.uniform(0, 1, (24, 2)) * [250, 480] + [550, 0],
        ]
    )
    found = verify(_matches(query, _project(plane, query)), config=HOMOGRAPHY)
    mask = np.asarray(found.inlier_mask)
    depth = np.c_[query, np.ones(64)] @ np.asarray(found.transform)[2]
    assert mask.any()
    assert (depth[mask] > 0).all()
    assert not (mask[:40].any() and mask[40:].any())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("query_yx", np.nan, "query_yx of match 7 of candidate 0 .* finite"),
        ("database_yx", np.inf, "database_yx of match 7 of candidate 0 .* finite"),
        ("similarity", np.nan, "similarity of match 7 of candidate 0 is nan"),
        (
            "query_scales",
            0.0,
            "query_scales of match 7 of candidate 0 is 0.0, expected a finite number above zero",
        ),
        ("database_scales", -1.0, "database_scales of match 7 of candidate 0 is -1.0"),
    ],
)
def test_values_no_geometry_fits_are_refused_by_name(
    rng: np.random.Generator, field: str, value: float, message: str
) -> None:
    matches = _matches(*_scene(rng))
    broken = np.array(getattr(matches, field))
    broken[7] = value
    with pytest.raises(VerificationError, match=message):
        verify(Matches(**{**vars(matches), field: broken}), config=AFFINE)
    hidden = np.arange(50) != 7
    unharmed = verify(Matches(**{**vars(matches), field: broken, "valid": hidden}), config=AFFINE)
    assert int(unharmed.inliers) >= 29


@pytest.mark.parametrize("oriented", [True, False])
def test_a_single_match_fixes_a_similarity_if_its_features_have_an_orientation(
    rng: np.random.Generator, oriented: bool
) -> None:
    """Where one pair of matches is tried, a turned scene is found by the orientations alone."""
    query, database = _scene(rng, true=12, false=30)
    angle, scale = 2.0, 1.5
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    database[:12] = query[:12] @ turn.T + [700, 300]
    turns = rng.uniform(0, 2 * np.pi, 42).astype(np.float32)
    turns[:12] = angle
    scales = np.ones(42, np.float32)
    matches = _matches(
        query,
        database,
        query_scales=np.where(np.arange(42) < 12, scale, 1).astype(np.float32),
        database_scales=scales,
        turns=turns if oriented else None,
        # The false ones are more similar, so pairs of neighbours in rank are false.
        similarity=np.linspace(0.5, 0.9, 42).astype(np.float32),
    )
    config = dataclasses.replace(
        AFFINE, pair_hypotheses=1, max_rotation_deg=180.0, threshold_px=3.0
    )
    found = verify(matches, config=config)
    assert (int(found.inliers) >= 12) == oriented
