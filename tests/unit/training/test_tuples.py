"""Negatives are the hardest of other landmarks, draws follow from the seed, and precision is that
of the definition."""

from __future__ import annotations

import numpy as np
import pytest

from delfjax.config import TuplesConfig
from delfjax.training.batches import TrainingError
from delfjax.training.positives import Positives
from delfjax.training.tuples import (
    TupleMiner,
    hardest_negatives,
    held_out_groups,
    retrieval_precision,
)

LABELS = np.repeat(np.arange(6), 4)


def miner(
    tuples: TuplesConfig, *, seed: int = 0, count: int = 10, labels: np.ndarray = LABELS
) -> TupleMiner:
    return TupleMiner(
        Positives.of_labels(labels),
        np.ones(len(labels), bool),
        tuples=tuples,
        count=count,
        seed=seed,
    )


def described(seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(len(LABELS), 8))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def drawn(found: TupleMiner, number: int) -> np.ndarray:
    queries, pool = found.asked(number)
    vectors = described()
    return found.drawn(number, queries=vectors[queries], pool=vectors[pool])


def test_the_hardest_are_the_most_similar_of_others_one_from_each_group() -> None:
    similarity = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]])
    groups = np.array([0, 1, 1, 2, 2, 0])
    found = hardest_negatives(
        similarity, own=np.array([0]), groups=groups, count=2, one_per_group=True
    )
    assert found.tolist() == [[1, 3]]
    found = hardest_negatives(
        similarity, own=np.array([2]), groups=groups, count=3, one_per_group=False
    )
    assert found.tolist() == [[0, 1, 2]]


def test_negatives_equal_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(3)
    similarity = rng.normal(size=(20, 40))
    own, groups = rng.integers(0, 8, 20), rng.integers(0, 8, 40)
    found = hardest_negatives(similarity, own=own, groups=groups, count=5, one_per_group=True)
    for row, negatives in enumerate(found):
        seen: list[int] = []
        expected = []
        for photo in np.argsort(-similarity[row]):
            if groups[photo] != own[row] and groups[photo] not in seen:
                seen.append(int(groups[photo]))
                expected.append(int(photo))
        assert negatives.tolist() == expected[:5]


def test_a_tuple_holds_a_positive_and_negatives_of_other_landmarks() -> None:
    found = drawn(miner(TuplesConfig(negatives=4, hardest=5), count=30), 2)
    assert found.shape == (30, 6)
    labels = LABELS[found]
    assert (labels[:, 0] == labels[:, 1]).all() and (found[:, 0] != found[:, 1]).all()
    assert (labels[:, 2:] != labels[:, :1]).all()
    assert all(len(set(row)) == 4 for row in labels[:, 2:].tolist())


def test_draws_depend_on_seed_and_round_alone() -> None:
    tuples = TuplesConfig(negatives=2, hardest=4, pool=12)
    ahead = miner(tuples)
    later = drawn(ahead, 3)
    drawn(ahead, 0)
    assert np.array_equal(later, drawn(miner(tuples), 3))
    assert not np.array_equal(later, drawn(miner(tuples), 4))
    assert not np.array_equal(later, drawn(miner(tuples, seed=1), 3))


def test_too_few_landmarks_for_the_negatives_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"6 negatives .* only 5 other landmarks"):
        miner(TuplesConfig(negatives=6))
    lone = np.arange(6)
    with pytest.raises(TrainingError, match="none of the 6 photos to train on has a positive"):
        miner(TuplesConfig(negatives=2), labels=lone)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_whole_groups_are_held_out_and_two_are_kept(share: float) -> None:
    chosen = held_out_groups(LABELS, share, seed=0)
    by_group = chosen.reshape(6, 4)
    assert (by_group.all(axis=1) | ~by_group.any(axis=1)).all()
    assert by_group.any(axis=1).sum() == {0.01: 2, 0.3: 2, 0.99: 4}[share]


def test_of_three_groups_none_is_held_out() -> None:
    assert not held_out_groups(np.array([0, 0, 1, 2]), 0.5, seed=0).any()


def test_precision_is_the_mean_over_photos_of_that_of_their_lists() -> None:
    vectors = described(4)
    total = []
    for query, vector in enumerate(vectors):
        order = [k for k in np.argsort(-(vectors @ vector), kind="stable") if k != query]
        right = [LABELS[k] == LABELS[query] for k in order]
        hits = [sum(right[: rank + 1]) / (rank + 1) for rank, hit in enumerate(right) if hit]
        total.append(np.mean(hits))
    assert retrieval_precision(vectors, LABELS) == pytest.approx(np.mean(total), abs=1e-12)
    with pytest.raises(TrainingError, match="no landmark that is held out has two photos"):
        retrieval_precision(vectors[:3], np.arange(3))
