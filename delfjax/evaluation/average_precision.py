"""Average precision of one ranked list, and its mean over queries and landmarks.

Ranks count from 0. *Junk* images may appear anywhere in a ranked list without reward or penalty,
for instance ambiguous views or, in Holidays, the query itself. :func:`junk_free_ranks` removes them
before ranks are counted, so the average precision never sees them. Which images are junk is up to
the protocol (:mod:`delfjax.evaluation.labelled_protocols`).

Everything is computed in float64 on the host.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from delfjax.errors import DelfjaxError


class EvaluationError(DelfjaxError):
    """A ranking or a ground truth that cannot be scored as it stands."""


def junk_free_ranks(
    positive: Bool[np.ndarray, " images"], junk: Bool[np.ndarray, " images"]
) -> Int[np.ndarray, " hits"]:
    """Ranks of the positives in a ranked list after its junk is removed.

    Args:
        positive: for each image of the list, best first, whether it answers the query.
        junk: whether it is junk, which takes up no rank; no image is both.

    Returns:
        Ranks from 0, ascending, one for each positive in the list.
    """
    ranks = np.cumsum(~junk) - 1
    return np.asarray(ranks[positive])


def average_precision(positive_ranks: Int[np.ndarray, " hits"], *, num_positives: int) -> float:
    """Area under the precision-recall curve by the trapezoidal rule.

    Positive number ``i`` at rank ``k`` (both from 0) adds ``(p0 + p1) / (2 · num_positives)``,
    where ``p0 = i / k`` is the precision just before it (1 at the head of the list) and
    ``p1 = (i + 1) / (k + 1)`` the precision just after.

    Args:
        positive_ranks: junk-free ranks of the positives retrieved, from 0, in any order.
        num_positives: number of positives in the ground truth; those not retrieved add nothing.

    Returns:
        A number in [0, 1]; NaN without positives, where precision and recall are undefined.

    Raises:
        EvaluationError: a rank is negative or repeated, or there are more ranks than positives.

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
    """Share of positives among the first ``k`` ranks, not counting beyond the last positive.

    At a cutoff ``k`` this is the number of positives among the first ``kq`` ranks, divided by
    ``kq``, where ``kq`` is the smaller of ``k`` and the rank (from 1) of the last positive. So a
    perfect list scores 1 even if it has fewer positives than ``k``. A positive that was not
    retrieved counts as standing behind every rank: cutting a list short gains nothing.

    Args:
        positive_ranks: junk-free ranks of the positives retrieved, from 0, in any order.
        num_positives: number of positives in the ground truth.
        cutoffs: the values of ``k``, each 1 or more.

    Returns:
        One number in [0, 1] for each cutoff; NaN without positives.

    Raises:
        EvaluationError: a cutoff is below 1, or :func:`average_precision` would refuse the ranks.

    Source: Radenović et al. 2018, "Revisiting Oxford and Paris", mP@k.
    """
    ranks = _checked_ranks(positive_ranks, num_positives)
    if any(cutoff < 1 for cutoff in cutoffs):
        raise EvaluationError(f"cutoffs: got {list(cutoffs)}, expected numbers of 1 or more")
    reach = np.asarray(cutoffs, dtype=np.int64)
    if num_positives == 0:
        return np.full(reach.shape, math.nan)
    if ranks.size == num_positives:
        reach = np.minimum(reach, ranks[-1] + 1)
    return np.searchsorted(ranks, reach) / reach


def mean_average_precision_by_landmark(
    precisions: Iterable[float], *, landmarks: Iterable[str], tiers: Iterable[str]
) -> dict[str, float]:
    """Mean average precision of each tier: over a landmark's queries first, then over landmarks.

    A landmark with many photographs thus weighs no more than any other. A query without positives
    (NaN) is left out, as is a landmark or tier whose queries are all left out.

    Args:
        precisions: average precision of each query, NaN where it has no positives.
        landmarks: landmark of each query.
        tiers: tier of each query, that is the group of queries reported as one number.

    Returns:
        Tier → mean average precision, in order of first appearance.

    Raises:
        ValueError: the arguments differ in length.
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
            f"ranks of positives: {ranks.size} retrieved, but num_positives={num_positives}"
        )
    return ranks
