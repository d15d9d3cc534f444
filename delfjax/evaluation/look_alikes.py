"""How often a descriptor confuses landmarks, and whether with one that looks alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from delfjax.evaluation.average_precision import EvaluationError


@dataclass(frozen=True)
class NearestErrors:
    """Errors of the nearest neighbour of each photo among the other photos.

    Attributes:
        rate: share of the photos whose nearest neighbour shows another landmark: the errors.
        inside: share of the errors where that landmark is of the same family; NaN without errors.
        chance: what ``inside`` would be if the wrong photo were drawn at random.
    """

    rate: float
    inside: float
    chance: float

    def __str__(self) -> str:
        if not self.rate:
            return "no photo is taken for another landmark"
        return (
            f"{self.rate:.0%} of the photos are taken for another landmark, "
            f"{self.inside:.0%} of them for a look-alike ({self.chance:.0%} by chance)"
        )


def nearest_errors(
    descriptors: Float[np.ndarray, "n d"],
    landmarks: Int[np.ndarray, " n"],
    families: Int[np.ndarray, " n"],
) -> NearestErrors:
    """Errors of the nearest neighbour by cosine similarity.

    Args:
        descriptors: descriptor of each photo, of unit length.
        landmarks: landmark that each photo shows.
        families: family of that landmark; landmarks of one family look alike.

    Raises:
        EvaluationError: all photos show the same landmark.
    """
    other = landmarks[:, None] != landmarks
    if not other.any():
        raise EvaluationError(
            "all photos show one landmark, but errors need photos of at least two"
        )
    cosine = descriptors @ descriptors.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = cosine.argmax(axis=1)
    wrong = landmarks[nearest] != landmarks
    alike = other & (families[:, None] == families)
    return NearestErrors(
        rate=float(wrong.mean()),
        inside=(
            float((families[nearest] == families)[wrong].mean()) if wrong.any() else float("nan")
        ),
        chance=float((alike.sum(axis=1) / other.sum(axis=1)).mean()),
    )
