"""Invariants of every protocol, for any ranking."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delfjax.datasets.geography import EARTH_RADIUS_KM, haversine_km
from delfjax.evaluation.gldv2_protocol import (
    global_average_precision,
    retrieval_mean_average_precision,
)
from delfjax.evaluation.labelled_protocols import LabelledQuery, revisited_protocol, score_rankings
from delfjax.evaluation.landmark_curve import (
    LandmarkCurve,
    LandmarkDatabase,
    ScoredList,
    landmark_precision_recall,
)
from delfjax.evaluation.protocol import stable_ranking

ROLES = st.lists(st.sampled_from(("easy", "hard", "junk", "negative")), min_size=1, max_size=30)
POSITIONS = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
# Scores with many ties; image, score.
FOUND = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=12)


def _scores(roles: list[str], setup: str) -> dict[str, float]:
    """Scores of the ranking 0, 1, 2 … of images of these roles."""
    names = [str(number) for number in range(len(roles))]
    labels = {
        label: [n for n, role in zip(names, roles, strict=True) if role == label]
        for label in ("easy", "hard", "junk")
    }
    result = score_rankings(
        {"q": names},
        protocol=revisited_protocol("any", setup),
        queries=[LabelledQuery("q", labels)],
        database=names,
    )
    return {name: float(values[0]) for name, values in result.scores.items()}


@given(ROLES, st.sampled_from(("easy", "medium", "hard")))
def test_every_score_lies_between_zero_and_one_or_is_undefined(
    roles: list[str], setup: str
) -> None:
    scores = _scores(roles, setup)
    positives = {"easy": ("easy",), "medium": ("easy", "hard"), "hard": ("hard",)}[setup]
    if set(positives) & set(roles):
        assert all(0 <= score <= 1 + 1e-12 for score in scores.values())
    else:
        assert all(np.isnan(score) for score in scores.values())


@given(ROLES, st.integers(0, 30), st.sampled_from(("easy", "medium", "hard")))
def test_junk_changes_no_score_wherever_it_stands(roles: list[str], place: int, setup: str) -> None:
    assert _scores([*roles[:place], "junk", *roles[place:]], setup) == pytest.approx(
        _scores(roles, setup), nan_ok=True
    )


@given(ROLES)
def test_exchanging_easy_and_hard_exchanges_the_setups(roles: list[str]) -> None:
    swapped = [{"easy": "hard", "hard": "easy"}.get(role, role) for role in roles]
    assert _scores(roles, "easy") == pytest.approx(_scores(swapped, "hard"), nan_ok=True)
    assert _scores(roles, "medium") == pytest.approx(_scores(swapped, "medium"), nan_ok=True)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_a_stable_ranking_falls_and_keeps_the_order_of_equals(levels: list[int]) -> None:
    scores = np.array(levels, dtype=np.float64)
    order = stable_ranking(scores)
    assert sorted(order.tolist()) == list(range(len(levels)))
    steps = np.diff(scores[order])
    assert (steps <= 0).all() and (np.diff(order)[steps == 0] > 0).all()


@given(st.lists(st.integers(0, 9), max_size=12), st.frozensets(st.integers(0, 9), min_size=1))
def test_repeating_an_image_never_raises_the_score(
    predicted: list[int], relevant: frozenset[int]
) -> None:
    names = [str(number) for number in predicted]
    kept = list(dict.fromkeys(names))
    solution = {"q": [str(number) for number in relevant]}
    with_repeats, without = (
        retrieval_mean_average_precision({"q": run}, solution=solution) for run in (names, kept)
    )
    assert 0 <= with_repeats.means["mAP@100"] <= without.means["mAP@100"] + 1e-12 <= 1 + 2e-12


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 3)), max_size=12),
    st.randoms(),
)
def test_the_order_in_which_predictions_are_given_does_not_matter(
    rows: list[tuple[int, int, int]], shuffle: Random
) -> None:
    solution = {"0": [0], "1": [1], "2": [2, 0], "3": [], "4": [1]}
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    found = [
        global_average_precision(
            [str(image) for image, _, _ in order],
            classes=np.array([landmark for _, landmark, _ in order], dtype=np.int64),
            confidences=np.array([level for _, _, level in order], dtype=np.float64),
            solution=solution,
        ).means["GAP"]
        for order in (rows, shuffled)
    ]
    assert found[0] == found[1] and 0 <= found[0] <= 1


def _curve(*lists: list[tuple[int, int]], monotone: bool = False) -> LandmarkCurve:
    database = LandmarkDatabase(
        [str(number) for number in range(6)],
        np.array([0, 0, 1, 1, 2, -1]),
        np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0]]),
    )
    retrieved = {
        f"q{number}": ScoredList(
            [str(image) for image, _ in found],
            np.array(
                [np.exp(score) if monotone else score for _, score in found], dtype=np.float64
            ),
        )
        for number, found in enumerate(lists)
    }
    places = {"q0": (0.0, 0.0), "q1": (9.0, 9.0), "q2": None}
    return landmark_precision_recall(retrieved, queries_deg=places, database=database)


@given(st.tuples(FOUND, FOUND, FOUND))
def test_recall_never_falls_and_precision_is_a_share(
    lists: tuple[list[tuple[int, int]], ...],
) -> None:
    curve = _curve(*lists)
    assert (np.diff(curve.thresholds) < 0).all() and (np.diff(curve.true_positives) >= 0).all()
    assert (np.diff(curve.retrieved) > 0).all()
    assert ((curve.precision >= 0) & (curve.precision <= 1)).all()


@given(st.tuples(FOUND, FOUND, FOUND))
def test_only_the_order_of_scores_matters_to_the_curve(
    lists: tuple[list[tuple[int, int]], ...],
) -> None:
    plain, bent = _curve(*lists), _curve(*lists, monotone=True)
    np.testing.assert_array_equal(plain.precision, bent.precision)
    np.testing.assert_array_equal(plain.true_positives, bent.true_positives)


@given(POSITIONS, POSITIONS)
def test_a_distance_is_the_same_both_ways_and_at_most_half_a_great_circle(
    first: tuple[float, float], second: tuple[float, float]
) -> None:
    there = haversine_km(np.array(first), np.array(second))
    assert there == pytest.approx(
        float(haversine_km(np.array(second), np.array(first))), rel=1e-12, abs=1e-9
    )
    assert 0 <= there <= np.pi * EARTH_RADIUS_KM * (1 + 1e-12)
    assert haversine_km(np.array(first), np.array(first)) == 0
