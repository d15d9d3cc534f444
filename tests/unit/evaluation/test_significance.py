"""Intervals that hold the mean as often as they say, and p-values that can be counted by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.significance import bootstrap_interval, paired_permutation_test


def test_the_interval_of_one_value_or_of_equal_values_is_a_point() -> None:
    assert bootstrap_interval([0.25]) == (0.25, 0.25)
    assert bootstrap_interval(np.full(7, 0.5)) == (0.5, 0.5)


def test_the_interval_of_zero_and_one_follows_from_their_four_resamples() -> None:
    """The means are 0, ½, ½, 1, a quarter each, so the middle 40 % are all ½."""
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.0, 1.0], confidence=0.6) == (0.0, 1.0)


def test_the_interval_of_many_values_is_that_of_the_normal_distribution(
    rng: np.random.Generator,
) -> None:
    values = rng.normal(size=400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    # Percentiles of 10 000 resamples are known to about two percent of the interval.
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.05 * half
    )


def test_intervals_hold_the_true_mean_about_as_often_as_they_claim(
    rng: np.random.Generator,
) -> None:
    intervals = [
        bootstrap_interval(rng.normal(size=50), samples=500, confidence=0.9) for _ in range(300)
    ]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    # Three standard errors of 300 trials are 0.05; the percentile interval of 50 values covers
    # about 0.89.
    assert 0.83 < covered < 0.95


def test_the_same_seed_gives_the_same_interval_and_another_one_another(
    rng: np.random.Generator,
) -> None:
    values = rng.normal(size=20)
    assert (
        bootstrap_interval(values, seed=3)
        == bootstrap_interval(values, seed=3)
        != bootstrap_interval(values, seed=4)
    )


def test_for_few_queries_every_flip_is_counted() -> None:
    """Differences 1, 1, 1: of eight ways to flip, only all and none give a mean as large."""
    assert paired_permutation_test([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]) == 2 / 8


def test_counting_agrees_with_the_definition(rng: np.random.Generator) -> None:
    first, second = rng.normal(size=(2, 8))
    second += 0.4
    observed = abs(np.mean(second - first))
    means = [
        abs(np.mean(np.array(signs) * (second - first)))
        for signs in itertools.product((1, -1), repeat=8)
    ]
    assert paired_permutation_test(first, second) == np.mean(
        [mean >= observed - 1e-12 for mean in means]
    )


def test_neither_the_order_of_the_systems_nor_that_of_the_queries_matters(
    rng: np.random.Generator,
) -> None:
    first, second = rng.normal(size=(2, 10))
    order = rng.permutation(10)
    p = paired_permutation_test(first, second)
    assert (
        paired_permutation_test(second, first)
        == paired_permutation_test(first[order], second[order])
        == p
    )


def test_random_flips_approach_the_exact_value(rng: np.random.Generator) -> None:
    first, second = rng.normal(size=(2, 12))
    second += 0.5
    exact = paired_permutation_test(first, second)
    drawn = paired_permutation_test(first, second, permutations=4000)
    # Three standard errors of a share of 4000.
    assert drawn == pytest.approx(exact, abs=3 * (exact * (1 - exact) / 4000) ** 0.5)
    assert drawn != exact


def test_random_flips_never_give_zero() -> None:
    assert paired_permutation_test(np.zeros(60), np.ones(60), permutations=99) == 1 / 100


def test_systems_that_never_differ_have_p_one() -> None:
    assert paired_permutation_test([0.5, 0.25], [0.5, 0.25]) == 1.0
    assert paired_permutation_test(np.ones(5000), np.ones(5000)) == 1.0


def test_queries_without_a_difference_change_nothing() -> None:
    few = paired_permutation_test([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert paired_permutation_test([0.0] * 3 + [0.5] * 500, [1.0] * 3 + [0.5] * 500) == few


def test_differences_by_rounding_count_as_equal() -> None:
    """0.1 + 0.2 − 0.3 is not zero in floating point, but its flipped mean must reach it."""
    assert paired_permutation_test([0.0, 0.0, 0.0], [0.1, 0.2, -0.3]) == 1.0


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [float("inf")]])
def test_values_without_a_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(EvaluationError, match="expected one row of finite numbers"):
        bootstrap_interval(values)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(EvaluationError, match="confidence 95"):
        bootstrap_interval([1.0], confidence=95.0)
    with pytest.raises(EvaluationError, match="0 samples"):
        bootstrap_interval([1.0], samples=0)
    with pytest.raises(EvaluationError, match="0 permutations"):
        paired_permutation_test([1.0], [2.0], permutations=0)


def test_unequal_numbers_of_queries_are_refused() -> None:
    with pytest.raises(EvaluationError, match="2 against 1 scores"):
        paired_permutation_test([1.0, 2.0], [2.0])
