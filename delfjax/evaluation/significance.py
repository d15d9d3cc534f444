"""How sure a mean is, and whether two systems differ on the same queries: resampling, no assumed
distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Num

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.rng import named_generator

# Numbers drawn at a time: a hundred thousand queries stay within tens of megabytes.
_DRAWN = 2**21
# Sums of the same numbers in another order differ by this share of their size; they count as equal.
_ROUNDING = 1e-12


def bootstrap_interval(
    values: Num[np.ndarray, " n"] | Sequence[float],
    *,
    confidence: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean.

    With a handful of values (seeds) it is too narrow rather than too wide; of one value it is a
    point.

    Args:
        values: independent measurements.
        confidence: share of such intervals that should hold the true mean, between 0 and 1.
        samples: resamples drawn.
        seed: of the resamples.

    Returns:
        Lower and upper end.

    Raises:
        EvaluationError: no values, one that is not finite, or options that make no interval.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    measured = _finite("bootstrap interval", values)
    if not 0 < confidence < 1 or samples < 1:
        given = f"confidence {confidence}, {samples} samples"
        raise EvaluationError(
            f"bootstrap interval: {given}; confidence lies between 0 and 1, and samples are 1 or"
            " more"
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
    """Two-sided probability of a mean difference at least this large if the two systems were
    exchangeable on each query.

    The sign of every difference is flipped: in all ways where there are at most ``permutations`` of
    them (differences of zero, which no flip changes, do not count), otherwise in ``permutations``
    random ways, of which the observed one is counted as one more, so that p is never zero.

    Args:
        first: scores of one system, one for each query.
        second: scores of the other, for the same queries in the same order.
        permutations: ways to flip that are tried.
        seed: of the random ways.

    Returns:
        p in (0, 1]; 1 where the systems never differ.

    Raises:
        EvaluationError: no queries, unlike numbers of them, a score that is not finite, or no
            permutations.

    Source: Smucker, Allan and Carterette 2007, "A Comparison of Statistical Significance Tests for
        Information Retrieval Evaluation"; (b + 1) / (m + 1): Phipson and Smyth 2010.
    """
    scores1, scores2 = _finite("permutation test", first), _finite("permutation test", second)
    if len(scores1) != len(scores2) or permutations < 1:
        raise EvaluationError(
            f"permutation test: {len(scores1)} against {len(scores2)} scores, {permutations}"
            " permutations; scores come in pairs, and permutations are 1 or more"
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
        raise EvaluationError(
            f"{what}: values of shape {array.shape}; finite numbers in one row are needed, at"
            " least one"
        )
    return array


def _blocks(total: int, width: int) -> Iterator[int]:
    """Numbers of rows that add up to ``total``, each of at most some millions of numbers."""
    step = max(1, _DRAWN // width)
    for start in range(0, total, step):
        yield min(step, total - start)
