"""A limit to XLA's fusion on a CPU, which recomputes a shared value for each of its uses."""

from __future__ import annotations

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Float

from delfjax.types import Array


def once(x: Float[Array, "*n"]) -> Float[jax.Array, "*n"]:
    """``x``, computed once and kept; the same holds for its gradient.

    Meant for the running sum of residual blocks: left to itself, XLA repeats all earlier additions
    in each block (13 % of a ResNet101's time). XLA removes its own optimisation barrier before it
    fuses, but it keeps a call that must not be inlined.
    """
    result: jax.Array = jax.lax.platform_dependent(x, cpu=_once, default=lambda x: x)
    return result


@jax.jit
def _same(x: jax.Array) -> jax.Array:
    return x


@jax.custom_vjp
def _once(x: jax.Array) -> jax.Array:
    with set_xla_metadata(inlineable="false"):
        same: jax.Array = _same(x)
    return same


_once.defvjp(lambda x: (_once(x), None), lambda _, gradient: (_once(gradient),))
