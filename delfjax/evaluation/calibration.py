"""Calibrated probabilities: a logistic model fitted to answers that are known to be right or wrong,
and measures of how well its probabilities hold on others.

A probability is calibrated if, of all answers that are given 0.8, eight in ten are right.
Everything is computed in float64 on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from delfjax.config import AnswerModelConfig
from delfjax.evaluation.average_precision import EvaluationError
from delfjax.retrieval.rejection import TERMS
from delfjax.rng import named_generator

# Precisions of the operating points.
PRECISIONS = (0.90, 0.95, 0.99)
# Weight of the penalty on the squared weights of standardised terms. It equals the information of a
# few answers: with hundreds of them it changes nothing, and where right and wrong ones are
# perfectly separated it keeps the weights finite. Source: ours.
RIDGE = 1.0
# Newton's method on a convex function ends after a dozen steps; each at least halves its error.
_MOST_STEPS = 100
_LEAST_STEP = 1e-10
# Most halvings of a step that would increase the loss.
_HALVINGS = 40


@dataclass(frozen=True)
class Reliability:
    """How often answers were right, in bins of equally many answers by rising probability.

    Attributes:
        predicted: mean probability of the answers of each bin.
        observed: share of them that are right.
        count: number of answers in each bin.
    """

    predicted: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean distance of ``predicted`` and ``observed``, over the
        answers."""
        away = np.abs(self.predicted - self.observed)
        return float(np.average(away, weights=self.count))


@dataclass(frozen=True)
class OperatingPoint:
    """What is accepted from one probability on.

    Attributes:
        threshold: least probability of an accepted answer.
        precision: share of the accepted answers that are right.
        recall: share of the right answers that are accepted.
    """

    threshold: float
    precision: float
    recall: float


def fit_logistic(
    terms: Float[np.ndarray, "n terms"], right: Bool[np.ndarray, " n"], *, ridge: float = RIDGE
) -> tuple[float, Float[np.ndarray, " terms"]]:
    """Fit ``P(right) = 1 / (1 + exp(−intercept − terms · weights))`` by penalised likelihood.

    Minimises, by Newton's method, the summed log loss plus half of ``ridge`` times the squared
    weights of the standardised terms. The intercept is not penalised, so the mean probability is
    the share of right answers. A term that never varies gets the weight 0.

    Args:
        terms: what speaks for each answer.
        right: whether it is right.
        ridge: weight of the penalty, above 0.

    Returns:
        The intercept, and the weight of each term as given.

    Raises:
        EvaluationError: all answers are right or all are wrong, or a term is not finite.

    Source: Platt 1999, "Probabilistic outputs for support vector machines"; le Cessie and van
        Houwelingen 1992, "Ridge estimators in logistic regression".
    """
    if not np.isfinite(terms).all():
        raise EvaluationError(
            f"calibration: {int((~np.isfinite(terms)).any(axis=1).sum())} of {len(terms)} answers"
            " have a term that is not a finite number"
        )
    if len(terms) != len(right) or right.all() or not right.any():
        raise EvaluationError(
            f"calibration: {int(right.sum())} right answers among {len(right)}, with terms for"
            f" {len(terms)}; both right and wrong ones are needed"
        )
    centre, spread = terms.mean(axis=0), terms.std(axis=0)
    # Rounding leaves a constant column a spread of about 1e-16 of its size.
    varies = spread > 1e-12 * np.maximum(np.abs(centre), 1)
    scale = np.where(varies, spread, 1.0)
    design = np.concatenate([np.ones((len(terms), 1)), (terms - centre) / scale * varies], axis=1)
    penalty = np.full(design.shape[1], float(ridge))
    penalty[0] = 0.0
    found = _newton(design.astype(np.float64), right.astype(np.float64), penalty)
    weights = found[1:] * varies / scale
    return float(found[0] - weights @ centre), weights


def _newton(
    design: Float[np.ndarray, "n d"],
    right: Float[np.ndarray, " n"],
    penalty: Float[np.ndarray, " d"],
) -> Float[np.ndarray, " d"]:
    """The minimum of the penalised log loss, from zero, by damped Newton steps."""

    def loss(at: Float[np.ndarray, " d"]) -> float:
        logit = design @ at
        return float((np.logaddexp(0, logit) - right * logit).sum() + penalty @ at**2 / 2)

    found = np.zeros(design.shape[1])
    for _ in range(_MOST_STEPS):
        probability = expit(design @ found)
        gradient = design.T @ (probability - right) + penalty * found
        curvature = (design.T * (probability * (1 - probability))) @ design + np.diag(penalty)
        step = np.linalg.lstsq(curvature, gradient)[0]
        before = loss(found)
        sizes = (0.5**halving for halving in range(_HALVINGS))
        size = next((size for size in sizes if loss(found - size * step) <= before), 0.0)
        found = found - size * step
        if size * np.abs(step).max() < _LEAST_STEP:
            break
    return found


