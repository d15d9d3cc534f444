"""Average precision of one ranked list, and its mean over queries and landmarks, in float64 on the host.

A rank counts from 0. *Junk* is what may be ranked anywhere without reward or penalty (the query itself, ambiguous
views): it is taken out of the list before ranks are counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence

import numpy as np
from jaxtyping import Int

from delfjax.types import DelfjaxError


class EvaluationError(DelfjaxError):
    """A ranking or a ground truth that cannot be scored as it stands."""


def junk_free_ranks(
    ranking: Sequence[Hashable], *, positives: Collection[Hashable], junk: Collection[Hashable]
) -> Int[np.ndarray, " hits"]:
    """Ranks of the positives in ``ranking`` once its junk is taken out.

    Args:
        ranking: items, best first; it may leave items out (they are not retrieved), never name one twice.
        positives: items that answer the query.
        junk: items that neither count nor take up a rank.

    Returns:
        Ranks from 0, ascending, one for each positive retrieved.

    Raises:
        EvaluationError: an item is ranked twice (a second hit would be paid twice; a repeated miss would push hits
            down), or is both positive and junk.
    """
    positive, ignored = frozenset(positives), frozenset(junk)
    both = positive & ignored
    if both:
        raise EvaluationError(f"ground truth: {min(both, key=str)!r} is positive and junk; it may be only one of them")
    seen: set[Hashable] = set()
    ranks: list[int] = []
    rank = 0
    for item in ranking:
        if item in seen:
            raise EvaluationError(f"ranking: {item!r} appears twice; each item may be ranked once")
        seen.add(item)
        if item in ignored:
            continue
        if item in positive:
            ranks.append(rank)
        rank += 1
    return np.asarray(ranks, dtype=np.int64)


def average_precision(positive_ranks: Int[np.ndarray, " hits"], *, num_positives: int) -> float:
    """Area under the precision-recall curve by the trapezoidal rule.

    The positive number ``i`` at rank ``k`` (both from 0) adds ``(p0 + p1) / (2 · num_positives)``, where ``p0 = i / k``
    is the precision just before it (1 at the head of the list) and ``p1 = (i + 1) / (k + 1)`` the one just after.

    Args:
        positive_ranks: junk-free ranks of the positives retrieved, from 0, in any order.
        num_positives: positives in the ground truth; those not retrieved add nothing.

    Returns:
        A number in [0, 1]; NaN without any positive, where precision-recall is undefined.

    Raises:
        EvaluationError: negative or repeated ranks, or more of them than positives.

    Source: Philbin et al. 2007, the Oxford Buildings protocol; Radenović et al. 2018 for the NaN.
    """
    ranks = np.sort(positive_ranks)
    if ranks.size and (ranks[0] < 0 or bool(np.any(np.diff(ranks) == 0))):
        raise EvaluationError(f"ranks of positives: got {ranks.tolist()}; they must be distinct and count from 0")
    if ranks.size > num_positives:
        raise EvaluationError(f"ranks of positives: {ranks.size} retrieved of num_positives={num_positives}")
    if num_positives == 0:
        return math.nan
    hits = np.arange(ranks.size, dtype=np.float64)
    before = np.where(ranks == 0, 1.0, hits / np.maximum(ranks, 1))
    after = (hits + 1) / (ranks + 1)
    return float(np.sum(before + after) / (2 * num_positives))


def ranking_average_precision(
    ranking: Sequence[Hashable], *, positives: Collection[Hashable], junk: Collection[Hashable]
) -> float:
    """Trapezoidal average precision of ``ranking``, junk removed; see :func:`junk_free_ranks`.

    Returns:
        A number in [0, 1]; NaN when ``positives`` is empty.

    Raises:
        EvaluationError: as :func:`junk_free_ranks`.
    """
    ranks = junk_free_ranks(ranking, positives=positives, junk=junk)
    return average_precision(ranks, num_positives=len(frozenset(positives)))


def mean_average_precision_by_landmark(
    precisions: Iterable[float], *, landmarks: Iterable[str], tiers: Iterable[str]
) -> dict[str, float]:
    """Per tier: the mean over a landmark's queries, then the mean of those over the landmarks.

    Landmarks with many photographs so weigh no more than others. A query without positives (NaN) is left out, and so
    are a landmark and a tier of which no query is left.

    Args:
        precisions: average precision of each query, NaN where it has no positives.
        landmarks: landmark of each query.
        tiers: tier of each query, the group of queries that is reported as one number.

    Returns:
        The mean average precision of each tier, in order of first appearance.

    Raises:
        ValueError: the three do not have the same length.
    """
    by_landmark: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for precision, landmark, tier in zip(precisions, landmarks, tiers, strict=True):
        if not math.isnan(precision):
            by_landmark[tier][landmark].append(precision)
    return {
        tier: float(np.mean([np.mean(values) for values in groups.values()])) for tier, groups in by_landmark.items()
    }
