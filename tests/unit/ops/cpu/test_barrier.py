"""The running sum of residual blocks is computed once, forwards and backwards."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delfjax.ops.cpu.barrier import once

_BLOCKS, _SIDE = 6, 32


def _loss(keep: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    def loss(x: jax.Array, weights: jax.Array) -> jax.Array:
        for block in range(_BLOCKS):
            x = keep(jax.nn.relu(x + x @ weights[block]))
        return jnp.sum(jnp.sin(x))

    return loss


def _most_read(function: Callable[..., object], x: jax.Array, weights: jax.Array) -> int:
    """The most arrays that any fused operation of the compiled ``function`` reads."""
    program = jax.jit(function).lower(x, weights).compile().as_text()
    return max(
        operands.count("%") for operands in re.findall(r" fusion\(([^)]*)\), kind=kLoop", program)
    )


@pytest.mark.parametrize("back", [False, True])
def test_no_block_repeats_the_additions_of_the_blocks_before_it(
    back: bool, rng: np.random.Generator
) -> None:
    x, weights = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((_SIDE, _SIDE), (_BLOCKS, _SIDE, _SIDE))
    )
    kept, plain = (jax.grad(_loss(keep)) if back else _loss(keep) for keep in (once, lambda x: x))
    np.testing.assert_allclose(
        jax.jit(kept)(x, weights), jax.jit(plain)(x, weights), rtol=1e-5, atol=1e-6
    )
    assert _most_read(kept, x, weights) < _BLOCKS <= _most_read(plain, x, weights)


def test_a_gradient_passes_unchanged() -> None:
    x = jnp.asarray([[1.0, -2.0], [3.0, 0.5]])
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(once(x) ** 2))(x), 2 * x)
    assert once(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
