"""Average precision of one ranked list, and its mean over queries and landmarks, in float64 on the
host.

A rank counts from 0. *Junk* is what may be ranked anywhere without reward or penalty (the query
itself, ambiguous views): it is taken out of the list before ranks are counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from delfjax.errors import DelfjaxError


class EvaluationError(DelfjaxError):
    """A ranking or a ground truth that cannot be scored as it stands."""


def junk_free_ranks(
    ranking: Sequence[Hashable], *, positives: Collection[Hashable], junk: Collection[Hashable]
) -> Int[np.ndarray, " hits"]:
    """Ranks of the positives in ``ranking`` once its junk is taken out.

    Args:
        ranking: items, best first; it may leave items out (they are not retrieved), never name one
            twice.
        positives: items that answer the query.
        junk: items that neither count nor take up a rank.

    Returns:
        Ranks from 0, ascending, one for each positive retrieved.

    Raises:
        EvaluationError: an item is ranked twice (a second hit would be paid twice; a repeated miss
            would push hits down), or is both positive and junk.
    """
    positive, ignored = frozenset(positives), frozenset(junk)
    both = positive & ignored
    if both:
        raise EvaluationError(
            f"ground truth: {min(both, key=str)!r} is positive and junk; it may be only one of them"
        )
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

    The positive number ``i`` at rank ``k`` (both from 0) adds ``(p0 + p1) / (2 · num_positives)``,
    where ``p0 = i / k`` is the precision just before it (1 at the head of the list) and ``p1 = (i +
    1) / (k + 1)`` the one just after.

    Args:
        positive_ranks: junk-free ranks of the positives retrieved, from 0, in any order.
        num_positives: positives in the ground truth; those not retrieved add nothing.

    Returns:
        A number in [0, 1]; NaN without any positive, where precision-recall is undefined.

    Raises:
        EvaluationError: negative or repeated ranks, or more of them than positives.

    Source: Philbin et al. 2007, the Oxford Buildings protocol; Radenović et al. 2018 for the NaN.
    """
    ranks = _checked_ranks(positive_ranks, num_positives)
    if num_positives == 0:
        return math.nan
    hits = np.arange(ranks.size, dtype=np.float64)
    before = np.where(ranks == 0, 1.0, hits / np.maximum(ranks, 1))
    after = (hits + 1) / (ranks + 1)
    return float(np.sum(before + after) / (2 * num_positives))


def precision_at(
    positive_ranks: Int[np.ndarray, " hits"], *, num_positives: int, cutoffs: Sequence[int]
) -> Float[np.ndarray, " cutoffs"]:
    """Share of positives among the first ranks, counted no further than the last positive.

    At a cutoff ``k`` this is the number of positives among the first ``kq`` ranks over ``kq``,
    where ``kq`` is the smaller of ``k`` and the rank, from 1, of the last positive: with fewer
    positives than ``k``, a perfect list still scores 1. A positive that was not retrieved stands
    behind every rank, so that a list gains nothing by being cut short.

    Args:
        positive_ranks: junk-free ranks of the positives retrieved, from 0, in any order.
        num_positives: positives in the ground truth.
        cutoffs: numbers of ranks looked at, each 1 or more.

    Returns:
        One number in [0, 1] for each cutoff; NaN without any positive.

    Raises:
        EvaluationError: a cutoff below 1, or ranks as :func:`average_precision` refuses them.

    Source: Radenović et al. 2018, "Revisiting Oxford and Paris", mP@k.
    """
    ranks = _checked_ranks(positive_ranks, num_positives)
    if any(cutoff < 1 for cutoff in cutoffs):
        raise EvaluationError(f"cutoffs: got {list(cutoffs)}; each is 1 or more")
    reach = np.asarray(cutoffs, dtype=np.int64)
    if num_positives == 0:
        return np.full(reach.shape, math.nan)
    if ranks.size == num_positives:
        reach = np.minimum(reach, ranks[-1] + 1)
    return np.searchsorted(ranks, reach) / reach


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

    Landmarks with many photographs so weigh no more than others. A query without positives (NaN) is
    left out, and so are a landmark and a tier of which no query is left.

    Args:
        precisions: average precision of each query, NaN where it has no positives.
        landmarks: landmark of each query.
        tiers: tier of each query, the group of queries that is reported as one number.

    Returns:
        The mean average precision of each tier, in order of first appearance.

    Raises:
        ValueError: the three do not have the same length.
    """
    by_landmark: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for precision, landmark, tier in zip(precisions, landmarks, tiers, strict=True):
        if not math.isnan(precision):
            by_landmark[tier][landmark].append(precision)
    return {
        tier: float(np.mean([np.mean(values) for values in groups.values()]))
        for tier, groups in by_landmark.items()
    }


def _checked_ranks(
    positive_ranks: Int[np.ndarray, " hits"], num_positives: int
) -> Int[np.ndarray, " hits"]:
    """The ranks in ascending order."""
    ranks = np.sort(positive_ranks)
    if ranks.size and (ranks[0] < 0 or bool(np.any(np.diff(ranks) == 0))):
        raise EvaluationError(
            f"ranks of positives: got {ranks.tolist()}; they must be distinct and count from 0"
        )
    if ranks.size > num_positives:
        raise EvaluationError(
            f"ranks of positives: {ranks.size} retrieved of num_positives={num_positives}"
        )
    return ranks
