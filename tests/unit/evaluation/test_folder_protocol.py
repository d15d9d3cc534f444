"""The score of a folder: a ground truth small enough to score by hand, and everything that is
refused."""

from __future__ import annotations

import pytest

from delfjax.datasets.photo_folder import RetrievalGroundtruth, RetrievalQuery
from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.folder_protocol import (
    query_average_precisions,
    tier_mean_average_precisions,
)

# Two towers by day, one bridge by day and by night; "blur" is junk for the tower.
GROUNDTRUTH = RetrievalGroundtruth(
    imlist=("t0", "t1", "t2", "blur", "b0", "b1", "x"),
    queries=(
        RetrievalQuery(index=0, path="t0", landmark="tower", tier="day", ok=(1, 2), junk=(0, 3)),
        RetrievalQuery(index=1, path="t1", landmark="tower", tier="day", ok=(0, 2), junk=(1, 3)),
        RetrievalQuery(index=4, path="b0", landmark="bridge", tier="day", ok=(5,), junk=(4,)),
        RetrievalQuery(index=5, path="b1", landmark="bridge", tier="night", ok=(4,), junk=(5,)),
    ),
)
RANKINGS = {
    "t0": ["t0", "blur", "t1", "t2", "x"],
    "t1": ["t1", "x", "t0"],
    "b0": ["b0", "x", "b1"],
    "b1": [],
}


def test_each_query_is_scored_by_hand() -> None:
    # t1: one of two positives at junk-free rank 1, (0 + 1/2)/4; b0: its only one at rank 1, (0 +
    # 1/2)/2.
    assert query_average_precisions(RANKINGS, GROUNDTRUTH) == {
        "t0": 1.0,
        "t1": 0.125,
        "b0": 0.25,
        "b1": 0.0,
    }


def test_a_tier_is_the_mean_over_landmarks_of_the_mean_over_their_queries() -> None:
    assert tier_mean_average_precisions(RANKINGS, GROUNDTRUTH) == {
        "day": (0.5625 + 0.25) / 2,
        "night": 0.0,
    }


def test_a_tier_in_which_nothing_can_be_found_has_no_score() -> None:
    nothing = RetrievalQuery(index=6, path="x", landmark="x", tier="no match", ok=(), junk=(6,))
    extended = RetrievalGroundtruth(GROUNDTRUTH.imlist, (*GROUNDTRUTH.queries, nothing))
    assert set(tier_mean_average_precisions(RANKINGS | {"x": ["t0"]}, extended)) == {"day", "night"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t2": []}, "'t2' is not a query"),
        ({"b0": ["b0", "nowhere"]}, "ranking of 'b0': 'nowhere' is not in the database"),
        ({"b0": ["x", "x"]}, "query 'b0': ranking: 'x' appears twice"),
    ],
)
def test_a_ranking_that_cannot_be_scored_is_refused_by_name(
    change: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        query_average_precisions(RANKINGS | change, GROUNDTRUTH)


def test_a_query_without_a_ranking_is_refused_by_name() -> None:
    rankings = {path: ranking for path, ranking in RANKINGS.items() if path != "b1"}
    with pytest.raises(EvaluationError, match="none for the query 'b1'"):
        query_average_precisions(rankings, GROUNDTRUTH)
