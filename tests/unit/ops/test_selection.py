"""Keypoint selection: exact top-k, thresholds, and non-maximum suppression."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delfjax.ops import selection


def _greedy(boxes: np.ndarray, scores: np.ndarray, limit: float, count: int) -> list[int]:
    """Non-maximum suppression written from its definition."""

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        common = np.prod(np.maximum(sides, 0))
        return float(common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common))

    kept: list[int] = []
    for candidate in np.argsort(-scores, kind="stable"):
        if len(kept) < count and all(
            iou(boxes[candidate], boxes[other]) <= limit for other in kept
        ):
            kept.append(int(candidate))
    return kept


@pytest.mark.parametrize("limit", [0.1, 0.5, 0.9])
def test_suppression_follows_its_definition(limit: float, rng: np.random.Generator) -> None:
    corner = rng.uniform(0, 100, (60, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 60, (60, 2))], axis=1).astype(
        np.float32
    )
    scores = rng.permutation(60).astype(np.float32)
    kept = np.asarray(
        jax.jit(partial(selection.suppress_overlaps, limit=limit, count=20))(boxes, scores)
    )
    expected = _greedy(boxes.astype(np.float64), scores, limit, 20)
    assert kept.tolist() == expected + [60] * (20 - len(expected))


def test_top_cells_are_the_best_inside_the_image_padded_to_k(rng: np.random.Generator) -> None:
    scores = rng.permutation(12)[None].astype(np.float32)
    inside = np.zeros((1, 12), bool)
    inside[0, [0, 1, 2, 4, 5, 6]] = True
    cells = np.indices((3, 4), np.int32).reshape(2, 12).T[None]
    best, index, chosen = jax.jit(partial(selection.top_cells, count=20))(scores, inside, cells)
    held = np.sort(scores[inside])[::-1]
    assert np.asarray(best)[0, :6].tolist() == held.tolist()
    assert np.isneginf(np.asarray(best)[0, 6:]).all()
    assert scores[0, np.asarray(index)[0, :6]].tolist() == held.tolist()
    assert [scores.reshape(3, 4)[y, x] for y, x in np.asarray(chosen)[0, :6]] == held.tolist()


def test_cells_are_numbered_row_by_row() -> None:
    cells = np.asarray(selection.numbered_cells(7, jnp.array([3, 4], jnp.int32)))
    assert cells[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]
    assert cells[1, 5].tolist() == [1, 1]


def test_an_absolute_threshold_keeps_equal_scores() -> None:
    scores = jnp.array([[3.0, 2.0, 1.0, -jnp.inf]])
    kept = selection.keep_by_threshold(
        scores, jnp.array([4], jnp.int32), kind="absolute", threshold=2.0
    )
    assert np.asarray(kept).tolist() == [[True, True, False, False]]


def test_a_percentile_refers_to_all_cells_of_the_image_not_to_the_selected_ones() -> None:
    scores = jnp.array([[4.0, 3.0, 2.0, 1.0]])
    kept = selection.keep_by_threshold(
        scores, jnp.array([10], jnp.int32), kind="percentile", threshold=80.0
    )
    assert np.asarray(kept).tolist() == [[True, True, False, False]]


def test_without_a_threshold_every_existing_score_is_kept() -> None:
    scores = jnp.array([[1.0, 0.0, -jnp.inf]])
    kept = selection.keep_by_threshold(
        scores, jnp.array([2], jnp.int32), kind="none", threshold=0.0
    )
    assert np.asarray(kept).tolist() == [[True, True, False]]
