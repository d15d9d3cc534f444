"""Mining landmarks from photos of which only the position is known.

Photos taken near each other form geographic clusters (:mod:`delfjax.datasets.geography`). Within a
cluster, verified matches between photos make a visual graph (:mod:`delfjax.mining.visual_graph`).
Its communities are the landmarks (:mod:`delfjax.mining.communities`). Photos that arrive later can
be added to a result, which is then the same as if all had been mined at once.

Source: how Google-Landmarks was built (Noh et al. 2017, section 2), after Zheng et al. 2009, "Tour
    the World".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from delfjax.config import DelfConfig, MiningConfig, VerificationConfig
from delfjax.datasets.geography import geographic_clusters, geometric_median, known_positions
from delfjax.errors import DelfjaxError
from delfjax.features.reduction import Reduction, reduction_for
from delfjax.features.store import FeatureStore
from delfjax.mining.communities import landmark_communities
from delfjax.mining.visual_graph import (
    ComparedPhotos,
    PhotoSource,
    VisualGraph,
    build_visual_graph,
)


class MiningError(DelfjaxError):
    """Photos that cannot be mined, or an earlier result that they cannot be added to."""


@dataclass(frozen=True, eq=False)
class MinedLandmarks:
    """Mined landmarks, and everything needed to add photos to them.

    Attributes:
        config: settings of the mining.
        verification: settings of the geometric verification.
        reduction: reduction of the descriptors, fitted on the photos of the first mining.
        names: photos, sorted.
        positions_deg: latitude and longitude of each, degrees; NaN where not known.
        clusters: geographic cluster of each; −1 where the position is not known.
        graph: verified pairs of photos.
        landmarks: mined landmark of each photo, numbered from 0 by falling size; −1 for none.
        centres_deg: latitude and longitude of each landmark, the geometric median of its photos,
            degrees.
        representatives: for each landmark, its photo with the most inliers to its other photos.
    """

    config: MiningConfig
    verification: VerificationConfig
    reduction: Reduction
    names: tuple[str, ...]
    positions_deg: Float[np.ndarray, "n 2"]
    clusters: Int64[np.ndarray, " n"]
    graph: VisualGraph
    landmarks: Int64[np.ndarray, " n"]
    centres_deg: Float[np.ndarray, "landmarks 2"]
    representatives: Int64[np.ndarray, " landmarks"]

    def photos(self, landmark: int) -> Int64[np.ndarray, " k"]:
        """Numbers of the photos of a landmark."""
        return np.flatnonzero(self.landmarks == landmark).astype(np.int64)

    def __str__(self) -> str:
        held = int((self.landmarks >= 0).sum())
        clusters = int(self.clusters.max(initial=-1)) + 1
        unknown = int((self.clusters < 0).sum())
        return (
            f"{len(self.centres_deg)} landmarks hold {held} of {len(self.names)} photos "
            f"({unknown} without a position) in {clusters} clusters; "
            f"{len(self.graph.pairs)} pairs verified"
        )


def mine_landmarks(
    store: FeatureStore,
    positions: Mapping[str, tuple[float, float]],
    *,
    config: DelfConfig,
    mining: MiningConfig,
    known: MinedLandmarks | None = None,
    reduction: Reduction | None = None,
    progress: bool = True,
) -> MinedLandmarks:
    """Mine the photos of a store that have an entry in ``positions``.

    Args:
        store: features of the photos.
        positions: photo → latitude and longitude, degrees; NaN where not known.
        config: settings of reduction and verification, and the seed.
        mining: settings of the mining itself.
        known: an earlier result to add photos to. All its photos must be here, at the same
            positions; none of its pairs is compared again.
        reduction: reduction of the descriptors. ``known`` brings its own; without either, one is
            fitted on the store.
        progress: show a progress bar.

    Raises:
        MiningError: no photo has both features and a position, a position is not on the globe, or
            ``known`` was mined with other settings, photos or positions.
        ReductionError: the store holds too few descriptors.
        StoreError: the store is damaged.
    """
    names = tuple(sorted(name for name in positions if name in store))
    if not names:
        raise MiningError(
            f"{store.path}: none of its {len(store)} photos has a position; "
            "positions are looked up by the names that the photos have in the store"
        )
    if known is not None:
        reduction = known.reduction
    reduction = reduction or reduction_for(store, config=config.reduction, seed=config.seed)
    if reduction.extraction_hash != store.config_hash:
        raise MiningError(
            f"{store.path}: extracted with config {store.config_hash}, but the reduction was "
            f"fitted with {reduction.extraction_hash}; use a store of those settings, or mine anew"
        )
    where = np.array([positions[name] for name in names], np.float64).reshape(-1, 2)
    _require_on_globe(names, where)
    clusters = geographic_clusters(where, radius_m=mining.radius_m)
    compared = ComparedPhotos.none(len(names))
    if known is not None:
        compared = _carried_over(known, names, where, mining, config.verification)
    graph = build_visual_graph(
        PhotoSource(store, reduction, names, mining.max_features),
        where,
        clusters,
        compared=compared,
        mining=mining,
        verification=config.verification,
        progress=progress,
    )
    landmarks = landmark_communities(graph.pairs, graph.inliers, count=len(names), config=mining)
    return MinedLandmarks(
        config=mining,
        verification=config.verification,
        reduction=reduction,
        names=names,
        positions_deg=where,
        clusters=clusters,
        graph=graph,
        landmarks=landmarks,
        centres_deg=_centres(where, landmarks),
        representatives=_representatives(graph, landmarks),
    )


def _carried_over(
    known: MinedLandmarks,
    names: tuple[str, ...],
    positions_deg: Float[np.ndarray, "n 2"],
    mining: MiningConfig,
    verification: VerificationConfig,
) -> ComparedPhotos:
    """The photos of an earlier result, by the numbers that they have now."""
    if (known.config, known.verification) != (mining, verification):
        raise MiningError(
            "the earlier result was mined with other settings; use the same, or mine anew"
        )
    place = {name: number for number, name in enumerate(names)}
    gone = [name for name in known.names if name not in place]
    if gone:
        raise MiningError(
            f"{gone[0]}: was mined before and has no features or position now; mine anew without it"
        )
    moved = np.array([place[name] for name in known.names], np.int64)
    same = (positions_deg[moved] == known.positions_deg) | (
        np.isnan(positions_deg[moved]) & np.isnan(known.positions_deg)
    )
    if not same.all():
        name = known.names[int(np.flatnonzero(~same.all(axis=1))[0])]
        raise MiningError(f"{name}: has another position than when it was mined before; mine anew")
    clusters = np.full(len(names), -1, np.int64)
    clusters[moved] = known.clusters
    # Both lists of names are sorted, so renumbering keeps the pairs in ascending order.
    return ComparedPhotos(
        VisualGraph(moved[known.graph.pairs], known.graph.votes, known.graph.inliers), clusters
    )


def _require_on_globe(names: tuple[str, ...], positions_deg: Float[np.ndarray, "n 2"]) -> None:
    wrong = known_positions(positions_deg) & (np.abs(positions_deg) > (90.0, 180.0)).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        latitude, longitude = positions_deg[row]
        raise MiningError(
            f"{names[row]}: position ({latitude:g}, {longitude:g}) is not on the globe; "
            "expected a latitude from −90 to 90 and a longitude from −180 to 180 degrees"
        )


def _centres(
    positions_deg: Float[np.ndarray, "n 2"], landmarks: Int64[np.ndarray, " n"]
) -> Float[np.ndarray, "landmarks 2"]:
    count = int(landmarks.max(initial=-1)) + 1
    centres = [geometric_median(positions_deg[landmarks == number]) for number in range(count)]
    return np.array(centres, np.float64).reshape(-1, 2)


def _representatives(
    graph: VisualGraph, landmarks: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " landmarks"]:
    """The photo of each landmark with the most inliers to its other photos.

    Ties go to the photo with the lower number.
    """
    same = landmarks[graph.pairs[:, 0]] == landmarks[graph.pairs[:, 1]]
    total = np.zeros(len(landmarks), np.int64)
    for end in (0, 1):
        np.add.at(total, graph.pairs[same, end], graph.inliers[same])
    order = np.lexsort((np.arange(len(landmarks)), -total, landmarks))
    numbers, first = np.unique(landmarks[order], return_index=True)
    return order[first[numbers >= 0]].astype(np.int64)
