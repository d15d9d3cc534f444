"""The image pyramid: bilinear resizing of images of any size onto canvases of a few static sizes.

Resizing follows the half-pixel convention (:mod:`delfjax.ops.half_pixel`), without antialiasing.
The size of a level is ``round(size · scale)``.

Source: the TF2 extraction code (bilinear, half-pixel centres). The TF1 release used the legacy
sampling grid (D-01).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from delfjax.ops import half_pixel

# The sides of a canvas are multiples of this many pixels.
_MULTIPLE = 16
# Canvases up to this side are always square: they cost little, and it saves programs.
_SQUARE_UP_TO = 256
# Ratio of the shorter to the longer side of an oblong canvas: the most common shape of photographs.
_OBLONG = 0.75

Size = tuple[int, int]


def level_size(size: Size, scale: float) -> Size:
    """Rows and columns of one level of the pyramid of an image of ``size``; at least one pixel
    each."""
    return max(1, math.floor(size[0] * scale + 0.5)), max(1, math.floor(size[1] * scale + 0.5))


def canvas_sides(longest: float) -> list[int]:
    """Longer sides of all canvases for levels up to ``longest`` pixels, largest first, a factor √2
    apart."""
    sides: list[int] = []
    side = float(longest)
    while side > _MULTIPLE * 4:
        sides.append(_round_up(side))
        side /= math.sqrt(2)
    return [*sides, _MULTIPLE * 4]


def canvas_for(size: Size, longest: float) -> Size:
    """Rows and columns of the smallest canvas (landscape, portrait or square) that holds an image
    of ``size``."""
    side = min(side for side in canvas_sides(longest) if side >= max(size))
    short = _round_up(side * _OBLONG)
    if side <= _SQUARE_UP_TO or min(size) > short:
        return side, side
    return (short, side) if size[0] <= size[1] else (side, short)


def canvases(max_side: int, scales: Sequence[float]) -> list[Size]:
    """Every canvas that images of up to ``max_side`` pixels can need, one compiled program each."""
    longest = max_side * max(scales)
    shapes: set[Size] = set()
    for side in canvas_sides(longest):
        short = _round_up(side * _OBLONG)
        shapes.add((side, side))
        if side > _SQUARE_UP_TO:
            shapes |= {(short, side), (side, short)}
    return sorted(shapes)


def resize_onto(
    source: UInt8[jax.Array, "b s t 3"],
    sizes: Int[jax.Array, "b 2"],
    targets: Int[jax.Array, "b 2"],
    canvas: Size,
) -> Float[jax.Array, "b h w 3"]:
    """Resize images from one set of canvases onto another.

    Args:
        source: canvases, each with an image in its upper left corner.
        sizes: rows and columns of each image.
        targets: rows and columns of each image after the resize.
        canvas: rows and columns of the resulting canvases, static.

    Returns:
        Canvases with the resized images in their upper left corners; pixels beyond the images are
        unspecified.
    """

    def one(image: jax.Array, size: jax.Array, target: jax.Array) -> jax.Array:
        y0, y1, fy = _taps(canvas[0], size[0], target[0])
        x0, x1, fx = _taps(canvas[1], size[1], target[1])
        fy, fx = fy[:, None, None], fx[None, :, None]

        def tap(rows: jax.Array, columns: jax.Array) -> jax.Array:
            return image[rows[:, None], columns[None]].astype(jnp.float32)

        upper = tap(y0, x0) * (1 - fx) + tap(y0, x1) * fx
        lower = tap(y1, x0) * (1 - fx) + tap(y1, x1) * fx
        return upper * (1 - fy) + lower * fy

    return jax.vmap(one)(source, sizes, targets)


def place(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], canvas: Size, batch: int
) -> UInt8[np.ndarray, "b h w 3"]:
    """Place images in the upper left corners of ``batch`` canvases, otherwise black."""
    placed = np.zeros((batch, *canvas, 3), np.uint8)
    for slot, image in zip(placed[: len(images)], images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = image
    return placed


def _taps(
    length: int, size: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    factor = size.astype(jnp.float32) / target.astype(jnp.float32)
    position = half_pixel.to_resized_px(jnp.arange(length, dtype=jnp.float32), factor)
    position = jnp.clip(position, 0.0, (size - 1).astype(jnp.float32))
    first = jnp.floor(position).astype(jnp.int32)
    return first, jnp.minimum(first + 1, size - 1), position - first.astype(jnp.float32)


def _round_up(side: float) -> int:
    # The slack keeps rounding errors, as in 1024 · √2 / √2, from giving 1040.
    return math.ceil((side - 1e-6) / _MULTIPLE) * _MULTIPLE
