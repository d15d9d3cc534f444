"""Keypoint selection: top scores of each level, then of the pyramid; optional overlap suppression.

Source: the DELF extraction code (threshold, greedy NMS on receptive boxes, at most
    ``max_features``). With an overlap limit of 1.0 nothing is suppressed, and the selection is a
    plain top-k.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

# Score of a slot without a feature.
_NOTHING = -jnp.inf


def numbered_cells(count: int, width: Int[jax.Array, " b"]) -> Int[jax.Array, "b {count} 2"]:
    """The first ``count`` cells ``(y, x)`` of maps read row by row, each ``width`` cells wide."""
    index, width = jnp.arange(count, dtype=jnp.int32)[None], width[:, None]
    return jnp.stack([index // width, index % width], axis=-1)


def top_cells(
    scores: Float[jax.Array, "b n"],
    inside: Bool[jax.Array, "b n"],
    cells_yx: Int[jax.Array, "b n 2"],
    *,
    count: int,
) -> tuple[Float[jax.Array, "b k"], Int[jax.Array, "b k"], Int[jax.Array, "b k 2"]]:
    """The ``k = count`` cells with the highest scores of each image.

    Args:
        scores: attention score of each cell.
        inside: which cells may be selected.
        cells_yx: position of each cell on the map.
        count: cells to select.

    Returns:
        Scores, best first, numbers and positions of the cells. Slots beyond the last cell have
        score −inf and number 0.
    """
    best, index = jax.lax.top_k(jnp.where(inside, scores, _NOTHING), min(count, scores.shape[1]))
    # Always k slots: levels of all canvases then have one shape, and merging them is one program.
    short = ((0, 0), (0, max(0, count - scores.shape[1])))
    best, index = jnp.pad(best, short, constant_values=_NOTHING), jnp.pad(index, short)
    return best, index, jnp.take_along_axis(cells_yx, index[..., None], axis=1)


def keep_by_threshold(
    scores: Float[jax.Array, "b n"],
    cells: Int[jax.Array, " b"],
    *,
    kind: Literal["none", "absolute", "percentile"],
    threshold: float,
) -> Bool[jax.Array, "b n"]:
    """Which scores pass the threshold.

    Args:
        scores: best first; −inf in slots without a feature.
        cells: number of cells in the whole pyramid of each image, to which a percentile refers.
        kind: "absolute" keeps ``score ≥ threshold``; "percentile" keeps the scores above that
            percentile of all scores of the image; "none" keeps all.
        threshold: a score, or a percentile from 0 to 100.
    """
    exists = scores > _NOTHING
    if kind == "absolute":
        return exists & (scores >= threshold)
    if kind == "percentile":
        kept = jnp.ceil(cells.astype(jnp.float32) * (1 - threshold / 100)).astype(jnp.int32)
        return exists & (jnp.arange(scores.shape[1], dtype=jnp.int32)[None] < kept[:, None])
    return exists


def suppress_overlaps(
    boxes: Float[jax.Array, "n 4"], scores: Float[jax.Array, " n"], *, limit: float, count: int
) -> Int[jax.Array, " count"]:
    """Greedy non-maximum suppression.

    Args:
        boxes: ``(y0, x0, y1, x1)``, in any unit.
        scores: score of each box; −inf in slots without a box.
        limit: largest intersection over union with a box that is already kept.
        count: most boxes to keep.

    Returns:
        Indices of the kept boxes, best first, filled up with ``n``.
    """
    areas = _area(boxes)

    def pick(step: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, kept = state
        best = jnp.argmax(left)
        found = left[best] > _NOTHING
        overlap = _intersection(boxes[best], boxes)
        iou = overlap / (areas[best] + areas - overlap)
        left = jnp.where(found & (iou > limit), _NOTHING, left).at[best].set(_NOTHING)
        return left, kept.at[step].set(jnp.where(found, best, boxes.shape[0]).astype(jnp.int32))

    start = (scores, jnp.full(count, boxes.shape[0], jnp.int32))
    kept: jax.Array = jax.lax.fori_loop(0, count, pick, start)[1]
    return kept


def _area(boxes: jax.Array) -> jax.Array:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection(box: jax.Array, boxes: jax.Array) -> jax.Array:
    upper = jnp.maximum(box[None, :2], boxes[:, :2])
    lower = jnp.minimum(box[None, 2:], boxes[:, 2:])
    return jnp.prod(jnp.maximum(lower - upper, 0.0), axis=-1)
