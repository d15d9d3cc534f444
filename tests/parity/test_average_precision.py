"""Average precision against the definition, one ranked item at a time and in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from delfjax.evaluation.average_precision import average_precision, junk_free_ranks


def _by_definition(ranking: list[int], positives: set[int], junk: set[int]) -> Fraction:
    area, old_recall, old_precision = Fraction(0), Fraction(0), Fraction(1)
    hits = seen = 0
    for item in ranking:
        if item in junk:
            continue
        hits += item in positives
        seen += 1
        recall, precision = Fraction(hits, len(positives)), Fraction(hits, seen)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


@pytest.mark.parametrize("length", [1, 2, 5, 20, 60])
def test_average_precision_is_the_area_under_the_curve_item_by_item(
    length: int, rng: np.random.Generator
) -> None:
    for _ in range(100):
        role = rng.choice(["positive", "junk", "negative"], length, p=[0.3, 0.2, 0.5])
        role[0] = "positive"
        positives = {int(i) for i in np.flatnonzero(role == "positive")}
        junk = {int(i) for i in np.flatnonzero(role == "junk")}
        # A list cut at random: some positives are never retrieved.
        ranking = rng.permutation(length)[: int(rng.integers(0, length + 1))]
        ranks = junk_free_ranks(role[ranking] == "positive", role[ranking] == "junk")
        ours = average_precision(ranks, num_positives=len(positives))
        expected = float(_by_definition(ranking.tolist(), positives, junk))
        # At most 60 additions of numbers below 1 in float64.
        assert ours == pytest.approx(expected, abs=1e-14)
