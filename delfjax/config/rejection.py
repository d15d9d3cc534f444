"""Rejection: the probability that a photo found is an answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from delfjax.config.values import Strict, UnitFloat


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


# Provisional, set by hand: about one half at VerificationConfig.required_evidence. They are to be
# replaced by a fit to photographs as large as those that are searched: on 256 px, the default
# preset's thousand features agree by chance so often that a fit to them expects 200 inliers.
_SEARCH = {"intercept": -4.0, "evidence": 2.5, "inliers": 0.0, "photos": -1.0}
_PAIR = {"intercept": -4.0, "evidence": 2.5, "inliers": 0.0, "photos": 0.0}


@dataclass(frozen=True)
class RejectionConfig(Strict):
    """The probability that a photo shows what the query shows.

    A model of other features or settings has to be fitted to searches with them
    (`52_reject_no_match`).
    """

    # For a photo found by a search.
    search: AnswerModelConfig = field(default_factory=lambda: AnswerModelConfig(**_SEARCH))
    # The same where the cosine of the global descriptors is known, too. It is used if its weight of
    # the cosine is not 0: what a cosine means depends on what the descriptor was trained for.
    search_with_cosine: AnswerModelConfig = field(
        default_factory=lambda: AnswerModelConfig(**_SEARCH)
    )
    # For two photos that are matched, one of which may show what the other shows as well as not.
    pair: AnswerModelConfig = field(default_factory=lambda: AnswerModelConfig(**_PAIR))
    # Least probability of the photos that a search shows of which 90, 95 and 99 % are right;
    # provisional, as the models.
    precision_90: UnitFloat = 0.5
    precision_95: UnitFloat = 0.7
    precision_99: UnitFloat = 0.9
