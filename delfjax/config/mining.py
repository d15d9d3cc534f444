"""The mining of landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from delfjax.config.values import PositiveFloat, PositiveInt, Strict


@dataclass(frozen=True)
class MiningConfig(Strict):
    """From photos with positions to landmarks. No section of the system: no search depends on
    it."""

    # Longest step between photos of one geographic cluster, metres. Source: photos of one landmark
    # of the world are taken within 120 m of it (95 %); with 2 km (reach 8 km), look-alikes are
    # joined and purity falls from 0.96 to 0.35.
    radius_m: PositiveFloat = 200.0
    # Photos of a cluster further apart than this are not compared, metres. Ours: bounds the pairs
    # of a city that is one cluster.
    reach_m: PositiveFloat = 1000.0
    # Features of each photo that take part, those with the highest scores. Ours: bounds the cost of
    # a pair.
    max_features: PositiveInt = 500
    # Cosine of two reduced descriptors below which they are no putative match; −1 admits all. Ours:
    # geometry decides.
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.0
    # Photos that each photo is verified against: those with the most putative matches. Ours: more
    # than a landmark needs.
    shortlist: PositiveInt = 20
    # Inliers from which two photos are joined by an edge. Source: measured on 1280 photos of the
    # world; of 12, 16, 20 and 25 recall is 0.92, 0.88, 0.84 and 0.71, purity the same. Fewer than a
    # search asks for, since neighbours cannot be far apart.
    min_inliers: PositiveInt = 16
    # Photos below which a community is no landmark: a triangle.
    min_photos: Annotated[int, Field(ge=3)] = 3
