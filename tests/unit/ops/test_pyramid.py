"""The pyramid: few canvases, each level fits one, resizing is bilinear with half-pixel centres."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import resize

from delfjax.config import PYRAMID
from delfjax.ops import pyramid


@given(height=st.integers(1, 1024), width=st.integers(1, 1024), scale=st.sampled_from(PYRAMID))
def test_every_level_fits_a_canvas_of_the_fixed_set(height: int, width: int, scale: float) -> None:
    size = pyramid.level_size((height, width), scale)
    canvas = pyramid.canvas_for(size, 1024 * max(PYRAMID))
    assert canvas[0] >= size[0] and canvas[1] >= size[1]
    assert canvas in pyramid.canvases(1024, PYRAMID)


@pytest.mark.parametrize("max_side", [256, 512, 1024, 2048])
def test_the_canvases_need_at_most_forty_programs(max_side: int) -> None:
    assert len(pyramid.canvases(max_side, PYRAMID)) + 1 <= 40


def test_a_photo_at_the_size_limit_wastes_no_canvas() -> None:
    assert pyramid.canvas_for((768, 1024), 2048.0) == (768, 1024)
    assert pyramid.canvas_for((1448, 1086), 2048.0) == (1456, 1104)


@pytest.mark.parametrize(
    ("size", "target"), [((40, 56), (80, 112)), ((40, 56), (28, 40)), ((33, 20), (47, 29))]
)
def test_resizing_equals_scikit_image(
    size: tuple[int, int], target: tuple[int, int], rng: np.random.Generator
) -> None:
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    source = pyramid.place([image], (64, 64), 1)
    onto = jax.jit(partial(pyramid.resize_onto, canvas=(96, 128)))
    ours = onto(source, np.array([size], np.int32), np.array([target], np.int32))[
        0, : target[0], : target[1]
    ]
    expected = resize(image.astype(np.float64), target, order=1, mode="edge", anti_aliasing=False)
    # float32 positions of up to 100 px, times 255 grey levels.
    np.testing.assert_allclose(ours, expected, atol=0.02)


def test_a_level_has_at_least_one_pixel_a_side() -> None:
    assert pyramid.level_size((1, 1024), 0.25) == (1, 256)
