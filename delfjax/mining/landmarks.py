"""Mining landmarks from photos with positions: geographic clusters, in each a visual graph, whose
communities are landmarks.

Photos taken near each other are compared by their mutual nearest descriptors; each is verified
geometrically against those it shares most with, and joined by an edge to those with enough inliers.
What is found of a pair depends on the two photos alone, and which pairs are verified on the votes
alone: photos that come later are added without comparing any pair of earlier ones again, and the
result is the same as if all of them had been there from the start.

Source: how Google-Landmarks was built (Noh et al. 2017, section 2), after Zheng et al. 2009, "Tour
    the World".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from tqdm.auto import tqdm

from delfjax.config import DelfConfig, MiningConfig, VerificationConfig
from delfjax.datasets.geography import (
    geographic_clusters,
    geometric_median,
    known_positions,
    pairs_within,
)
from delfjax.errors import DelfjaxError
from delfjax.features.reduction import Reduction, reduction_for
from delfjax.features.store import FeatureStore
from delfjax.mining.landmark_graph import landmark_communities
from delfjax.ops.matching import mutual_nearest
from delfjax.retrieval.verification import verify
from delfjax.types import Matches

# Pairs of a compiled call that matches: about ten megabytes for each of its arrays.
_LANES = 16
# Pairs that are matched again and verified together, and photos whose features are in memory
# together (clusters are not cut).
_VERIFIED_TOGETHER, _PHOTOS_TOGETHER = 1024, 4096


class MiningError(DelfjaxError):
    """Photos that cannot be mined, or an earlier result that they cannot be added to."""


@dataclass(frozen=True, eq=False)
class VisualGraph:
    """Verified pairs of photos.

    Attributes:
        pairs: numbers ``i < j`` of the photos, in ascending order.
        votes: putative matches of each pair.
        inliers: verified matches of each pair.
    """

    pairs: Int64[np.ndarray, "pairs 2"]
    votes: Int64[np.ndarray, " pairs"]
    inliers: Int64[np.ndarray, " pairs"]


@dataclass(frozen=True, eq=False)
class MinedLandmarks:
    """What was mined, and what it takes to add photos to it.

    Attributes:
        config: how it was mined.
        verification: how pairs were verified.
        reduction: of the descriptors, fitted on the photos that were mined first.
        names: photos, sorted.
        positions_deg: latitude and longitude of each, degrees; NaN where not known.
        clusters: geographic cluster of each; −1 where the position is not known.
        graph: verified pairs.
        landmarks: mined landmark of each photo, the largest first from 0; −1 for none.
        centres_deg: latitude and longitude of each landmark: the geometric median of its photos.
        representatives: photo of each landmark with the most inliers to others of it.
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
        held, clusters = int((self.landmarks >= 0).sum()), int(self.clusters.max(initial=-1)) + 1
        unknown = int((self.clusters < 0).sum())
        return (
            f"{len(self.centres_deg)} landmarks hold {held} of {len(self.names)} photos ({unknown}"
            f" without a position) in {clusters} clusters; {len(self.graph.pairs)} pairs verified"
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
        positions: latitude and longitude of each, degrees; NaN where not known.
        config: reduction, verification and seed.
        mining: everything else.
        known: an earlier result, whose photos are all here with the same positions; its pairs are
            not compared again.
        reduction: of the descriptors; that of ``known``, or fitted on the store, where there is
            none.
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
            f"{store.path}: none of its {len(store)} photos has a position; give some of them one,"
            " by name"
        )
    if known is not None:
        reduction = known.reduction
    reduction = reduction or reduction_for(store, config=config.reduction, seed=config.seed)
    if reduction.extraction_hash != store.config_hash:
        raise MiningError(
            f"{store.path}: extracted with config {store.config_hash}, mined before with"
            f" {reduction.extraction_hash}; use a store of the same settings, or mine anew"
        )
    where = np.array([positions[name] for name in names], np.float64).reshape(-1, 2)
    _require_on_globe(names, where)
    clusters = geographic_clusters(where, radius_m=mining.radius_m)
    start = _Start(_none(), np.full(len(names), -1, np.int64))
    if known is not None:
        start = _carried_over(known, names, where, mining, config.verification)
    source = _Source(store, reduction, names, mining.max_features)
    with tqdm(
        total=int((clusters >= 0).sum()), desc="mine", unit="photo", disable=not progress
    ) as bar:
        graphs = []
        for members in _groups(clusters):
            graphs.append(
                _verified(
                    source, _Group(members, where, clusters, start), mining, config.verification
                )
            )
            bar.update(len(members))
    graph = _sorted(_joined(graphs))
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


