"""What each dataset is scored by: which queries, under which names, and what an answer without
evidence is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delfjax.config import ConfigError
from delfjax.datasets.benchmark import RetrievalDataset, make_queries, no_queries
from delfjax.datasets.columns import ImagePaths, IndexSets
from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.dataset_protocols import Answer, make_scorers, query_names, scored_queries

DATABASE = ("a", "b", "c", "d")
GOOD = IndexSets.of([[1], [0, 3], []])


def _dataset(name: str, **columns: object) -> RetrievalDataset:
    split = np.array(["Public", "Ignored", "Private"])
    queries = make_queries(
        ImagePaths(["q", "r", "q"]),
        {"ok": GOOD},
        landmarks=IndexSets.of([[5], [5, 6], []]),
        split=split,
        gps=np.zeros((3, 2)),
    )
    known = {"landmarks": np.array([5, 6, 5, 7]), "gps": np.zeros((4, 2)), **columns}
    return RetrievalDataset(name, Path("root"), ImagePaths(DATABASE), queries, **known)


def _answer(*images: int, scores: tuple[int, ...]) -> Answer:
    return Answer(np.array(images, np.int64), np.array(scores, np.int64))


def test_queries_of_one_image_have_names_of_their_own() -> None:
    assert query_names(_dataset("folder")) == ["q#0", "r", "q#2"]


def test_ignored_is_a_usage_of_version_two_and_a_tier_like_others_elsewhere() -> None:
    assert scored_queries(_dataset("google_landmarks_v2")) == [0, 2]
    assert scored_queries(_dataset("folder")) == [0, 1, 2]


def test_a_query_that_nothing_speaks_for_is_not_recognised() -> None:
    dataset = _dataset("google_landmarks_v2_recognition")
    scorer = make_scorers(dataset, DATABASE)["recognition"]
    scorer.add("q", dataset.queries[0], _answer(2, 0, scores=(0, 0)))
    # Image 1 shows landmark 6, one of the two of this query.
    scorer.add("r", dataset.queries[1], _answer(1, 0, scores=(9, 4)))
    assert scorer.record()["queries"] == {"GAP": {"q": 0.0, "r": 1.0}}


def test_only_what_something_speaks_for_is_on_the_curve() -> None:
    dataset = _dataset("google_landmarks_v1")
    scorer = make_scorers(dataset, DATABASE)["precision-recall"]
    scorer.add("q", dataset.queries[0], _answer(2, 0, 1, scores=(9, 8, 0)))
    record = scorer.record()
    assert record["curve"]["threshold"] == [9.0] and record["curve"]["true_positives"] == [1]
    assert (
        record["means"] == {"area": 1.0, "TP@P50": 1.0, "recall@P50": 1.0}
        and record["threshold"] == 9.0
    )


def test_a_curve_of_nothing_has_no_threshold() -> None:
    dataset = _dataset("google_landmarks_v1")
    scorer = make_scorers(dataset, DATABASE)["precision-recall"]
    scorer.add("q", dataset.queries[0], _answer(scores=()))
    record = scorer.record()
    assert (
        record["means"]["TP@P50"] == 0
        and record["threshold"] is None
        and record["curve"]["precision"] == []
    )


def test_a_landmark_nobody_knows_the_place_of_is_named() -> None:
    gps = np.zeros((4, 2))
    gps[3] = np.nan
    with pytest.raises(
        EvaluationError, match="google_landmarks_v1: no image of landmark 7 has a position"
    ):
        make_scorers(_dataset("google_landmarks_v1", gps=gps), DATABASE)


def test_recognition_without_landmarks_is_refused() -> None:
    with pytest.raises(EvaluationError, match="the images of the database have no landmarks"):
        make_scorers(_dataset("google_landmarks_v2_recognition", landmarks=None), DATABASE)


def test_what_has_no_protocol_is_refused() -> None:
    with pytest.raises(
        EvaluationError,
        match="mine: no protocol is known for a dataset of this name; there are those of: world",
    ):
        make_scorers(_dataset("mine"), DATABASE)
    with pytest.raises(ConfigError, match="folder: protocol 'hard' is unknown; there are: folder"):
        make_scorers(_dataset("folder"), DATABASE, ["hard"])
    training = RetrievalDataset(
        "google_landmarks_v2_train", Path("root"), ImagePaths(DATABASE), no_queries()
    )
    with pytest.raises(
        EvaluationError, match="google_landmarks_v2_train: no queries, .* it is for training"
    ):
        make_scorers(training, DATABASE)
