"""Score of ranked lists over a folder of photographs that carries a ``groundtruth.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from delfjax.datasets.photo_folder import RetrievalGroundtruth
from delfjax.evaluation.average_precision import (
    EvaluationError,
    mean_average_precision_by_landmark,
    ranking_average_precision,
)


def query_average_precisions(
    rankings: Mapping[str, Sequence[str]], groundtruth: RetrievalGroundtruth
) -> dict[str, float]:
    """Trapezoidal average precision of each query, its junk removed.

    Args:
        rankings: query path → database paths, best first, each at most once. A list may be cut or
            empty: positives left out are positives not found. Every query must have one.
        groundtruth: queries, positives and junk.

    Returns:
        Query path → average precision, in the order of the ground truth.

    Raises:
        EvaluationError: a query without a ranking, a ranking of something that is no query, or a
            ranked path that is not in the database or stands twice.
    """
    known = frozenset(groundtruth.imlist)
    asked = {query.path for query in groundtruth.queries}
    for path in rankings:
        if path not in asked:
            raise EvaluationError(f"rankings: {path!r} is not a query of the ground truth")
    precisions: dict[str, float] = {}
    for query in groundtruth.queries:
        if query.path not in rankings:
            raise EvaluationError(
                f"rankings: none for the query {query.path!r}; one that failed has an empty list"
            )
        ranking = rankings[query.path]
        stranger = next((path for path in ranking if path not in known), None)
        if stranger is not None:
            raise EvaluationError(f"ranking of {query.path!r}: {stranger!r} is not in the database")
        positives = [groundtruth.imlist[i] for i in query.ok]
        junk = [groundtruth.imlist[i] for i in query.junk]
        try:
            precisions[query.path] = ranking_average_precision(
                ranking, positives=positives, junk=junk
            )
        except EvaluationError as error:
            raise EvaluationError(f"query {query.path!r}: {error}") from None
    return precisions


def tier_mean_average_precisions(
    rankings: Mapping[str, Sequence[str]], groundtruth: RetrievalGroundtruth
) -> dict[str, float]:
    """Mean average precision of each tier: over a landmark's queries first, then over landmarks.

    Args:
        rankings: as in :func:`query_average_precisions`.
        groundtruth: as there.

    Returns:
        Tier → mean average precision, tiers in the order of the ground truth. A tier whose queries
        have no positive at all has none and is left out.

    Raises:
        EvaluationError: as :func:`query_average_precisions`.
    """
    precisions = query_average_precisions(rankings, groundtruth)
    return mean_average_precision_by_landmark(
        [precisions[query.path] for query in groundtruth.queries],
        landmarks=[query.landmark for query in groundtruth.queries],
        tiers=[query.tier for query in groundtruth.queries],
    )
