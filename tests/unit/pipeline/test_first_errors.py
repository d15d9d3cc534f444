"""How often a list begins with a wrong photo, and whether it is one that looks alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delfjax.datasets.benchmark import RetrievalDataset, make_queries
from delfjax.datasets.columns import ImagePaths, IndexSets
from delfjax.evaluation.average_precision import EvaluationError
from delfjax.pipeline.scoring import DatasetScores, first_errors

# Two landmarks of family 0 (photos a, b and c), one of family 1, and a street.
IMAGES = ("a", "b", "c", "d", "street")
FAMILIES = np.array([0, 0, 0, 1, -1])


def dataset(ok: list[list[int]], junk: list[list[int]]) -> RetrievalDataset:
    """Queries q0, q1, … with the given answers."""
    queries = make_queries(
        ImagePaths([f"q{number}" for number in range(len(ok))]),
        {"ok": IndexSets.of(ok), "junk": IndexSets.of(junk)},
    )
    return RetrievalDataset("world", Path(), ImagePaths(IMAGES), queries)


def found(*rankings: str) -> DatasetScores:
    """One ranking for each query, an image for each word."""
    kept = {f"q{number}": ranking.split() for number, ranking in enumerate(rankings)}
    return DatasetScores("world", ["cosine"], {}, {}, kept, {}, {}, {}, {})


def test_a_wrong_first_photo_is_an_error_inside_the_family_or_outside() -> None:
    benchmark = dataset([[0], [0], [3]], [[], [], []])
    errors = first_errors(benchmark, found("a b c", "b a c", "street d"), FAMILIES)
    assert errors.rate == 2 / 3 and errors.inside == 1 / 2
    # Of the other four images, two look like the answer of q0 and q1, and none like that of q2.
    assert errors.chance == pytest.approx((0.5 + 0.5 + 0) / 3)


def test_junk_at_the_top_is_skipped() -> None:
    benchmark = dataset([[0]], [[1]])
    errors = first_errors(benchmark, found("b a"), FAMILIES)
    assert errors.rate == 0 and np.isnan(errors.inside)
    assert str(errors) == "no photo is taken for another landmark"
    # Nor is it among the photos that chance would pick.
    assert errors.chance == pytest.approx(1 / 3)


def test_queries_without_answer_or_ranking_are_left_out() -> None:
    benchmark = dataset([[], [0], [0], [0]], [[], [], [], [1]])
    errors = first_errors(benchmark, found("b", "", "d a", "b"), FAMILIES)
    assert errors.rate == 1 and errors.inside == 0
    with pytest.raises(EvaluationError, match="no query has an answer"):
        first_errors(dataset([[]], [[]]), found("a"), FAMILIES)
