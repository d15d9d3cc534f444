"""Coordinates under a resize, with pixel centres at integers: resizing by ``s`` maps ``p`` to
``(p + 0.5) · s − 0.5``.

Arrays of NumPy and of JAX both work, inside ``jit`` as well, and come back as what they were.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float

A = TypeVar("A", np.ndarray, jax.Array)


def to_resized_px(points: A, factors: A | float) -> A:
    """Coordinates after a resize.

    Args:
        points: pixels before it, along any axes.
        factors: sizes after it over sizes before it; broadcast against ``points``.
    """
    return (points + 0.5) * factors - 0.5


def to_original_px(points: A, factors: A | float) -> A:
    """Coordinates before a resize, the inverse of :func:`to_resized_px`.

    Args:
        points: pixels after it, along any axes.
        factors: sizes after it over sizes before it; broadcast against ``points``.
    """
    return (points + 0.5) / factors - 0.5


def resize_matrices(factors: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3 3"]:
    """:func:`to_resized_px` of ``(x, y)``, by one factor for both axes, as matrices of homogeneous
    ``(x, y, 1)``."""
    matrices = np.zeros((len(factors), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = factors
    matrices[:, :2, 2] = ((factors - 1) / 2)[:, None]
    matrices[:, 2, 2] = 1.0
    return matrices
