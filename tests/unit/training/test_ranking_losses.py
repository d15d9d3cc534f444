"""The ranking losses equal their formulas in float64, and their gradients are finite everywhere."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delfjax.training.ranking_losses import contrastive_loss, triplet_loss


def tuples(seed: int, *, count: int = 7, negatives: int = 5) -> list[np.ndarray]:
    """Descriptors of unit length, some of them near their query."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(count, 16))
    near = query + 0.3 * rng.normal(size=query.shape)
    others = query[:, None] + rng.uniform(0.05, 2, (count, negatives, 1)) * rng.normal(
        size=(count, negatives, 16)
    )
    return [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, near, others)]


def plain_contrastive(q: np.ndarray, p: np.ndarray, n: np.ndarray, margin: float) -> float:
    total = 0.0
    for query, positive, negatives in zip(q, p, n, strict=True):
        total += 0.5 * float(np.linalg.norm(query - positive)) ** 2
        for negative in negatives:
            total += 0.5 * max(0.0, margin - float(np.linalg.norm(query - negative))) ** 2
    return total / len(q)


def plain_triplet(q: np.ndarray, p: np.ndarray, n: np.ndarray, margin: float) -> float:
    total = 0.0
    for query, positive, negatives in zip(q, p, n, strict=True):
        for negative in negatives:
            gain = float(((query - positive) ** 2).sum() - ((query - negative) ** 2).sum())
            total += 0.5 * max(0.0, margin + gain)
    return total / len(q)


@pytest.mark.parametrize(
    ("loss", "plain", "margin"),
    [(contrastive_loss, plain_contrastive, 0.7), (triplet_loss, plain_triplet, 0.1)],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_equals_its_formula(
    loss: Callable[..., jax.Array], plain: Callable[..., float], margin: float, seed: int
) -> None:
    held = tuples(seed)
    expected = plain(*held, margin)
    assert expected > 0.01
    found = loss(*(jnp.asarray(x, jnp.float32) for x in held), margin=margin)
    assert abs(float(found) - expected) < 1e-6


def test_a_negative_beyond_the_margin_and_a_positive_in_place_cost_nothing() -> None:
    query = jnp.eye(4)[:2]
    far = jnp.eye(4)[None, 2:].repeat(2, axis=0)
    assert float(contrastive_loss(query, query, far, margin=0.7)) == 0
    assert float(triplet_loss(query, query, far, margin=0.1)) == 0


@pytest.mark.parametrize("loss", [contrastive_loss, triplet_loss])
def test_gradients_are_finite_where_all_descriptors_are_equal(
    loss: Callable[..., jax.Array],
) -> None:
    query = jnp.eye(8)[:3]
    slopes = jax.grad(loss, argnums=(0, 1, 2))(query, query, query[:, None], margin=0.7)
    assert all(bool(jnp.isfinite(slope).all()) for slope in slopes)


def test_descent_pulls_the_positive_and_pushes_the_negative() -> None:
    q, p, n = (jnp.asarray(x, jnp.float32) for x in tuples(5))
    for loss, margin in ((contrastive_loss, 1.2), (triplet_loss, 1.5)):
        of_positive, of_negative = jax.grad(loss, argnums=(1, 2))(q, p, n, margin=margin)
        assert float(jnp.sum(of_positive * (p - q))) > 0
        assert float(jnp.sum(of_negative * (n - q[:, None]))) < 0
