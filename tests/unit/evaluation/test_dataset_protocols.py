"""What each dataset is scored by: which queries, under which names, and by which rules."""

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


def test_queries_of_the_same_image_have_distinct_names() -> None:
    assert query_names(_dataset("folder")) == ["q#0", "r", "q#2"]


def test_only_version_two_gives_the_split_ignored_a_meaning() -> None:
    assert scored_queries(_dataset("google_landmarks_v2")) == [0, 2]
    assert scored_queries(_dataset("folder")) == [0, 1, 2]


def _folder_record(*answers: Answer) -> dict[str, object]:
    """Two queries of a tower by day, one of a bridge by day, one of it by night, one of nothing.

    The database is two more photos of the tower, two of the bridge, and one of something else.
    """
    dataset = RetrievalDataset(
        "folder",
        Path("root"),
        ImagePaths(["t0", "t1", "b0", "b1", "x"]),
        make_queries(
            ImagePaths(["q0", "q1", "q2", "q3", "q4"]),
            {
                "ok": IndexSets.of([[0, 1], [0, 1], [2], [2], []]),
                "junk": IndexSets.of([[3], [], [3], [], [4]]),
            },
            landmarks=IndexSets.of([[0], [0], [1], [1], [2]]),
            split=np.array(["day", "day", "day", "night", "no match"]),
        ),
        landmark_names=("tower", "bridge", "nothing"),
    )
    scorer = make_scorers(dataset, tuple(dataset.database))["folder"]
    for name, query, answer in zip(query_names(dataset), dataset.queries, answers, strict=True):
        scorer.add(name, query, answer)
    return scorer.record()


def test_a_folder_averages_over_the_queries_of_a_landmark_and_then_over_landmarks() -> None:
    record = _folder_record(
        _answer(3, 0, 1, 4, scores=(9, 8, 7, 0)),
        _answer(4, 0, scores=(5, 4)),
        _answer(4, 2, scores=(3, 2)),
        _answer(scores=()),
        _answer(0, scores=(1,)),
    )
    # q1: one of two positives at rank 1, (0 + 1/2)/4; q2: its only one at rank 1, (0 + 1/2)/2.
    by_hand = {"q0": 1.0, "q1": 0.125, "q2": 0.25, "q3": 0.0, "q4": None}
    assert record["queries"] == {"mAP": by_hand}
    # The tier of the query without a positive has no mean.
    assert record["means"] == {"day": (0.5625 + 0.25) / 2, "night": 0.0}


def test_a_query_whose_best_image_scores_zero_is_not_recognised() -> None:
    dataset = _dataset("google_landmarks_v2_recognition")
    scorer = make_scorers(dataset, DATABASE)["recognition"]
    scorer.add("q", dataset.queries[0], _answer(2, 0, scores=(0, 0)))
    # Image 1 shows landmark 6, one of the two of this query.
    scorer.add("r", dataset.queries[1], _answer(1, 0, scores=(9, 4)))
    assert scorer.record()["queries"] == {"GAP": {"q": 0.0, "r": 1.0}}


def test_images_that_score_zero_are_not_on_the_curve() -> None:
    dataset = _dataset("google_landmarks_v1")
    scorer = make_scorers(dataset, DATABASE)["precision-recall"]
    scorer.add("q", dataset.queries[0], _answer(2, 0, 1, scores=(9, 8, 0)))
    record = scorer.record()
    assert record["curve"]["threshold"] == [9.0] and record["curve"]["true_positives"] == [1]
    assert (
        record["means"] == {"area": 1.0, "TP@P50": 1.0, "recall@P50": 1.0}
        and record["threshold"] == 9.0
    )


def test_an_empty_curve_has_no_threshold() -> None:
    dataset = _dataset("google_landmarks_v1")
    scorer = make_scorers(dataset, DATABASE)["precision-recall"]
    scorer.add("q", dataset.queries[0], _answer(scores=()))
    record = scorer.record()
    assert (
        record["means"]["TP@P50"] == 0
        and record["threshold"] is None
        and record["curve"]["precision"] == []
    )


def test_a_landmark_without_any_position_is_named() -> None:
    gps = np.zeros((4, 2))
    gps[3] = np.nan
    with pytest.raises(
        EvaluationError, match="google_landmarks_v1: no image of landmark 7 has a position"
    ):
        make_scorers(_dataset("google_landmarks_v1", gps=gps), DATABASE)


def test_recognition_without_landmarks_is_refused() -> None:
    with pytest.raises(EvaluationError, match="the images of the database have no landmarks"):
        make_scorers(_dataset("google_landmarks_v2_recognition", landmarks=None), DATABASE)


def test_a_dataset_without_a_protocol_is_refused() -> None:
    with pytest.raises(
        EvaluationError,
        match="mine: no protocol is known for .*; there are protocols for: world",
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