@dataclass(frozen=True, eq=False)
class _Start:
    """An earlier result in the numbers of the photos there are now: its graph, and its clusters (−1
    for a new photo)."""

    graph: VisualGraph
    clusters: Int64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class _Group:
    """Photos of some whole clusters, and what is known of all photos."""

    members: Int64[np.ndarray, " k"]
    positions_deg: Float[np.ndarray, "n 2"]
    clusters: Int64[np.ndarray, " n"]
    start: _Start


@dataclass(frozen=True)
class _Source:
    """Where the features of photos come from."""

    store: FeatureStore
    reduction: Reduction
    names: tuple[str, ...]
    max_features: int

    def load(self, members: Int64[np.ndarray, " k"]) -> _Features:
        """The best features of some photos, padded; keypoints in pixels of the photo as features
        were extracted from it."""
        count, slots = len(members), self.max_features
        features = _Features(
            descriptors=np.zeros((count, slots, self.reduction.projection.shape[1]), np.float32),
            keypoints_yx=np.zeros((count, slots, 2), np.float32),
            scales=np.ones((count, slots), np.float32),
            valid=np.zeros((count, slots), bool),
        )
        side = float(self.store.config["features"]["max_side"])
        for row, member in enumerate(members):
            photo = self.store.get(self.names[member])
            best = np.argsort(-np.asarray(photo.local.scores), kind="stable")[:slots]
            factor = min(1.0, side / max(1, *photo.image_size))
            features.descriptors[row, : len(best)] = self.reduction(
                np.asarray(photo.local.descriptors)[best]
            )
            features.keypoints_yx[row, : len(best)] = (
                np.asarray(photo.local.keypoints_yx)[best] + 0.5
            ) * factor - 0.5
            features.scales[row, : len(best)] = np.asarray(photo.local.scales)[best]
            features.valid[row, : len(best)] = True
        return features


@dataclass(frozen=True, eq=False)
class _Features:
    """Features of some photos, padded to one number."""

    descriptors: Float[np.ndarray, "photos m d"]
    keypoints_yx: Float[np.ndarray, "photos m 2"]
    scales: Float[np.ndarray, "photos m"]
    valid: Bool[np.ndarray, "photos m"]


def _verified(
    source: _Source, group: _Group, mining: MiningConfig, verification: VerificationConfig
) -> VisualGraph:
    """Verified pairs of the photos of some clusters: each photo with those of its cluster it shares
    most with."""
    members, clusters = group.members, group.clusters
    pairs = members[pairs_within(group.positions_deg[members], reach_m=mining.reach_m)]
    before = group.start.clusters[pairs]
    compared = (before[:, 0] == before[:, 1]) & (before[:, 0] >= 0)
    pairs = pairs[(clusters[pairs[:, 0]] == clusters[pairs[:, 1]]) & ~compared]
    old = _within(group.start.graph, members)
    if not len(pairs):
        return old
    features = source.load(members)
    local = np.searchsorted(members, pairs)
    votes = _votes(features, local, mining.min_similarity)
    # As many inliers as an edge needs take as many putative matches.
    promising = votes >= mining.min_inliers
    fresh = VisualGraph(
        pairs[promising], votes[promising], np.full(int(promising.sum()), -1, np.int64)
    )
    graph = _shortlisted(_joined([old, fresh]), mining.shortlist)
    todo = np.flatnonzero(graph.inliers < 0)
    inliers = graph.inliers.copy()
    for start in range(0, len(todo), _VERIFIED_TOGETHER):
        part = todo[start : start + _VERIFIED_TOGETHER]
        matches = _matches(
            features, np.searchsorted(members, graph.pairs[part]), mining.min_similarity
        )
        inliers[part] = verify(matches, config=verification).inliers
    return VisualGraph(graph.pairs, graph.votes, inliers)


