"""What a score was measured by: the rules of a protocol as one identifier, and a result that
carries it.

Two numbers can be compared where their identifiers agree, and not otherwise: cropping the queries
or removing the junk moves a mean by more than most methods do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from delfjax.evaluation.average_precision import EvaluationError

# Rule → what it means.
QUERY_RULES = {
    "crop": "the query is its image cut to the box of the ground truth",
    "full": "the query is its whole image",
}
JUNK_RULES = {
    "junk-removed": "images that are to be ignored leave the list before ranks are counted",
    "self-removed": "the query leaves its own list before ranks are counted",
    "best-per-landmark": "of the images of one landmark only the best-scoring one of a list counts",
    "repeats-wrong": "an item named again takes up a rank and is wrong",
    "non-landmark-wrong": (
        "predictions for images without a landmark are wrong, and so is a second one for an image"
    ),
    "non-landmark-removed": "predictions for images without a landmark are taken out",
}
TIE_RULES = {
    "stable-ties": "equal scores stand in the order of the database, as stable_ranking leaves them",
    "threshold-ties": "equal scores pass a threshold together: their order does not matter",
    "key-ties": "equal scores stand in the order of their image's name, then of their class",
}


@dataclass(frozen=True)
class ProtocolId:
    """The rules that a score follows, written ``benchmark/query/junk/ties``.

    Attributes:
        benchmark: dataset and setup, for instance ``roxford5k-hard``.
        query: what of the query's image is searched with, one of ``QUERY_RULES``.
        junk: what is taken out or not paid for, one of ``JUNK_RULES``.
        ties: how equal scores are ordered, one of ``TIE_RULES``.

    Raises:
        EvaluationError: a rule that is not known, or a benchmark that is empty or holds a slash.
    """

    benchmark: str
    query: str
    junk: str
    ties: str

    def __post_init__(self) -> None:
        """Refuse an identifier that could not be read back."""
        if not self.benchmark or "/" in self.benchmark:
            raise EvaluationError(
                f"protocol: benchmark {self.benchmark!r}; a name without a slash is needed"
            )
        for field, rules in (("query", QUERY_RULES), ("junk", JUNK_RULES), ("ties", TIE_RULES)):
            if getattr(self, field) not in rules:
                raise EvaluationError(
                    f"protocol: {field} rule {getattr(self, field)!r}; there are:"
                    f" {', '.join(rules)}"
                )

    def __str__(self) -> str:
        """The identifier as it is recorded."""
        return f"{self.benchmark}/{self.query}/{self.junk}/{self.ties}"

    @classmethod
    def parse(cls, text: str) -> ProtocolId:
        """The protocol that was recorded as ``text``.

        Raises:
            EvaluationError: it does not have four parts, or one of them is not known.
        """
        parts = text.split("/")
        if len(parts) != 4:
            raise EvaluationError(
                f"protocol: {text!r}; an identifier reads benchmark/query/junk/ties"
            )
        return cls(*parts)


@dataclass(frozen=True)
class ProtocolResult:
    """Scores of every query under one protocol.

    Attributes:
        protocol: the rules.
        queries: names of the queries, in the order of the ground truth.
        scores: name of a mean (``mAP``, ``mP@10``) → what each query adds to it; NaN where the
            query has none and is left out of the mean.
    """

    protocol: ProtocolId
    queries: tuple[str, ...]
    scores: Mapping[str, Float[np.ndarray, " queries"]]

    @property
    def means(self) -> dict[str, float]:
        """Means over the queries that have a score; NaN where none has."""
        known = {name: values[~np.isnan(values)] for name, values in self.scores.items()}
        return {
            name: float(np.mean(values)) if values.size else float("nan")
            for name, values in known.items()
        }

    def scored(self, name: str) -> Float[np.ndarray, " scored"]:
        """Scores without the queries that have none: what an interval of the mean is drawn from.

        Raises:
            EvaluationError: no mean is called so.
        """
        values = self._values(name)
        return np.asarray(values[~np.isnan(values)])

    def record(self) -> dict[str, Any]:
        """The result as JSON can hold it: identifier, means and scores of each query; ``None`` for
        what is undefined."""
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
                f"{self.protocol}: no mean is called {name!r}; there are: {', '.join(self.scores)}"
            )
        return self.scores[name]


def paired_scores(
    first: ProtocolResult, second: ProtocolResult, name: str
) -> tuple[Float[np.ndarray, " scored"], Float[np.ndarray, " scored"]]:
    """Scores of two systems on the same queries, as a paired test takes them; queries without a
    score are left out.

    Raises:
        EvaluationError: the two were measured by different protocols or on different queries, or no
            mean is called so.
    """
    if first.protocol != second.protocol:
        raise EvaluationError(
            f"{first.protocol} against {second.protocol}: only results of one protocol can be"
            " compared"
        )
    if first.queries != second.queries:
        raise EvaluationError(
            f"{first.protocol}: the two results have different queries, or in a different order"
        )
    scores1, scores2 = first._values(name), second._values(name)
    known = ~(np.isnan(scores1) | np.isnan(scores2))
    return scores1[known], scores2[known]


def stable_ranking(scores: Float[np.ndarray, " images"]) -> Int[np.ndarray, " images"]:
    """Indices of images by falling score; equal scores keep the order of the database
    (``stable-ties``).

    The published evaluations sort with whatever order the sort leaves, so that ties may differ
    between machines.

    Args:
        scores: one for each image of the database, larger is better.

    Raises:
        EvaluationError: a score is not a number.
    """
    if np.isnan(scores).any():
        raise EvaluationError(
            f"scores: {int(np.isnan(scores).sum())} are not a number; every image needs one to be"
            " ranked"
        )
    return np.argsort(-scores, kind="stable")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
