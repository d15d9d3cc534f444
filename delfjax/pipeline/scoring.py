"""Scores of rankings: every query of a dataset is searched, by one system or by several at once,
and each ranking is scored by the dataset's protocols."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int64
from tqdm.auto import tqdm

from delfjax.config import DelfConfig, RankingConfig
from delfjax.datasets.benchmark import DatasetQuery, RetrievalDataset
from delfjax.datasets.columns import ImagePaths, positions
from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.dataset_protocols import (
    HEADLINES,
    Answer,
    Scorer,
    make_scorers,
    query_names,
    scored_queries,
)
from delfjax.evaluation.landmark_curve import ScoredList
from delfjax.evaluation.look_alikes import NearestErrors
from delfjax.pipeline.dataset_features import DatasetFeatures, SystemFeatures
from delfjax.retrieval.global_index import GlobalIndex
from delfjax.retrieval.local_index import LocalIndex
from delfjax.retrieval.ranking import COSINE, FUSED, INLIERS, LocalSearcher, SystemSearcher
from delfjax.types import ImageFeatures

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class DatasetScores:
    """The scores and rankings of one system for the queries of one dataset.

    A system ranks in stages (:mod:`~delfjax.retrieval.ranking`), each of which is scored: DELF in
    two, ``votes`` before and ``inliers`` after verification. The last one is its answer.

    Attributes:
        dataset: name of the dataset.
        stages: the stages, in order.
        tiers: tier → stage → mAP; empty unless the dataset is a folder.
        results: protocol → stage → its scores, with the ``protocol`` id, ``means`` and the scores
            of all ``queries``.
        rankings: query → database paths of the last stage, best first, truncated to the length that
            the protocols report.
        earlier_rankings: stage → the same of each earlier stage.
        scores: stage → query → scores of the images in its ranking.
        beyond: stage → query → labelled images after the truncation, each with its rank, from 0.
            With them, every score can be recomputed from the rankings. Queries without such images
            are left out.
        query_failures: unreadable query → reason; such a query scores 0.
    """

    dataset: str
    stages: list[str]
    tiers: dict[str, dict[str, float]]
    results: dict[str, dict[str, dict[str, Any]]]
    rankings: dict[str, list[str]]
    earlier_rankings: dict[str, dict[str, list[str]]]
    scores: dict[str, dict[str, list[int] | list[float]]]
    beyond: dict[str, dict[str, dict[str, int]]]
    query_failures: dict[str, str]

    def headline(self, stage: str = "") -> float:
        """The headline score of the dataset; for a folder, the mean over its tiers.

        Args:
            stage: one of :attr:`stages`; the last when empty.
        """
        protocol, mean = HEADLINES[self.dataset]
        means = self.results[protocol][stage or self.stages[-1]]["means"]
        return float(means[mean] if mean in means else np.mean(list(means.values())))

    def by_query(self, stage: str = "") -> dict[str, float]:
        """Query → its score in the headline; queries without a score are left out."""
        protocol, mean = HEADLINES[self.dataset]
        kept = self.results[protocol][stage or self.stages[-1]]["queries"]
        found = kept[mean] if mean in kept else next(iter(kept.values()))
        return {query: float(value) for query, value in found.items() if value is not None}

    def rows(self, stage: str = "") -> dict[str, float]:
        """Name → score, for every mean in [0, 1].

        The name is the tier for a folder, else that of the mean, preceded by the protocol where
        several protocols have a mean of this name.
        """
        stage = stage or self.stages[-1]
        if self.tiers:
            return {tier: scores[stage] for tier, scores in self.tiers.items()}
        means = [
            (protocol, mean, value)
            for protocol, kept in self.results.items()
            for mean, value in kept[stage]["means"].items()
        ]
        names = [mean for _, mean, _ in means]
        return {
            mean if names.count(mean) == 1 else f"{protocol} {mean}": float(value)
            for protocol, mean, value in means
            if value is not None and 0 <= value <= 1
        }


@dataclass(frozen=True)
class System:
    """A system ready to be scored on a dataset.

    Attributes:
        config: the system.
        features: features of the queries.
        local: searcher of the local index; systems that share one do not search twice.
        pooled: index of the global descriptors.
    """

    config: DelfConfig
    features: SystemFeatures
    local: LocalSearcher | None = None
    pooled: GlobalIndex | None = None


def score_index(
    dataset: RetrievalDataset,
    index: LocalIndex,
    features: DatasetFeatures,
    *,
    config: DelfConfig | None = None,
    protocols: Sequence[str] = (),
    progress: bool = True,
) -> DatasetScores:
    """Search an index with every query of a dataset, verify, and score both rankings.

    Args:
        dataset: a benchmark.
        index: index of its database.
        features: features of its queries.
        config: only its sections ``search``, ``verification`` and ``expansion`` are used; by
            default those of the index.
        protocols: protocols of the dataset to score by; all when empty.
        progress: show a progress bar.

    Raises:
        EvaluationError: the dataset has no queries, has no protocol, or lacks labels that its
            protocol needs.
        ConfigError: the dataset has no such protocol.
    """
    system = System(config or index.config, SystemFeatures(local=features), LocalSearcher(index))
    return score_systems(dataset, {"": system}, protocols=protocols, progress=progress)[""]


def score_systems(
    dataset: RetrievalDataset,
    systems: Mapping[K, System],
    *,
    protocols: Sequence[str] = (),
    progress: bool = True,
) -> dict[K, DatasetScores]:
    """Rank the database for every query of a dataset by every system, and score all rankings.

    Args:
        dataset: a benchmark.
        systems: key → system.
        protocols: protocols of the dataset to score by; all when empty.
        progress: show a progress bar.

    Raises:
        EvaluationError: the dataset has no queries, has no protocol, or lacks labels that its
            protocol needs.
        ConfigError: the dataset has no such protocol.
        RankingError: a system lacks an index that it ranks by.
    """
    scored = {key: _Scored(dataset, system, protocols) for key, system in systems.items()}
    called = query_names(dataset)
    for number in tqdm(scored_queries(dataset), desc="search", unit="query", disable=not progress):
        query = dataset.queries[number]
        read = cache(partial(_features_of, query))
        for system in scored.values():
            system.add(called[number], query, read)
    return {key: system.result() for key, system in scored.items()}


@dataclass(frozen=True)
class JudgedInliers:
    """Inlier counts of the ranked images, separated by whether the image is a right answer.

    Attributes:
        right: counts of the images that answer their query.
        wrong: counts of the images that do not, over the queries that have an answer; junk and the
            query itself are left out.
        unanswered: query without an answer → inliers of the best image found for it.
    """

    right: Int64[np.ndarray, " r"]
    wrong: Int64[np.ndarray, " w"]
    unanswered: dict[str, int]


def judge_inliers(dataset: RetrievalDataset, found: DatasetScores) -> JudgedInliers:
    """Separate the inlier counts of right and wrong images: a threshold has to lie between them."""
    number = {name: place for place, name in enumerate(dataset.database)}
    rankings = found.earlier_rankings.get(INLIERS, found.rankings)
    right = [np.zeros(0, np.int64)]
    wrong = [np.zeros(0, np.int64)]
    unanswered: dict[str, int] = {}
    for name, query in zip(query_names(dataset), dataset.queries, strict=True):
        if name not in rankings:
            continue
        images = np.array([number[image] for image in rankings[name]], np.int64)
        inliers = np.array(found.scores[INLIERS][name], np.int64)
        answers = query.answers
        ignored = np.concatenate(
            [
                np.array([query.in_database if query.in_database is not None else -1]),
                *query.sets.values(),
            ]
        )
        is_right = np.isin(images, answers)
        is_ignored = np.isin(images, ignored)
        if answers.size:
            right.append(inliers[is_right])
            wrong.append(inliers[~is_right & ~is_ignored])
        else:
            unanswered[name] = int(inliers[~is_ignored].max(initial=0))
    return JudgedInliers(np.concatenate(right), np.concatenate(wrong), unanswered)


def comparable_lists(
    found: DatasetScores, ranking: RankingConfig, *, top: int
) -> dict[str, ScoredList]:
    """Scores that mean the same for every query, for a curve of precision and recall.

    A fused score is normalised per query, so the first of every list has nearly the same one. Here
    it is the weighted mean of the cosine and of the inliers divided by ``most_inliers``, in both of
    which every query is measured alike.

    Args:
        found: scores of a system that is not expanded.
        ranking: the section of its config.
        top: most images of a list. Lists that are compared need the same length, because a query
            may have right answers beyond the first.

    Returns:
        Query → its list, best first: of inliers for local features, of cosines for a global
        descriptor, of the weighted means for both.
    """
    if FUSED not in found.stages:
        scores = found.scores[found.stages[-1]]
        return {
            query: ScoredList(images[:top], np.array(scores[query][:top], np.float64))
            for query, images in found.rankings.items()
        }
    lists = {}
    for query in found.rankings:
        inliers, cosines = (
            dict(zip(found.earlier_rankings[stage][query], found.scores[stage][query], strict=True))
            for stage in (INLIERS, COSINE)
        )
        least = min(cosines.values(), default=0.0)
        images = list(inliers | cosines)
        local = np.array([inliers.get(image, 0) for image in images], np.float64)
        pooled = np.array([cosines.get(image, least) for image in images], np.float64)
        share = np.minimum(local / ranking.most_inliers, 1)
        weight = ranking.local_weight
        both = weight * share + (1 - weight) * pooled
        order = np.argsort(-both, kind="stable")[:top]
        lists[query] = ScoredList([images[place] for place in order], both[order])
    return lists


def first_errors(
    dataset: RetrievalDataset, found: DatasetScores, families: Int64[np.ndarray, " images"]
) -> NearestErrors:
    """How often the first of a list is wrong, and then of the query's family.

    Junk is skipped. Queries without an answer, or for which nothing was found, are left out.

    Args:
        dataset: a benchmark.
        found: its scores by one system.
        families: family of the landmark that each database image shows, −1 for none; landmarks of
            one family look alike.

    Raises:
        EvaluationError: no query has an answer.
    """
    number = {name: place for place, name in enumerate(dataset.database)}
    wrong: list[bool] = []
    alike: list[bool] = []
    chance: list[float] = []
    for name, query in zip(query_names(dataset), dataset.queries, strict=True):
        if not query.answers.size or not found.rankings.get(name):
            continue
        right = set(query.answers.tolist())
        shown = {query.in_database, *np.concatenate(list(query.sets.values())).tolist()}
        images = (number[image] for image in found.rankings[name])
        first = next((image for image in images if image in right or image not in shown), None)
        if first is None:
            continue
        of_family = families == families[query.answers[0]]
        others = np.ones(len(families), bool)
        others[[image for image in shown if image is not None]] = False
        wrong.append(first not in right)
        alike.append(bool(of_family[first]))
        chance.append(float(of_family[others].mean()) if others.any() else 0.0)
    if not wrong:
        raise EvaluationError("no query has an answer, so no list can begin with a wrong one")
    inside = [same for same, error in zip(alike, wrong, strict=True) if error]
    return NearestErrors(
        rate=float(np.mean(wrong)),
        inside=float(np.mean(inside)) if inside else float("nan"),
        chance=float(np.mean(chance)),
    )


class _Scored:
    """One system on one dataset, scored query by query."""

    def __init__(self, dataset: RetrievalDataset, system: System, protocols: Sequence[str]) -> None:
        self._dataset, self._features = dataset, system.features
        searcher = SystemSearcher(system.config, system.local, system.pooled)
        self._places = positions(ImagePaths(searcher.names).column, dataset.database.column)
        # Equal scores keep the order of the database.
        self._searcher = replace(searcher, ties=np.argsort(self._places))
        self._numbers = {int(place): number for number, place in enumerate(self._places)}
        names = tuple(dataset.database)
        self._stages = {
            stage: _Stage(names, make_scorers(dataset, names, protocols))
            for stage in searcher.stages
        }
        self._failures: dict[str, str] = {}

    def add(
        self,
        name: str,
        query: DatasetQuery,
        read: Callable[[DatasetFeatures], ImageFeatures | None],
    ) -> None:
        """Search for one query, whose features ``read`` reads, and score the rankings."""
        features = self._features.of(query, read=read)
        if features is None:
            self._failures[name] = self._features.failure(query)
        found = {} if features is None else self._answers(query, features)
        nothing = Answer(np.zeros(0, np.int64), np.zeros(0, np.int64))
        for stage, scored in self._stages.items():
            scored.add(name, query, found.get(stage, nothing))

    def _answers(self, query: DatasetQuery, features: ImageFeatures) -> dict[str, Answer]:
        """Stage → the answer in the numbers of the dataset."""
        own = -1
        if query.in_database is not None:
            own = self._numbers.get(query.in_database, -1)
        answers = self._searcher.answers(features, own=own)
        return {
            stage: Answer(self._places[ranking.images], ranking.scores)
            for stage, ranking in answers.stages.items()
        }

    def result(self) -> DatasetScores:
        """The scores of everything that was added."""
        *earlier, last = self._stages
        protocols = next(iter(self._stages.values())).scorers
        results = {
            protocol: {
                stage: scored.scorers[protocol].record() for stage, scored in self._stages.items()
            }
            for protocol in protocols
        }
        return DatasetScores(
            dataset=self._dataset.name,
            stages=list(self._stages),
            tiers=_tiers(results),
            results=results,
            rankings=self._stages[last].rankings,
            earlier_rankings={stage: self._stages[stage].rankings for stage in earlier},
            scores={stage: scored.scores for stage, scored in self._stages.items()},
            beyond={stage: scored.beyond for stage, scored in self._stages.items()},
            query_failures=self._failures,
        )


def _features_of(query: DatasetQuery, features: DatasetFeatures) -> ImageFeatures | None:
    return features.of(query)


class _Stage:
    """Scores the rankings of one stage and keeps what is reported of it."""

    def __init__(self, database: Sequence[str], scorers: dict[str, Scorer]) -> None:
        self.scorers = scorers
        self.rankings: dict[str, list[str]] = {}
        self.scores: dict[str, list[int] | list[float]] = {}
        self.beyond: dict[str, dict[str, int]] = {}
        self._database = database
        self._longest = max(scorer.longest for scorer in scorers.values())

    def add(self, name: str, query: DatasetQuery, answer: Answer) -> None:
        """Score an answer and keep the part that is reported."""
        for scorer in self.scorers.values():
            scorer.add(name, query, answer)
        head, tail = answer.images[: self._longest], answer.images[self._longest :]
        self.rankings[name] = [self._database[image] for image in head]
        self.scores[name] = answer.scores[: self._longest].tolist()
        labelled = np.concatenate([np.zeros(0, np.int64), *query.sets.values()])
        later = np.flatnonzero(np.isin(tail, labelled))
        if later.size:
            self.beyond[name] = {
                self._database[tail[rank]]: self._longest + int(rank) for rank in later
            }


def _tiers(results: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    if "folder" not in results:
        return {}
    by_stage = {stage: record["means"] for stage, record in results["folder"].items()}
    return {
        tier: {stage: means[tier] for stage, means in by_stage.items()}
        for tier in next(iter(by_stage.values()))
    }
