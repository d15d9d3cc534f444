"""The probability that a photo found shows what the query shows.

A ranked list always has a first photo, so something has to say whether it is an answer. Evidence
and inliers have no scale of their own: ten mean much for two photos and little for the best of a
thousand. A logistic model turns them, and the number of photos that were compared, into a
probability. Its numbers are fitted by :mod:`delfjax.evaluation.calibration` and stored in the
config.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.special import expit

from delfjax.config import AnswerModelConfig, RejectionConfig

# The terms of the model, in the order of their columns.
TERMS = ("evidence", "inliers", "photos", "cosine")


def answer_terms(
    *,
    evidence: Float[np.ndarray, " n"],
    inliers: Int[np.ndarray, " n"],
    photos: Num[np.ndarray, " n"],
    cosine: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, "n terms"]:
    """What speaks for each photo found, one column for each term of the model.

    Evidence and inliers enter by their logarithms, because the tenth inlier says more than the
    hundredth. So does the number of photos: the best of many wrong photos reaches higher.

    Args:
        evidence: sum of the squared cosines of the mutual inliers, at least 0.
        inliers: inliers in the ranked list.
        photos: number of photos that the query was compared with, at least 1.
        cosine: cosine of the global descriptors of query and photo, if there are any.
    """
    columns = [np.log1p(evidence), np.log1p(inliers), np.log10(np.maximum(photos, 1))]
    columns += [] if cosine is None else [cosine]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def answer_probability(
    config: RejectionConfig, terms: Float[np.ndarray, "n terms"]
) -> Float[np.ndarray, " n"]:
    """Probability of each photo found by a search that it shows what the query shows.

    Args:
        config: fitted models.
        terms: see :func:`answer_terms`. Cosines count if the config has a model that knows them.
    """
    if terms.shape[1] == len(TERMS) and config.search_with_cosine is not None:
        return _probability(config.search_with_cosine, terms)
    return _probability(config.search, terms[:, : len(TERMS) - 1])


def pair_probability(config: RejectionConfig, *, evidence: float, inliers: int) -> float:
    """Probability of two matched photos that they show the same place or thing.

    Args:
        config: fitted models.
        evidence: sum of the squared cosines of the inliers.
        inliers: their number.
    """
    terms = answer_terms(
        evidence=np.array([evidence]), inliers=np.array([inliers]), photos=np.array([1])
    )
    return float(_probability(config.pair, terms)[0])


def _probability(
    model: AnswerModelConfig, terms: Float[np.ndarray, "n terms"]
) -> Float[np.ndarray, " n"]:
    weights = np.array([getattr(model, name) for name in TERMS[: terms.shape[1]]], np.float64)
    return np.asarray(expit(model.intercept + terms @ weights))
