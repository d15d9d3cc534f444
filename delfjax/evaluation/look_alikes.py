"""Which wrong landmark a descriptor takes a photo for: one that looks alike, or any other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from delfjax.evaluation.average_precision import EvaluationError


@dataclass(frozen=True)
class NearestErrors:
    """What the nearest other photo of each photo shows.

    Attributes:
        rate: share of the photos whose nearest shows another landmark.
        inside: share of these where it is one of the same family; NaN without any.
        chance: what ``inside`` would be if the wrong photo were drawn at random.
    """

    rate: float
    inside: float
    chance: float

    def __str__(self) -> str:
        return (
            f"{self.rate:.0%} err; of these {self.inside:.0%} take a look-alike, which chance would"
            f" do in {self.chance:.0%}"
        )


def nearest_errors(
    descriptors: Float[np.ndarray, "n d"],
    landmarks: Int[np.ndarray, " n"],
    families: Int[np.ndarray, " n"],
) -> NearestErrors:
    """Errors of the nearest neighbour under the cosine.

    Args:
        descriptors: one of each photo, of unit length.
        landmarks: that each photo shows.
        families: of that landmark: landmarks of one family look alike.

    Raises:
        EvaluationError: all photos show one landmark.
    """
    other = landmarks[:, None] != landmarks
    if not other.any():
        raise EvaluationError(
            "all photos show one landmark: there is no wrong one to take them for"
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