def fit_answer_model(
    terms: Float[np.ndarray, "n terms"], right: Bool[np.ndarray, " n"], *, ridge: float = RIDGE
) -> AnswerModelConfig:
    """Fit the model of :func:`~delfjax.retrieval.rejection.answer_probability`.

    Args:
        terms: what speaks for each answer, from :func:`~delfjax.retrieval.rejection.answer_terms`;
            without the cosine, the model knows none.
        right: whether the answer shows what its query shows.
        ridge: see :func:`fit_logistic`.

    Raises:
        EvaluationError: see :func:`fit_logistic`.
    """
    intercept, weights = fit_logistic(terms, right, ridge=ridge)
    return AnswerModelConfig(
        intercept=intercept, **dict(zip(TERMS, weights.tolist(), strict=False))
    )


def brier_score(probability: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> float:
    """Mean squared distance of the probabilities from 1 (right) or 0 (wrong); smaller is better.

    Unlike the calibration error it also rewards telling right from wrong.

    Raises:
        EvaluationError: there are no answers, or a probability is not in [0, 1].

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    _check_probabilities(probability, right)
    return float(np.mean((probability - right) ** 2))


def reliability(
    probability: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], *, bins: int = 10
) -> Reliability:
    """Predicted against observed shares of right answers, in bins of equal mass.

    Bins of equal width would leave most answers in the first and the last. Answers of equal
    probability count alike, in whichever bin they fall: each as right as all of them are on
    average.

    Args:
        probability: probability of each answer.
        right: whether it is right.
        bins: number of bins; as many as there are answers, if those are fewer.

    Raises:
        EvaluationError: there are no answers or bins, or a probability is not in [0, 1].

    Source: Nixon et al. 2019, "Measuring calibration in deep learning", adaptive calibration error.
    """
    _check_probabilities(probability, right)
    if bins < 1:
        raise EvaluationError(f"calibration: {bins} bins, expected 1 or more")
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    _, group, size = np.unique(probability, return_inverse=True, return_counts=True)
    shared = (np.bincount(group, weights=right) / size)[group]
    return Reliability(
        predicted=np.array([probability[part].mean() for part in parts]),
        observed=np.array([shared[part].mean() for part in parts]),
        count=np.array([len(part) for part in parts]),
    )


def error_by_chance(
    probability: Float[np.ndarray, " n"], *, bins: int = 10, samples: int = 200, seed: int = 0
) -> float:
    """Expected calibration error if the probabilities were exact: what chance alone leaves.

    With few answers in a bin, the share of right ones differs from the best of predictions. An
    error no larger than this is no evidence of bad calibration.

    Args:
        probability: probability of each answer.
        bins: number of bins.
        samples: how often right and wrong are drawn.
        seed: seed of the draws.

    Raises:
        EvaluationError: see :func:`reliability`.
    """
    generator = named_generator(seed, "calibration")
    draws = generator.uniform(size=(samples, len(probability))) < probability
    return float(
        np.mean([reliability(probability, draw, bins=bins).expected_error for draw in draws])
    )


def operating_points(
    probability: Float[np.ndarray, " n"],
    right: Bool[np.ndarray, " n"],
    *,
    precisions: Sequence[float] = PRECISIONS,
) -> dict[float, OperatingPoint | None]:
    """For each precision, the lowest threshold that reaches it.

    Args:
        probability: probability of each answer.
        right: whether it is right.
        precisions: share of the accepted answers that have to be right.

    Returns:
        Precision → operating point; ``None`` where no threshold reaches it.

    Raises:
        EvaluationError: there are no answers, or a probability is not in [0, 1].
    """
    _check_probabilities(probability, right)
    order = np.argsort(-probability, kind="stable")
    falling = probability[order]
    # Answers of equal probability are accepted together.
    last = np.flatnonzero(np.append(np.diff(falling) != 0, True))
    hits = np.cumsum(right[order])[last]
    reached = hits / (last + 1)
    points: dict[float, OperatingPoint | None] = {}
    for precision in precisions:
        good = np.flatnonzero(reached >= precision)
        points[precision] = None
        if good.size:
            place = int(good[-1])
            points[precision] = OperatingPoint(
                float(falling[last[place]]),
                float(reached[place]),
                float(hits[place] / max(1, int(right.sum()))),
            )
    return points


def _check_probabilities(
    probability: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]
) -> None:
    if not len(probability) or len(probability) != len(right):
        raise EvaluationError(
            f"calibration: {len(probability)} probabilities of {len(right)} answers, expected as"
            " many, and 1 or more"
        )
    outside = ~((probability >= 0) & (probability <= 1))
    if outside.any():
        raise EvaluationError(
            f"calibration: probability {probability[outside][0]}, expected a number from 0 to 1"
        )
