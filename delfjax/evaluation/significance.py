"""Intervals of means, and tests whether two systems differ on the same queries.

Both resample the measured scores and assume no distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Num

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.rng import named_generator

# Numbers drawn at a time, which keeps a hundred thousand queries within tens of megabytes.
_DRAWN = 2**21
# Sums that differ by less than this share of their size count as equal: the same numbers added in
# another order differ by rounding.
_ROUNDING = 1e-12


def bootstrap_interval(
    values: Num[np.ndarray, " n"] | Sequence[float],
    *,
    confidence: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean.

    With a handful of values (seeds) it is too narrow rather than too wide; for a single value it is
    a point.

    Args:
        values: independent measurements.
        confidence: share of such intervals that should hold the true mean, between 0 and 1.
        samples: number of resamples drawn, 1 or more.
        seed: seed of the resampling.

    Returns:
        Lower and upper end.

    Raises:
        EvaluationError: there are no values, one of them is not finite, or an option is out of
            range.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    measured = _finite("bootstrap interval", values)
    if not 0 < confidence < 1 or samples < 1:
        raise EvaluationError(
            f"bootstrap interval: confidence {confidence}, {samples} samples; "
            "expected a confidence between 0 and 1, and 1 sample or more"
        )
    generator = named_generator(seed, "bootstrap")
    size = len(measured)
    means = [
        measured[generator.integers(size, size=(rows, size))].mean(axis=1)
        for rows in _blocks(samples, size)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return float(low), float(high)


def paired_permutation_test(
    first: Num[np.ndarray, " n"] | Sequence[float],
    second: Num[np.ndarray, " n"] | Sequence[float],
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the mean difference between two systems on the same queries.

    It is the probability of a mean difference at least as large if the two systems were
    exchangeable on each query. To compute it, the signs of the differences are flipped: in every
    possible way if there are at most ``permutations`` ways (differences of zero, which no flip
    changes, do not count), otherwise in ``permutations`` random ways. The observed signs count as
    one more random way, so p is never zero.

    Args:
        first: score of one system on each query.
        second: score of the other on the same queries, in the same order.
        permutations: largest number of flips tried, 1 or more.
        seed: seed of the random flips.

    Returns:
        p in (0, 1]; 1 if the systems never differ.

    Raises:
        EvaluationError: there are no queries, the numbers of scores differ, a score is not finite,
            or ``permutations`` is below 1.

    Source: Smucker, Allan and Carterette 2007, "A Comparison of Statistical Significance Tests for
        Information Retrieval Evaluation"; (b + 1) / (m + 1): Phipson and Smyth 2010.
    """
    scores1, scores2 = _finite("permutation test", first), _finite("permutation test", second)
    if len(scores1) != len(scores2) or permutations < 1:
        raise EvaluationError(
            f"permutation test: {len(scores1)} against {len(scores2)} scores, "
            f"{permutations} permutations; expected scores in pairs, and 1 permutation or more"
        )
    flipped = scores2 - scores1
    flipped = flipped[flipped != 0]
    size = len(flipped)
    bound = abs(flipped.sum()) - _ROUNDING * np.abs(flipped).sum()
    if 2**size <= permutations:
        ways = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
        return float(np.mean(np.abs((1 - 2 * ways) @ flipped) >= bound))
    generator = named_generator(seed, "permutation")
    reached = 0
    for rows in _blocks(permutations, size):
        signs = 1 - 2 * generator.integers(2, size=(rows, size), dtype=np.int8)
        reached += int((np.abs(signs @ flipped) >= bound).sum())
    return (reached + 1) / (permutations + 1)


def _finite(what: str, values: Num[np.ndarray, " n"] | Sequence[float]) -> Float[np.ndarray, " n"]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        odd = int((~np.isfinite(array)).sum())
        raise EvaluationError(
            f"{what}: got values of shape {array.shape}, {odd} of them not finite; "
            "expected one row of finite numbers, at least one"
        )
    return array


def _blocks(total: int, width: int) -> Iterator[int]:
    """Numbers of rows that add up to ``total``, each few enough for ``_DRAWN`` numbers."""
    step = max(1, _DRAWN // width)
    for start in range(0, total, step):
        yield min(step, total - start)
