"""mAP@100 and GAP on lists short enough to add up by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.gldv2_protocol import (
    global_average_precision,
    retrieval_mean_average_precision,
)

LANDMARKS = {"a": [7], "b": [8, 9], "c": [7], "none": []}


def _one(*predicted: str, relevant: tuple[str, ...], cutoff: int = 100) -> float:
    result = retrieval_mean_average_precision(
        {"q": predicted}, solution={"q": relevant}, cutoff=cutoff
    )
    return float(result.scores[f"mAP@{cutoff}"][0])


def _gap(*rows: tuple[str, int, float], ignore_non_landmark: bool = False) -> float:
    images, classes, confidences = zip(*rows, strict=True) if rows else ((), (), ())
    result = global_average_precision(
        list(images),
        classes=np.array(classes, dtype=np.int64),
        confidences=np.array(confidences, dtype=np.float64),
        solution=LANDMARKS,
        ignore_non_landmark=ignore_non_landmark,
    )
    return result.means["GAP"]


def test_a_perfect_list_scores_one() -> None:
    assert _one("r1", "r2", relevant=("r1", "r2")) == 1.0


def test_precisions_at_hits_are_averaged_over_the_relevant_images() -> None:
    # Hits at ranks 1 and 3 of three relevant images.
    assert _one("r1", "x", "r2", relevant=("r1", "r2", "r3")) == pytest.approx(
        (1 + 2 / 3) / 3, rel=1e-15
    )


def test_a_repeated_hit_counts_once_and_pushes_later_hits_down() -> None:
    assert _one("r1", "r1", "r2", relevant=("r1", "r2")) == pytest.approx(
        (1 + 2 / 3) / 2, rel=1e-15
    )


def test_a_repeated_miss_takes_up_two_ranks() -> None:
    assert _one("x", "x", "r1", relevant=("r1",)) == pytest.approx(1 / 3, rel=1e-15)


def test_predictions_beyond_the_hundredth_are_ignored() -> None:
    misses = tuple(f"x{number}" for number in range(99))
    assert _one(*misses, "r1", relevant=("r1",)) == pytest.approx(1 / 100, rel=1e-15)
    assert _one(*misses, "x", "r1", relevant=("r1",)) == 0.0


def test_a_hundred_hits_are_perfect_however_many_images_are_relevant() -> None:
    relevant = tuple(f"r{number}" for number in range(250))
    assert _one(*relevant, relevant=relevant) == pytest.approx(1.0, rel=1e-12)
    assert _one("r0", "r1", relevant=relevant, cutoff=2) == 1.0


def test_a_missing_query_scores_zero_and_one_without_relevant_images_is_left_out() -> None:
    result = retrieval_mean_average_precision(
        {"found": ["r1"], "ignored": ["r1"]},
        solution={"found": ["r1"], "missing": ["r1"], "empty": [], "ignored": []},
    )
    assert result.queries == ("found", "missing", "empty", "ignored")
    np.testing.assert_array_equal(result.scores["mAP@100"], [1.0, 0.0, math.nan, math.nan])
    assert result.means == {"mAP@100": 0.5}
    assert str(result.protocol) == "gldv2-retrieval/full/repeats-wrong/stable-ties"


def test_a_query_that_is_not_in_the_solution_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="'q2' is not a query of the solution"):
        retrieval_mean_average_precision({"q2": []}, solution={"q": ["r1"]})
    with pytest.raises(EvaluationError, match="cutoff: got 0"):
        _one(relevant=("r1",), cutoff=0)


def test_right_and_confident_predictions_for_every_image_score_one() -> None:
    assert _gap(("a", 7, 0.9), ("b", 9, 0.8), ("c", 7, 0.7), ("none", 7, 0.1)) == 1.0


def test_a_prediction_for_an_image_without_a_landmark_is_a_false_positive() -> None:
    rows = (("none", 7, 0.9), ("a", 7, 0.8), ("b", 7, 0.7), ("c", 7, 0.6))
    assert _gap(*rows) == pytest.approx((1 / 2 + 2 / 4) / 3, rel=1e-15)
    assert _gap(*rows, ignore_non_landmark=True) == pytest.approx((1 + 2 / 3) / 3, rel=1e-15)


def test_an_image_without_a_prediction_adds_nothing() -> None:
    assert _gap(("a", 7, 0.5)) == pytest.approx(1 / 3, rel=1e-15)
    assert _gap() == 0.0


def test_equal_confidences_are_ordered_by_name_and_then_by_class() -> None:
    # By name: a (wrong), b (right), c (right).
    assert _gap(("c", 7, 0.5), ("b", 8, 0.5), ("a", 1, 0.5)) == pytest.approx(
        (1 / 2 + 2 / 3) / 3, rel=1e-15
    )
    # By class: a's first is class 1, which is wrong; class 7 comes second and is too late.
    assert _gap(("a", 7, 0.5), ("a", 1, 0.5)) == 0.0
    assert _gap(("a", 7, 0.5), ("a", 8, 0.5)) == pytest.approx(1 / 3, rel=1e-15)


def test_a_second_prediction_for_an_image_takes_up_a_rank_and_is_wrong() -> None:
    assert _gap(("a", 7, 0.9), ("a", 7, 0.8), ("c", 7, 0.7)) == pytest.approx(
        (1 + 2 / 3) / 3, rel=1e-15
    )


def test_shares_follow_the_order_of_the_solution_and_average_to_the_score() -> None:
    result = global_average_precision(
        ["c", "a"],
        classes=np.array([7, 7]),
        confidences=np.array([0.9, 0.1]),
        solution={"none": [], "c": [7], "b": [8], "a": [7]},
    )
    np.testing.assert_array_equal(result.scores["GAP"], [math.nan, 1.0, 0.0, 1.0])
    assert str(result.protocol) == "gldv2-recognition/full/non-landmark-wrong/key-ties"


def test_without_any_landmark_the_score_is_undefined() -> None:
    result = global_average_precision(
        ["a"], classes=np.array([1]), confidences=np.array([0.5]), solution={"a": []}
    )
    assert math.isnan(result.means["GAP"])


def test_predictions_that_cannot_be_scored_are_refused_by_name() -> None:
    with pytest.raises(EvaluationError, match="'z' is not a test image"):
        _gap(("z", 7, 0.5))
    with pytest.raises(EvaluationError, match="prediction for 'b': confidence nan"):
        _gap(("a", 7, 0.5), ("b", 7, math.nan))
    with pytest.raises(EvaluationError, match="2 images, 1 classes, 1 confidences"):
        global_average_precision(
            ["a", "b"], classes=np.array([1]), confidences=np.array([0.5]), solution=LANDMARKS
        )
