"""What must not change the outcome of verification: order, padding, position, company."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from delfjax.config import VerificationConfig
from delfjax.retrieval.verification import verify
from delfjax.types import Matches, Verification

CONFIG = VerificationConfig()
SEEDS = st.integers(0, 2**31 - 1)
# Each example is a call of a compiled program; all share one shape.
FEW = settings(max_examples=20, deadline=None)


def _matches(seed: int, *, count: int = 48, oriented: bool = False) -> Matches:
    """Matches of one pair of images of which about a third follow a similarity, with distinct
    similarities; of features with an orientation, if asked for."""
    rng = np.random.default_rng(seed)
    query_yx = rng.uniform(0, 600, (count, 2)).astype(np.float32)
    angle, scale = rng.uniform(-0.6, 0.6), rng.uniform(0.7, 1.4)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mapped = query_yx @ linear.T + rng.normal(size=(count, 2)) * 3
    strays = rng.uniform(0, 600, (count, 2))
    true = np.arange(count) < count // 3
    return Matches(
        query_yx=query_yx,
        database_yx=np.where(true[:, None], mapped, strays).astype(np.float32),
        query_scales=np.ones(count, np.float32),
        database_scales=np.full(count, 1 / scale, np.float32),
        similarity=rng.permutation(np.linspace(0.5, 1.0, count)).astype(np.float32),
        valid=np.ones(count, bool),
        # The matrix acts on (y, x), so it turns the other way from x to y.
        turns=np.where(true, -angle, rng.uniform(0, 6, count)).astype(np.float32)
        if oriented
        else None,
    )


def _parts(matches: Matches) -> dict[str, np.ndarray]:
    return {name: np.asarray(part) for name, part in vars(matches).items() if part is not None}


def _changed(matches: Matches, **parts: np.ndarray) -> Matches:
    return Matches(**{**vars(matches), **parts})


def _bits(result: Verification, *row: int) -> tuple[int, bytes, bytes]:
    mask, transform = np.asarray(result.inlier_mask)[row], np.asarray(result.transform)[row]
    return int(np.asarray(result.inliers)[row]), mask.tobytes(), transform.tobytes()


@FEW
@given(SEEDS, st.booleans())
def test_reordering_the_matches_reorders_the_inliers(seed: int, oriented: bool) -> None:
    matches = _matches(seed, oriented=oriented)
    order = np.random.default_rng(seed).permutation(48)
    shuffled = Matches(**{name: part[order] for name, part in _parts(matches).items()})
    straight, mixed = verify(matches, config=CONFIG), verify(shuffled, config=CONFIG)
    np.testing.assert_array_equal(np.asarray(straight.inlier_mask)[order], mixed.inlier_mask)
    np.testing.assert_array_equal(straight.transform, mixed.transform)


@FEW
@given(SEEDS, st.booleans())
def test_slots_without_a_match_change_nothing_whatever_they_hold(seed: int, oriented: bool) -> None:
    matches = _matches(seed, oriented=oriented)
    rng = np.random.default_rng(seed)
    slots = np.sort(rng.permutation(80)[:48])
    padded = {}
    for name, part in _parts(matches).items():
        full = np.full((80, *part.shape[1:]), np.nan if name != "valid" else False, part.dtype)
        full[slots] = part
        padded[name] = full
    alone, among = verify(matches, config=CONFIG), verify(Matches(**padded), config=CONFIG)
    assert int(alone.inliers) == int(among.inliers)
    np.testing.assert_array_equal(alone.inlier_mask, np.asarray(among.inlier_mask)[slots])
    np.testing.assert_array_equal(alone.transform, among.transform)


@FEW
@given(SEEDS, st.tuples(*[st.integers(-4096, 4096)] * 4))
def test_shifting_an_image_by_whole_pixels_keeps_the_inliers_and_shifts_the_transform(
    seed: int, shift: tuple[int, int, int, int]
) -> None:
    base = _matches(seed)
    # Sixteenths of a pixel, so that the shifted coordinates are exact in float32.
    grid = {
        name: np.round(np.asarray(getattr(base, name)) * 16) / 16
        for name in ("query_yx", "database_yx")
    }
    matches = _changed(base, **grid)
    moves = {
        name: np.array(shift[k : k + 2], np.float32)
        for name, k in (("query_yx", 0), ("database_yx", 2))
    }
    moved = _changed(matches, **{name: grid[name] + move for name, move in moves.items()})
    before, after = verify(matches, config=CONFIG), verify(moved, config=CONFIG)
    np.testing.assert_array_equal(before.inlier_mask, after.inlier_mask)
    back, forth = np.eye(3), np.eye(3)
    back[:2, 2], forth[:2, 2] = -moves["query_yx"][::-1], moves["database_yx"][::-1]
    expected = (
        forth @ np.asarray(before.transform, np.float64) @ back
        if int(before.inliers)
        else np.eye(3)
    )
    # Entries of thousands in float32.
    np.testing.assert_allclose(after.transform, expected, rtol=1e-5, atol=1e-2)


@settings(FEW, max_examples=8)
@given(st.lists(SEEDS, min_size=2, max_size=10, unique=True), st.booleans())
def test_a_candidate_gets_the_same_bits_alone_and_in_any_company(
    seeds: list[int], oriented: bool
) -> None:
    each = [_matches(seed, oriented=oriented) for seed in seeds]
    parts = [_parts(one) for one in each]
    together = verify(
        Matches(**{name: np.stack([part[name] for part in parts]) for name in parts[0]}),
        config=CONFIG,
    )
    for row, one in enumerate(each):
        assert _bits(verify(one, config=CONFIG)) == _bits(together, row)


@FEW
@given(SEEDS)
def test_inliers_are_within_the_threshold_of_the_transform_and_use_no_point_twice(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    base = _matches(seed)
    # Coarse positions, so that many matches share a point.
    matches = _changed(
        base,
        query_yx=(np.asarray(base.query_yx) // 48 * 48).astype(np.float32),
        database_yx=(np.asarray(base.database_yx) // 48 * 48).astype(np.float32),
        similarity=rng.permutation(np.asarray(base.similarity)),
    )
    found = verify(matches, config=CONFIG)
    query, database = (
        np.asarray(part)[np.asarray(found.inlier_mask)]
        for part in (matches.query_yx, matches.database_yx)
    )
    assert len(query) == int(found.inliers)
    assert len(np.unique(query, axis=0)) == len(np.unique(database, axis=0)) == len(query)
    transform = np.asarray(found.transform, np.float64)
    mapped = query[:, ::-1] @ transform[:2, :2].T + transform[:2, 2]
    # Float32 arithmetic at the very edge of the tolerance.
    assert (np.hypot(*(mapped - database[:, ::-1]).T) <= CONFIG.threshold_px * (1 + 1e-4)).all()
