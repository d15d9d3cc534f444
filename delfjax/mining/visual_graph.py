"""The visual graph: which photos show the same thing, by verified matches between them.

Two photos of one geographic cluster are compared by their mutually nearest descriptors (their
*votes*). Each photo is then verified geometrically against the few that it shares most votes with;
the inliers decide later which pairs become edges.

The votes and inliers of a pair depend on its two photos alone, and votes alone decide which pairs
are verified. Photos that arrive later can therefore be added without comparing two earlier ones
again, and the graph is the same as if all of them had been there from the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from tqdm.auto import tqdm

from delfjax.config import MiningConfig, VerificationConfig
from delfjax.datasets.geography import pairs_within
from delfjax.features.reduction import Reduction
from delfjax.features.store import FeatureStore
from delfjax.ops.half_pixel import to_resized_px
from delfjax.ops.matching import mutual_nearest
from delfjax.retrieval.verification import verify
from delfjax.types import Matches

# Pairs that one compiled call matches: about ten megabytes for each of its arrays.
_LANES = 16
# Pairs that are matched again and verified together.
_VERIFIED_TOGETHER = 1024
# Photos whose features are in memory together; a cluster is never divided.
_PHOTOS_TOGETHER = 4096


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

    @classmethod
    def empty(cls) -> VisualGraph:
        """A graph without pairs."""
        return cls(np.empty((0, 2), np.int64), np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, eq=False)
class ComparedPhotos:
    """Photos compared earlier, in the numbering of the photos there are now.

    Attributes:
        graph: their verified pairs.
        clusters: geographic cluster that each photo was in; −1 for a new photo.
    """

    graph: VisualGraph
    clusters: Int64[np.ndarray, " n"]

    @classmethod
    def none(cls, count: int) -> ComparedPhotos:
        """``count`` photos, all of them new."""
        return cls(VisualGraph.empty(), np.full(count, -1, np.int64))


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """Features of some photos, padded to the same number.

    Attributes:
        descriptors: of unit length, reduced.
        keypoints_yx: pixels of the photo at the size it was extracted from.
        scales: scale of the image that each feature was found at.
        valid: which slots hold a feature.
        orientations: direction of each feature, radians; ``None`` of features without one.
    """

    descriptors: Float[np.ndarray, "photos m d"]
    keypoints_yx: Float[np.ndarray, "photos m 2"]
    scales: Float[np.ndarray, "photos m"]
    valid: Bool[np.ndarray, "photos m"]
    orientations: Float[np.ndarray, "photos m"] | None = None


@dataclass(frozen=True)
class PhotoSource:
    """Where the features of the photos come from.

    Attributes:
        store: features of the photos.
        reduction: reduction of their descriptors.
        names: name of each photo in the store.
        max_features: number of features used of each photo, the best-scoring ones.
    """

    store: FeatureStore
    reduction: Reduction
    names: tuple[str, ...]
    max_features: int

    def load(self, members: Int64[np.ndarray, " k"]) -> PhotoFeatures:
        """The best features of some photos, by attention score."""
        count, slots = len(members), self.max_features
        features = PhotoFeatures(
            descriptors=np.zeros((count, slots, self.reduction.projection.shape[1]), np.float32),
            keypoints_yx=np.zeros((count, slots, 2), np.float32),
            scales=np.ones((count, slots), np.float32),
            valid=np.zeros((count, slots), bool),
        )
        turned = np.zeros((count, slots), np.float32)
        oriented = True
        side = float(self.store.config["features"]["max_side"])
        for row, member in enumerate(members):
            photo = self.store.get(self.names[member])
            best = np.argsort(-np.asarray(photo.local.scores), kind="stable")[:slots]
            factor = min(1.0, side / max(1, *photo.image_size))
            features.descriptors[row, : len(best)] = self.reduction(
                np.asarray(photo.local.descriptors)[best]
            )
            features.keypoints_yx[row, : len(best)] = to_resized_px(
                np.asarray(photo.local.keypoints_yx)[best], factor
            )
            features.scales[row, : len(best)] = np.asarray(photo.local.scales)[best]
            features.valid[row, : len(best)] = True
            if photo.local.orientations is None:
                oriented = False
            else:
                turned[row, : len(best)] = np.asarray(photo.local.orientations)[best]
        return replace(features, orientations=turned) if oriented else features


@dataclass(frozen=True, eq=False)
class _Group:
    """Photos of some whole clusters, and what is known of all photos."""

    members: Int64[np.ndarray, " k"]
    positions_deg: Float[np.ndarray, "n 2"]
    clusters: Int64[np.ndarray, " n"]
    compared: ComparedPhotos


def build_visual_graph(
    source: PhotoSource,
    positions_deg: Float[np.ndarray, "n 2"],
    clusters: Int64[np.ndarray, " n"],
    *,
    compared: ComparedPhotos,
    mining: MiningConfig,
    verification: VerificationConfig,
    progress: bool = True,
) -> VisualGraph:
    """Compare the photos of each cluster, and verify each against those it shares most with.

    Args:
        source: features of the photos.
        positions_deg: latitude and longitude of each photo, degrees; NaN where not known.
        clusters: geographic cluster of each photo; −1 where the position is not known.
        compared: what is known already; its pairs are not compared again.
        mining: reach, similarity and shortlist.
        verification: the geometric verification.
        progress: show a progress bar.
    """
    graphs = []
    located = int((clusters >= 0).sum())
    with tqdm(total=located, desc="mine", unit="photo", disable=not progress) as bar:
        for members in _groups(clusters):
            group = _Group(members, positions_deg, clusters, compared)
            graphs.append(_verified(source, group, mining, verification))
            bar.update(len(members))
    return _sorted(_joined(graphs))


def _verified(
    source: PhotoSource, group: _Group, mining: MiningConfig, verification: VerificationConfig
) -> VisualGraph:
    """Verified pairs of the photos of some clusters."""
    members, clusters = group.members, group.clusters
    pairs = members[pairs_within(group.positions_deg[members], reach_m=mining.reach_m)]
    before = group.compared.clusters[pairs]
    compared = (before[:, 0] == before[:, 1]) & (before[:, 0] >= 0)
    pairs = pairs[(clusters[pairs[:, 0]] == clusters[pairs[:, 1]]) & ~compared]
    old = _within(group.compared.graph, members)
    if not len(pairs):
        return old
    features = source.load(members)
    local = np.searchsorted(members, pairs)
    votes = _votes(features, local, mining.min_similarity)
    # A pair with fewer putative matches than an edge needs inliers cannot become an edge.
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
    features: PhotoFeatures, pairs: Int64[np.ndarray, "pairs 2"], min_similarity: float
) -> Int64[np.ndarray, " pairs"]:
    """Number of putative matches of each pair."""
    counts = [np.asarray(_count(*lanes, min_similarity)) for lanes in _lanes(features, pairs)]
    return np.concatenate([np.zeros(0, np.int64), *counts])[: len(pairs)].astype(np.int64)


def _matches(
    features: PhotoFeatures, pairs: Int64[np.ndarray, "pairs 2"], min_similarity: float
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
        turns=_turns(features.orientations, first, second, nearest),
    )


def _turns(
    orientations: Float[np.ndarray, "photos m"] | None,
    first: Int64[np.ndarray, " pairs"],
    second: Int64[np.ndarray, " pairs"],
    nearest: Int[np.ndarray, "pairs m"],
) -> Float[np.ndarray, "pairs m"] | None:
    """How far the second feature of each match is turned from the first, radians."""
    if orientations is None:
        return None
    turned = np.take_along_axis(orientations[second], nearest, axis=1) - orientations[first]
    return np.asarray(turned, np.float32)


def _lanes(
    features: PhotoFeatures, pairs: Int64[np.ndarray, "pairs 2"]
) -> Iterator[tuple[np.ndarray, ...]]:
    """Descriptors and valid slots of both photos of each pair, ``_LANES`` pairs at a time."""
    for start in range(0, len(pairs), _LANES):
        # Lanes left over in the last call repeat its pairs.
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
    """Number of mutual nearest neighbours that are similar enough.

    They are the cells of the similarity matrix that are the largest of their row and column.
    """
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
    """Nearest descriptor of the second photo, similarity and validity of each putative match."""
    nearest, cosine, mutual = jax.vmap(mutual_nearest)(first, second, first_valid, second_valid)
    held = mutual & (cosine >= min_similarity)
    return nearest, jnp.where(held, cosine, 0.0), held


def _shortlisted(graph: VisualGraph, shortlist: int) -> VisualGraph:
    """The pairs among the ``shortlist`` with the most votes of at least one of their photos.

    Ties go to the photo with the lower number.
    """
    count = len(graph.pairs)
    photo = np.concatenate([graph.pairs[:, 0], graph.pairs[:, 1]])
    other = np.concatenate([graph.pairs[:, 1], graph.pairs[:, 0]])
    order = np.lexsort((other, -np.tile(graph.votes, 2), photo))
    _, first = np.unique(photo[order], return_index=True)
    lengths = np.diff(np.append(first, len(order)))
    rank = np.arange(len(order)) - np.repeat(first, lengths)
    kept = np.unique(order[rank < shortlist] % max(count, 1))
    return VisualGraph(graph.pairs[kept], graph.votes[kept], graph.inliers[kept])


def _groups(clusters: Int64[np.ndarray, " n"]) -> Iterator[Int64[np.ndarray, " k"]]:
    """Photos of whole clusters, some clusters at a time so that their features fit the memory."""
    order = np.argsort(clusters, kind="stable")
    order = order[clusters[order] >= 0]
    numbers, first, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    begin = 0
    held = 0
    for number in range(len(numbers)):
        held += int(sizes[number])
        if held >= _PHOTOS_TOGETHER or number == len(numbers) - 1:
            end = int(first[number] + sizes[number])
            yield np.sort(order[begin:end]).astype(np.int64)
            begin = end
            held = 0


def _within(graph: VisualGraph, members: Int64[np.ndarray, " k"]) -> VisualGraph:
    held = np.isin(graph.pairs[:, 0], members)
    return VisualGraph(graph.pairs[held], graph.votes[held], graph.inliers[held])


def _joined(graphs: list[VisualGraph]) -> VisualGraph:
    parts = [VisualGraph.empty(), *graphs]
    return VisualGraph(
        np.concatenate([graph.pairs for graph in parts]),
        np.concatenate([graph.votes for graph in parts]),
        np.concatenate([graph.inliers for graph in parts]),
    )


def _sorted(graph: VisualGraph) -> VisualGraph:
    order = np.lexsort((graph.pairs[:, 1], graph.pairs[:, 0]))
    return VisualGraph(graph.pairs[order], graph.votes[order], graph.inliers[order])
