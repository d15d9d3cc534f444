"""Pooling of a feature map into one global descriptor, over the image's own cells only.

Sources: MAC and R-MAC (Tolias et al. 2016: levels of square regions, 40 % overlap, regions
    L2-normalised and summed; siaMAC's code adds the whole image); shift and projection of each
    region (Gordo et al. 2016, DIR); GeM (Radenović et al. 2018: exponent 3).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

# Exponent of GeM, and levels of R-MAC, where nothing else is asked for.
GEM_EXPONENT = 3.0
RMAC_LEVELS = 3
_GEM_FLOOR = 1e-6
_RMAC_OVERLAP = 0.4
# Most extra regions along the longer side of level 1. Six keep the overlap up to an aspect ratio of
# about 4.6; beyond that it falls.
_RMAC_EXTRA = 6


def l2_normalise(x: Float[jax.Array, "*n d"]) -> Float[jax.Array, "*n d"]:
    """Rows scaled to unit length; a row of zeros stays zero."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, jnp.finfo(x.dtype).tiny))


def generalised_mean(
    x: Float[jax.Array, "b n c"],
    held: Bool[jax.Array, "b n"],
    exponent: float | Float[jax.Array, ""] = GEM_EXPONENT,
) -> Float[jax.Array, "b c"]:
    """GeM: ``(mean max(x, ε)^p)^(1/p)`` over the cells that ``held`` marks.

    Args:
        x: features of the cells; ``x^p`` must not overflow, which features of at most 1 never do.
        held: the cells that count.
        exponent: ``p``; a number, or an array where it is learned. 1 is the mean, and the larger it
            is, the closer to the maximum.
    """
    powered = jnp.maximum(x, _GEM_FLOOR) ** exponent
    weight = held[..., None].astype(x.dtype)
    cells = jnp.maximum(weight.sum(axis=1), 1)
    return ((powered * weight).sum(axis=1) / cells) ** (1 / exponent)


def maximum(x: Float[jax.Array, "b n c"], held: Bool[jax.Array, "b n"]) -> Float[jax.Array, "b c"]:
    """MAC: the maximum of each channel over the cells that ``held`` marks."""
    return jnp.where(held[..., None], x, -jnp.inf).max(axis=1)


def regional_maximum(
    x: Float[jax.Array, "b n c"],
    cells_yx: Int[jax.Array, "b n 2"],
    regions: Int[jax.Array, "b r 4"],
    project: Callable[[Float[jax.Array, "b c"]], Float[jax.Array, "b d"]] | None = None,
) -> Float[jax.Array, "b d"]:
    """R-MAC: the sum of the L2-normalised maxima of regions.

    Args:
        x: features of the cells.
        cells_yx: position of each cell on the map.
        regions: ``y0, x0, y1, x1`` of each region, cells, ends exclusive; an empty region adds
            nothing.
        project: applied to the descriptor of each region before the regions are summed, such as
            :func:`projected`.
    """

    def add(total: jax.Array, region: jax.Array) -> tuple[jax.Array, None]:
        held = jnp.all(
            (cells_yx >= region[:, None, :2]) & (cells_yx < region[:, None, 2:]), axis=-1
        )
        best = maximum(x, held)
        described = l2_normalise(jnp.where(jnp.isfinite(best), best, 0.0))
        if project is not None:
            # The shift would make something of a region without cells.
            described = jnp.where(jnp.any(held, axis=1)[:, None], project(described), 0.0)
        return total + described, None

    first = x[:, 0]
    shape = first if project is None else jax.eval_shape(project, first)
    start = jnp.zeros(shape.shape, shape.dtype)
    total: jax.Array = jax.lax.scan(add, start, jnp.swapaxes(regions, 0, 1))[0]
    return total


def projected(
    x: Float[jax.Array, "*n c"],
    shift: Float[jax.Array, " c"],
    matrix: Float[jax.Array, "c d"],
) -> Float[jax.Array, "*n d"]:
    """L2-normalised rows of ``(x − shift) · matrix``, in full precision on every device."""
    broadcast = jnp.reshape(shift, (1,) * (x.ndim - 1) + shift.shape)
    return l2_normalise(jnp.matmul(x - broadcast, matrix, precision="highest"))


def most_regions(levels: int = RMAC_LEVELS, *, whole_image: bool = False) -> int:
    """Number of rows of :func:`rmac_regions`: the most regions that a map of any shape has."""
    return sum(level * (level + _RMAC_EXTRA) for level in range(1, levels + 1)) + whole_image


def rmac_regions(
    height: int, width: int, *, levels: int = RMAC_LEVELS, whole_image: bool = False
) -> Int[np.ndarray, "r 4"]:
    """The square regions of R-MAC on a map of ``height`` × ``width`` cells.

    The squares of level ``l`` have sides of ``⌊2 · shorter side / (l + 1)⌋``. There are ``l`` of
    them along the shorter side of the map and, unless it is square, one to six more along the
    longer: as many as bring the overlap of level 1 closest to 40 %.

    Args:
        height: rows of the map, cells.
        width: columns of the map, cells.
        levels: number of levels.
        whole_image: make the whole map one more region. On a square map, it then counts twice, as
            it does in siaMAC's code.

    Returns:
        ``y0, x0, y1, x1`` of each region, ends exclusive, padded with empty regions to
        :func:`most_regions`.
    """
    short, long = min(height, width), max(height, width)
    extra = _extra_regions(short, long)
    regions: list[tuple[int, int, int, int]] = []
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        along_y = _starts(height, side, level + (extra if height > width else 0))
        along_x = _starts(width, side, level + (extra if width > height else 0))
        regions += [(y, x, y + side, x + side) for y in along_y for x in along_x]
    regions += [(0, 0, height, width)] if whole_image else []
    padded = np.zeros((most_regions(levels, whole_image=whole_image), 4), np.int32)
    padded[: len(regions)] = regions
    return padded


def _extra_regions(short: int, long: int) -> int:
    if short == long:
        return 0
    steps = np.arange(1, _RMAC_EXTRA + 1)
    overlap = 1 - (long - short) / steps / short
    return int(steps[np.argmin(np.abs(overlap - _RMAC_OVERLAP))])


def _starts(length: int, side: int, count: int) -> list[int]:
    if count == 1:
        return [(length - side) // 2]
    return [int(start) for start in np.floor(np.linspace(0, length - side, count))]
