"""Pooling of a feature map into one global descriptor, over the image's own cells only.

Sources: MAC and R-MAC (Tolias et al. 2016: three levels of square regions, 40 % overlap, regions
    L2-normalised and summed); GeM (Radenović et al. 2018: exponent 3).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

_GEM_EXPONENT = 3.0
_GEM_FLOOR = 1e-6
_RMAC_LEVELS = 3
_RMAC_OVERLAP = 0.4
# Most extra regions along the longer side of level 1. Six keep the overlap up to an aspect ratio of
# about 4.6; beyond that it falls.
_RMAC_EXTRA = 6
RMAC_REGIONS = sum(level * (level + _RMAC_EXTRA) for level in range(1, _RMAC_LEVELS + 1))


def l2_normalise(x: Float[jax.Array, "*n d"]) -> Float[jax.Array, "*n d"]:
    """Rows scaled to unit length; a row of zeros stays zero."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, jnp.finfo(x.dtype).tiny))


def generalised_mean(
    x: Float[jax.Array, "b n c"], held: Bool[jax.Array, "b n"]
) -> Float[jax.Array, "b c"]:
    """GeM: ``(mean max(x, ε)^p)^(1/p)`` over the cells that ``held`` marks."""
    powered = jnp.maximum(x, _GEM_FLOOR) ** _GEM_EXPONENT
    weight = held[..., None].astype(x.dtype)
    cells = jnp.maximum(weight.sum(axis=1), 1)
    return ((powered * weight).sum(axis=1) / cells) ** (1 / _GEM_EXPONENT)


def maximum(x: Float[jax.Array, "b n c"], held: Bool[jax.Array, "b n"]) -> Float[jax.Array, "b c"]:
    """MAC: the maximum of each channel over the cells that ``held`` marks."""
    return jnp.where(held[..., None], x, -jnp.inf).max(axis=1)


def regional_maximum(
    x: Float[jax.Array, "b n c"],
    cells_yx: Int[jax.Array, "b n 2"],
    regions: Int[jax.Array, "b r 4"],
) -> Float[jax.Array, "b c"]:
    """R-MAC: the sum of the L2-normalised maxima of regions.

    Args:
        x: features of the cells.
        cells_yx: position of each cell on the map.
        regions: ``y0, x0, y1, x1`` of each region, cells, ends exclusive; an empty region adds
            nothing.
    """

    def add(total: jax.Array, region: jax.Array) -> tuple[jax.Array, None]:
        held = jnp.all(
            (cells_yx >= region[:, None, :2]) & (cells_yx < region[:, None, 2:]), axis=-1
        )
        best = maximum(x, held)
        return total + l2_normalise(jnp.where(jnp.isfinite(best), best, 0.0)), None

    start = jnp.zeros((x.shape[0], x.shape[2]), x.dtype)
    total: jax.Array = jax.lax.scan(add, start, jnp.swapaxes(regions, 0, 1))[0]
    return total


def rmac_regions(height: int, width: int) -> Int[np.ndarray, "r 4"]:
    """The square regions of R-MAC on a map of ``height`` × ``width`` cells.

    Returns:
        ``y0, x0, y1, x1`` of each region, ends exclusive, padded with empty regions to
        :data:`RMAC_REGIONS`.
    """
    short, long = min(height, width), max(height, width)
    extra = _extra_regions(short, long)
    regions: list[tuple[int, int, int, int]] = []
    for level in range(1, _RMAC_LEVELS + 1):
        side = max(1, 2 * short // (level + 1))
        along_y = _starts(height, side, level + (extra if height > width else 0))
        along_x = _starts(width, side, level + (extra if width > height else 0))
        regions += [(y, x, y + side, x + side) for y in along_y for x in along_x]
    padded = np.zeros((RMAC_REGIONS, 4), np.int32)
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
