"""Matrix products over the channels of maps, and biases, written as the platform at hand runs them
fastest both ways."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from delfjax.types import Array

# Numbers in float32 of a processor's widest vector.
VECTOR = 16
# Cells of the images that are taken together, at most, unless a single one has more.
_MOST_CELLS = 1 << 10


def pointwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "c d"]
) -> Float[jax.Array, "b h w d"]:
    """1×1 convolution as a matrix product."""
    result: jax.Array = jax.lax.platform_dependent(
        jnp.asarray(x), jnp.asarray(kernel), cpu=_product, default=plain_product
    )
    return result


def plain_product(
    x: Float[Array, "b h w c"], kernel: Float[Array, "c d"]
) -> Float[jax.Array, "b h w d"]:
    """1×1 convolution, its gradient left to JAX."""
    return jnp.einsum("bhwc,cd->bhwd", x, kernel)


_product = jax.custom_vjp(plain_product)


def _product_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return plain_product(x, kernel), (x, kernel)


def _product_backward(
    kept: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Left to itself, XLA computes what the slope is made of a second time, walking down columns,
    to transpose it."""
    x, kernel = kept
    x, slope = jax.lax.optimization_barrier((x, slope))
    return jnp.einsum("bhwd,cd->bhwc", slope, kernel), of_weights(x, slope).astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def of_weights(
    met: Float[Array, "b h w c"], slope: Float[Array, "b h w d"]
) -> Float[jax.Array, "c d"]:
    """Gradient of the weights of ``met @ weights``, whose own is ``slope``; in float32.

    Eigen is up to 2.5 times faster where the one with more columns comes second (XLA hands it the
    two exchanged), as long as they fill whole vectors.
    """
    inputs, outputs = met.shape[-1], slope.shape[-1]
    met, slope = met.reshape(-1, inputs), slope.reshape(-1, outputs)
    over_rows = ((0,), (0,)), ((), ())
    product = functools.partial(
        jax.lax.dot_general, dimension_numbers=over_rows, preferred_element_type=jnp.float32
    )
    if inputs > outputs and inputs % VECTOR == 0:
        # Without the barrier, XLA turns the product around again.
        turned: jax.Array = jax.lax.optimization_barrier(product(slope, met))
        return turned.T
    return product(met, slope)


def over_images(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    x: Float[jax.Array, "b h w c"],
    slope: Float[jax.Array, "b h2 w2 d"],
    *,
    shape: tuple[int, ...],
) -> Float[jax.Array, "*shape"]:
    """Sum of what ``function`` makes of the images of both, a few at a time: what they fill stays
    in the processor's cache.

    Args:
        function: of some images of ``x`` and theirs of ``slope``; in float32.
        x: of all images.
        slope: of all images.
        shape: of what ``function`` returns.
    """
    images, rows, columns = slope.shape[:3]
    most = max(1, _MOST_CELLS // (rows * columns))
    together = next(count for count in range(min(images, most), 0, -1) if images % count == 0)

    def add_images(total: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
        return total + function(
            *(jax.lax.dynamic_slice_in_dim(array, first, together) for array in (x, slope))
        ), None

    total, _ = jax.lax.scan(
        add_images, jnp.zeros(shape, jnp.float32), jnp.arange(0, images, together, dtype=jnp.int32)
    )
    return total


def add_bias(x: Float[Array, "b h w c"], bias: Float[Array, " c"]) -> Float[jax.Array, "b h w c"]:
    """``x`` plus one number for each channel."""
    result: jax.Array = jax.lax.platform_dependent(
        jnp.asarray(x),
        jnp.asarray(bias, x.dtype),
        cpu=_add_bias,
        default=lambda x, bias: x + bias[None, None, None],
    )
    return result


@jax.custom_vjp
def _add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + bias[None, None, None]


def _add_bias_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return _add_bias(x, bias), None


def _add_bias_backward(_: None, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum over all cells as a matrix product: left to itself, XLA walks down each column by
    itself, in one thread."""
    rows = slope.reshape(-1, slope.shape[-1])
    total = jnp.ones((1, len(rows)), slope.dtype) @ rows
    return slope, total[0]


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)
