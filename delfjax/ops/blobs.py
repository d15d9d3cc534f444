"""Blobs of an image: extrema of its scale-normalised Laplacian of Gaussian over position and scale.

The response at scale σ is ``σ²·∇²(G_σ ∗ I)``; for a blob of standard deviation σ, it is largest in
magnitude at its middle and at σ. Every octave starts from an image of the same blur and is filtered
by the same sampled, separable kernels; the next one starts from every second pixel of its blurred
image. Whatever a canvas holds beyond its image, the image is continued by its outermost pixels.

Source: Lindeberg 1998, "Feature detection with automatic scale selection"; interpolation and edge
    test, Lowe 2004.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from delfjax.ops.cpu.barrier import once
from delfjax.types import storable

# Kernels end where the Gaussian has fallen to e⁻⁸ of its peak.
_REACH = 4.0
# An octave begins with an image of this share of the blur of its first scale, so that all its blurs
# can be reached.
_BASE_SHARE = 0.5
# An extremum found between samples lies no farther from its sample than this.
_MOST_OFFSET = 0.75
# Responses around an extremum count as at least this share of it.
_LEAST_SHARE, _TINY = 0.05, 1e-20
# Least pixels between a blob and the edge of its octave.
_BORDER = 1


@dataclass(frozen=True)
class ScaleSpace:
    """How scales are sampled.

    Attributes:
        sigma: smallest scale of a blob, pixels.
        per_octave: scales per octave.
    """

    sigma: float
    per_octave: int

    @property
    def base(self) -> float:
        """Blur of the image that an octave starts from, pixels of the octave."""
        return _BASE_SHARE * self.sigma

    @property
    def scales(self) -> list[float]:
        """Scales of the responses of an octave, in its pixels: one below the first and one above
        the last at which a blob can be found."""
        steps = range(-1, self.per_octave + 1)
        return [self.sigma * 2 ** (step / self.per_octave) for step in steps]


@storable
@dataclass(frozen=True)
class Blobs:
    """Blobs, the strongest first; those that do not exist have the strength 0.

    Attributes:
        strength: magnitude of the response.
        at_yx: position, pixels.
        sigma: scale, pixels.
        level: the scale of the octave next to which each lies, from 0.
    """

    strength: Float[jax.Array, "*b n"]
    at_yx: Float[jax.Array, "*b n 2"]
    sigma: Float[jax.Array, "*b n"]
    level: Int[jax.Array, "*b n"]


@storable
@dataclass(frozen=True)
class Octave:
    """The image that an octave of the scale space starts from.

    Attributes:
        image: the image on its canvas, continued beyond its own extent.
        extent: rows and columns of the image itself.
    """

    image: Float[jax.Array, "*b h w"]
    extent: Int[jax.Array, "*b 2"]


def first_octave(
    grey: Float[jax.Array, "h w"], extent: Int[jax.Array, " 2"], space: ScaleSpace
) -> Octave:
    """The first octave of an image, at its own resolution.

    Args:
        grey: a canvas with the image in its upper left corner.
        extent: rows and columns of the image.
        space: how scales are sampled.
    """
    return Octave(_smoothed(_continued(grey, extent), space.base), extent)


def next_octave(octave: Octave, space: ScaleSpace, canvas: tuple[int, int]) -> Octave:
    """The next octave, at half the resolution.

    Args:
        octave: the octave before it.
        space: how scales are sampled.
        canvas: rows and columns of its canvas, at least half of those of ``octave``.
    """
    half = blurred(octave, space, 2 * space.base)[::2, ::2]
    extent = (octave.extent + 1) // 2
    room = [(0, side - own) for side, own in zip(canvas, half.shape, strict=True)]
    return Octave(_continued(jnp.pad(half, room), extent), extent)


def blurred(octave: Octave, space: ScaleSpace, sigma: float) -> Float[jax.Array, "h w"]:
    """The image of an octave, blurred to ``sigma`` pixels of the octave in all."""
    return _smoothed(octave.image, _further(space, sigma))


def responses(octave: Octave, space: ScaleSpace) -> Float[jax.Array, "levels h w"]:
    """The scale-normalised Laplacian of Gaussian of an octave at each of its scales."""
    further = [_further(space, sigma) for sigma in space.scales]
    # Kernels of one length, so that one loop serves all scales.
    reach = max(map(_radius, further))
    smooth = np.stack([_widened(gaussian(blur), reach) for blur in further])
    curved = np.stack([_widened(curvature(blur), reach) for blur in further])
    weight = np.array(space.scales, np.float32) ** 2

    def one(kernels: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        smooth, curved, weight = kernels
        along_x = _along(_along(octave.image, curved, 1), smooth, 0)
        along_y = _along(_along(octave.image, smooth, 1), curved, 0)
        return weight * (along_x + along_y)

    found: jax.Array = jax.lax.map(one, (smooth, curved, weight))
    return found


def find_blobs(
    response: Float[jax.Array, "levels h w"],
    extent: Int[jax.Array, " 2"],
    *,
    space: ScaleSpace,
    contrast: float,
    edge_ratio: float,
    count: int,
) -> Blobs:
    """The strongest ``count`` extrema of one octave; positions and scales are in its pixels.

    Args:
        response: from :func:`responses`.
        extent: rows and columns of the image of the octave.
        space: how scales are sampled.
        contrast: least magnitude of a response.
        edge_ratio: largest ratio of the two curvatures of the response at an extremum.
        count: blobs to return.
    """
    inner = response[1:-1]
    # The largest and smallest value among the 27 of each position and its neighbours.
    high = once(_neighbourhood(response, jnp.maximum))
    low = once(_neighbourhood(response, jnp.minimum))
    extreme = ((inner >= high) & (inner >= contrast)) | ((inner <= low) & (inner <= -contrast))
    rows = jnp.arange(inner.shape[1], dtype=jnp.int32)[:, None]
    columns = jnp.arange(inner.shape[2], dtype=jnp.int32)[None]
    inside = (
        (rows >= _BORDER)
        & (rows < extent[0] - _BORDER)
        & (columns >= _BORDER)
        & (columns < extent[1] - _BORDER)
    )
    held = extreme & inside[None] & _is_round(inner, edge_ratio)
    best, level, y, x = _strongest(once(jnp.where(held, jnp.abs(inner), 0.0)), count)
    cube = _cubes(response, level, y, x)
    offset, value = _between(cube)
    scale = (level.astype(jnp.float32) + offset[:, 0]) / space.per_octave
    at_yx = jnp.stack([y, x], axis=-1).astype(jnp.float32) + offset[:, 1:]
    return Blobs(
        strength=jnp.where(best > 0, value, 0.0),
        at_yx=at_yx,
        sigma=space.sigma * 2.0**scale,
        level=level,
    )


def gaussian(sigma: float) -> np.ndarray:
    """A sampled Gaussian whose values sum to 1; of no width, a single 1."""
    if sigma <= 0:
        return np.ones(1, np.float32)
    at = np.arange(-_radius(sigma), _radius(sigma) + 1)
    values = np.exp(-(at**2) / (2 * sigma**2))
    return np.asarray(values / values.sum(), np.float32)


def curvature(sigma: float) -> np.ndarray:
    """A sampled second derivative of a Gaussian: 0 for constants and slopes, 2 for ``x²``."""
    at = np.arange(-_radius(sigma), _radius(sigma) + 1).astype(np.float64)
    weight = np.exp(-(at**2) / (2 * sigma**2))
    weight /= weight.sum()
    values = (at**2 / sigma**4 - 1 / sigma**2) * weight
    values -= values.sum() * weight
    return np.asarray(values * 2 / (values @ at**2), np.float32)


def _radius(sigma: float) -> int:
    return math.ceil(_REACH * sigma)


def _widened(kernel: np.ndarray, radius: int) -> np.ndarray:
    return np.pad(kernel, radius - len(kernel) // 2)


def _further(space: ScaleSpace, sigma: float) -> float:
    """The blur that takes the image of an octave to ``sigma`` in all."""
    return math.sqrt(max(0.0, sigma**2 - space.base**2))


def _smoothed(image: Float[jax.Array, "h w"], sigma: float) -> Float[jax.Array, "h w"]:
    kernel = jnp.asarray(gaussian(sigma))
    return _along(_along(image, kernel, 0), kernel, 1)


def _continued(
    image: Float[jax.Array, "h w"], extent: Int[jax.Array, " 2"]
) -> Float[jax.Array, "h w"]:
    rows = jnp.minimum(jnp.arange(image.shape[0], dtype=jnp.int32), extent[0] - 1)
    columns = jnp.minimum(jnp.arange(image.shape[1], dtype=jnp.int32), extent[1] - 1)
    return image[rows][:, columns]


def _along(
    image: Float[jax.Array, "h w"], kernel: Float[jax.Array, " k"], axis: int
) -> Float[jax.Array, "h w"]:
    """``image`` filtered by a symmetric kernel along one axis.

    A loop: unrolled, it takes as long and several times longer to compile, and XLA's convolution of
    a single channel takes twenty times as long on a CPU.
    """
    radius = len(kernel) // 2
    room = [(0, 0), (0, 0)]
    room[axis] = (radius, radius)
    padded, length = jnp.pad(image, room, mode="edge"), image.shape[axis]

    def shifted(by: int | jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(padded, by, length, axis)

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        return total + kernel[step] * (shifted(step) + shifted(2 * radius - step))

    total: jax.Array = jax.lax.fori_loop(0, radius, add, kernel[radius] * image)
    return total


def _neighbourhood(
    response: jax.Array, extreme: Callable[[jax.Array, jax.Array], jax.Array]
) -> Float[jax.Array, "inner h w"]:
    """The extreme of each inner position and its 26 neighbours; beyond the edges, of those that
    exist."""
    for axis in (1, 2):
        room = [(0, 0)] * 3
        room[axis] = (1, 1)
        padded, length = jnp.pad(response, room, mode="edge"), response.shape[axis]
        parts = [jax.lax.slice_in_dim(padded, by, by + length, axis=axis) for by in range(3)]
        response = extreme(extreme(parts[0], parts[1]), parts[2])
    found: jax.Array = extreme(extreme(response[:-2], response[1:-1]), response[2:])
    return found


def _is_round(inner: Float[jax.Array, "inner h w"], ratio: float) -> jax.Array:
    """Where the curvatures of the response along its two principal directions have one sign and
    differ by at most ``ratio``. Source: Lowe 2004, section 4.1."""
    padded = jnp.pad(inner, [(0, 0), (1, 1), (1, 1)], mode="edge")
    xx = padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] - 2 * inner
    yy = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] - 2 * inner
    xy = (padded[:, 2:, 2:] + padded[:, :-2, :-2] - padded[:, 2:, :-2] - padded[:, :-2, 2:]) / 4
    determinant = xx * yy - xy * xy
    return (determinant > 0) & ((xx + yy) ** 2 * ratio <= (ratio + 1) ** 2 * determinant)


def _strongest(
    strength: Float[jax.Array, "inner h w"], count: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Strength, level, row and column of the strongest positions."""
    levels, height, width = strength.shape
    # Of two by two neighbours, at most one is an extremum, so a quarter of all has to be sorted.
    even = jnp.pad(strength, [(0, 0), (0, height % 2), (0, width % 2)])
    blocks = even.reshape(levels, (height + 1) // 2, 2, (width + 1) // 2, 2)
    blocks = blocks.transpose(0, 1, 3, 2, 4).reshape(-1, 4)
    kept = min(count, len(blocks))
    best, index = jax.lax.top_k(blocks.max(axis=1), kept)
    corner = jnp.argmax(blocks[index], axis=1).astype(jnp.int32)
    best, index, corner = (jnp.pad(part, (0, count - kept)) for part in (best, index, corner))
    across = (width + 1) // 2
    level, block = jnp.divmod(index, (height + 1) // 2 * across)
    y, x = jnp.divmod(block, across)
    return best, level, 2 * y + corner // 2, 2 * x + corner % 2


def _cubes(
    response: jax.Array, level: jax.Array, y: jax.Array, x: jax.Array
) -> Float[jax.Array, "n 3 3 3"]:
    """The response around each position, along scale, y and x; ``level`` counts inner levels."""
    _, height, width = response.shape
    around = jnp.arange(3, dtype=jnp.int32)
    rows = jnp.clip(y[:, None] + around[None] - 1, 0, height - 1)
    columns = jnp.clip(x[:, None] + around[None] - 1, 0, width - 1)
    levels = level[:, None] + around[None]
    return response[levels[:, :, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def _between(
    cube: Float[jax.Array, "n 3 3 3"],
) -> tuple[Float[jax.Array, "n 3"], Float[jax.Array, " n"]]:
    """Offset of the extremum from the middle of each cube, in samples along scale, y and x, and its
    magnitude.

    Quadratics are fitted to the logarithm of the magnitudes, because a peak of the response is
    closer to a Gaussian than to a parabola: first over the plane at each scale, then over the peaks
    of the three planes. One quadratic over all three dimensions (Brown and Lowe 2002) is off by up
    to a tenth of a sample and 4 % of the scale where a small blob lies between pixels.
    """
    size = jnp.maximum(jnp.abs(cube[:, 1, 1, 1]), _TINY)
    sign = jnp.where(cube[:, 1, 1, 1] < 0, -1.0, 1.0)
    share = cube * (sign / size)[:, None, None, None]
    planes = jnp.log(jnp.maximum(share, _LEAST_SHARE))
    place, height = jax.vmap(_peak, in_axes=1, out_axes=1)(planes)
    up, middle, down = height[:, 2], height[:, 1], height[:, 0]
    slope, bend = (up - down) / 2, jnp.minimum(up + down - 2 * middle, -_TINY)
    step = jnp.clip(-slope / bend, -_MOST_OFFSET, _MOST_OFFSET)
    offset = jnp.concatenate([step[:, None], place[:, 1]], axis=-1)
    return offset, size * jnp.exp(middle + slope * step / 2)


def _peak(
    plane: Float[jax.Array, "n 3 3"],
) -> tuple[Float[jax.Array, "n 2"], Float[jax.Array, " n"]]:
    """Offset (y, x) and value of the maximum of the quadratic through the middle of each plane; the
    middle itself where it has none."""
    middle = plane[:, 1, 1]
    dy, dx = (plane[:, 2, 1] - plane[:, 0, 1]) / 2, (plane[:, 1, 2] - plane[:, 1, 0]) / 2
    yy = plane[:, 2, 1] + plane[:, 0, 1] - 2 * middle
    xx = plane[:, 1, 2] + plane[:, 1, 0] - 2 * middle
    xy = (plane[:, 2, 2] + plane[:, 0, 0] - plane[:, 2, 0] - plane[:, 0, 2]) / 4
    determinant = yy * xx - xy * xy
    concave = (determinant > _TINY) & (yy < 0)
    safe = jnp.where(concave, determinant, 1.0)
    offset = jnp.stack([xy * dx - xx * dy, xy * dy - yy * dx], axis=-1) / safe[:, None]
    offset = jnp.where(concave[:, None], jnp.clip(offset, -_MOST_OFFSET, _MOST_OFFSET), 0.0)
    return offset, middle + (dy * offset[:, 0] + dx * offset[:, 1]) / 2