def _votes(
    features: _Features, pairs: Int64[np.ndarray, "pairs 2"], min_similarity: float
) -> Int64[np.ndarray, " pairs"]:
    counts = [np.asarray(_count(*lanes, min_similarity)) for lanes in _lanes(features, pairs)]
    return np.concatenate([np.zeros(0, np.int64), *counts])[: len(pairs)].astype(np.int64)


def _matches(
    features: _Features, pairs: Int64[np.ndarray, "pairs 2"], min_similarity: float
) -> Matches:
    """Putative matches of each pair, from the first photo to the second."""
    found = [jax.device_get(_match(*lanes, min_similarity)) for lanes in _lanes(features, pairs)]
    nearest, cosine, valid = (
        np.concatenate(parts)[: len(pairs)] for parts in zip(*found, strict=True)
    )
    first, second = pairs.T
    return Matches(
        query_yx=features.keypoints_yx[first],
        database_yx=np.take_along_axis(features.keypoints_yx[second], nearest[..., None], axis=1),
        query_scales=features.scales[first],
        database_scales=np.take_along_axis(features.scales[second], nearest, axis=1),
        similarity=cosine,
        valid=valid,
    )


def _lanes(
    features: _Features, pairs: Int64[np.ndarray, "pairs 2"]
) -> Iterator[tuple[np.ndarray, ...]]:
    """Descriptors and valid slots of both photos of every pair, as many pairs at a time as a
    compiled call takes."""
    for start in range(0, len(pairs), _LANES):
        # Unused lanes repeat the first pair.
        first, second = np.resize(pairs[start : start + _LANES], (_LANES, 2)).T
        yield (
            features.descriptors[first],
            features.descriptors[second],
            features.valid[first],
            features.valid[second],
        )


@jax.jit
def _count(
    first: Float[jax.Array, "lanes m d"],
    second: Float[jax.Array, "lanes m d"],
    first_valid: Bool[jax.Array, "lanes m"],
    second_valid: Bool[jax.Array, "lanes m"],
    min_similarity: Float[jax.Array, ""],
) -> Int[jax.Array, " lanes"]:
    """Mutual nearest neighbours that are similar enough: a cell that is the largest of its row and
    of its column."""
    cosine = jnp.einsum("bmd,bnd->bmn", first, second)
    cosine = jnp.where(first_valid[:, :, None] & second_valid[:, None], cosine, -1.0)
    best = (cosine == cosine.max(axis=2, keepdims=True)) & (
        cosine == cosine.max(axis=1, keepdims=True)
    )
    return jnp.sum(best & (cosine >= min_similarity), axis=(1, 2))


@jax.jit
def _match(
    first: Float[jax.Array, "lanes m d"],
    second: Float[jax.Array, "lanes m d"],
    first_valid: Bool[jax.Array, "lanes m"],
    second_valid: Bool[jax.Array, "lanes m"],
    min_similarity: Float[jax.Array, ""],
) -> tuple[Int[jax.Array, "lanes m"], Float[jax.Array, "lanes m"], Bool[jax.Array, "lanes m"]]:
    nearest, cosine, mutual = jax.vmap(mutual_nearest)(first, second, first_valid, second_valid)
    held = mutual & (cosine >= min_similarity)
    return nearest, jnp.where(held, cosine, 0.0), held


