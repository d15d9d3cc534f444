"""The curve of Google-Landmarks, counted by hand on three landmarks and a handful of queries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from delfjax.datasets.geography import EARTH_RADIUS_KM, haversine_km
from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.landmark_curve import (
    LandmarkCurve,
    LandmarkDatabase,
    ScoredList,
    landmark_centres,
    landmark_precision_recall,
)

EIFFEL, DOME, LIBERTY = (48.8584, 2.2945), (50.9413, 6.9583), (40.6892, -74.0445)
# One degree of latitude in km, on the sphere.
DEGREE = math.pi * EARTH_RADIUS_KM / 180
# Two images of the first landmark, one of each other, and one that shows none.
DATABASE = LandmarkDatabase(
    images=["e1", "e2", "d1", "l1", "none"],
    landmark=np.array([0, 0, 1, 2, -1]),
    centres_deg=np.array([EIFFEL, DOME, LIBERTY]),
)
QUERIES = {"paris": EIFFEL, "cologne": DOME, "sea": (0.0, -30.0), "indoors": None}


def _list(**scores: float) -> ScoredList:
    return ScoredList(list(scores), np.array(list(scores.values()), dtype=np.float64))


def _curve(radius_km: float = 25.0, **lists: ScoredList) -> LandmarkCurve:
    retrieved = {name: lists.get(name, _list()) for name in QUERIES}
    return landmark_precision_recall(
        retrieved, queries_deg=QUERIES, database=DATABASE, radius_km=radius_km
    )


def test_all_queries_are_pooled_under_one_threshold() -> None:
    curve = _curve(paris=_list(e1=9.0, d1=5.0), cologne=_list(d1=7.0, l1=8.0))
    assert curve.thresholds.tolist() == [9.0, 8.0, 7.0, 5.0]
    assert curve.retrieved.tolist() == [1, 2, 3, 4]
    assert curve.true_positives.tolist() == [1, 1, 2, 2]
    assert curve.precision.tolist() == [1.0, 1 / 2, 2 / 3, 1 / 2]
    # Two of the four queries have a match.
    assert curve.has_match.tolist() == [True, True, False, False]
    assert curve.recall_rate.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert str(curve.protocol) == "google-landmarks-25km/full/best-per-landmark/threshold-ties"


def test_only_the_best_image_of_a_landmark_counts() -> None:
    curve = _curve(paris=_list(e1=3.0, e2=9.0))
    assert (curve.thresholds.tolist(), curve.true_positives.tolist()) == ([9.0], [1])
    wrong = _curve(sea=_list(e1=3.0, e2=9.0))
    assert (wrong.retrieved.tolist(), wrong.true_positives.tolist()) == ([1], [0])


def test_an_image_named_twice_counts_once_with_its_better_score() -> None:
    twice = _curve(paris=ScoredList(["e1", "e1"], np.array([2.0, 6.0])))
    assert (twice.thresholds.tolist(), twice.retrieved.tolist()) == ([6.0], [1])


def test_equal_scores_pass_the_threshold_together() -> None:
    curve = _curve(paris=_list(e1=5.0, l1=5.0), cologne=_list(d1=5.0, e1=4.0))
    assert (curve.retrieved.tolist(), curve.precision.tolist()) == ([3, 4], [2 / 3, 2 / 4])


@pytest.mark.parametrize("query", ["sea", "indoors"])
def test_a_query_without_a_match_can_only_add_false_positives(query: str) -> None:
    alone = _curve(paris=_list(e1=5.0))
    assert alone.precision.tolist() == [1.0]
    more = _curve(paris=_list(e1=5.0), **{query: _list(e1=6.0, d1=4.0)})
    assert (more.precision.tolist(), more.true_positives.tolist()) == (
        [0.0, 1 / 2, 1 / 3],
        [0, 1, 1],
    )
    assert more.recall_rate.tolist() == [0.0, 0.5, 0.5]


def test_an_image_without_a_landmark_is_wrong() -> None:
    assert _curve(paris=_list(none=5.0)).precision.tolist() == [0.0]


def test_precision_is_undefined_where_nothing_is_retrieved_and_the_curve_has_no_point_there() -> (
    None
):
    curve = _curve(paris=_list(e1=5.0))
    above, at = curve.at(5.1), curve.at(5.0)
    assert (above.retrieved, above.true_positives, above.recall_rate) == (0, 0, 0.0) and math.isnan(
        above.precision
    )
    assert (at.retrieved, at.true_positives, at.precision, at.recall_rate) == (1, 1, 1.0, 0.5)
    assert _curve().thresholds.shape == _curve().precision.shape == (0,)


def test_without_any_match_the_rate_is_undefined_and_the_count_is_zero() -> None:
    found = landmark_precision_recall(
        {"sea": _list(e1=1.0)}, queries_deg={"sea": (0.0, -30.0)}, database=DATABASE
    )
    assert (
        found.true_positives.tolist() == [0]
        and math.isnan(found.recall_rate[0])
        and math.isnan(found.at(0.0).recall_rate)
    )


@pytest.mark.parametrize(("away_km", "right"), [(24.99, True), (25.01, False)])
def test_a_landmark_is_right_within_twenty_five_kilometres(away_km: float, right: bool) -> None:
    moved = (EIFFEL[0] + away_km / DEGREE, EIFFEL[1])
    curve = landmark_precision_recall(
        {"q": _list(e1=1.0)}, queries_deg={"q": moved}, database=DATABASE
    )
    assert curve.true_positives.tolist() == [int(right)] and curve.has_match.tolist() == [right]


def test_a_landmark_shown_by_no_image_matches_no_query() -> None:
    without = LandmarkDatabase(["d1"], np.array([1]), DATABASE.centres_deg)
    curve = landmark_precision_recall(
        {"paris": _list()}, queries_deg={"paris": EIFFEL}, database=without
    )
    assert curve.has_match.tolist() == [False]


def test_the_radius_is_part_of_the_protocol() -> None:
    assert _curve(radius_km=1.5).protocol.benchmark == "google-landmarks-1.5km"
    # Paris and Cologne are some 400 km apart.
    assert _curve(radius_km=500.0, paris=_list(e1=1.0, d1=1.0)).true_positives.tolist() == [2]


def test_each_query_has_its_counts_at_a_threshold() -> None:
    result = _curve(paris=_list(e1=9.0, d1=5.0), cologne=_list(l1=8.0, d1=2.0)).result_at(4.0)
    assert result.queries == tuple(QUERIES)
    assert result.scores["true positives"].tolist() == [1, 0, 0, 0]
    assert result.scores["false positives"].tolist() == [1, 1, 0, 0]


def test_distances_are_those_of_great_circles() -> None:
    equator, pole = np.array([0.0, 0.0]), np.array([90.0, 0.0])
    quarter = math.pi * EARTH_RADIUS_KM / 2
    assert haversine_km(equator, pole) == pytest.approx(quarter, rel=1e-12)
    assert haversine_km(equator, np.array([0.0, 180.0])) == pytest.approx(2 * quarter, rel=1e-12)
    # Across the date line, and of rows against one position.
    assert haversine_km(np.array([0.0, 179.5]), np.array([0.0, -179.5])) == pytest.approx(
        DEGREE, rel=1e-9
    )
    # Paris–Cologne and Paris–New York, from a map: to a percent.
    assert haversine_km(np.array([DOME, LIBERTY]), np.array(EIFFEL)) == pytest.approx(
        [405, 5840], rel=0.01
    )
    assert math.isnan(haversine_km(equator, np.array([math.nan, math.nan])))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (_list(elsewhere=1.0), "retrieved for 'paris': 'elsewhere' is not in the database"),
        (_list(e1=math.nan), "each of 1 images needs one finite score"),
        (ScoredList(["e1"], np.zeros(1)), "retrieved: 'rome' is not a query"),
    ],
)
def test_a_list_that_cannot_be_scored_is_refused_by_name(found: ScoredList, message: str) -> None:
    name = "rome" if "rome" in message else "paris"
    with pytest.raises(EvaluationError, match=message):
        landmark_precision_recall(
            {"paris": _list(), name: found}, queries_deg={"paris": EIFFEL}, database=DATABASE
        )


def test_a_query_without_a_list_is_refused_by_name() -> None:
    with pytest.raises(EvaluationError, match="nothing for the query 'paris'"):
        landmark_precision_recall({}, queries_deg={"paris": EIFFEL}, database=DATABASE)


@pytest.mark.parametrize(
    ("images", "landmark", "centre", "message"),
    [
        (["a", "a"], [0, 0], (0.0, 0.0), "database: 'a' appears twice"),
        (["a"], [1], (0.0, 0.0), "'a' shows landmark 1; there are 1, counted from 0"),
        (["a"], [-2], (0.0, 0.0), "'a' shows landmark -2"),
        (["a"], [0], (91.0, 0.0), "centre of landmark 0: position"),
        (["a"], [0], (0.0, math.nan), "a longitude within ±180"),
    ],
)
def test_an_invalid_database_is_refused_by_name(
    images: list[str], landmark: list[int], centre: tuple[float, float], message: str
) -> None:
    database = LandmarkDatabase(images, np.array(landmark), np.array([centre]))
    with pytest.raises(EvaluationError, match=message):
        landmark_precision_recall({}, queries_deg={}, database=database)


def test_a_query_with_an_impossible_position_is_refused_by_name() -> None:
    with pytest.raises(EvaluationError, match="query 'q': position"):
        landmark_precision_recall(
            {"q": _list()}, queries_deg={"q": (2.3, 488.6)}, database=DATABASE
        )


def test_the_area_is_the_precision_at_each_right_landmark() -> None:
    curve = _curve(paris=_list(e1=9.0, d1=5.0), cologne=_list(d1=7.0, l1=8.0))
    # Right at precisions 1 and 2/3, of two queries with a match.
    assert curve.area() == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    assert _curve().area() == 0.0
    assert math.isnan(
        landmark_precision_recall(
            {"sea": _list(e1=1.0)}, queries_deg={"sea": None}, database=DATABASE
        ).area()
    )


def test_the_curve_is_read_at_its_last_point_with_a_given_precision() -> None:
    curve = _curve(paris=_list(e1=9.0, d1=5.0), cologne=_list(d1=7.0, l1=8.0))
    last = curve.last_with(0.6)
    assert last is not None and (last.threshold, last.true_positives) == (7.0, 2)
    assert _curve(sea=_list(e1=3.0)).last_with(0.5) is None and _curve().last_with(0.0) is None


def test_the_centre_of_a_landmark_is_the_mean_direction_of_its_images() -> None:
    positions = np.array(
        [(0.0, 179.0), (0.0, -179.0), (10.0, 5.0), (np.nan, np.nan), (np.nan, np.nan), (50.0, 50.0)]
    )
    centres = landmark_centres(np.array([0, 0, 1, 1, 2, -1]), positions, count=3)
    np.testing.assert_allclose(np.abs(centres[0]), [0.0, 180.0], atol=1e-12)
    np.testing.assert_allclose(centres[1], [10.0, 5.0], atol=1e-12)
    assert np.isnan(centres[2]).all()
