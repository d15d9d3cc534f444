"""Positives follow from pairs or labels, and negatives from groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delfjax.config import TuplesConfig
from delfjax.datasets.catalogue import open_dataset
from delfjax.suite.data import world_set
from delfjax.training import positives
from delfjax.training.batches import LabelledPhotos, TrainingError
from delfjax.training.positives import Positives, positives_of
from delfjax.world.knobs import world_config


def rows(found: Positives) -> list[list[int]]:
    return [part.tolist() for part in np.split(found.indices, found.offsets[1:-1])]


def test_pairs_become_rows_without_repetitions_or_photos_with_themselves() -> None:
    pairs = np.array([[2, 0], [0, 2], [2, 0], [1, 1], [2, 3]])
    found = Positives.of_pairs(pairs, np.zeros(4, np.int64))
    assert rows(found) == [[2], [], [0, 3], []]
    assert found.pairs.tolist() == [[0, 2], [2, 0], [2, 3]]


def test_without_pairs_all_others_of_a_landmark_are_positives() -> None:
    found = Positives.of_labels(np.array([1, 0, 1, 2, 1]))
    assert rows(found) == [[2, 4], [], [0, 4], [], [0, 2]]
    assert np.array_equal(found.groups, [1, 0, 1, 2, 1])


def test_photos_that_are_left_out_are_nobody_s_positive() -> None:
    found = Positives.of_labels(np.array([0, 0, 0, 1, 1]))
    kept = found.among(np.array([True, False, True, True, False]))
    assert rows(kept) == [[2], [], [0], [], []]


@pytest.mark.parametrize(
    ("pair", "reason"),
    [([0, 5], "pairs name the photos 0 to 5, expected 0 to 3"), ([0, 3], "but of different")],
)
def test_impossible_pairs_are_refused(pair: list[int], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        Positives.of_pairs(np.array([pair]), np.array([0, 0, 0, 1]))


def test_the_digest_tells_positives_apart() -> None:
    one = Positives.of_labels(np.array([0, 0, 1, 1]))
    other = Positives.of_labels(np.array([0, 1, 0, 1]))
    assert one.digest() == Positives.of_labels(np.array([0, 0, 1, 1])).digest() != other.digest()


def test_in_the_world_overlap_and_scale_decide_and_are_computed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root: Path = world_set(world_config("ci"))
    dataset = open_dataset("world_train", root)
    photos = LabelledPhotos.of(dataset)
    wide = positives_of(dataset, photos, TuplesConfig(min_overlap=0.0, max_scale_change=100.0))
    monkeypatch.setattr(positives, "co_observed", None)  # a second rendering would fail
    near = positives_of(dataset, photos, TuplesConfig(min_overlap=0.5, max_scale_change=1.5))
    first, second = (set(map(tuple, found.pairs.tolist())) for found in (wide, near))
    assert second < first
    assert all(photos.labels[a] == photos.labels[b] for a, b in first)
    assert near.digest() != wide.digest()


def test_pairs_of_a_dataset_come_before_its_labels() -> None:
    root = world_set(world_config("ci"))
    dataset = open_dataset("world_train", root)
    photos = LabelledPhotos.of(dataset)
    same = np.flatnonzero(photos.labels == photos.labels[0])[:2]
    apart = int(np.flatnonzero(photos.labels != photos.labels[0])[0])
    given = replace(dataset, pairs=np.array([same, [same[0], apart]], np.int64))
    found = positives_of(given, photos, TuplesConfig())
    assert found.pairs.tolist() == [same.tolist()]
