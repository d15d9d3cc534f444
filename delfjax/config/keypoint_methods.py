"""Local features other than DELF's: how SIFT and CONGAS find keypoints and describe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from delfjax.config.values import PositiveFloat, PositiveInt, Strict


@dataclass(frozen=True)
class SiftConfig(Strict):
    """SIFT, as OpenCV computes it.

    Source: Lowe 2004, "Distinctive image features from scale-invariant keypoints", and for the
    descriptor Arandjelović and Zisserman 2012, "Three things everyone should know to improve object
    retrieval".
    """

    # Scales per octave, and blur of the first, pixels. Source: Lowe 2004.
    scales_per_octave: PositiveInt = 3
    sigma: PositiveFloat = 1.6
    # Least contrast of an extremum, and largest ratio of its two curvatures. Source: OpenCV, whose
    # contrast of 0.04 is the paper's 0.03 in its own unit.
    contrast: Annotated[float, Field(ge=0)] = 0.04
    edge_ratio: Annotated[float, Field(gt=1)] = 10.0
    # RootSIFT: the square root of the L1-normalised histogram.
    root: bool = True


@dataclass(frozen=True)
class CongasConfig(Strict):
    """CONGAS: extrema of the Laplacian of Gaussian over scale, described by the amplitudes of Gabor
    wavelets on the normalised region.

    The patent (US 8,098,938) gives the procedure and the paper's poster the length of the
    descriptor, 40 after the PCA. Every other number was never published and is ours, chosen on the
    training landmarks of the rendered world.
    """

    # Scales per octave, and the smallest scale of a keypoint, the standard deviation of the blob in
    # pixels.
    scales_per_octave: Annotated[int, Field(ge=2, le=8)] = 3
    sigma: Annotated[float, Field(ge=1)] = 1.6
    # Least response of an extremum, for grey values from 0 to 1, and largest ratio of its two
    # curvatures: a point on an edge is not well placed along it.
    contrast: Annotated[float, Field(ge=0)] = 0.01
    edge_ratio: Annotated[float, Field(gt=1)] = 10.0
    # Half the side of the square region that is described, in scales of the keypoint, and the
    # number of samples along a side.
    radius: PositiveFloat = 6.0
    samples: Annotated[int, Field(ge=8, le=128)] = 32
    # Of each frequency: the wavelength, as a share of the region's side, and the number of places
    # along a side. Low frequencies have few places, because wide wavelets at neighbouring ones
    # would overlap and say the same.
    wavelengths: Annotated[tuple[Annotated[float, Field(ge=0.05)], ...], Field(min_length=1)] = (
        0.25,
        0.5,
        1.0,
    )
    places: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (4, 2, 1)
    # Directions of the wavelets, equally spaced over half a turn.
    directions: PositiveInt = 8
    # Standard deviation of a wavelet's envelope times its wave number. Source: π, for a bandwidth
    # of about an octave.
    envelope: Annotated[float, Field(ge=0.5)] = 3.1416
    # Exponent of the amplitudes before they are normalised.
    power: PositiveFloat = 0.5

    def __post_init__(self) -> None:
        if len(self.wavelengths) != len(self.places):
            raise ValueError(
                f"{len(self.wavelengths)} wavelengths but {len(self.places)} places; each"
                " wavelength needs a number of places"
            )
