"""Identifiers of protocols, results under them, and the order of equal scores."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.protocol import ProtocolId, ProtocolResult, paired_scores, stable_ranking
from delfjax.evaluation.significance import bootstrap_interval, paired_permutation_test

HARD = ProtocolId("roxford5k-hard", "crop", "junk-removed", "stable-ties")


def _result(*scores: float, protocol: ProtocolId = HARD) -> ProtocolResult:
    names = tuple(f"q{number}" for number in range(len(scores)))
    return ProtocolResult(protocol, names, {"mAP": np.array(scores)})


def test_a_written_identifier_parses_to_itself() -> None:
    assert str(HARD) == "roxford5k-hard/crop/junk-removed/stable-ties"
    assert ProtocolId.parse(str(HARD)) == HARD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roxford5k/crop/junk-removed", "expected an identifier benchmark/query/junk/ties"),
        ("/crop/junk-removed/stable-ties", "benchmark ''"),
        (
            "a/cropped/junk-removed/stable-ties",
            "query rule 'cropped' is unknown; there are: crop",
        ),
        ("a/crop/junk/stable-ties", "junk rule 'junk'"),
        ("a/crop/junk-removed/any", "ties rule 'any'"),
    ],
)
def test_an_unknown_rule_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        ProtocolId.parse(text)


def test_a_query_without_a_score_is_left_out_of_the_mean_and_kept_in_the_record() -> None:
    result = _result(1.0, math.nan, 0.5)
    assert result.means == {"mAP": 0.75}
    assert json.loads(json.dumps(result.record(), allow_nan=False)) == {
        "protocol": "roxford5k-hard/crop/junk-removed/stable-ties",
        "means": {"mAP": 0.75},
        "queries": {"mAP": {"q0": 1.0, "q1": None, "q2": 0.5}},
    }


def test_a_mean_of_no_scores_is_undefined() -> None:
    assert math.isnan(_result(math.nan).means["mAP"])
    assert _result(math.nan).record()["means"] == {"mAP": None}


def test_scores_of_a_result_feed_intervals_and_paired_tests() -> None:
    first, second = _result(0.2, math.nan, 0.4, 0.1), _result(0.9, math.nan, 0.8, 0.7)
    low, high = bootstrap_interval(second.scored("mAP"), samples=200)
    # Means of resamples are sums of three in float64.
    assert 0.7 - 1e-12 <= low <= 0.8 <= high <= 0.9 + 1e-12
    # Three differences of one sign: two of the eight ways to flip them are as large.
    assert paired_permutation_test(*paired_scores(first, second, "mAP")) == 0.25


def test_results_that_cannot_be_compared_are_refused() -> None:
    easy = ProtocolId("roxford5k-easy", "crop", "junk-removed", "stable-ties")
    with pytest.raises(EvaluationError, match="only results of one protocol"):
        paired_scores(_result(1.0), _result(1.0, protocol=easy), "mAP")
    with pytest.raises(EvaluationError, match="different queries"):
        paired_scores(_result(1.0), _result(1.0, 1.0), "mAP")
    with pytest.raises(EvaluationError, match="there is no mean 'mP@1'; there are: mAP"):
        _result(1.0).scored("mP@1")


def test_equal_scores_keep_the_order_of_the_database() -> None:
    scores = np.array([1.0, 3.0, 1.0, 3.0, 2.0] + [1.0] * 40)
    assert stable_ranking(scores).tolist() == [1, 3, 4, 0, 2, *range(5, 45)]


def test_an_image_without_a_score_cannot_be_ranked() -> None:
    with pytest.raises(EvaluationError, match="1 are NaN"):
        stable_ranking(np.array([1.0, math.nan]))
