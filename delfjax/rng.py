"""Named random streams derived from the one seed, so that adding a stream never shifts another."""

from __future__ import annotations

import zlib

import jax
import numpy as np


def named_key(seed: int, name: str) -> jax.Array:
    """JAX key of the stream ``name`` under ``seed``."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def named_generator(seed: int, name: str) -> np.random.Generator:
    """NumPy generator of the stream ``name`` under ``seed``."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
