"""Square regions around keypoints: their direction, and their grey values at a fixed size, scale
and direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

# Directions at which the density of gradients is compared, and its harmonics. With eight, it is as
# smooth as a histogram of 36 bins after the smoothing that SIFT gives it.
_DIRECTIONS, _HARMONICS = 72, 8
# Newton steps from the best of those directions to the peak.
_STEPS = 3
# Harmonics are damped as by a Gaussian of this width, radians.
_WIDTH = 0.2
# Standard deviation of the Gaussian that weights gradients, as a share of half the region's side.
# Source: Lowe 2004, 1.5 scales.
_WINDOW = 0.5


@dataclass(frozen=True)
class Stack:
    """Images of several sizes in one array, one after the other, row by row.

    Attributes:
        pixels: all of them.
        start: place of each image's first pixel.
        width: pixels in a row of each image.
        extent: rows and columns of each that may be read; outside, its edge is continued.
    """

    pixels: Float[jax.Array, " total"]
    start: Int[jax.Array, " images"]
    width: Int[jax.Array, " images"]
    extent: Int[jax.Array, "images 2"]


def sample_regions(
    stack: Stack,
    image: Int[jax.Array, " n"],
    middle_yx: Float[jax.Array, "n 2"],
    *,
    spacing: Float[jax.Array, " n"],
    direction: Float[jax.Array, " n"],
    samples: int,
) -> Float[jax.Array, "n s s"]:
    """Regions by bilinear interpolation.

    Args:
        stack: the images.
        image: the image of each region.
        middle_yx: its middle, pixels of that image.
        spacing: distance of its samples, pixels of that image.
        direction: direction of the region's x axis, radians from the image's x axis towards its y
            axis.
        samples: samples along a side.
    """
    axis = np.asarray(np.arange(samples) - (samples - 1) / 2, np.float32)
    across, down = axis[None, None, :], axis[None, :, None]
    cosine, sine = (turn(direction)[:, None, None] for turn in (jnp.cos, jnp.sin))
    step = spacing[:, None, None]
    y = middle_yx[:, 0, None, None] + step * (sine * across + cosine * down)
    x = middle_yx[:, 1, None, None] + step * (cosine * across - sine * down)
    start, width = stack.start[image][:, None, None], stack.width[image][:, None, None]
    last = (stack.extent[image] - 1)[:, :, None, None]
    y = jnp.clip(y, 0.0, last[:, 0].astype(jnp.float32))
    x = jnp.clip(x, 0.0, last[:, 1].astype(jnp.float32))
    y0, x0 = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    y1, x1 = jnp.minimum(y0 + 1, last[:, 0]), jnp.minimum(x0 + 1, last[:, 1])
    fy, fx = y - y0.astype(jnp.float32), x - x0.astype(jnp.float32)

    def at(row: jax.Array, column: jax.Array) -> jax.Array:
        return stack.pixels[start + row * width + column]

    upper = at(y0, x0) * (1 - fx) + at(y0, x1) * fx
    lower = at(y1, x0) * (1 - fx) + at(y1, x1) * fx
    return upper * (1 - fy) + lower * fy


def directions(
    regions: Float[jax.Array, "n s s"], *, share: float
) -> tuple[Float[jax.Array, "n 2"], Bool[jax.Array, "n 2"]]:
    """The two main directions of the gradients of each region.

    The density of gradient directions, weighted by magnitude and by a Gaussian around the middle,
    is kept as its first Fourier coefficients, so it turns exactly as the gradients do.

    Args:
        regions: grey values of regions that are not turned.
        share: density of a second direction, of that of the first, from which on it counts.

    Returns:
        Directions, radians from the x axis towards the y axis; and which of them there are. A
        region without gradients has the direction 0.
    """
    coefficients = _harmonics(regions)
    angles = np.arange(_DIRECTIONS) * 2 * np.pi / _DIRECTIONS
    orders = np.arange(1, _HARMONICS + 1)
    waves = np.exp(1j * angles[None] * orders[:, None]).astype(np.complex64)
    varying = 2 * jnp.real(jnp.matmul(coefficients[:, 1:], waves, precision="highest"))
    density = jnp.real(coefficients[:, :1]) + varying
    before, after = jnp.roll(density, 1, axis=1), jnp.roll(density, -1, axis=1)
    peaks = jnp.where((density >= before) & (density > after), density, -jnp.inf)
    height, best = jax.lax.top_k(peaks, 2)
    angle = best.astype(jnp.float32) * (2 * math.pi / _DIRECTIONS)
    for _ in range(_STEPS):
        angle = _climbed(coefficients, angle)
    found = jnp.isfinite(height) & (height >= share * height[:, :1])
    angle = jnp.where(found, jnp.mod(angle, 2 * math.pi), 0.0)
    return angle, found.at[:, 0].set(True)


def _harmonics(regions: Float[jax.Array, "n s s"]) -> Complex[jax.Array, "n harmonics"]:
    """Fourier coefficients of the density of gradient directions."""
    dy = (regions[:, 2:, 1:-1] - regions[:, :-2, 1:-1]) / 2
    dx = (regions[:, 1:-1, 2:] - regions[:, 1:-1, :-2]) / 2
    samples = regions.shape[1]
    axis = (np.arange(1, samples - 1) - (samples - 1) / 2) / (samples / 2)
    distance2 = axis[:, None] ** 2 + axis[None] ** 2
    weight = np.where(distance2 <= 1, np.exp(-distance2 / (2 * _WINDOW**2)), 0.0)
    weight = weight[None].astype(np.float32)
    size = jnp.sqrt(dx**2 + dy**2)
    safe = jnp.where(size > 0, size, 1.0)
    cosine, sine = dx / safe, dy / safe
    mass = size * weight
    real, imaginary = jnp.ones_like(cosine), jnp.zeros_like(sine)
    found = []
    for order in range(_HARMONICS + 1):
        damping = float(np.exp(-((order * _WIDTH) ** 2) / 2))
        sums = [jnp.sum(mass * part, axis=(1, 2)) for part in (real, -imaginary)]
        found.append(damping * jax.lax.complex(*sums))
        real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
    return jnp.stack(found, axis=1)


def _climbed(
    coefficients: Complex[jax.Array, "n harmonics"], angle: Float[jax.Array, "n 2"]
) -> Float[jax.Array, "n 2"]:
    """One Newton step towards the peak of the density, by at most half the distance between
    directions."""
    orders = np.arange(1, _HARMONICS + 1, dtype=np.float32)[None, None]
    turned = angle[..., None] * orders
    waves = coefficients[:, None, 1:] * jax.lax.complex(jnp.cos(turned), jnp.sin(turned))
    slope = -jnp.sum(orders * jnp.imag(waves), axis=-1)
    bend = -jnp.sum(orders**2 * jnp.real(waves), axis=-1)
    step = jnp.where(bend < 0, -slope / jnp.minimum(bend, -1e-20), 0.0)
    most = math.pi / _DIRECTIONS
    return angle + jnp.clip(step, -most, most)
