"""The config of landmark mining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from delfjax.config.values import PositiveFloat, PositiveInt, Strict


@dataclass(frozen=True)
class MiningConfig(Strict):
    """From photos with positions to landmarks. It is not part of the system, because no search
    depends on it."""

    # Longest step between neighbouring photos of a geographic cluster, metres. Source: 95 % of the
    # photos of a landmark of the rendered world are taken within 120 m of it. With 2 km (and a
    # reach of 8 km), look-alikes are joined and purity falls from 0.96 to 0.35.
    radius_m: PositiveFloat = 200.0
    # Photos of a cluster further apart than this are not compared, metres. Ours: it bounds the
    # number of pairs when a whole city forms one cluster.
    reach_m: PositiveFloat = 1000.0
    # Features used per photo, those with the highest attention scores. Ours: it bounds the cost of
    # a pair.
    max_features: PositiveInt = 500
    # Smallest cosine of two reduced descriptors that form a putative match; −1 admits all. Ours:
    # the decision is left to geometric verification.
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.0
    # Photos that each photo is verified against, those with the most putative matches. Ours: more
    # than a landmark needs.
    shortlist: PositiveInt = 20
    # Fewest inliers that join two photos by an edge. Source: measured on 1280 photos of the
    # rendered world: for 12, 16, 20 and 25, recall is 0.92, 0.88, 0.84 and 0.71, at equal purity.
    # Lower than for a search, because the photos compared here were taken near each other.
    min_inliers: PositiveInt = 16
    # Fewest photos in a community that counts as a landmark: a triangle.
    min_photos: Annotated[int, Field(ge=3)] = 3
