"""3×3 convolutions with 16 products instead of 36: minimal filtering F(2×2, 3×3).

A tile of 2×2 results depends on 4×4 cells. In a suitable basis, cells and kernel have 4×4
components each, and a component of the result is the product of the same component of both: 16
matrix products, each over all tiles and channels. The matrices of the change of basis hold only 0,
±1 and ±½, so the result is as exact as that of the plain convolution.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from delfjax.ops.cpu import products

Matrix = tuple[tuple[float, ...], ...]
# Rows and columns of arrays of one shape.
Grid = list[list[jax.Array]]

_CELLS_BASIS: Matrix = (
    (1.0, 0.0, -1.0, 0.0),
    (0.0, 1.0, 1.0, 0.0),
    (0.0, -1.0, 1.0, 0.0),
    (0.0, 1.0, 0.0, -1.0),
)
_KERNEL_BASIS: Matrix = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_RESULT_BASIS: Matrix = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))
# The components of a kernel with reversed taps are those of the kernel in this order.
_REVERSED = (3, 1, 2, 0)


def fits(kernel: Float[jax.Array, "k k c d"], stride: int) -> bool:
    """Whether :func:`convolved` can compute this convolution, and faster than the plain one.

    With few channels it is slower.
    """
    return (
        kernel.shape[:2] == (3, 3)
        and stride == 1
        and min(kernel.shape[2:]) >= products.VECTOR
        and kernel.dtype == jnp.float32
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolved(
    x: Float[jax.Array, "b h w c"], kernel: Float[jax.Array, "3 3 c d"], pad: tuple[int, int]
) -> Float[jax.Array, "b h2 w2 d"]:
    """Convolution with stride 1 and ``pad`` zeros before and after each axis."""
    components = zip(_cell_components(x, pad), _transform(_KERNEL_BASIS, kernel), strict=True)
    return _result_from(
        [[cell @ tap for cell, tap in zip(*row, strict=True)] for row in components], x.shape, pad
    )


def _convolved_forward(
    x: jax.Array, kernel: jax.Array, pad: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolved(x, kernel, pad), (x, kernel)


def _convolved_backward(
    pad: tuple[int, int], kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    kernel_gradient = functools.partial(_kernel_gradient, pad=pad)
    return _input_gradient(gradient, kernel, pad), products.sum_over_images(
        kernel_gradient, x, gradient, shape=kernel.shape
    )


convolved.defvjp(_convolved_forward, _convolved_backward)


def _input_gradient(gradient: jax.Array, kernel: jax.Array, pad: tuple[int, int]) -> jax.Array:
    """Gradient of the input: that of the result, convolved with the kernel with reversed taps."""
    around = 2 - pad[0], 2 - pad[1]
    taps = _transform(_KERNEL_BASIS, kernel)
    cells = _cell_components(gradient, around)
    components = [
        [cells[i][j] @ taps[_REVERSED[i]][_REVERSED[j]].T for j in range(4)] for i in range(4)
    ]
    return _result_from(components, gradient.shape, around)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, pad: tuple[int, int]) -> jax.Array:
    """Gradient of the kernel, given the gradient of the result."""
    rows, columns = (_even(size) for size in gradient.shape[1:3])
    whole = _padded(gradient, (0, 0), rows, columns)
    gradients = _transform(_transposed(_RESULT_BASIS), _strided_views(whole, 2))
    components = zip(_cell_components(x, pad), gradients, strict=True)
    grid = [
        [
            products.weight_gradient(cell, its_gradient)
            for cell, its_gradient in zip(*row, strict=True)
        ]
        for row in components
    ]
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(_KERNEL_BASIS), grid)])


def _cell_components(x: Float[jax.Array, "b h w c"], pad: tuple[int, int]) -> Grid:
    """Components of the cells under each tile: 4×4 arrays ``[b, tile rows, tile columns, c]``."""
    rows, columns = (_even(size + sum(pad)) for size in x.shape[1:3])
    return _transform(_CELLS_BASIS, _strided_views(_padded(x, pad, rows, columns), 4))


def _result_from(
    components: Grid, shape: tuple[int, ...], pad: tuple[int, int]
) -> Float[jax.Array, "b h2 w2 d"]:
    """The result, put together from the components of its tiles, for an input of ``shape``."""
    tiles = _transform(_RESULT_BASIS, components)
    whole = jnp.stack([jnp.stack(row, axis=3) for row in tiles], axis=2)
    images, rows, _, columns, _, channels = whole.shape
    height, width = (size + sum(pad) - 2 for size in shape[1:3])
    return whole.reshape(images, 2 * rows, 2 * columns, channels)[:, :height, :width]


def _padded(x: jax.Array, pad: tuple[int, int], rows: int, columns: int) -> jax.Array:
    """``x`` with ``pad[0]`` zeros before each axis, and zeros after it up to the given size."""
    around = (
        (pad[0], size - pad[0] - present)
        for size, present in zip((rows, columns), x.shape[1:3], strict=True)
    )
    return jnp.pad(x, ((0, 0), *around, (0, 0)))


def _strided_views(x: jax.Array, count: int) -> Grid:
    """``count`` × ``count`` arrays, each with one cell of every tile; tiles lie 2 cells apart."""
    rows, columns = (size - count + 1 for size in x.shape[1:3])
    return [
        [x[:, i : i + rows : 2, j : j + columns : 2] for j in range(count)] for i in range(count)
    ]


def _transform(matrix: Matrix, grid: Sequence[Iterable[jax.Array]] | jax.Array) -> Grid:
    """``matrix @ grid @ matrix.T``."""
    columns = [_combined(matrix, column) for column in zip(*grid, strict=True)]
    return [_combined(matrix, row) for row in zip(*columns, strict=True)]


def _combined(matrix: Matrix, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """``matrix @ arrays``."""
    terms = (
        [array * weight for weight, array in zip(row, arrays, strict=True) if weight]
        for row in matrix
    )
    return [functools.reduce(operator.add, some) for some in terms]


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _even(size: int) -> int:
    """``size`` rounded up to an even number."""
    return size + size % 2
