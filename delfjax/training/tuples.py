"""Tuples of photos to rank: a query, a positive, and the negatives that the present descriptor
tells from it least."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int64

from delfjax.config import TuplesConfig
from delfjax.rng import named_generator
from delfjax.training.batches import TrainingError
from delfjax.training.positives import Positives

# Queries that are compared with the pool at a time.
_TOGETHER = 256
# Fewest landmarks held out, among which retrieval can fail, and fewest that are trained on.
_FEWEST = 2


def held_out_groups(
    groups: Int64[np.ndarray, " n"], share: float, *, seed: int
) -> Bool[np.ndarray, " n"]:
    """Which photos are held out for validation: all of some groups.

    Args:
        groups: group of each photo, usually its landmark.
        share: share of the groups to hold out, 0 … 1; at least two are held out and at least two
            are kept. Of fewer than four groups, none is held out.
        seed: seed of the choice.
    """
    ids = np.unique(groups)
    if len(ids) < 2 * _FEWEST:
        return np.zeros(len(groups), bool)
    count = min(max(_FEWEST, int(share * len(ids))), len(ids) - _FEWEST)
    chosen = named_generator(seed, "held-out landmarks").permutation(ids)[:count]
    return np.isin(groups, chosen)


class TupleMiner:
    """Draws tuples; everything random depends on the seed and the round alone.

    Args:
        positives: positives among the photos to train on.
        usable: which photos are trained on.
        tuples: how tuples are drawn.
        count: tuples of a round.
        seed: seed of the draws.

    Raises:
        TrainingError: no photo has a positive, or there are too few landmarks for the negatives.
    """

    def __init__(
        self,
        positives: Positives,
        usable: Bool[np.ndarray, " n"],
        *,
        tuples: TuplesConfig,
        count: int,
        seed: int,
    ) -> None:
        self._positives = positives.among(usable)
        self._usable = np.flatnonzero(usable)
        self._askable = np.flatnonzero(self._positives.counts)
        self._tuples = tuples
        self._count = count
        self._seed = seed
        if not len(self._askable):
            raise TrainingError(
                f"none of the {len(self._usable)} photos to train on has a positive; lower"
                " tuples.min_overlap or raise tuples.max_scale_change"
            )
        self._require_negatives(self._usable)

    def asked(self, number: int) -> tuple[Int64[np.ndarray, " q"], Int64[np.ndarray, " p"]]:
        """The queries of a round, and the pool in which their negatives are searched."""
        rng = named_generator(self._seed, f"queries {number}")
        turns = -(-self._count // len(self._askable))
        queries = np.concatenate([rng.permutation(self._askable) for _ in range(turns)])
        pool = np.sort(rng.permutation(self._usable)[: self._tuples.pool])
        self._require_negatives(pool)
        return queries[: self._count], pool

    def drawn(
        self,
        number: int,
        *,
        queries: Float[np.ndarray, "q d"],
        pool: Float[np.ndarray, "p d"],
    ) -> Int64[np.ndarray, "q k"]:
        """The tuples of a round: query, positive, negatives.

        Args:
            number: number of the round.
            queries: descriptors of the queries that :meth:`asked` names.
            pool: descriptors of the pool that it names.
        """
        asked, members = self.asked(number)
        tuples = self._tuples
        positives = self._positives
        rng = named_generator(self._seed, f"tuples {number}")
        places = np.floor(rng.uniform(size=len(asked)) * positives.counts[asked]).astype(np.int64)
        positive = positives.indices[positives.offsets[asked] + places]
        groups = positives.groups
        hardest = np.concatenate(
            [
                hardest_negatives(
                    queries[start : start + _TOGETHER] @ pool.T,
                    own=groups[asked[start : start + _TOGETHER]],
                    groups=groups[members],
                    count=max(tuples.hardest, tuples.negatives),
                    one_per_group=tuples.one_per_landmark,
                )
                for start in range(0, len(asked), _TOGETHER)
            ]
        )
        chosen = np.argsort(rng.uniform(size=hardest.shape), axis=1)[:, : tuples.negatives]
        negatives = members[np.take_along_axis(hardest, np.sort(chosen, axis=1), axis=1)]
        return np.concatenate([asked[:, None], positive[:, None], negatives], axis=1)

    def _require_negatives(self, pool: Int64[np.ndarray, " p"]) -> None:
        groups = self._positives.groups[pool]
        sizes = np.bincount(groups)
        others = (sizes > 0).sum() - 1
        if not self._tuples.one_per_landmark:
            others = len(pool) - sizes.max()
        if others < self._tuples.negatives:
            kind = "landmarks" if self._tuples.one_per_landmark else "photos of other landmarks"
            raise TrainingError(
                f"a tuple has {self._tuples.negatives} negatives (tuples.negatives), but among"
                f" {len(pool)} photos to train on there are only {others} other {kind}"
            )


def hardest_negatives(
    similarity: Float[np.ndarray, "q p"],
    *,
    own: Int64[np.ndarray, " q"],
    groups: Int64[np.ndarray, " p"],
    count: int,
    one_per_group: bool,
) -> Int64[np.ndarray, "q k"]:
    """The most similar photos of other groups than a query's, most similar first.

    Args:
        similarity: of each query with each photo of the pool.
        own: group of each query.
        groups: group of each photo of the pool.
        count: most photos wanted; there are fewer if some query has fewer.
        one_per_group: take the most similar photo of each group only.
    """
    other = groups != own[:, None]
    order = np.argsort(np.where(other, -similarity, np.inf), axis=1, kind="stable")
    ranked = groups[order]
    allowed = np.take_along_axis(other, order, axis=1)
    if one_per_group:
        by_group = np.argsort(ranked, axis=1, kind="stable")
        sorted_groups = np.take_along_axis(ranked, by_group, axis=1)
        leads = np.ones(ranked.shape, bool)
        leads[:, 1:] = sorted_groups[:, 1:] != sorted_groups[:, :-1]
        first = np.zeros(ranked.shape, bool)
        np.put_along_axis(first, by_group, leads, axis=1)
        allowed &= first
    kept = min(count, int(allowed.sum(axis=1).min(initial=count)))
    front = np.argsort(~allowed, axis=1, kind="stable")[:, :kept]
    return np.take_along_axis(order, front, axis=1)


def retrieval_precision(
    descriptors: Float[np.ndarray, "n d"], labels: Int64[np.ndarray, " n"]
) -> float:
    """Mean average precision where each photo is searched for among all others: those of its
    landmark are right.

    Average precision is the mean, over the right photos, of the precision at the rank of each.
    Equal similarities keep the order of the photos; photos without another of their landmark are
    left out.

    Raises:
        TrainingError: no landmark has two photos.
    """
    total, asked = 0.0, 0
    for start in range(0, len(labels), _TOGETHER):
        rows = np.arange(start, min(start + _TOGETHER, len(labels)))
        similarity = (descriptors[rows] @ descriptors.T).astype(np.float64)
        similarity[rows - start, rows] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        right = labels[order] == labels[rows][:, None]
        precision = np.cumsum(right, axis=1) / np.arange(1, len(labels))
        count = right.sum(axis=1)
        total += float(((precision * right).sum(axis=1) / np.maximum(count, 1)).sum())
        asked += int((count > 0).sum())
    if not asked:
        raise TrainingError("no landmark that is held out has two photos to find one by the other")
    return total / asked
