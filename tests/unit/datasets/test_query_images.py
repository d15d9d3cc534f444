"""Queries are cut to their boxes at full size, under names of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax.datasets.benchmark import RetrievalDataset, make_queries
from delfjax.datasets.columns import DatasetError, ImagePaths
from delfjax.datasets.images import ImageError, hash_file
from delfjax.datasets.query_images import (
    QueryImages,
    box_from_xyxy,
    crop_name,
    read_query,
    whole_pixels,
)


def _photo(root: Path) -> np.ndarray:
    """A lossless image of 20 rows and 30 columns."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(root / "q.png")
    return pixels


def _dataset(root: Path, *boxes: tuple[float, ...]) -> RetrievalDataset:
    """Queries of one image, each with a box."""
    queries = make_queries(
        ImagePaths(["q.png"] * len(boxes)), {}, boxes=np.array(boxes, np.float64)
    )
    return RetrievalDataset("test", root, ImagePaths(["a.jpg", "b/c.jpg", "d.jpg"]), queries)


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


def test_a_box_without_a_whole_pixel_is_refused() -> None:
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
def test_numbers_that_are_no_box_are_refused_with_their_file(
    numbers: tuple[object, ...],
) -> None:
    with pytest.raises(DatasetError, match=r"^file: box "):
        box_from_xyxy(list(numbers), "file")


def test_a_cropped_query_has_another_name_than_its_image(tmp_path: Path) -> None:
    pixels = _photo(tmp_path)
    dataset = _dataset(tmp_path, (0, 0, 10, 20), (np.nan,) * 4, (0, 0, 10, 20.5))
    images = QueryImages.of(dataset, [0, 1, 2])
    assert images.names == ("q.png#0.0,0.0,10.0,20.0", "q.png", "q.png#0.0,0.0,10.0,20.5")
    assert crop_name(dataset.queries[1]) == "q.png"
    np.testing.assert_array_equal(
        images.read(images.names[0], max_side=100).pixels, pixels[:10, :20]
    )
    read = images.read("q.png", max_side=100)
    assert hash_file(images.path(images.names[2])) == read.content_hash
    np.testing.assert_array_equal(read.pixels, pixels)


def test_a_crop_that_fails_tells_the_digest_of_its_file(tmp_path: Path) -> None:
    _photo(tmp_path)
    dataset = _dataset(tmp_path, (0, 0, 10, 2000))
    images = QueryImages.of(dataset, [0])
    with pytest.raises(ImageError) as failed:
        images.read(images.names[0], max_side=100)
    assert failed.value.content_hash == hash_file(images.path(images.names[0])) != ""