def _shortlisted(graph: VisualGraph, shortlist: int) -> VisualGraph:
    """Pairs among the ``shortlist`` with the most votes of at least one of their photos; ties go to
    the lower number."""
    count = len(graph.pairs)
    photo = np.concatenate([graph.pairs[:, 0], graph.pairs[:, 1]])
    other = np.concatenate([graph.pairs[:, 1], graph.pairs[:, 0]])
    order = np.lexsort((other, -np.tile(graph.votes, 2), photo))
    _, first = np.unique(photo[order], return_index=True)
    lengths = np.diff(np.append(first, len(order)))
    rank = np.arange(len(order)) - np.repeat(first, lengths)
    kept = np.unique(order[rank < shortlist] % max(count, 1))
    return VisualGraph(graph.pairs[kept], graph.votes[kept], graph.inliers[kept])


def _centres(
    positions_deg: Float[np.ndarray, "n 2"], landmarks: Int64[np.ndarray, " n"]
) -> Float[np.ndarray, "landmarks 2"]:
    count = int(landmarks.max(initial=-1)) + 1
    centres = [geometric_median(positions_deg[landmarks == number]) for number in range(count)]
    return np.array(centres, np.float64).reshape(-1, 2)


def _representatives(
    graph: VisualGraph, landmarks: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " landmarks"]:
    """The photo of each landmark with the most inliers to others of it; ties go to the lower
    number."""
    same = landmarks[graph.pairs[:, 0]] == landmarks[graph.pairs[:, 1]]
    total = np.zeros(len(landmarks), np.int64)
    for end in (0, 1):
        np.add.at(total, graph.pairs[same, end], graph.inliers[same])
    order = np.lexsort((np.arange(len(landmarks)), -total, landmarks))
    numbers, first = np.unique(landmarks[order], return_index=True)
    return order[first[numbers >= 0]].astype(np.int64)


def _groups(clusters: Int64[np.ndarray, " n"]) -> Iterator[Int64[np.ndarray, " k"]]:
    """Members of whole clusters of at least two photos, together not much more than fit the
    memory."""
    order = np.argsort(clusters, kind="stable")
    order = order[clusters[order] >= 0]
    numbers, first, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    begin, held = 0, 0
    for number in range(len(numbers)):
        held += int(sizes[number])
        if held >= _PHOTOS_TOGETHER or number == len(numbers) - 1:
            end = int(first[number] + sizes[number])
            yield np.sort(order[begin:end]).astype(np.int64)
            begin, held = end, 0


def _carried_over(
    known: MinedLandmarks,
    names: tuple[str, ...],
    positions_deg: Float[np.ndarray, "n 2"],
    mining: MiningConfig,
    verification: VerificationConfig,
) -> _Start:
    """An earlier result in the numbers that its photos have now."""
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
    # Names are sorted, so that numbers keep their order.
    return _Start(
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


def _within(graph: VisualGraph, members: Int64[np.ndarray, " k"]) -> VisualGraph:
    held = np.isin(graph.pairs[:, 0], members)
    return VisualGraph(graph.pairs[held], graph.votes[held], graph.inliers[held])


def _joined(graphs: list[VisualGraph]) -> VisualGraph:
    parts = [_none(), *graphs]
    return VisualGraph(
        np.concatenate([graph.pairs for graph in parts]),
        np.concatenate([graph.votes for graph in parts]),
        np.concatenate([graph.inliers for graph in parts]),
    )


def _sorted(graph: VisualGraph) -> VisualGraph:
    order = np.lexsort((graph.pairs[:, 1], graph.pairs[:, 0]))
    return VisualGraph(graph.pairs[order], graph.votes[order], graph.inliers[order])


def _none() -> VisualGraph:
    return VisualGraph(np.empty((0, 2), np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
