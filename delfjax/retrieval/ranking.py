"""The rankings of a system for one query: by local features, global descriptors, or both.

A system ranks the whole database in stages, each of which is a ranking of its own and is scored as
such: ``votes`` and ``inliers`` of local features, ``expanded`` along verified links, ``cosine`` of
global descriptors, ``fused`` from both. The last stage of a system is its answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from delfjax.config import (
    DelfConfig,
    SearchConfig,
    VerificationConfig,
    uses_global,
    uses_local,
)
from delfjax.errors import DelfjaxError
from delfjax.retrieval.expansion import (
    ExpandedScores,
    LinkGraph,
    Neighbours,
    alpha_query,
    average_query,
    expand_links,
)
from delfjax.retrieval.fusion import fused
from delfjax.retrieval.global_index import GlobalIndex
from delfjax.retrieval.local_index import LocalIndex
from delfjax.retrieval.search import RankedList, search, search_reduced, verify_candidates
from delfjax.types import ImageFeatures, LocalFeatures

VOTES, INLIERS, EXPANDED, COSINE, FUSED = "votes", "inliers", "expanded", "cosine", "fused"


class RankingError(DelfjaxError):
    """A system lacks an index, or a query the features, that it ranks by."""


@dataclass(frozen=True)
class Ranking:
    """One order of the whole database.

    Attributes:
        images: numbers of the images, best first.
        scores: score of each, falling.
    """

    images: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"] | Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Answers:
    """What a system answers to one query.

    Attributes:
        stages: name of the stage → its ranking, in order; the last is the answer.
        local: the search by local features, with its correspondences; ``None`` without one.
        cosines: cosine of the global descriptors of each image; ``None`` without them.
        links: the paths of the expansion; ``None`` without one.
    """

    stages: dict[str, Ranking]
    local: RankedList | None = None
    cosines: Float[np.ndarray, " n"] | None = None
    links: ExpandedScores | None = None

    @property
    def final(self) -> Ranking:
        """The ranking that the system answers with."""
        return list(self.stages.values())[-1]

    def by_way_of(self, image: int) -> tuple[int, ...]:
        """The images by way of which an image was found, from the query on; empty if it was found
        directly."""
        return () if self.links is None else self.links.chain(0, image)


@dataclass(frozen=True)
class _Search:
    """What a search by local features depends on, besides the index."""

    search: SearchConfig
    verification: VerificationConfig


class LocalSearcher:
    """Searches a local index for several systems, without doing anything twice.

    It remembers the search of the last query, and the images that each database image is linked to,
    which it finds by searching for that image when a system first asks for them.
    """

    def __init__(
        self, index: LocalIndex, *, all_links: bool = False, progress: bool = False
    ) -> None:
        """Set up the searcher; nothing is searched for yet.

        Args:
            index: the index.
            all_links: find the links of every database image as soon as one is asked for, which
                takes a search for each. Otherwise, an expansion knows only the links that searches
                for the images it reaches find, and misses those that only the other end finds.
            progress: show a progress bar while all links are found.
        """
        self.index = index
        self._all_links, self._progress = all_links, progress
        self._query: LocalFeatures | None = None
        self._found: dict[_Search, RankedList] = {}
        self._linked: dict[_Search, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
        self._graphs: dict[tuple[_Search, int], LinkGraph] = {}

    def search(self, query: ImageFeatures, config: DelfConfig) -> RankedList:
        """The ranked list of a query; only the sections ``search`` and ``verification`` of
        ``config`` matter."""
        if query.local is not self._query:
            self._query, self._found = query.local, {}
        key = _Search(config.search, config.verification)
        if key not in self._found:
            self._found[key] = search(
                self.index, query, config=config.search, verification=config.verification
            )
        return self._found[key]

    def links(self, images: Iterable[int], config: DelfConfig) -> LinkGraph:
        """The links that lead from ``images``, and from those that they lead to, as far as the
        expansion follows them, or all links.

        An image is linked to those that a search for it finds with at least
        ``expansion.min_inliers``.
        """
        least = config.expansion.min_inliers
        key = _Search(config.search, config.verification)
        count = len(self.index.names)
        if (key, least) in self._graphs:
            return self._graphs[key, least]
        known = self._linked.setdefault(key, {})
        lists: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        frontier = set(range(count)) if self._all_links else set(map(int, images))
        for _ in range(1 if self._all_links else config.expansion.hops):
            missing = sorted(frontier - known.keys())
            shown = self._all_links and self._progress
            for image in tqdm(missing, desc="links", unit="image", disable=not shown):
                known[image] = self._neighbours(image, config)
            lists |= {image: known[image] for image in sorted(frontier - lists.keys())}
            frontier = {
                int(found)
                for image in frontier
                for found in known[image][0][known[image][1] >= least]
            }
            frontier -= lists.keys()
        graph = LinkGraph.of_lists(count, ((image, *found) for image, found in lists.items()))
        graph = graph.at_least(least)
        if self._all_links:
            self._graphs[key, least] = graph
        return graph

    def _neighbours(self, image: int, config: DelfConfig) -> tuple[np.ndarray, np.ndarray]:
        height, width = map(int, self.index.image_sizes[image])
        found = search_reduced(
            self.index,
            self.index.features(image),
            (height, width),
            config=config.search,
            verification=config.verification,
        )
        linked = (found.inliers > 0) & (found.images != image)
        return found.images[linked], found.inliers[linked]


@dataclass(frozen=True)
class _Pooled:
    """A query's global descriptor, whitened, and its cosine with each database image."""

    descriptor: Float[np.ndarray, "1 d"]
    cosines: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class SystemSearcher:
    """One system, ready to rank a database.

    Attributes:
        config: the system.
        local: searcher of the local index; ``None`` if the system needs none.
        pooled: index of the global descriptors; ``None`` if the system needs none.
        ties: the images in the order in which equal scores are ranked; by number when ``None``.
    """

    config: DelfConfig
    local: LocalSearcher | None = None
    pooled: GlobalIndex | None = None
    ties: Int[np.ndarray, " n"] | None = None
    # Row of each image in the global index; −1 for one that has no global descriptor.
    _rows: Int[np.ndarray, " n"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lacking = "the index holds none; index again with this system"
        if uses_local(self.config) and self.local is None:
            raise RankingError(f"this system ranks by local features, but {lacking}")
        if uses_global(self.config) and self.pooled is None:
            raise RankingError(f"this system ranks by global descriptors, but {lacking}")
        rows = np.arange(len(self.names))
        if self.local is not None and self.pooled is not None:
            place = {name: row for row, name in enumerate(self.pooled.names)}
            rows = np.array([place.get(name, -1) for name in self.names], np.int64)
        object.__setattr__(self, "_rows", rows)

    @property
    def names(self) -> list[str]:
        """The images, in the order of their numbers."""
        if self.local is not None:
            return self.local.index.names
        assert self.pooled is not None
        return self.pooled.names

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        ranking, expansion = self.config.ranking, self.config.expansion
        names = [COSINE] if uses_global(self.config) else []
        if uses_local(self.config):
            names += [VOTES, INLIERS] if ranking.candidates == "local" else [INLIERS]
            if expansion.links == "verified" and self._expands_early:
                names.append(EXPANDED)
        return (*names, FUSED) if ranking.by == "fused" else tuple(names)

    def answers(self, query: ImageFeatures, *, own: int = -1) -> Answers:
        """Rank the database for one query.

        Args:
            query: unreduced local features, and the global descriptor, as far as the system needs
                them.
            own: number of the database image that the query is, by which it is not expanded; −1 for
                none.

        Raises:
            RankingError: the query has no global descriptor, and the system needs one.
        """
        by, expansion = self.config.ranking.by, self.config.expansion
        pooled = self._describe(query) if uses_global(self.config) else None
        if not uses_local(self.config):
            assert pooled is not None
            pooled = self._requery(pooled, pooled.cosines, own)
            return Answers({COSINE: self._ranking(pooled.cosines)}, cosines=pooled.cosines)
        ranked = self._search(query, None if pooled is None else pooled.cosines)
        inliers = _by_number(ranked)
        verified = inliers >= expansion.min_inliers
        if pooled is not None and self._expands_early:
            pooled = self._requery(pooled, pooled.cosines, own, verified)
        cosines = None if pooled is None else pooled.cosines
        stages = {} if cosines is None else {COSINE: self._ranking(cosines)}
        stages |= self._local_stages(ranked)
        scores: Float[np.ndarray, " n"] | Int[np.ndarray, " n"] = inliers
        links = None
        if self._expands_early and expansion.links == "verified":
            links = self._follow(scores, verified, own)
            scores = links.scores[0]
            stages[EXPANDED] = self._ranking(scores, stages[INLIERS].images)
        if by == "fused":
            assert pooled is not None
            scores, late = self._fuse(scores, pooled, verified, own)
            links = links if self._expands_early else late
            stages[FUSED] = self._ranking(scores, stages[INLIERS].images)
        return Answers(stages, ranked, cosines, links)

    def _fuse(
        self,
        local: Float[np.ndarray, " n"] | Int[np.ndarray, " n"],
        pooled: _Pooled,
        verified: Bool[np.ndarray, " n"],
        own: int,
    ) -> tuple[Float[np.ndarray, " n"], ExpandedScores | None]:
        """The fused scores, expanded if the config says so, and the paths of the expansion."""
        ranking, expansion = self.config.ranking, self.config.expansion
        scores = fused(local[None], pooled.cosines[None], ranking)[0]
        if expansion.order == "before_fusion":
            return scores, None
        if expansion.queries != "none":
            again = self._requery(pooled, scores, own, verified)
            scores = fused(local[None], again.cosines[None], ranking)[0]
        if expansion.links == "none":
            return scores, None
        links = self._follow(scores, verified, own, most=ranking.most_inliers)
        return links.scores[0], links

    def _describe(self, query: ImageFeatures) -> _Pooled:
        assert self.pooled is not None
        if query.global_descriptor is None:
            raise RankingError(
                "the query has no global descriptor, which this system ranks by; extract it with"
                " this system"
            )
        descriptor = self.pooled.prepared(np.asarray(query.global_descriptor)[None])
        return _Pooled(descriptor, self._cosines(descriptor))

    def _cosines(self, descriptor: Float[np.ndarray, "1 d"]) -> Float[np.ndarray, " n"]:
        assert self.pooled is not None
        found = self.pooled.similarities(descriptor)[0]
        least = found.min(initial=0.0)
        # An image without a global descriptor is as far away as the farthest.
        return (
            np.where(self._rows >= 0, found[self._rows], least)
            if len(found)
            else (np.zeros(len(self._rows), np.float32))
        )

    def _requery(
        self,
        pooled: _Pooled,
        scores: Float[np.ndarray, " n"],
        own: int,
        verified: Bool[np.ndarray, " n"] | None = None,
    ) -> _Pooled:
        """The query expanded by the images with the greatest ``scores``, of those ``verified``."""
        expansion = self.config.expansion
        if expansion.queries == "none":
            return pooled
        assert self.pooled is not None
        used = self._rows >= 0
        if verified is not None and expansion.verified_neighbours:
            used &= verified
        if own >= 0:
            used[own] = False
        images = np.flatnonzero(used)
        order = np.argsort(-scores[images], kind="stable")
        nearest = images[order][: expansion.neighbours]
        neighbours = Neighbours(self._rows[nearest][None], pooled.cosines[nearest][None])
        database = self.pooled.descriptors
        if expansion.queries == "average":
            expanded = average_query(pooled.descriptor, database, neighbours)
        else:
            expanded = alpha_query(pooled.descriptor, database, neighbours, alpha=expansion.alpha)
        return _Pooled(expanded, self._cosines(expanded))

    def _search(self, query: ImageFeatures, cosines: Float[np.ndarray, " n"] | None) -> RankedList:
        """The database by local features: all of it, or candidates of the global descriptors."""
        assert self.local is not None
        config = self.config
        if config.ranking.candidates == "local" or cosines is None:
            return self.local.search(query, config)
        candidates = np.argsort(-cosines, kind="stable")[: config.search.shortlist]
        votes = np.zeros(len(cosines), np.int64)
        if config.ranking.candidates == "both":
            by_votes = self.local.search(query, config)
            votes[by_votes.images] = by_votes.votes
            more = by_votes.by_votes[: config.search.shortlist]
            candidates = np.unique(np.concatenate([candidates, more[votes[more] > 0]]))
        return verify_candidates(
            self.local.index,
            query,
            candidates,
            votes=votes,
            preference=cosines,
            verification=config.verification,
        )

    def _local_stages(self, ranked: RankedList) -> dict[str, Ranking]:
        if self.config.ranking.candidates != "local":
            return {INLIERS: Ranking(ranked.images, ranked.inliers)}
        votes = np.zeros(len(ranked.images), np.int64)
        votes[ranked.images] = ranked.votes
        found = int(np.count_nonzero(votes))
        # Images without a vote are tied.
        rest = self._tied[votes[self._tied] == 0]
        by_votes = np.concatenate([ranked.by_votes[:found], rest])
        return {
            VOTES: Ranking(by_votes, votes[by_votes]),
            INLIERS: Ranking(np.concatenate([ranked.images[:found], rest]), ranked.inliers),
        }

    def _follow(
        self,
        scores: Float[np.ndarray, " n"] | Int[np.ndarray, " n"],
        verified: Bool[np.ndarray, " n"],
        own: int,
        *,
        most: int | None = None,
    ) -> ExpandedScores:
        """``scores`` expanded along links from the verified answers."""
        assert self.local is not None
        spreading = verified.copy()
        if own >= 0:
            spreading[own] = False
        return expand_links(
            scores[None],
            self.local.links(np.flatnonzero(spreading), self.config),
            self.config.expansion,
            own=np.array([own]),
            spreading=spreading[None],
            most_inliers=most,
        )

    def _ranking(
        self, scores: Float[np.ndarray, " n"], order: Int[np.ndarray, " n"] | None = None
    ) -> Ranking:
        """The images by falling score; equal ones keep ``order``."""
        order = self._tied if order is None else order
        images = order[np.argsort(-scores[order], kind="stable")]
        return Ranking(images, scores[images])

    @property
    def _expands_early(self) -> bool:
        """Whether rankings are expanded before they are fused, if they are."""
        ranking, expansion = self.config.ranking, self.config.expansion
        return ranking.by != "fused" or expansion.order == "before_fusion"

    @property
    def _tied(self) -> Int[np.ndarray, " n"]:
        return np.arange(len(self._rows)) if self.ties is None else self.ties


def _by_number(ranked: RankedList) -> Int[np.ndarray, " n"]:
    """Inliers of each image, in the order of their numbers."""
    inliers = np.zeros(len(ranked.images), np.int64)
    inliers[ranked.images] = ranked.inliers
    return inliers
