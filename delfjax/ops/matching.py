"""Putative matches between the descriptors of two images, as one matrix product."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int


def mutual_nearest(
    first: Float[jax.Array, "n d"],
    second: Float[jax.Array, "m d"],
    first_valid: Bool[jax.Array, " n"],
    second_valid: Bool[jax.Array, " m"],
) -> tuple[Int[jax.Array, " n"], Float[jax.Array, " n"], Bool[jax.Array, " n"]]:
    """Pairs of descriptors that are each other's nearest by cosine similarity.

    Args:
        first: L2-normalised descriptors of one image.
        second: L2-normalised descriptors of the other.
        first_valid: which rows of ``first`` hold a descriptor.
        second_valid: which rows of ``second`` hold a descriptor.

    Returns:
        For each row of ``first``: its nearest row of ``second``, their cosine, and whether the
        choice is mutual.
    """
    cosine = jnp.where(first_valid[:, None] & second_valid[None], first @ second.T, -jnp.inf)
    forward, backward = jnp.argmax(cosine, axis=1), jnp.argmax(cosine, axis=0)
    best = jnp.max(cosine, axis=1)
    mutual = (backward[forward] == jnp.arange(first.shape[0])) & (best > -jnp.inf)
    return forward, best, mutual
