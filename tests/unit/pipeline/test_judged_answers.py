"""Answers of several databases stand in one table, and become one list for each query."""

from __future__ import annotations

import numpy as np

from delfjax.config import AnswerModelConfig, RejectionConfig
from delfjax.pipeline.judged_answers import JudgedAnswers, joined_answers
from delfjax.retrieval.rejection import answer_probability


def _answers(photos: int, *, cosine: bool) -> JudgedAnswers:
    """Two queries: one found two photos, the other, which has no answer, none."""
    return JudgedAnswers(
        queries=("asked", "unanswerable"),
        answerable=np.array([True, False]),
        query=np.array([0, 0]),
        images=("right", "wrong"),
        inliers=np.array([30, 9]),
        evidence=np.array([18.0, 2.5]),
        photos=np.array([photos, photos]),
        right=np.array([True, False]),
        cosine=np.array([0.75, 0.5]) if cosine else None,
    )


def test_every_query_has_a_list_even_if_nothing_was_found_for_it() -> None:
    answers = _answers(10, cosine=False)
    lists = answers.scored(answers.evidence)
    assert {name: (list(found.images), found.scores.tolist()) for name, found in lists.items()} == {
        "asked": (["right", "wrong"], [18.0, 2.5]),
        "unanswerable": ([], []),
    }


def test_a_query_of_several_databases_is_one_query_in_each() -> None:
    joined = joined_answers([_answers(10, cosine=True), _answers(100, cosine=True)])
    assert joined.queries == ("asked in 0", "unanswerable in 0", "asked in 1", "unanswerable in 1")
    assert joined.query.tolist() == [0, 0, 2, 2] and joined.photos.tolist() == [10, 10, 100, 100]
    assert joined.answerable.tolist() == [True, False, True, False]
    assert joined.terms.shape == (4, 4) and joined.images == ("right", "wrong") * 2
    assert list(joined.scored(joined.inliers)["asked in 1"].scores) == [30.0, 9.0]


def test_cosines_are_dropped_unless_all_databases_have_them() -> None:
    joined = joined_answers([_answers(10, cosine=True), _answers(100, cosine=False)])
    assert joined.cosine is None and joined.terms.shape == (4, 3)


def test_a_photo_found_among_many_is_less_probable_than_among_few() -> None:
    """At the same evidence and inliers, with a model that says so."""
    model = AnswerModelConfig(intercept=-4.0, evidence=2.5, inliers=0.0, photos=-1.0)
    joined = joined_answers([_answers(10, cosine=False), _answers(1000, cosine=False)])
    right, wrong, right_of_many, wrong_of_many = joined.probability(
        RejectionConfig(search=model, pair=model)
    )
    assert right > right_of_many > wrong > wrong_of_many
    even = AnswerModelConfig(intercept=0.0, evidence=0.0, inliers=0.0, photos=0.0)
    np.testing.assert_array_equal(
        answer_probability(RejectionConfig(search=even, pair=even), joined.terms), np.full(4, 0.5)
    )
