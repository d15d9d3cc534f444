"""Global pooling against its definition in NumPy, on each image's own cells."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from delfjax.ops import pooling

EXTENTS = np.array([[9, 13], [6, 4], [1, 1]], np.int32)


@pytest.fixture
def canvas(rng: np.random.Generator) -> np.ndarray:
    """Three maps in the corners of canvases; the values outside them would spoil any maximum or
    mean."""
    values = rng.gamma(1.0, size=(3, 9, 13, 8)).astype(np.float32)
    for image, (height, width) in enumerate(EXTENTS):
        values[image, height:] = 1e4
        values[image, :, width:] = np.nan if image == 1 else 1e4
    return values


def own(canvas: np.ndarray, image: int) -> np.ndarray:
    height, width = EXTENTS[image]
    return canvas[image, :height, :width].astype(np.float64)


def cells(canvas: np.ndarray) -> np.ndarray:
    """Cells of every map, row by row."""
    return canvas.reshape(len(canvas), -1, canvas.shape[-1])


HELD = np.stack(
    [(np.indices((9, 13)) < extent[:, None, None]).all(axis=0).ravel() for extent in EXTENTS]
)
YX = np.tile(np.indices((9, 13), np.int32).reshape(2, -1).T, (3, 1, 1))


def test_the_generalised_mean_is_the_cubic_mean_of_the_images_own_cells(canvas: np.ndarray) -> None:
    ours = np.asarray(
        jax.jit(pooling.generalised_mean)(cells(np.nan_to_num(canvas, nan=1e4)), HELD)
    )
    for image in range(3):
        expected = (np.maximum(own(canvas, image), 1e-6) ** 3).mean(axis=(0, 1)) ** (1 / 3)
        # Up to 117 float32 terms and a cube root.
        np.testing.assert_allclose(ours[image], expected, rtol=1e-5)


def test_values_below_zero_hardly_count_in_the_generalised_mean() -> None:
    values = np.array([[[-5.0], [2.0]]], np.float32)
    ours = jax.jit(pooling.generalised_mean)(values, np.ones((1, 2), bool))
    np.testing.assert_allclose(ours, [[(8 / 2) ** (1 / 3)]], rtol=1e-6)


def test_the_maximum_is_over_the_images_own_cells(canvas: np.ndarray) -> None:
    ours = np.asarray(jax.jit(pooling.maximum)(cells(canvas), HELD))
    for image in range(3):
        np.testing.assert_array_equal(
            ours[image], own(canvas, image).max(axis=(0, 1)).astype(np.float32)
        )


def test_the_regional_maximum_is_the_sum_of_unit_length_maxima(canvas: np.ndarray) -> None:
    regions = np.stack([pooling.rmac_regions(int(h), int(w)) for h, w in EXTENTS])
    ours = np.asarray(jax.jit(pooling.regional_maximum)(cells(canvas), YX, regions))
    for image in range(3):
        expected = np.zeros(8)
        for top, left, bottom, right in regions[image].tolist():
            if bottom > top:
                best = own(canvas, image)[top:bottom, left:right].max(axis=(0, 1))
                expected += best / np.linalg.norm(best)
        # A sum of up to fifty float32 unit vectors.
        np.testing.assert_allclose(ours[image], expected, rtol=1e-5)


def test_rows_are_scaled_to_unit_length_and_a_zero_row_stays_zero() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0]], np.float32)
    np.testing.assert_allclose(
        jax.jit(pooling.l2_normalise)(rows), np.array([[0.6, 0.8], [0, 0], [1, 0]]), rtol=1e-6
    )


def regions_of(height: int, width: int) -> np.ndarray:
    """R-MAC regions without the padding."""
    regions = pooling.rmac_regions(height, width)
    held = regions[:, 2] > regions[:, 0]
    # The padding is empty and comes last.
    assert not held[held.sum() :].any() and not regions[~held].any()
    return regions[held]


SIZES = [(1, 1), (1, 9), (2, 3), (7, 7), (24, 32), (32, 24), (16, 64), (12, 55), (63, 64), (3, 60)]


@pytest.mark.parametrize("size", SIZES)
def test_regions_are_squares_inside_the_map(size: tuple[int, int]) -> None:
    regions = regions_of(*size)
    assert len(regions) and regions.shape[0] <= pooling.most_regions()
    height, width = regions[:, 2] - regions[:, 0], regions[:, 3] - regions[:, 1]
    assert np.array_equal(height, width) and height.min() >= 1
    assert (
        regions[:, :2].min() >= 0
        and (regions[:, 2] <= size[0]).all()
        and (regions[:, 3] <= size[1]).all()
    )


@pytest.mark.parametrize("size", SIZES)
def test_level_one_has_the_largest_squares_and_deeper_levels_smaller_ones(
    size: tuple[int, int],
) -> None:
    sides = [int(bottom - top) for top, _, bottom, _ in regions_of(*size).tolist()]
    assert sides[0] == min(size) and sides == sorted(sides, reverse=True)
    assert sides[-1] == max(1, 2 * min(size) // 4)


@pytest.mark.parametrize("size", [(24, 32), (32, 24), (30, 45), (16, 64), (48, 200)])
def test_neighbours_of_level_one_overlap_by_about_forty_percent(size: tuple[int, int]) -> None:
    regions, side = regions_of(*size), min(size)
    long = int(size[1] > size[0])
    starts = np.unique(regions[regions[:, 2] - regions[:, 0] == side][:, long])
    overlap = 1 - np.diff(starts) / side
    # At aspect ratios from 4:3 to 4.6, one region more or less changes the overlap by at most 27
    # percentage points.
    assert len(starts) >= 2 and overlap.min() >= 0.2 and overlap.max() <= 0.7
    assert starts[0] == 0 and starts[-1] == max(size) - side


def test_a_square_map_has_one_four_and_nine_regions() -> None:
    assert len(regions_of(12, 12)) == 1 + 4 + 9


def test_transposing_the_map_transposes_its_regions() -> None:
    one, other = regions_of(20, 34), regions_of(34, 20)
    assert {tuple(r) for r in one.tolist()} == {tuple(r) for r in other[:, [1, 0, 3, 2]].tolist()}
