"""Matrix products over the channels of maps, and biases, fast forwards and backwards.

On a CPU the gradients are written out; elsewhere they are left to JAX.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from delfjax.types import Array

# float32 numbers in a processor's widest vector.
VECTOR = 16
# Most cells of the images that are processed together, unless a single image has more.
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
    """1×1 convolution, with its gradient left to JAX."""
    return jnp.einsum("bhwc,cd->bhwd", x, kernel)


_product = jax.custom_vjp(plain_product)


def _product_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return plain_product(x, kernel), (x, kernel)


def _product_backward(
    kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradients of ``x`` and of the kernel.

    The barrier keeps XLA from computing the operands a second time, column by column, in order to
    transpose them.
    """
    x, kernel = kept
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    of_x = jnp.einsum("bhwd,cd->bhwc", gradient, kernel)
    return of_x, weight_gradient(x, gradient).astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def weight_gradient(
    x: Float[Array, "b h w c"], gradient: Float[Array, "b h w d"]
) -> Float[jax.Array, "c d"]:
    """Gradient of the weights of the product ``x @ weights``, in float32.

    Eigen is up to 2.5 times faster if the operand with more columns comes second (XLA passes it the
    two in exchanged order) and these columns fill whole vectors.

    Args:
        x: input of the product.
        gradient: gradient of the product.
    """
    inputs, outputs = x.shape[-1], gradient.shape[-1]
    x, gradient = x.reshape(-1, inputs), gradient.reshape(-1, outputs)
    over_rows = ((0,), (0,)), ((), ())
    product = functools.partial(
        jax.lax.dot_general, dimension_numbers=over_rows, preferred_element_type=jnp.float32
    )
    if inputs > outputs and inputs % VECTOR == 0:
        # Without the barrier, XLA exchanges the operands again.
        exchanged: jax.Array = jax.lax.optimization_barrier(product(gradient, x))
        return exchanged.T
    return product(x, gradient)


def sum_over_images(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    x: Float[jax.Array, "b h w c"],
    gradient: Float[jax.Array, "b h2 w2 d"],
    *,
    shape: tuple[int, ...],
) -> Float[jax.Array, "*shape"]:
    """Sum of ``function`` over groups of images small enough to stay in the processor's cache.

    Args:
        function: takes a group of images of ``x`` and the same images of ``gradient``; returns
            float32.
        x: input of an operation, for all images.
        gradient: gradient of its output, for all images.
        shape: shape of the result of ``function``.
    """
    images, rows, columns = gradient.shape[:3]
    most = max(1, _MOST_CELLS // (rows * columns))
    together = next(count for count in range(min(images, most), 0, -1) if images % count == 0)

    def add_images(total: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
        return total + function(
            *(jax.lax.dynamic_slice_in_dim(array, first, together) for array in (x, gradient))
        ), None

    total, _ = jax.lax.scan(
        add_images, jnp.zeros(shape, jnp.float32), jnp.arange(0, images, together, dtype=jnp.int32)
    )
    return total


def add_bias(x: Float[Array, "b h w c"], bias: Float[Array, " c"]) -> Float[jax.Array, "b h w c"]:
    """``x`` plus one bias for each channel."""
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


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients of ``x`` and of the bias, whose sum over all cells is a matrix product.

    XLA's own sum walks down one column after another, in one thread.
    """
    rows = gradient.reshape(-1, gradient.shape[-1])
    total = jnp.ones((1, len(rows)), gradient.dtype) @ rows
    return gradient, total[0]


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)
