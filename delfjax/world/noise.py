"""Hashes and smooth noise on lattices: the randomness of surfaces, the same on every device.

The random numbers come from integer arithmetic alone; only their interpolation is floating point.
Values lie in [0, 1).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float32

# Odd constants with well-spread bits (golden-ratio and avalanche multipliers).
_MIX = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)


def hashed(x: Array, y: Array, z: Array, seed: Array) -> Float32[Array, "*rays"]:
    """A number in [0, 1) for each lattice point; coordinates are rounded down."""
    state = _lattice(seed) * jnp.uint32(_MIX[3])
    for coordinate, factor in ((x, _MIX[0]), (y, _MIX[1]), (z, _MIX[2])):
        state = state ^ (_lattice(coordinate) * jnp.uint32(factor))
        state = (state ^ (state >> jnp.uint32(15))) * jnp.uint32(_MIX[1])
    state = state ^ (state >> jnp.uint32(13))
    state = state * jnp.uint32(_MIX[2])
    # 24 bits fill the mantissa.
    state = (state ^ (state >> jnp.uint32(16))) >> jnp.uint32(8)
    number: Array = state.astype(jnp.float32) * jnp.float32(2**-24)
    return number


def parts_of(number: Array) -> tuple[Array, ...]:
    """Split a number from :func:`hashed` into four numbers in [0, 1) of six bits each."""
    bits = (number * jnp.float32(2**24)).astype(jnp.int32)
    return tuple(
        ((bits >> jnp.int32(6 * k)) & jnp.int32(63)).astype(jnp.float32) / 64.0 for k in range(4)
    )


def value_noise(x: Array, y: Array, z: Array, seed: Array) -> Float32[Array, "*rays"]:
    """Smooth noise in three dimensions, with features one unit wide: interpolated hashes of the
    lattice points."""
    cell = tuple(jnp.floor(c) for c in (x, y, z))
    fraction = tuple(_smooth(c - f) for c, f in zip((x, y, z), cell, strict=True))
    layers = []
    for k in (0.0, 1.0):
        rows = []
        for j in (0.0, 1.0):
            left = hashed(cell[0], cell[1] + j, cell[2] + k, seed)
            right = hashed(cell[0] + 1.0, cell[1] + j, cell[2] + k, seed)
            rows.append(left + (right - left) * fraction[0])
        layers.append(rows[0] + (rows[1] - rows[0]) * fraction[1])
    return layers[0] + (layers[1] - layers[0]) * fraction[2]


def plane_noise(x: Array, y: Array, seed: Array) -> Float32[Array, "*rays"]:
    """Smooth noise in two dimensions, with features one unit wide."""
    left, lower = jnp.floor(x), jnp.floor(y)
    across, up = _smooth(x - left), _smooth(y - lower)
    zero = jnp.zeros_like(left)
    rows = []
    for j in (0.0, 1.0):
        first = hashed(left, lower + j, zero, seed)
        second = hashed(left + 1.0, lower + j, zero, seed)
        rows.append(first + (second - first) * across)
    return rows[0] + (rows[1] - rows[0]) * up


def _smooth(share: Array) -> Array:
    return share * share * (3 - 2 * share)


def _lattice(coordinate: Array) -> Array:
    return jnp.floor(coordinate).astype(jnp.int32).astype(jnp.uint32)
