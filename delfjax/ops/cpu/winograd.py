"""3×3 convolutions with 16 products where 36 would be needed: minimal filtering F(2×2, 3×3).

A tile of 2×2 results comes from 4×4 cells. Brought into another basis, cells and kernel have 4×4
components each, and a component of the result needs that of both alone: 16 matrix products, each
over all tiles and channels. The matrices of the basis hold 0, ±1 and ±½ alone, so the result is as
exact as that of the plain convolution.

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
# Rows and columns of arrays.
Grid = list[list[jax.Array]]

_OF_CELLS: Matrix = (
    (1.0, 0.0, -1.0, 0.0),
    (0.0, 1.0, 1.0, 0.0),
    (0.0, -1.0, 1.0, 0.0),
    (0.0, 1.0, 0.0, -1.0),
)
_OF_KERNEL: Matrix = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_TO_RESULT: Matrix = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))
# Components of a kernel turned around are those of the kernel in this order.
_TURNED = (3, 1, 2, 0)


def fits(kernel: Float[jax.Array, "k k c d"], stride: int) -> bool:
    """Whether :func:`convolved` serves this convolution, and is faster: with few channels it is
    slower than the plain one."""
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
    components = zip(_cells(x, pad), _both_ways(_OF_KERNEL, kernel), strict=True)
    return _result(
        [[cell @ tap for cell, tap in zip(*row, strict=True)] for row in components], x.shape, pad
    )


def _convolved_forward(
    x: jax.Array, kernel: jax.Array, pad: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolved(x, kernel, pad), (x, kernel)


def _convolved_backward(
    pad: tuple[int, int], kept: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    of_kernel = functools.partial(_of_kernel, pad=pad)
    return _of_cells(slope, kernel, pad), products.over_images(
        of_kernel, x, slope, shape=kernel.shape
    )


convolved.defvjp(_convolved_forward, _convolved_backward)


def _of_cells(slope: jax.Array, kernel: jax.Array, pad: tuple[int, int]) -> jax.Array:
    """Gradient of the input, from that of the result: its convolution with the kernel turned
    around."""
    around = 2 - pad[0], 2 - pad[1]
    taps = _both_ways(_OF_KERNEL, kernel)
    cells = _cells(slope, around)
    components = [
        [cells[i][j] @ taps[_TURNED[i]][_TURNED[j]].T for j in range(4)] for i in range(4)
    ]
    return _result(components, slope.shape, around)


def _of_kernel(x: jax.Array, slope: jax.Array, pad: tuple[int, int]) -> jax.Array:
    """Gradient of the kernel, from that of the result."""
    rows, columns = (2 * -(-size // 2) for size in slope.shape[1:3])
    whole = _padded(slope, (0, 0), rows, columns)
    slopes = _both_ways(_transposed(_TO_RESULT), _every_other(whole, 2))
    components = zip(_cells(x, pad), slopes, strict=True)
    grid = [
        [products.of_weights(cell, its_slope) for cell, its_slope in zip(*row, strict=True)]
        for row in components
    ]
    return jnp.stack([jnp.stack(row) for row in _both_ways(_transposed(_OF_KERNEL), grid)])


def _cells(x: Float[jax.Array, "b h w c"], pad: tuple[int, int]) -> Grid:
    """Components of the cells that each tile looks at, 4×4 arrays ``[b, rows of tiles, columns of
    tiles, c]``."""
    rows, columns = (2 * -(-(size + sum(pad) - 2) // 2) + 2 for size in x.shape[1:3])
    return _both_ways(_OF_CELLS, _every_other(_padded(x, pad, rows, columns), 4))


def _result(
    components: Grid, shape: tuple[int, ...], pad: tuple[int, int]
) -> Float[jax.Array, "b h2 w2 d"]:
    """Tiles of the result side by side, for an input of ``shape``."""
    tiles = _both_ways(_TO_RESULT, components)
    whole = jnp.stack([jnp.stack(row, axis=3) for row in tiles], axis=2)
    images, rows, _, columns, _, channels = whole.shape
    height, width = (size + sum(pad) - 2 for size in shape[1:3])
    return whole.reshape(images, 2 * rows, 2 * columns, channels)[:, :height, :width]


def _padded(x: jax.Array, pad: tuple[int, int], rows: int, columns: int) -> jax.Array:
    """``x`` with zeros around it, ``rows`` × ``columns``."""
    around = (
        (pad[0], size - pad[0] - had)
        for size, had in zip((rows, columns), x.shape[1:3], strict=True)
    )
    return jnp.pad(x, ((0, 0), *around, (0, 0)))


def _every_other(x: jax.Array, count: int) -> Grid:
    """``count`` × ``count`` arrays: of each tile, the cell in that row and column, where tiles lie
    2 cells apart."""
    rows, columns = (size - count + 1 for size in x.shape[1:3])
    return [
        [x[:, i : i + rows : 2, j : j + columns : 2] for j in range(count)] for i in range(count)
    ]


def _both_ways(matrix: Matrix, grid: Sequence[Iterable[jax.Array]] | jax.Array) -> Grid:
    """``matrix @ grid @ matrix.T``."""
    columns = [_mixed(matrix, column) for column in zip(*grid, strict=True)]
    return [_mixed(matrix, row) for row in zip(*columns, strict=True)]


def _mixed(matrix: Matrix, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """``matrix @ arrays``."""
    terms = (
        [array * weight for weight, array in zip(row, arrays, strict=True) if weight]
        for row in matrix
    )
    return [functools.reduce(operator.add, some) for some in terms]


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))
