"""Query expansion: what the first answers show is searched for, too.

Of global descriptors, a query becomes a mean of itself and its neighbours
(:func:`average_query`, :func:`alpha_query`), or each database descriptor does before the index is
built (:func:`augmented_database`). A neighbour whose cosine is zero or less shows nothing of what
the query shows, and is left out: a query that resembles nothing stays as it is.

Of local features, :func:`expand_links` follows links between database images that geometric
verification found. A path from the query over the images ``a₀ → a₁ → … → aₕ`` is worth ::

    decayʰ · min(inliers(query, a₀), inliers(a₀, a₁), …, inliers(aₕ₋₁, aₕ))

and the score of an image is the worth of its best path, the direct answer (``h = 0``) included. No
path can gain by visiting an image twice, so the best walk of at most ``h`` links is the best path;
it is computed link by link as a product of sparse matrices in which minimum and maximum take the
places of product and sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from delfjax.config import ExpansionConfig
from delfjax.errors import DelfjaxError

# Continued paths that are compared at a time, which bounds the memory: about 100 bytes for each.
_PATHS_AT_A_TIME = 1 << 22
# Neighbours that are gathered at a time, which bounds the memory: four bytes for each number.
_NUMBERS_AT_A_TIME = 1 << 25


class ExpansionError(DelfjaxError):
    """Neighbours, links or scores cannot be expanded."""


@dataclass(frozen=True)
class Neighbours:
    """The database images nearest to each query, best first.

    Attributes:
        images: their numbers; −1 where there are no more.
        cosines: their cosines; −1 where there are no more.
    """

    images: Int[np.ndarray, "q k"]
    cosines: Float[np.ndarray, "q k"]

    def without(self, own: Int[np.ndarray, " q"], count: int) -> Neighbours:
        """The first ``count`` neighbours of each query that are not the query itself.

        Args:
            own: number of the database image that each query is; −1 for none.
            count: neighbours kept; there may be fewer.
        """
        kept = self.images != np.asarray(own)[:, None]
        # Stable: what is kept moves forward, in its order.
        order = np.argsort(~kept, axis=1, kind="stable")
        images = np.where(kept, self.images, -1)
        cosines = np.where(kept, self.cosines, -1)
        return Neighbours(
            images=np.take_along_axis(images, order, axis=1)[:, :count],
            cosines=np.take_along_axis(cosines, order, axis=1)[:, :count],
        )


def nearest_by_cosine(
    cosines: Float[np.ndarray, "q n"], count: int, *, own: Int[np.ndarray, " q"] | None = None
) -> Neighbours:
    """The images with the greatest cosines; of equal ones, those with lower numbers come first.

    Args:
        cosines: of each query with every database image.
        count: neighbours of each query; fewer if there are fewer images.
        own: number of the database image that each query is, which is not its own neighbour; −1 for
            none.

    Raises:
        ExpansionError: a cosine is not finite.
    """
    cosines = _all_finite(cosines, "cosine")
    more = own is not None
    taken = min(count + more, cosines.shape[1])
    images = _greatest(cosines, taken)
    found = Neighbours(images, np.take_along_axis(cosines, images, axis=1))
    return found if own is None else found.without(own, count)


def average_query(
    queries: Float[np.ndarray, "q d"],
    database: Float[np.ndarray, "n e"],
    neighbours: Neighbours,
) -> Float[np.ndarray, "q d"]:
    """Average query expansion (AQE): the plain mean of each query and its neighbours.

    The mean is not normalised, which changes no ranking. A query without neighbours, or whose
    neighbours all have cosines of zero or less, is returned as it is.

    Args:
        queries: descriptors of unit length.
        database: descriptors of the database.
        neighbours: of each query, such as the first answers of a search.

    Source: the code of Gordo et al., "End-to-end learning of deep visual representations for image
    retrieval", 2017 (DIR).

    Raises:
        ExpansionError: the dimensions differ, or a descriptor is not finite.
    """
    weights = (neighbours.cosines > 0).astype(np.float64)
    summed = _weighted_sum(queries, database, neighbours, weights)
    return _as_given(summed / (1 + weights.sum(axis=1, keepdims=True)), queries)


def alpha_query(
    queries: Float[np.ndarray, "q d"],
    database: Float[np.ndarray, "n e"],
    neighbours: Neighbours,
    *,
    alpha: float,
) -> Float[np.ndarray, "q d"]:
    """α-weighted query expansion (αQE): each query plus its neighbours, each weighted by its cosine
    to the power of α, L2-normalised.

    A query without neighbours, or whose neighbours all have cosines of zero or less, is only
    normalised; one of zeros stays zero.

    Args:
        queries: descriptors of unit length.
        database: descriptors of the database.
        neighbours: of each query, such as the first answers of a search.
        alpha: 0 weights all alike.

    Source: Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation",
    2018.

    Raises:
        ExpansionError: the dimensions differ, or a descriptor is not finite.
    """
    positive = neighbours.cosines > 0
    weights = np.where(positive, np.where(positive, neighbours.cosines, 1.0) ** alpha, 0.0)
    summed = _weighted_sum(queries, database, neighbours, weights)
    length = np.linalg.norm(summed, axis=1, keepdims=True)
    return _as_given(summed / np.where(length > 0, length, 1), queries)


def augmented_database(
    database: Float[np.ndarray, "n d"], neighbours: Neighbours
) -> Float[np.ndarray, "n d"]:
    """Database-side augmentation (DBA): the mean of each descriptor and its k neighbours, weighted
    by rank: 1 for itself and 1, (k − 1)/k, …, 1/k for the neighbours.

    The mean is not normalised: a descriptor that disagrees with its neighbours becomes shorter, and
    ranks lower. A descriptor whose neighbours all have cosines of zero or less stays as it is, and
    so does the only one of a database.

    Args:
        database: descriptors of unit length.
        neighbours: of each descriptor, itself left out.

    Source: the code of Gordo et al. 2017 (DIR), k = 20.

    Raises:
        ExpansionError: the dimensions differ, or a descriptor is not finite.
    """
    count = neighbours.images.shape[1]
    by_rank = (count - np.arange(count)) / max(count, 1)
    weights = np.where(neighbours.cosines > 0, by_rank, 0.0)
    summed = _weighted_sum(database, database, neighbours, weights)
    return _as_given(summed / (1 + weights.sum(axis=1, keepdims=True)), database)


@dataclass(frozen=True)
class LinkGraph:
    """Which database images show the same: a link joins two images that were verified, and holds
    the number of their inliers.

    The graph is symmetric: of the two directions in which a pair may have been verified, the one
    with more inliers counts.

    Attributes:
        starts: links of image ``i`` are ``starts[i]:starts[i + 1]``.
        neighbours: image at the other end of each link, rising for each image.
        inliers: number of inliers of each link.
    """

    starts: Int[np.ndarray, " images1"]
    neighbours: Int[np.ndarray, " links"]
    inliers: Float[np.ndarray, " links"]

    @classmethod
    def of_pairs(
        cls,
        count: int,
        first: Int[np.ndarray, " pairs"],
        second: Int[np.ndarray, " pairs"],
        inliers: Float[np.ndarray, " pairs"] | Int[np.ndarray, " pairs"],
    ) -> LinkGraph:
        """The graph of verified pairs, in any order and direction.

        Pairs without inliers, and pairs of an image with itself, are no links.

        Args:
            count: number of database images.
            first: one image of each pair.
            second: the other image of each pair.
            inliers: inliers of each pair.

        Raises:
            ExpansionError: an image does not exist, or a number of inliers is negative or not
                finite.
        """
        ends = np.stack([np.asarray(first), np.asarray(second)]).astype(np.int64)
        worth = _all_finite(inliers, "number of inliers")
        if ends.size and not (ends.min() >= 0 and ends.max() < count):
            raise ExpansionError(
                f"a link joins images {ends.min()} and {ends.max()}, but there are {count} images"
            )
        if (worth < 0).any():
            raise ExpansionError(f"a link has {worth.min():g} inliers, expected 0 or more")
        held = (worth > 0) & (ends[0] != ends[1])
        rows = np.concatenate([ends[0, held], ends[1, held]])
        columns = np.concatenate([ends[1, held], ends[0, held]])
        keys, best = _best_of_each(
            rows * max(count, 1) + columns, np.concatenate([worth[held], worth[held]])
        )
        sources, neighbours = np.divmod(keys, max(count, 1))
        starts = np.searchsorted(sources, np.arange(count + 1)).astype(np.int64)
        return cls(starts, neighbours, np.concatenate([worth[held], worth[held]])[best])

    @classmethod
    def of_lists(
        cls,
        count: int,
        lists: Iterable[tuple[int, np.ndarray, np.ndarray]],
    ) -> LinkGraph:
        """The graph of ranked lists: of each image that was searched for, the images found and
        their inliers.

        Args:
            count: number of database images.
            lists: image, the ``k`` images found (k,), and the inliers of each (k,).

        Raises:
            ExpansionError: as for :meth:`of_pairs`.
        """
        held = list(lists)
        lengths = [len(found) for _, found, _ in held]
        none = np.zeros(0, np.int64)
        return cls.of_pairs(
            count,
            np.repeat(np.array([image for image, _, _ in held], np.int64), lengths),
            np.concatenate([none, *(found for _, found, _ in held)]),
            np.concatenate([none, *(inliers for _, _, inliers in held)]),
        )

    @property
    def images(self) -> int:
        """Number of database images."""
        return len(self.starts) - 1

    def at_least(self, inliers: int) -> LinkGraph:
        """The graph without the links that have fewer inliers."""
        kept = self.inliers >= inliers
        before = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        return LinkGraph(before[self.starts], self.neighbours[kept], self.inliers[kept])


@dataclass(frozen=True)
class _Reached:
    """The images that paths of some number of links reach, the pairs of query and image rising.

    Attributes:
        keys: query · images + image.
        least: weakest link of the best path.
        via: image before the last on that path; −1 on paths without links.
    """

    keys: Int[np.ndarray, " r"]
    least: Float[np.ndarray, " r"]
    via: Int[np.ndarray, " r"]


@dataclass(frozen=True)
class ExpandedScores:
    """Scores of every database image for each query, and the paths that they come from.

    Attributes:
        scores: worth of the best path to each image; the direct score where none is better.
        hops: links of that path after the first answer; 0 where the direct score counts.
    """

    scores: Float[np.ndarray, "q n"]
    hops: Int[np.ndarray, "q n"]
    _reached: tuple[_Reached, ...] = field(repr=False)

    def chain(self, query: int, image: int) -> tuple[int, ...]:
        """The images by way of which ``image`` was found, from the query on; empty where the direct
        score counts.

        Args:
            query: number of the query.
            image: number of the database image.
        """
        images = self.hops.shape[1]
        found: list[int] = []
        for reached in reversed(self._reached[1 : int(self.hops[query, image]) + 1]):
            at = np.searchsorted(reached.keys, query * images + image)
            image = int(reached.via[at])
            found.append(image)
        return tuple(reversed(found))

    def predecessors(self, query: int) -> Int[np.ndarray, " n"]:
        """The image before each image on its path; −1 where the direct score counts.

        Chains follow from :meth:`chain` alone: on the path to an image, its predecessor may be
        reached in fewer links than on its own best path.

        Args:
            query: number of the query.
        """
        hops = self.hops[query]
        before = np.full(len(hops), -1, np.int64)
        for links in range(1, len(self._reached)):
            reached = self._reached[links]
            here = np.flatnonzero(hops == links)
            before[here] = reached.via[np.searchsorted(reached.keys, query * len(hops) + here)]
        return before


def expand_links(
    scores: Float[np.ndarray, "q n"] | Int[np.ndarray, "q n"],
    graph: LinkGraph,
    config: ExpansionConfig,
    *,
    own: Int[np.ndarray, " q"] | None = None,
    spreading: Bool[np.ndarray, "q n"] | None = None,
    most_inliers: int | None = None,
) -> ExpandedScores:
    """Verified expansion: score every image by its best path from the query.

    Links and direct answers with fewer inliers than ``config.min_inliers`` are not followed; the
    direct answers keep their scores. Of paths of equal worth, the shortest counts, and of those the
    one whose last image but one has the lowest number. Nothing is worth less than before.

    Args:
        scores: inliers of each database image with each query; zero where not verified.
        graph: links between the database images.
        config: hops, decay and least inliers.
        own: number of the database image that each query is, which no path visits; −1 for none.
        spreading: answers whose links are followed, where ``scores`` are not inliers; by default
            those with ``config.min_inliers`` or more.
        most_inliers: for scores from 0 to 1, such as fused ones: inliers of a link that is worth 1;
            the others are worth their share of it.

    Raises:
        ExpansionError: the graph is of another number of images, or a score is not finite.
    """
    direct = _all_finite(scores, "score")
    if direct.shape[1] != graph.images:
        raise ExpansionError(
            f"the scores are of {direct.shape[1]} images, but the links are of {graph.images}"
        )
    starting = direct >= config.min_inliers if spreading is None else spreading & (direct > 0)
    visited = np.ones(direct.shape, bool)
    if own is not None:
        inside = np.flatnonzero(np.asarray(own) >= 0)
        visited[inside, np.asarray(own)[inside]] = False
    links = graph.at_least(config.min_inliers)
    if most_inliers is not None:
        worth = np.minimum(links.inliers, most_inliers) / most_inliers
        links = LinkGraph(links.starts, links.neighbours, worth)
    keys = np.flatnonzero(starting & visited)
    reached = [_Reached(keys, direct.ravel()[keys], np.full(len(keys), -1, np.int64))]
    expanded, hops = direct.copy(), np.zeros(direct.shape, np.int8)
    for number in range(1, config.hops + 1):
        reached.append(_followed(reached[-1], links, visited.ravel()))
        keys, worth = reached[-1].keys, config.decay**number * reached[-1].least
        better = worth > expanded.ravel()[keys]
        expanded.ravel()[keys[better]] = worth[better]
        hops.ravel()[keys[better]] = number
    return ExpandedScores(expanded, hops, tuple(reached))


def _followed(reached: _Reached, links: LinkGraph, visited: Bool[np.ndarray, " pairs"]) -> _Reached:
    """The images that one more link reaches, by the best path to each."""
    if not len(reached.keys) or not len(links.neighbours):
        none = np.zeros(0, np.int64)
        return _Reached(none, np.zeros(0), none)
    image = reached.keys % links.images
    degrees = links.starts[image + 1] - links.starts[image]
    # Blocks end between queries, so that no image is in two of them.
    query = reached.keys // links.images
    bounds = _block_bounds(query, np.cumsum(degrees))
    blocks = [
        _followed_block(reached, links, visited, slice(start, stop))
        for start, stop in pairwise(bounds)
    ]
    return _Reached(
        *(np.concatenate([getattr(block, name) for block in blocks]) for name in vars(blocks[0]))
    )


def _followed_block(
    reached: _Reached, links: LinkGraph, visited: Bool[np.ndarray, " pairs"], block: slice
) -> _Reached:
    keys = reached.keys[block]
    image = keys % links.images
    begin = links.starts[image]
    degrees = links.starts[image + 1] - begin
    ends = np.cumsum(degrees)
    from_path = np.repeat(np.arange(len(keys)), degrees)
    link = np.arange(len(from_path)) + np.repeat(begin - (ends - degrees), degrees)
    least = np.minimum(reached.least[block][from_path], links.inliers[link])
    target = (keys - image)[from_path] + links.neighbours[link]
    kept = visited[target]
    # Paths come in the order of their last image, which breaks ties.
    found, best = _best_of_each(target[kept], least[kept])
    return _Reached(found, least[kept][best], image[from_path][kept][best])


def _block_bounds(query: Int[np.ndarray, " r"], ends: Int[np.ndarray, " r"]) -> list[int]:
    """Where to cut paths into blocks with not many more continued paths than are compared at a
    time."""
    first = np.flatnonzero(np.diff(query, prepend=-1))
    before = np.concatenate([[0], ends])[first]
    block = before // _PATHS_AT_A_TIME
    return [*first[np.flatnonzero(np.diff(block, prepend=-1))].tolist(), len(query)]


def _best_of_each(
    keys: Int[np.ndarray, " m"], values: Float[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " u"], Int[np.ndarray, " u"]]:
    """The distinct keys, rising, and where the greatest value of each is; of equal values, the
    first."""
    order = np.lexsort((-values, keys))
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))
    return keys[order][first], order[first]


def _greatest(values: Float[np.ndarray, "q n"], count: int) -> Int[np.ndarray, "q k"]:
    """Where the ``count`` greatest values of each row are, the greatest first; of equal values, the
    first of them."""
    rows, columns = values.shape
    if not count or not rows:
        return np.zeros((rows, count), np.int64)
    least = np.partition(values, columns - count, axis=1)[:, columns - count, None]
    above = values > least
    level = values == least
    room = count - above.sum(axis=1, keepdims=True)
    picked = above | (level & (np.cumsum(level, axis=1) <= room))
    images = np.nonzero(picked)[1].reshape(rows, count)
    order = np.argsort(-np.take_along_axis(values, images, axis=1), axis=1, kind="stable")
    return np.take_along_axis(images, order, axis=1)


def _weighted_sum(
    queries: Float[np.ndarray, "q d"],
    database: Float[np.ndarray, "n e"],
    neighbours: Neighbours,
    weights: Float[np.ndarray, "rows k"],
) -> Float[np.ndarray, "q d"]:
    """Each query plus its weighted neighbours, in double precision."""
    if queries.shape[1] != database.shape[1]:
        raise ExpansionError(
            f"the queries have {queries.shape[1]} dimensions, but the database has"
            f" {database.shape[1]}"
        )
    if len(neighbours.images) != len(queries):
        raise ExpansionError(
            f"there are {len(queries)} queries, but neighbours of {len(neighbours.images)}"
        )
    weights = np.where(neighbours.images >= 0, weights, 0.0)
    summed = _all_finite(queries, "value of a descriptor").copy()
    count = neighbours.images.shape[1]
    if not count or not len(database):
        return summed
    at_a_time = max(1, _NUMBERS_AT_A_TIME // (count * queries.shape[1]))
    for start in range(0, len(queries), at_a_time):
        block = slice(start, start + at_a_time)
        found = np.asarray(database[np.maximum(neighbours.images[block], 0)], np.float64)
        summed[block] += np.einsum("qk,qkd->qd", weights[block], found)
    return _all_finite(summed, "value of a descriptor")


def _as_given(values: Float[np.ndarray, "q d"], given: np.ndarray) -> Float[np.ndarray, "q d"]:
    """In the precision of the descriptors given, but in single precision at least."""
    return values.astype(np.promote_types(given.dtype, np.float32))


def _all_finite(values: np.ndarray, what: str) -> Float[np.ndarray, "*shape"]:
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        first = found[~np.isfinite(found)].ravel()[0]
        raise ExpansionError(f"a {what} is {first}, expected finite values")
    return found
