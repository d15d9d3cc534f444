"""Columns of paths and ragged sets, and the checks that downloaded lists go through."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from delfjax.datasets.columns import (
    DatasetError,
    ImagePaths,
    IndexSets,
    positions,
    require_inside,
    require_unique,
)

NAMES = ["a.jpg", "b/c.jpg", "d.jpg"]


def test_paths_behave_like_a_sequence_of_text() -> None:
    paths = ImagePaths(NAMES)
    assert list(paths) == NAMES and len(paths) == 3
    assert (paths[0], paths[-1]) == ("a.jpg", "d.jpg") and "b/c.jpg" in paths
    assert list(paths[1:]) == NAMES[1:] and list(paths[::-2]) == ["d.jpg", "a.jpg"]
    assert list(paths + paths.under("x")) == [*NAMES, "x/a.jpg", "x/b/c.jpg", "x/d.jpg"]
    assert paths == ImagePaths(pa.chunked_array([NAMES[:1], NAMES[1:]])) != ImagePaths(NAMES[:2])
    for outside in (3, -4):
        with pytest.raises(IndexError):
            paths[outside]


def test_index_sets_are_ragged_and_may_be_empty() -> None:
    sets = IndexSets.of([[3, 1], [], np.array([2])])
    assert len(sets) == 3
    assert [sets[query].tolist() for query in range(3)] == [[3, 1], [], [2]]
    assert len(IndexSets.of([])) == 0


def test_positions_are_indices_or_minus_one() -> None:
    among = pa.chunked_array([["a"], ["b", "d"]])
    assert positions(pa.array(["d", "x", "a"]), among).tolist() == [2, -1, 0]


@pytest.mark.parametrize(
    "path", ["../a.jpg", "/etc/a.jpg", "a/../../b", "", "C:/a.jpg", "a\\b.jpg"]
)
def test_a_list_cannot_name_files_outside_its_folder(path: str) -> None:
    with pytest.raises(
        DatasetError, match="list: entry 2 is .*, expected a path inside the folder"
    ):
        require_inside(pa.array(["fine..jpg", path]), "list")


def test_a_repeated_name_is_refused_with_its_count() -> None:
    with pytest.raises(DatasetError, match="list: 'b' occurs 2 times, expected once"):
        require_unique(pa.array(["a", "b", "b"]), "list")
