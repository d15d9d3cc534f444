"""Named random streams derived from one seed: a new stream never changes the others."""

from __future__ import annotations

import zlib

import numpy as np


def named_generator(seed: int, name: str) -> np.random.Generator:
    """NumPy generator for the stream ``name`` of ``seed``."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
