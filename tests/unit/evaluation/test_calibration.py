"""A logistic model that agrees with a plain one, and calibration errors counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from delfjax.config import AnswerModelConfig, RejectionConfig
from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.calibration import (
    RIDGE,
    brier_score,
    error_by_chance,
    fit_answer_model,
    fit_logistic,
    operating_points,
    reliability,
)
from delfjax.retrieval.rejection import answer_probability, answer_terms


def _sample(rng: np.random.Generator, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    terms = rng.normal(size=(count, 2)) * [3.0, 0.1] + [20.0, -1.0]
    log_odds = 0.8 * (terms[:, 0] - 20) + 12 * (terms[:, 1] + 1) - 0.5
    return terms, rng.uniform(size=count) < 1 / (1 + np.exp(-log_odds))


def test_the_fit_is_the_minimum_of_the_penalised_loss_written_out(
    rng: np.random.Generator,
) -> None:
    terms, right = _sample(rng)

    def loss(at: np.ndarray) -> float:
        """Over the terms as given: a weight times its term's spread is that of the standardised."""
        total = 0.0
        for row, held in zip(terms, right, strict=True):
            log_odds = at[0] + sum(
                weight * value for weight, value in zip(at[1:], row, strict=True)
            )
            total += np.log1p(np.exp(-log_odds if held else log_odds))
        return float(total + RIDGE / 2 * sum((at[1:] * terms.std(axis=0)) ** 2))

    intercept, weights = fit_logistic(terms, right)
    found = np.array([intercept, *weights])
    start = np.array([-20.0, 1.0, 1.0])
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000}
    plain = minimize(loss, start, method="Nelder-Mead", options=options)
    assert loss(found) <= plain.fun + 1e-9
    assert found == pytest.approx(plain.x, rel=1e-3)


def test_the_mean_probability_is_the_share_of_right_answers(rng: np.random.Generator) -> None:
    terms, right = _sample(rng)
    intercept, weights = fit_logistic(terms, right)
    probability = 1 / (1 + np.exp(-intercept - terms @ weights))
    assert probability.mean() == pytest.approx(right.mean(), abs=1e-9)


def test_perfectly_separated_answers_have_finite_weights_that_separate_them() -> None:
    terms = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    right = np.array([False, False, False, True, True, True])
    intercept, weights = fit_logistic(terms, right)
    probability = 1 / (1 + np.exp(-intercept - terms @ weights))
    assert np.isfinite([intercept, *weights]).all() and 0 < weights[0] < 10
    assert ((probability > 0.5) == right).all()
    assert probability.min() > 0.01 and probability.max() < 0.99


def test_a_weaker_penalty_makes_separated_answers_more_certain() -> None:
    terms, right = np.array([[0.0], [1.0], [5.0], [6.0]]), np.array([False, False, True, True])
    weights = [fit_logistic(terms, right, ridge=ridge)[1][0] for ridge in (10.0, 1.0, 1e-3)]
    assert weights == sorted(weights) and weights[0] < weights[-1] < 100


def test_a_term_that_never_varies_has_no_weight_and_changes_nothing(
    rng: np.random.Generator,
) -> None:
    terms, right = _sample(rng)
    intercept, weights = fit_logistic(terms, right)
    wider = np.concatenate([terms, np.full((len(terms), 1), np.log10(417))], axis=1)
    same_intercept, same_weights = fit_logistic(wider, right)
    assert same_weights[2] == 0
    assert [same_intercept, *same_weights[:2]] == pytest.approx([intercept, *weights], rel=1e-9)


@pytest.mark.parametrize("share", [0, 4])
def test_answers_of_one_kind_alone_are_refused(share: int) -> None:
    right = np.arange(4) < share
    with pytest.raises(EvaluationError, match="both right and wrong ones are needed"):
        fit_logistic(np.arange(4.0)[:, None], right)


def test_a_term_that_is_not_finite_is_refused() -> None:
    with pytest.raises(EvaluationError, match="1 of 2 answers have a term that is not"):
        fit_logistic(np.array([[np.nan], [1.0]]), np.array([True, False]))


