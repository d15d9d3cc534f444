"""Purity and recall of mined landmarks, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.mining_scores import score_mining


def test_purity_and_recall_are_those_counted_by_hand() -> None:
    # Landmark 0: five photos, three in mined 0. Landmark 1: six, two of them in mined 0, three in
    # mined 1. Landmark 2: four.
    subjects = np.array([0] * 5 + [1] * 6 + [2] * 4 + [-1])
    mined = np.array([0, 0, 0, -1, -1, 0, 0, 1, 1, 1, -1, 2, 2, 2, -1, 2])
    scores = score_mining(mined, subjects, [[s] if s >= 0 else [] for s in subjects.tolist()])
    assert scores.majority.tolist() == [0, 1, 2]
    assert scores.purity == (3 + 3 + 3) / 12
    assert scores.counted.tolist() == [True, True, False]
    assert scores.found.tolist() == [True, True, True]
    assert (scores.recall, scores.coverage) == (1.0, 6 / 11)


def test_a_landmark_in_pieces_is_not_found() -> None:
    scores = score_mining(np.array([0, 0, 0, 1, 1, 1, -1]), np.zeros(7, np.int64), [[0]] * 7)
    assert (scores.purity, scores.recall, scores.coverage) == (1.0, 0.0, 6 / 7)


def test_a_mined_landmark_finds_only_one_of_those_it_swallows() -> None:
    scores = score_mining(np.zeros(10, np.int64), np.repeat([0, 1], 5), [[0]] * 5 + [[1]] * 5)
    assert (scores.purity, scores.recall) == (0.5, 0.5)


def test_a_photo_of_two_landmarks_shows_both() -> None:
    scores = score_mining(np.zeros(10, np.int64), np.repeat([0, 1], 5), [[0]] * 5 + [[0, 1]] * 5)
    assert (scores.purity, scores.recall) == (1.0, 0.5)


def test_nothing_mined_has_no_purity_and_no_recall() -> None:
    scores = score_mining(np.full(5, -1), np.zeros(5, np.int64), [[0]] * 5)
    assert math.isnan(scores.purity)
    assert scores.recall == 0
    assert math.isnan(score_mining(np.empty(0, np.int64), np.empty(0, np.int64), []).recall)


def test_unequal_numbers_of_photos_are_refused() -> None:
    with pytest.raises(EvaluationError, match="2 photos are mined, but 1 lists"):
        score_mining(np.zeros(2, np.int64), np.zeros(2, np.int64), [[0]])
