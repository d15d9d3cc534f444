"""Hand-computed values of the trapezoidal average precision and of its means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from delfjax.evaluation.average_precision import (
    EvaluationError,
    average_precision,
    junk_free_ranks,
    mean_average_precision_by_landmark,
)


def _ap(*ranks: int, of: int | None = None) -> float:
    return average_precision(
        np.asarray(ranks, dtype=np.int64), num_positives=len(ranks) if of is None else of
    )


def _ranks(roles: str) -> list[int]:
    """Junk-free ranks of a list written as p(ositive), j(unk) and n(egative)."""
    listed = np.array(list(roles), dtype="U1")
    return junk_free_ranks(listed == "p", listed == "j").tolist()


def test_a_perfect_ranking_scores_one() -> None:
    assert _ap(0, 1, 2, 3) == 1.0


def test_junk_before_a_perfect_ranking_costs_nothing() -> None:
    assert _ap(*_ranks("jpjpn")) == 1.0


@pytest.mark.parametrize("rank", [1, 2, 9, 999])
def test_one_positive_below_the_head_scores_half_its_precision(rank: int) -> None:
    # Before it the precision is 0, after it 1/(k+1): the trapezoid is half of that.
    assert _ap(rank) == pytest.approx(1 / (2 * (rank + 1)), rel=1e-15)


def test_positives_never_ranked_cost_their_share() -> None:
    assert _ap(0, 1, of=4) == 0.5
    assert _ap(of=3) == 0.0


def test_two_positives_at_ranks_zero_and_two() -> None:
    # (1 + 1)/4 + (1/2 + 2/3)/4
    assert _ap(0, 2) == pytest.approx(19 / 24, rel=1e-15)


def test_a_query_without_positives_is_undefined() -> None:
    assert math.isnan(_ap())


def test_the_order_in_which_ranks_are_given_does_not_matter() -> None:
    assert _ap(7, 2, 4) == _ap(2, 4, 7)


def test_junk_takes_up_no_rank() -> None:
    assert _ranks("njpjp") == [1, 2]


def test_an_empty_ranking_scores_zero_where_there_was_something_to_find() -> None:
    assert _ap(*_ranks(""), of=1) == 0.0


@pytest.mark.parametrize("ranks", [[-1, 0], [2, 2]])
def test_impossible_ranks_are_refused(ranks: list[int]) -> None:
    with pytest.raises(EvaluationError, match="distinct and count from 0"):
        _ap(*ranks)


def test_more_hits_than_positives_are_refused() -> None:
    with pytest.raises(EvaluationError, match="2 retrieved, but num_positives=1"):
        _ap(0, 1, of=1)


def test_a_landmark_with_many_queries_weighs_as_much_as_one_with_few() -> None:
    means = mean_average_precision_by_landmark(
        [1.0, 1.0, 1.0, 0.0], landmarks=["tower", "tower", "tower", "bridge"], tiers=["photo"] * 4
    )
    assert means == {"photo": 0.5}


def test_tiers_do_not_mix_even_within_a_landmark() -> None:
    means = mean_average_precision_by_landmark(
        [1.0, 0.25], landmarks=["tower", "tower"], tiers=["photo", "night"]
    )
    assert means == {"photo": 1.0, "night": 0.25}


def test_queries_without_positives_are_left_out_of_the_mean() -> None:
    means = mean_average_precision_by_landmark(
        [0.5, math.nan, math.nan, math.nan],
        landmarks=["tower", "tower", "bridge", "bridge"],
        tiers=["photo", "photo", "photo", "nothing"],
    )
    assert means == {"photo": 0.5}


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        mean_average_precision_by_landmark(
            [1.0, 1.0], landmarks=["tower"], tiers=["photo", "photo"]
        )
