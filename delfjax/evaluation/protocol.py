"""The rules that a score was measured by, as one identifier, and results that carry it.

Two numbers may be compared only if their identifiers agree: cropping the queries or removing the
junk moves a mean by more than most methods do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from delfjax.evaluation.average_precision import EvaluationError

# Each table: rule → what it means.
QUERY_RULES = {
    "crop": "the query is its image cut to the box of the ground truth",
    "full": "the query is its whole image",
}
JUNK_RULES = {
    "junk-removed": "ignored images are removed from the list before ranks are counted",
    "self-removed": "the query is removed from its own list before ranks are counted",
    "best-per-landmark": "only the best-scoring image of each landmark in a list counts",
    "repeats-wrong": "a repeated item takes up a rank and is wrong",
    "non-landmark-wrong": (
        "predictions for images without a landmark are wrong, as is a second one for any image"
    ),
    "non-landmark-removed": "predictions for images without a landmark are removed",
}
TIE_RULES = {
    "stable-ties": "equal scores keep the order of the database, as in stable_ranking",
    "threshold-ties": "equal scores pass a threshold together, so their order does not matter",
    "key-ties": "equal scores are ordered by the name of their image, then by class",
}


@dataclass(frozen=True)
class ProtocolId:
    """The rules that a score follows, written ``benchmark/query/junk/ties``.

    Attributes:
        benchmark: dataset and setup, for instance ``roxford5k-hard``.
        query: how much of the query's image is searched with, one of ``QUERY_RULES``.
        junk: what is removed or not rewarded, one of ``JUNK_RULES``.
        ties: how equal scores are ordered, one of ``TIE_RULES``.

    Raises:
        EvaluationError: a rule is unknown, or the benchmark is empty or contains a slash.
    """

    benchmark: str
    query: str
    junk: str
    ties: str

    def __post_init__(self) -> None:
        """Refuse an identifier that could not be read back."""
        if not self.benchmark or "/" in self.benchmark:
            raise EvaluationError(
                f"protocol: benchmark {self.benchmark!r}, expected a name without a slash"
            )
        for field, rules in (("query", QUERY_RULES), ("junk", JUNK_RULES), ("ties", TIE_RULES)):
            if getattr(self, field) not in rules:
                raise EvaluationError(
                    f"protocol: {field} rule {getattr(self, field)!r} is unknown; "
                    f"there are: {', '.join(rules)}"
                )

    def __str__(self) -> str:
        """The identifier as it is recorded."""
        return f"{self.benchmark}/{self.query}/{self.junk}/{self.ties}"

    @classmethod
    def parse(cls, text: str) -> ProtocolId:
        """The protocol recorded as ``text``.

        Raises:
            EvaluationError: the text does not have four parts, or one of them is unknown.
        """
        parts = text.split("/")
        if len(parts) != 4:
            raise EvaluationError(
                f"protocol: {text!r}, expected an identifier benchmark/query/junk/ties"
            )
        return cls(*parts)


@dataclass(frozen=True)
class ProtocolResult:
    """Scores of every query under one protocol.

    Attributes:
        protocol: the rules.
        queries: names of the queries, in the order of the ground truth.
        scores: name of a mean (``mAP``, ``mP@10``) → the score of each query; NaN where it is
            undefined and the query is left out of the mean.
    """

    protocol: ProtocolId
    queries: tuple[str, ...]
    scores: Mapping[str, Float[np.ndarray, " queries"]]

    @property
    def means(self) -> dict[str, float]:
        """Means over the queries that have a score; NaN if none has."""
        known = {name: values[~np.isnan(values)] for name, values in self.scores.items()}
        return {
            name: float(np.mean(values)) if values.size else float("nan")
            for name, values in known.items()
        }

    def scored(self, name: str) -> Float[np.ndarray, " scored"]:
        """The scores that enter a mean, without undefined ones; intervals are drawn from them.

        Raises:
            EvaluationError: there is no mean of that name.
        """
        values = self._values(name)
        return np.asarray(values[~np.isnan(values)])

    def record(self) -> dict[str, Any]:
        """Identifier, means and scores of each query, as JSON can hold them.

        ``None`` stands for an undefined number.
        """
        return {
            "protocol": str(self.protocol),
            "means": {name: _number(value) for name, value in self.means.items()},
            "queries": {
                name: dict(zip(self.queries, map(_number, values.tolist()), strict=True))
                for name, values in self.scores.items()
            },
        }

    def _values(self, name: str) -> Float[np.ndarray, " queries"]:
        if name not in self.scores:
            raise EvaluationError(
                f"{self.protocol}: there is no mean {name!r}; there are: {', '.join(self.scores)}"
            )
        return self.scores[name]


def paired_scores(
    first: ProtocolResult, second: ProtocolResult, name: str
) -> tuple[Float[np.ndarray, " scored"], Float[np.ndarray, " scored"]]:
    """Scores of two systems on the same queries, as a paired test takes them.

    Queries without a score in either result are left out.

    Raises:
        EvaluationError: the two were measured by different protocols or on different queries, or
            there is no mean of that name.
    """
    if first.protocol != second.protocol:
        raise EvaluationError(
            f"{first.protocol} against {second.protocol}: "
            "only results of one protocol can be compared"
        )
    if first.queries != second.queries:
        raise EvaluationError(
            f"{first.protocol}: the two results have different queries or orders of queries"
        )
    scores1, scores2 = first._values(name), second._values(name)
    known = ~(np.isnan(scores1) | np.isnan(scores2))
    return scores1[known], scores2[known]


def stable_ranking(scores: Float[np.ndarray, " images"]) -> Int[np.ndarray, " images"]:
    """Indices of the images by falling score; equal scores keep the order of the database.

    This is the rule ``stable-ties``. The published evaluations leave ties to their sort, so their
    results may differ between machines.

    Args:
        scores: score of each image of the database, larger is better.

    Raises:
        EvaluationError: a score is NaN.
    """
    if np.isnan(scores).any():
        raise EvaluationError(
            f"scores: {int(np.isnan(scores).sum())} are NaN, expected a number for every image"
        )
    return np.argsort(-scores, kind="stable")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
