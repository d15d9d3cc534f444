"""Convolutions and the maximum of windows, in the form that is fastest on the platform at hand.

The results are the same on all platforms. On a CPU, XLA's grouped convolution is many times slower
than adding shifted copies, and a 1×1 convolution is fastest as a matrix product; on accelerators,
XLA's own convolution kernels win. The form is chosen when a program is lowered.

Images of different sizes share one canvas. :func:`zero_outside` makes that exact: before each
operation that looks at neighbours, it sets everything outside an image to zero, the zero padding
that the image would have if it were alone.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from delfjax.ops.cpu import winograd
from delfjax.ops.cpu.products import plain_product, sum_over_images, weight_gradient
from delfjax.types import Array

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# The gradient of a depthwise kernel unrolls the rows of a map: in one piece up to _MOST_ROWS rows,
# otherwise in pieces of _FEW_ROWS. Measured: in pieces, maps of 112 rows and more are as fast or
# faster and compile 2 to 4 times faster, but smaller maps are slower.
_MOST_ROWS, _FEW_ROWS = 64, 16


def dense(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c d"],
    *,
    stride: int,
    pad: tuple[int, int],
    minimal: bool = True,
) -> Float[jax.Array, "b h2 w2 d"]:
    """k×k convolution.

    Args:
        x: maps.
        kernel: taps, input channels, output channels.
        stride: cells from one window to the next.
        pad: zeros before and after each axis.
        minimal: whether a CPU may use minimal filtering, which takes ten times as long to compile.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    minimal = minimal and winograd.fits(kernel, stride)
    result: jax.Array = jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: (
            winograd.convolved(x, kernel, pad) if minimal else _convolved(x, kernel, stride, pad)
        ),
        default=lambda x, kernel: _plain_convolved(x, kernel, stride, pad),
    )
    return result


def _plain_convolved(
    x: jax.Array, kernel: jax.Array, stride: int, pad: tuple[int, int]
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (pad, pad), dimension_numbers=_LAYOUT
    )


_convolved = jax.custom_vjp(_plain_convolved, nondiff_argnums=(2, 3))


