"""Rankings: by local features, global descriptors or both, and their expansion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from delfjax.config.values import PositiveInt, Strict, UnitFloat


@dataclass(frozen=True)
class RankingConfig(Strict):
    """What a database is ranked by: local features, global descriptors, or both."""

    # "local": verified inliers, then votes; "global": cosine; "fused": the weighted mean of the
    # two, each normalised per query.
    by: Literal["local", "global", "fused"] = "local"
    # Which images are verified geometrically: those with most votes ("local"), those with the
    # nearest global descriptors ("global"; as DELG re-ranks), or both shortlists ("both").
    candidates: Literal["local", "global", "both"] = "local"
    # Weight of the local scores in "fused". Source: ours, for DELF with an untrained global
    # descriptor; on the training landmarks of the rendered world, mAP is 0.427 with DELF alone,
    # 0.422 with 0.5, 0.433 with 0.75, 0.434 with this, and with expansion 0.487, 0.471, 0.488 and
    # 0.491. The paper gives DELF 0.25 beside DIR, which was trained on its kind of landmarks.
    local_weight: UnitFloat = 0.85
    # How scores of one query are brought to a common range. "minmax": inliers up to
    # `most_inliers`, and cosines, each from its least to its greatest value over the database;
    # "rank": 1 for the first to 0 for the last; "log": min-max of log(1 + inliers); "zscore":
    # standard deviations above the mean.
    normalisation: Literal["minmax", "rank", "log", "zscore"] = "minmax"
    # Inliers above this count as this many. Source: DELG's code uses 70 for recognition; ours.
    most_inliers: PositiveInt = 60


@dataclass(frozen=True)
class ExpansionConfig(Strict):
    """Query expansion: what the first answers show is searched for, too."""

    # Global descriptors: "none"; "average" (AQE), the mean of the query and its neighbours;
    # "alpha" (αQE), each neighbour weighted by its cosine to the power of `alpha`.
    queries: Literal["none", "average", "alpha"] = "none"
    # Neighbours averaged. Source: Radenović et al. 2018, 10 and α = 3 (unconfirmed).
    neighbours: PositiveInt = 10
    alpha: Annotated[float, Field(ge=0)] = 3.0
    # Beside local features, average only neighbours that they verify, those with `min_inliers` or
    # more. Others would drown a query that has no match. Source: ours.
    verified_neighbours: bool = True
    # Database-side augmentation: neighbours averaged into each database descriptor before the
    # index is built, weighted by rank; 0 for none. Source: DIR, 20.
    database_neighbours: Annotated[int, Field(ge=0)] = 0
    # Local features: "verified" follows links between database images: an image that only an
    # answer resembles is found by way of that answer.
    links: Literal["none", "verified"] = "none"
    # Most links followed after the first answer. Source: chosen on the training landmarks of the
    # rendered world, as are the next two: mAP 0.425 without, 0.472 with 2 links and a decay of 0.7,
    # 0.485 with these.
    hops: Annotated[int, Field(ge=1, le=4)] = 3
    # A path is worth its weakest link, times this for each link after the first.
    decay: Annotated[float, Field(gt=0, le=1)] = 0.85
    # Fewest inliers of a link.
    min_inliers: PositiveInt = 20
    # Whether rankings are expanded before they are fused, or the fused one afterwards.
    order: Literal["before_fusion", "after_fusion"] = "before_fusion"
