"""The shape all datasets have: columns of paths, ragged labels, queries cut to their boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from delfjax.datasets.benchmark import (
    DatasetError,
    ImagePaths,
    IndexSets,
    QueryImages,
    RetrievalDataset,
    box_from_xyxy,
    crop_name,
    grouped_dataset,
    make_queries,
    moved_below,
    no_queries,
    positions,
    read_query,
    require_inside,
    require_unique,
    whole_pixels,
    with_distractors,
)
from delfjax.datasets.images import ImageError

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


def test_sets_are_ragged_and_may_be_empty() -> None:
    sets = IndexSets.of([[3, 1], [], np.array([2])])
    assert [members.tolist() for members in (sets[0], sets[1], sets[2])] == [
        [3, 1],
        [],
        [2],
    ] and len(sets) == 3
    assert len(IndexSets.of([])) == 0


def _photo(root: Path) -> np.ndarray:
    """A lossless image of 20 rows and 30 columns."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(root / "q.png")
    return pixels


def _dataset(root: Path, box: tuple[float, ...]) -> RetrievalDataset:
    queries = make_queries(ImagePaths(["q.png"]), {}, boxes=np.array([box], np.float64))
    return RetrievalDataset("test", root, ImagePaths(NAMES), queries)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((2, 3, 10, 13), slice(2, 10), slice(3, 13)),
        # Half to even, as Pillow rounds.
        ((2.5, 3.5, 10.4, 12.6), slice(2, 10), slice(4, 13)),
        ((0, 0, 20, 30), slice(0, 20), slice(0, 30)),
        # Within the slack: cut off.
        ((-1, -0.6, 20.9, 31), slice(0, 20), slice(0, 30)),
    ],
)
def test_a_query_is_cut_to_its_box(
    tmp_path: Path, box: tuple[float, ...], rows: slice, columns: slice
) -> None:
    pixels = _photo(tmp_path)
    read = read_query(_dataset(tmp_path, box), 0, max_side=1000)
    np.testing.assert_array_equal(read.pixels, pixels[rows, columns])
    assert read.original_size == read.pixels.shape[:2]


def test_a_query_is_cut_before_it_is_reduced(tmp_path: Path) -> None:
    _photo(tmp_path)
    read = read_query(_dataset(tmp_path, (0, 0, 10, 20)), 0, max_side=10)
    assert read.pixels.shape == (5, 10, 3) and read.original_size == (10, 20)


def test_a_query_without_a_box_is_the_whole_image(tmp_path: Path) -> None:
    pixels = _photo(tmp_path)
    dataset = _dataset(tmp_path, (np.nan,) * 4)
    assert dataset.queries[0].box is None
    np.testing.assert_array_equal(read_query(dataset, 0, max_side=1000).pixels, pixels)


@pytest.mark.parametrize(
    "box", [(0, 0, 21.5, 30), (0, 0, 20, 40), (-2, 0, 10, 10), (0, -5, 10, 10)]
)
def test_a_box_outside_its_image_is_refused_when_the_image_is_opened(
    tmp_path: Path, box: tuple[float, ...]
) -> None:
    _photo(tmp_path)
    with pytest.raises(
        ImageError,
        match=r"q.png: box \(y0, x0, y1, x1\) = .* leaves its image of 20×30 rows × columns; use",
    ):
        read_query(_dataset(tmp_path, box), 0, max_side=100)


def test_a_box_of_no_pixel_is_refused() -> None:
    with pytest.raises(ImageError, match="holds no whole pixel"):
        whole_pixels((3.1, 3.0, 3.4, 9.0), (20, 30), "q.png")


def test_a_missing_query_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"q.png: cannot be read: No such file"):
        read_query(_dataset(tmp_path, (0, 0, 9, 9)), 0, max_side=100)


def test_a_box_is_turned_from_xyxy_into_rows_and_columns() -> None:
    assert box_from_xyxy(["1.5", 2, 30, "40"], "file") == (2.0, 1.5, 40.0, 30.0)


@pytest.mark.parametrize(
    "numbers",
    [(30, 2, 1, 40), (1, 40, 30, 2), (1, 2, 1, 3), (1, 2, 3), "abcd", (0, 0, float("nan"), 1)],
)
def test_a_box_with_its_corners_in_the_wrong_order_is_refused_with_its_file(
    numbers: tuple[object, ...],
) -> None:
    with pytest.raises(DatasetError, match=r"^file: box "):
        box_from_xyxy(list(numbers), "file")


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
    with pytest.raises(DatasetError, match="1 queries, but other numbers of rows in .*'ok': 0"):
        make_queries(ImagePaths(["q.jpg"]), {"ok": IndexSets.of([])})
    with pytest.raises(DatasetError, match="test: 2 landmarks for a database of 3 images"):
        RetrievalDataset(
            "test", tmp_path, ImagePaths(NAMES), no_queries(), landmarks=np.zeros(2, np.int64)
        )


def test_names_are_found_by_position() -> None:
    assert positions(pa.array(["d", "x", "a"]), pa.chunked_array([["a"], ["b", "d"]])).tolist() == [
        2,
        -1,
        0,
    ]


@pytest.mark.parametrize(
    "path", ["../a.jpg", "/etc/a.jpg", "a/../../b", "", "C:/a.jpg", "a\\b.jpg"]
)
def test_a_list_cannot_name_files_outside_its_folder(path: str) -> None:
    with pytest.raises(
        DatasetError, match="list: entry 2 is .*, expected a path inside the folder"
    ):
        require_inside(pa.array(["fine..jpg", path]), "list")


def test_a_repeated_name_is_told() -> None:
    with pytest.raises(DatasetError, match="list: 'b' is there 2 times, expected once"):
        require_unique(pa.array(["a", "b", "b"]), "list")


def test_a_query_that_is_cut_has_another_name_than_its_image(tmp_path: Path) -> None:
    pixels = _photo(tmp_path)
    boxes = np.array([(0, 0, 10, 20), (np.nan,) * 4, (0, 0, 10, 20.5)], np.float64)
    queries = make_queries(ImagePaths(["q.png"] * 3), {}, boxes=boxes)
    dataset = RetrievalDataset("test", tmp_path, ImagePaths(NAMES), queries)
    images = QueryImages.of(dataset, [0, 1, 2])
    assert images.names == ("q.png#0.0,0.0,10.0,20.0", "q.png", "q.png#0.0,0.0,10.0,20.5")
    assert crop_name(dataset.queries[1]) == "q.png"
    np.testing.assert_array_equal(
        images.read(images.names[0], max_side=100).pixels, pixels[:10, :20]
    )
    read = images.read("q.png", max_side=100)
    assert images.content_hash(images.names[2]) == read.content_hash
    np.testing.assert_array_equal(read.pixels, pixels)


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
