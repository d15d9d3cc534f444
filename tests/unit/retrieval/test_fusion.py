"""Fusion of local and global scores, by hand-checked figures and by its invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delfjax.config import RankingConfig
from delfjax.retrieval.fusion import KINDS, FusionError, fused, normalised_scores

INLIERS = np.array([[0, 30, 90, 30], [5, 0, 0, 10]])
COSINES = np.array([[0.2, 0.4, 0.3, -0.2], [0.5, 0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("kind", "most", "expected"),
    [
        ("minmax", None, [[0, 1 / 3, 1, 1 / 3], [0.5, 0, 0, 1]]),
        ("minmax", 60, [[0, 0.5, 1, 0.5], [0.5, 0, 0, 1]]),
        ("rank", 60, [[0, 1 / 3, 1, 1 / 3], [2 / 3, 0, 0, 1]]),
        (
            "log",
            None,
            [
                [0, np.log(31) / np.log(91), 1, np.log(31) / np.log(91)],
                [np.log(6) / np.log(11), 0, 0, 1],
            ],
        ),
        # Means 30 and 3.75, standard deviations 21.21 and 4.146.
        ("zscore", 60, [[-(2**0.5), 0, 2**0.5, 0], [0.30151, -0.90453, -0.90453, 1.50756]]),
    ],
)
def test_normalised_scores_equal_figures_by_hand(
    kind: str, most: int | None, expected: list[list[float]]
) -> None:
    np.testing.assert_allclose(
        normalised_scores(INLIERS, kind, most=most), expected, rtol=1e-5, atol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 0.1, 17.0, 1e9 / 7])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_equal_scores_become_zeros(kind: str, value: float, count: int) -> None:
    scores = np.full((2, count), value)
    assert np.array_equal(normalised_scores(scores, kind), np.zeros((2, count)))


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=20),
    st.sampled_from(KINDS),
    st.sampled_from([None, 60]),
)
def test_normalising_keeps_the_order(scores: list[int], kind: str, most: int | None) -> None:
    found = normalised_scores(np.array([scores]), kind, most=most)[0]
    order = np.argsort(scores, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    clipped = (
        np.array(scores) if most is None or kind in ("rank", "log") else np.minimum(scores, most)
    )
    assert len(np.unique(found)) == len(np.unique(clipped))
    if kind != "zscore":
        assert found.min() == 0 and found.max() in (0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_queries_are_normalised_one_by_one(kind: str) -> None:
    together = normalised_scores(INLIERS, kind)
    alone = np.concatenate([normalised_scores(row[None], kind) for row in INLIERS])
    np.testing.assert_allclose(together, alone, rtol=1e-14)


def test_fused_scores_are_the_weighted_mean() -> None:
    config = RankingConfig(by="fused", local_weight=0.25, normalisation="minmax", most_inliers=60)
    found = fused(INLIERS, COSINES, config)
    # The second query's cosines are all equal, so its inliers alone count.
    expected = [
        [0.75 * 2 / 3, 0.25 * 0.5 + 0.75, 0.25 + 0.75 * 5 / 6, 0.25 * 0.5],
        [0.125, 0, 0, 0.25],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_all_weight_on_one_side_is_that_side_alone(kind: str) -> None:
    for weight, scores, own in ((1.0, INLIERS, kind), (0.0, COSINES, kind)):
        config = RankingConfig(local_weight=weight, normalisation=kind, most_inliers=1000)
        own_kind = "minmax" if own == "log" and weight == 0 else own
        assert np.array_equal(fused(INLIERS, COSINES, config), normalised_scores(scores, own_kind))


def test_scores_that_cannot_be_fused_are_refused() -> None:
    with pytest.raises(FusionError, match=r"shape \(2, 4\), but the global ones have \(2, 3\)"):
        fused(INLIERS, COSINES[:, :3], RankingConfig())
    with pytest.raises(FusionError, match="a score is nan"):
        fused(INLIERS, np.full((2, 4), np.nan), RankingConfig())
    with pytest.raises(FusionError, match="-0.2, expected 0 or more"):
        normalised_scores(COSINES, "log")
    with pytest.raises(FusionError, match="'best', expected one of minmax, rank"):
        normalised_scores(COSINES, "best")
