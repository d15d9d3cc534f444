"""Losses that rank: a query must be nearer to a photo of its landmark than to photos of others.

A loss is that of one tuple, summed over its negatives, and averaged over the tuples of a batch.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def contrastive_loss(
    queries: Float[Array, "b d"],
    positives: Float[Array, "b d"],
    negatives: Float[Array, "b n d"],
    *,
    margin: float,
) -> Float[Array, ""]:
    """The sum of ``½ Y D² + ½ (1 − Y) max(0, τ − D)²`` over the pairs of a query with the others of
    its tuple, averaged over the tuples; ``D`` is the distance of the pair, and ``Y`` is 1 for the
    positive and 0 for a negative.

    Where ``D`` is 0 for a negative, which pushes it in no direction, the gradient is 0.

    Args:
        queries: descriptors of unit length.
        positives: of a photo of the same landmark as each query.
        negatives: of photos of other landmarks.
        margin: ``τ``, the distance from which a negative is far enough.

    Source: Radenović et al. 2016 (siaMAC).
    """
    square = _square(queries[:, None] - negatives)
    apart = square > 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)
    repulsion = jnp.square(jnp.maximum(0.0, margin - distance)).sum(axis=1)
    return 0.5 * jnp.mean(_square(queries - positives) + repulsion)


def triplet_loss(
    queries: Float[Array, "b d"],
    positives: Float[Array, "b d"],
    negatives: Float[Array, "b n d"],
    *,
    margin: float,
) -> Float[Array, ""]:
    """The sum of ``½ max(0, m + ‖q − d⁺‖² − ‖q − d⁻‖²)`` over the negatives of a query, averaged
    over the tuples.

    Args:
        queries: descriptors of unit length.
        positives: of a photo of the same landmark as each query.
        negatives: of photos of other landmarks.
        margin: ``m``, by which the square of a negative's distance must exceed the positive's.

    Source: Gordo et al. 2016 (DIR).
    """
    near = _square(queries - positives)[:, None]
    far = _square(queries[:, None] - negatives)
    return 0.5 * jnp.mean(jnp.maximum(0.0, margin + near - far).sum(axis=1))


def _square(difference: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    return jnp.sum(jnp.square(difference), axis=-1)
