"""The shape all datasets have: columns that agree with each other, distractors, groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delfjax.datasets.benchmark import (
    RetrievalDataset,
    grouped_dataset,
    make_queries,
    moved_below,
    no_queries,
    with_distractors,
)
from delfjax.datasets.columns import DatasetError, ImagePaths, IndexSets

NAMES = ["a.jpg", "b/c.jpg", "d.jpg"]


def test_distractors_come_last_and_have_no_landmark(tmp_path: Path) -> None:
    base = RetrievalDataset(
        "base",
        tmp_path / "base",
        ImagePaths(NAMES),
        no_queries(),
        landmarks=np.array([1, 2, -1]),
        gps=np.zeros((3, 2)),
    )
    more = with_distractors(moved_below(base, "base"), ImagePaths(["x.jpg"]), name="more")
    assert list(more.database) == ["base/a.jpg", "base/b/c.jpg", "base/d.jpg", "x.jpg"]
    assert (more.name, more.root, more.distractors) == ("more", tmp_path, 1)
    assert more.landmarks is not None and more.landmarks.tolist() == [1, 2, -1, -1]
    assert more.gps is not None and np.isnan(more.gps[3]).all() and not more.gps[:3].any()


def test_indices_outside_the_database_are_refused(tmp_path: Path) -> None:
    queries = make_queries(ImagePaths(["q.jpg"]), {"ok": IndexSets.of([[3]])})
    with pytest.raises(
        DatasetError, match="test: label 'ok' holds index 3, the database has 3 images"
    ):
        RetrievalDataset("test", tmp_path, ImagePaths(NAMES), queries)


def test_columns_of_different_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="1 queries, but these columns have .*'ok': 0"):
        make_queries(ImagePaths(["q.jpg"]), {"ok": IndexSets.of([])})
    with pytest.raises(DatasetError, match="test: landmarks has 2 rows, expected one for each of"):
        RetrievalDataset(
            "test", tmp_path, ImagePaths(NAMES), no_queries(), landmarks=np.zeros(2, np.int64)
        )


def test_images_of_a_group_answer_one_another() -> None:
    dataset = grouped_dataset(
        "test",
        Path("root"),
        ImagePaths("abcd"),
        landmarks=np.array([1, 0, 1, 1]),
        landmark_names=("x", "y"),
        queries=np.array([2, 1]),
    )
    first, second = dataset.queries
    assert (first.path, first.in_database, first.landmarks.tolist()) == ("c", 2, [1])
    assert {label: members.tolist() for label, members in first.sets.items()} == {
        "ok": [0, 3],
        "junk": [2],
    }
    assert {label: members.tolist() for label, members in second.sets.items()} == {
        "ok": [],
        "junk": [1],
    }