def _convolved_forward(
    x: jax.Array, kernel: jax.Array, stride: int, pad: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain_convolved(x, kernel, stride, pad), (x, kernel)


def _convolved_backward(
    stride: int, pad: tuple[int, int], kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradients of ``x`` and of the kernel.

    The kernel's is a matrix product over the cells that its taps meet; as a convolution it would be
    5 times slower.
    """
    x, kernel = kept
    taps = kernel.shape[0]
    if stride == 1:
        around = taps - 1 - pad[0], taps - 1 - pad[1]
        of_x = _plain_convolved(gradient, _transposed_kernel(kernel), 1, around)
    else:
        of_x = _sum_over_windows(
            lambda i, j: plain_product(gradient, kernel[i, j].T), x.shape, taps, stride, pad[0]
        )
    # Leave out the cells behind the last window, which no tap meets.
    used = [(size - 1) * stride + taps for size in gradient.shape[1:3]]
    padded = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))[:, : used[0], : used[1]]

    def of_taps(x: jax.Array, gradient: jax.Array) -> jax.Array:
        met = jnp.concatenate([part for _, _, part in _shifted(x, taps, stride)], axis=-1)
        return weight_gradient(jax.lax.optimization_barrier(met), gradient).reshape(kernel.shape)

    return of_x, sum_over_images(of_taps, padded, gradient, shape=kernel.shape).astype(kernel.dtype)


_convolved.defvjp(_convolved_forward, _convolved_backward)


def _transposed_kernel(kernel: jax.Array) -> jax.Array:
    """The kernel that carries gradients back: the taps in reverse order, each transposed.

    It is built tap by tap, because XLA would fold a transposition of the whole kernel into the
    convolution, which is then 10 times slower inside a loop.
    """
    taps, _, channels, outputs = kernel.shape
    flat = kernel.reshape(-1, channels, outputs)
    return jnp.stack([flat[tap].T for tap in reversed(range(len(flat)))]).reshape(
        taps, taps, outputs, channels
    )


def maximum(
    x: Float[Array, "b h w c"], *, taps: int, stride: int, pad: tuple[int, int]
) -> Float[jax.Array, "b h2 w2 c"]:
    """Largest value of each ``taps`` × ``taps`` window.

    Args:
        x: maps.
        taps: rows and columns of a window.
        stride: cells from one window to the next.
        pad: rows and columns of padding before and after each axis, which is never the largest.
    """
    result: jax.Array = jax.lax.platform_dependent(
        jnp.asarray(x),
        cpu=lambda x: _largest(x, taps, stride, pad),
        default=lambda x: _plain_largest(x, taps, stride, pad),
    )
    return result


def _plain_largest(x: jax.Array, taps: int, stride: int, pad: tuple[int, int]) -> jax.Array:
    lowest = np.array(-np.inf, x.dtype)
    window, strides, around = (1, taps, taps, 1), (1, stride, stride, 1), ((0, 0), pad, pad, (0, 0))
    result: jax.Array = jax.lax.reduce_window(x, lowest, jax.lax.max, window, strides, around)
    return result


_largest = jax.custom_vjp(_plain_largest, nondiff_argnums=(1, 2, 3))


def _largest_forward(
    x: jax.Array, taps: int, stride: int, pad: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The largest values; for the gradient, the tap that met each, the first among equals.

    ``x`` is kept for its shape only.
    """
    padded = jnp.pad(x, ((0, 0), pad, pad, (0, 0)), constant_values=-jnp.inf)
    parts = (part for _, _, part in _shifted(padded, taps, stride))
    largest = next(parts)
    winner = jnp.zeros(largest.shape, jnp.int8)
    for number, part in enumerate(parts, start=1):
        winner = jnp.where(part > largest, jnp.int8(number), winner)
        largest = jnp.maximum(largest, part)
    return largest, (winner, x)


def _largest_backward(
    taps: int,
    stride: int,
    pad: tuple[int, int],
    kept: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array]:
    """Gradient of ``x``, which goes to the cell that won each window.

    XLA's own gradient searches every window again, carrying the place of each cell beside its
    value, and is 10 times slower.
    """
    winner, x = kept
    nothing = jnp.zeros((), gradient.dtype)
    return (
        _sum_over_windows(
            lambda i, j: jnp.where(winner == i * taps + j, gradient, nothing),
            x.shape,
            taps,
            stride,
            pad[0],
        ),
    )


_largest.defvjp(_largest_forward, _largest_backward)


def _sum_over_windows(
    term: Callable[[int, int], jax.Array],
    shape: tuple[int, ...],
    taps: int,
    stride: int,
    before: int,
) -> jax.Array:
    """For each cell, the sum of what the windows that meet it send back.

    Cells that lie one stride apart meet the same taps. The grid of these cells is summed by itself,
    without zeros in between.

    Args:
        term: given ``i`` and ``j``, what tap ``(i, j)`` of each window sends back,
            ``[b, h2, w2, c]``.
        shape: shape of the cells, ``[b, h, w, c]``.
        taps: rows and columns of a window.
        stride: cells from one window to the next; at most ``taps``.
        before: rows and columns of padding before the first cell.
    """
    height, width = ((size + stride - 1) // stride for size in shape[1:3])

    def met(phase: int) -> list[tuple[int, int]]:
        """Taps that meet cell ``stride · q + phase``, each with its window's number minus ``q``."""
        return [
            (tap, (phase + before - tap) // stride)
            for tap in range((phase + before) % stride, taps, stride)
        ]

    def moved(sent: jax.Array, up: int, left: int) -> jax.Array:
        rows, columns = sent.shape[1:3]
        around = (
            (0, 0, 0),
            (-up, height + up - rows, 0),
            (-left, width + left - columns, 0),
            (0, 0, 0),
        )
        return jax.lax.pad(sent, jnp.zeros((), sent.dtype), around)

    def grid(row: int, column: int) -> jax.Array:
        parts = (moved(term(i, j), up, left) for i, up in met(row) for j, left in met(column))
        return functools.reduce(operator.add, parts)

    grids = jnp.stack(
        [
            jnp.stack([grid(row, column) for column in range(stride)], axis=3)
            for row in range(stride)
        ],
        axis=2,
    )
    return grids.reshape(shape[0], height * stride, width * stride, shape[3])[
        :, : shape[1], : shape[2]
    ]


def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c"], *, stride: int
) -> Float[jax.Array, "b h2 w2 c"]:
    """Depthwise k×k convolution without padding."""
    result: jax.Array = jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _shift_and_add(x, kernel, stride),
        default=lambda x, kernel: _grouped(x, kernel, stride),
    )
    return result


def _grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    groups = x.shape[-1]
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "VALID",
        dimension_numbers=_LAYOUT,
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shift_and_add(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    terms = (
        part * kernel[i, j][None, None, None] for i, j, part in _shifted(x, kernel.shape[0], stride)
    )
    return functools.reduce(operator.add, terms)


def _shifted(x: jax.Array, taps: int, stride: int) -> Iterator[tuple[int, int, jax.Array]]:
    """For each tap ``(i, j)`` of a kernel, the cells of ``x`` that it meets, ``[…, h2, w2, c]``."""
    last_row, last_column = ((size - taps) // stride * stride for size in x.shape[-3:-1])
    for i in range(taps):
        for j in range(taps):
            yield i, j, x[..., i : i + last_row + 1 : stride, j : j + last_column + 1 : stride, :]


def _shift_and_add_forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shift_and_add(x, kernel, stride), (x, kernel)


def _shift_and_add_backward(
    stride: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradients of ``x`` and of the kernel.

    JAX's own gradient pads a copy for each shift and strides through memory for each tap, and is 7
    times slower.
    """
    x, kernel = kept
    taps = kernel.shape[0]
    beyond = [x.shape[axis] - (gradient.shape[axis] - 1) * stride - 1 for axis in (1, 2)]
    around = [(taps - 1, rest, stride - 1) for rest in beyond]
    spread = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *around, (0, 0, 0)))

    images, rows, columns, channels = gradient.shape
    # One piece stays in the processor's cache. Its rows are unrolled, and hundreds of them would
    # take long to compile.
    piece = rows if rows <= _MOST_ROWS else _FEW_ROWS
    pieces = math.ceil(rows / piece)
    reach = (piece - 1) * stride + taps
    missing = max(0, (pieces - 1) * piece * stride + reach - x.shape[1])
    x = jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0)))
    whole = jnp.pad(gradient, ((0, 0), (0, pieces * piece - rows), (0, 0), (0, 0)))

    def of_taps(above: jax.Array) -> jax.Array:
        """Gradient of the kernel's row of taps below ``above`` others, ``[taps, c]``.

        One program serves all rows of taps, which divides the compile time by their number.
        """

        def add_piece(
            total: tuple[jax.Array, ...], number: jax.Array
        ) -> tuple[tuple[jax.Array, ...], None]:
            image, first = number // pieces, number % pieces * piece
            met = _rows(x, image, first * stride + above, reach - taps + 1)[::stride]
            its_gradient = _rows(whole, image, first, piece)
            parts = [met[:, j : j + (columns - 1) * stride + 1 : stride] for j in range(taps)]
            products = (
                functools.reduce(
                    operator.add, (part[row] * its_gradient[row] for row in range(piece))
                )
                for part in parts
            )
            added = (old + new.astype(old.dtype) for old, new in zip(total, products, strict=True))
            return tuple(added), None

        # The sum over the columns comes last.
        start = tuple(jnp.zeros((columns, channels), jnp.float32) for _ in range(taps))
        totals, _ = jax.lax.scan(add_piece, start, jnp.arange(images * pieces, dtype=jnp.int32))
        return jnp.stack(totals).sum(axis=1)

    of_kernel = jax.lax.map(of_taps, jnp.arange(taps, dtype=jnp.int32)).astype(kernel.dtype)
    return _shift_and_add(spread, kernel[::-1, ::-1], 1), of_kernel


def _rows(x: jax.Array, image: jax.Array, first: jax.Array, count: int) -> jax.Array:
    """``count`` rows of one image from the ``first``, ``[count, w, c]``."""
    start = (image, first, jnp.zeros((), first.dtype), jnp.zeros((), first.dtype))
    return jax.lax.dynamic_slice(x, start, (1, count, *x.shape[2:]))[0]


_shift_and_add.defvjp(_shift_and_add_forward, _shift_and_add_backward)


def inside(
    extent: Int[Array, "b 2"], height: int, width: int, *, before: int = 0
) -> Bool[jax.Array, "b {height} {width} 1"]:
    """Which cells of a canvas belong to the image in its upper left corner.

    Args:
        extent: rows and columns of each image, cells.
        height: rows of the canvas.
        width: columns of the canvas.
        before: rows and columns of padding in front of the image.
    """
    rows = jnp.arange(height) - before
    columns = jnp.arange(width) - before
    in_rows = (rows >= 0)[None] & (rows[None] < extent[:, :1])
    in_columns = (columns >= 0)[None] & (columns[None] < extent[:, 1:])
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]


def zero_outside(
    x: Float[Array, "b h w c"], extent: Int[Array, "b 2"], *, before: int = 0
) -> Float[jax.Array, "b h w c"]:
    """``x`` with every cell outside its image set to zero."""
    return jnp.where(
        inside(extent, x.shape[1], x.shape[2], before=before), x, jnp.zeros((), x.dtype)
    )
