"""Rejection: the probability that a photo found is an answer."""

from __future__ import annotations

from dataclasses import dataclass

from delfjax.config.values import Strict


@dataclass(frozen=True)
class AnswerModelConfig(Strict):
    """A logistic model: the log-odds of a right answer are the sum of these terms, all fitted
    together."""

    intercept: float
    # Times ln(1 + evidence), the sum of the squared cosines of the mutual inliers.
    evidence: float
    # Times ln(1 + inliers).
    inliers: float
    # Times log10 of the number of photos that the query was compared with.
    photos: float
    # Times the cosine of the two global descriptors; 0 in a model that knows none.
    cosine: float = 0.0


@dataclass(frozen=True)
class RejectionConfig(Strict):
    """The probability that a photo shows what the query shows.

    Nothing ships: models hold for the features and settings that they were fitted to
    (:mod:`delfjax.evaluation.calibration` fits them).
    """

    # For a photo found by a search.
    search: AnswerModelConfig
    # For two photos that are matched, one of which may show what the other shows as well as not.
    pair: AnswerModelConfig
    # For a photo found by a search where the cosine of the global descriptors is known, too.
    search_with_cosine: AnswerModelConfig | None = None