def test_a_model_fitted_with_cosines_is_used_only_where_they_are_known(
    rng: np.random.Generator,
) -> None:
    count = 300
    right = rng.uniform(size=count) < 0.4
    signs = {
        "evidence": rng.gamma(2, 3, count) + 6 * right,
        "inliers": rng.integers(5, 30, count),
        "photos": rng.choice([10, 100, 1000], count),
    }
    cosine = np.clip(rng.normal(0.3, 0.2, count) + 0.4 * right, -1, 1)
    local = fit_answer_model(answer_terms(**signs), right)
    informed = fit_answer_model(answer_terms(**signs, cosine=cosine), right)
    assert local.cosine == 0 and informed.cosine > 0
    config = RejectionConfig(search=local, pair=local, search_with_cosine=informed)
    with_cosine = answer_probability(config, answer_terms(**signs, cosine=cosine))
    without = answer_probability(config, answer_terms(**signs))
    assert brier_score(with_cosine, right) < brier_score(without, right) - 0.02
    unfitted = RejectionConfig(search=local, pair=local)
    again = answer_probability(unfitted, answer_terms(**signs, cosine=cosine))
    np.testing.assert_array_equal(again, without)


def test_a_probability_is_the_logistic_function_of_the_terms() -> None:
    model = AnswerModelConfig(intercept=-3.0, evidence=2.0, inliers=-0.5, photos=-0.25)
    terms = answer_terms(
        evidence=np.array([0.0, 9.0]), inliers=np.array([0, 12]), photos=np.array([1, 100])
    )
    found = answer_probability(RejectionConfig(search=model, pair=model), terms)
    log_odds = -3 + 2 * np.log(10) - 0.5 * np.log(13) - 0.25 * 2
    assert found == pytest.approx([1 / (1 + np.exp(3)), 1 / (1 + np.exp(-log_odds))])


def test_the_calibration_error_of_two_bins_is_counted_by_hand() -> None:
    """Lower bin: 0.1 and 0.3, none right, off by 0.2. Upper: 0.6 and 0.8, one right, off by 0.2."""
    probability = np.array([0.8, 0.1, 0.6, 0.3])
    right = np.array([True, False, False, False])
    found = reliability(probability, right, bins=2)
    np.testing.assert_allclose(found.predicted, [0.2, 0.7])
    np.testing.assert_allclose(found.observed, [0.0, 0.5])
    assert found.count.tolist() == [2, 2]
    assert found.expected_error == pytest.approx(0.2)
    assert brier_score(probability, right) == pytest.approx((0.04 + 0.01 + 0.36 + 0.09) / 4)


def test_bins_of_unequal_size_count_by_their_answers() -> None:
    """Five answers in two bins: three of error 0.3 and two of error 0.1."""
    probability = np.array([0.3, 0.3, 0.3, 0.9, 0.9])
    right = np.array([False, False, False, True, True])
    assert reliability(probability, right, bins=2).expected_error == pytest.approx(
        (3 * 0.3 + 2 * 0.1) / 5
    )


def test_answers_of_equal_probability_count_alike_whatever_their_order() -> None:
    probability = np.full(6, 0.5)
    right = np.array([True, True, True, False, False, False])
    assert reliability(probability, right, bins=2).expected_error == 0
    assert reliability(probability, right[[0, 3, 1, 4, 2, 5]], bins=2).expected_error == 0


def test_exact_probabilities_have_the_error_of_chance(rng: np.random.Generator) -> None:
    probability = rng.uniform(size=2000)
    right = rng.uniform(size=2000) < probability
    chance = error_by_chance(probability)
    # A bin of 200 answers around p = ½ is off by 0.028 on average.
    assert 0.01 < chance < 0.03
    assert reliability(probability, right).expected_error < 2 * chance
    assert reliability(probability**3, right).expected_error > 5 * chance


def test_operating_points_accept_as_much_as_their_precision_allows() -> None:
    """By falling probability: right, right, wrong, right, wrong, right."""
    probability = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.5])
    right = np.array([True, True, False, True, False, True])
    points = operating_points(probability, right, precisions=(0.6, 0.75, 1.0))
    assert [vars(point) for point in points.values() if point] == [
        pytest.approx({"threshold": 0.5, "precision": 4 / 6, "recall": 1.0}),
        pytest.approx({"threshold": 0.6, "precision": 3 / 4, "recall": 3 / 4}),
        pytest.approx({"threshold": 0.8, "precision": 1.0, "recall": 2 / 4}),
    ]
    assert operating_points(probability, ~right, precisions=(0.9,)) == {0.9: None}


@pytest.mark.parametrize(
    ("probability", "message"),
    [
        ([], "0 probabilities of 0 answers"),
        ([0.5, 1.5], "probability 1.5, expected a number from 0 to 1"),
        ([0.5, float("nan")], "probability nan"),
    ],
)
def test_what_is_not_a_probability_is_refused(probability: list[float], message: str) -> None:
    values, right = np.array(probability), np.zeros(len(probability), bool)
    for measure in (brier_score, reliability, operating_points):
        with pytest.raises(EvaluationError, match=message):
            measure(values, right)
