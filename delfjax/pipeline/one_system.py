"""A labelled dataset to its scores, in one call: extract, index, search with every query, verify,
score."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from tqdm.auto import tqdm

from delfjax.config import DelfConfig, config_hash
from delfjax.datasets.benchmark import DatasetQuery, RetrievalDataset
from delfjax.datasets.columns import ImagePaths, positions
from delfjax.evaluation.dataset_protocols import (
    HEADLINES,
    Answer,
    Scorer,
    make_scorers,
    query_names,
    scored_queries,
)
from delfjax.features.extractor import Extractor, load_extractor
from delfjax.models.model_files import pinned, weights_of
from delfjax.pipeline.dataset_features import (
    DatasetFeatures,
    default_store,
    extract_features,
)
from delfjax.retrieval.local_index import LocalIndex, build_index
from delfjax.retrieval.search import search
from delfjax.types import ImageFeatures

# The two rankings that are scored: before and after geometric verification.
_VOTES = "votes"
_INLIERS = "inliers"


@dataclass(frozen=True)
class DatasetScores:
    """The scores and rankings of one index for the queries of one dataset.

    Attributes:
        dataset: name of the dataset.
        tiers: tier → {"votes": mAP before, "inliers": mAP after verification}; empty unless the
            dataset is a folder.
        results: protocol → {"votes": scores before, "inliers": scores after verification}, each
            with the ``protocol`` id, ``means`` and the scores of all ``queries``.
        rankings: query → database paths by inliers, best first, truncated to the length that the
            protocols report.
        rankings_by_votes: the same before verification.
        scores: {"votes", "inliers"} → query → votes or inliers of the images in its ranking.
        beyond: {"votes", "inliers"} → query → labelled images after the truncation, each with its
            rank, from 0. With them, every score can be recomputed from the rankings. Queries
            without such images are left out.
        query_failures: unreadable query → reason; such a query scores 0.
    """

    dataset: str
    tiers: dict[str, dict[str, float]]
    results: dict[str, dict[str, dict[str, Any]]]
    rankings: dict[str, list[str]]
    rankings_by_votes: dict[str, list[str]]
    scores: dict[str, dict[str, list[int]]]
    beyond: dict[str, dict[str, dict[str, int]]]
    query_failures: dict[str, str]

    def headline(self, stage: str) -> float:
        """The headline score of the dataset; for a folder, the mean over its tiers.

        Args:
            stage: ``"votes"`` (before verification) or ``"inliers"`` (after it).
        """
        protocol, mean = HEADLINES[self.dataset]
        means = self.results[protocol][stage]["means"]
        return float(means[mean] if mean in means else np.mean(list(means.values())))

    def by_query(self, stage: str) -> dict[str, float]:
        """Query → its score in the headline; queries without a score are left out."""
        protocol, mean = HEADLINES[self.dataset]
        kept = self.results[protocol][stage]["queries"]
        found = kept[mean] if mean in kept else next(iter(kept.values()))
        return {query: float(value) for query, value in found.items() if value is not None}

    def rows(self, stage: str) -> dict[str, float]:
        """Name → score, for every mean in [0, 1].

        The name is the tier for a folder, else that of the mean, preceded by the protocol where
        several protocols have a mean of this name.
        """
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
class DatasetEvaluation(DatasetScores):
    """Scores of one config on one dataset.

    Attributes:
        config_hash: hash of the whole config.
        weights: part of the system → digest of its weights, or their name if they are not in a
            file.
        seconds: stage → wall time, seconds.
        num_images: database images that were indexed.
        num_failed: database images that could not be read.
        num_ignored: queries that the ground truth excludes; they were not searched for.
        failures: unreadable database image → reason.
    """

    config_hash: str
    weights: dict[str, str]
    seconds: dict[str, float]
    num_images: int
    num_failed: int
    num_ignored: int
    failures: dict[str, str]

    def to_json(self) -> str:
        """The evaluation as one JSON object."""
        return json.dumps(vars(self), indent=1, ensure_ascii=False)


def evaluate_dataset(
    dataset: RetrievalDataset,
    config: DelfConfig,
    *,
    protocols: Sequence[str] = (),
    store: Path | None = None,
    retry_failed: bool = False,
    extractor: Extractor | None = None,
    progress: bool = True,
) -> DatasetEvaluation:
    """Extract or reuse features, fit the reduction, index, search with every query, verify, score.

    A query is cut to its box at full resolution. Cut queries, and those that are not in the
    database, have their own store beside that of the database. An unreadable image is recorded as a
    failure; an unreadable query scores 0.

    Args:
        dataset: a benchmark, from :func:`~delfjax.datasets.catalogue.open_dataset`.
        config: the whole system.
        protocols: protocols of the dataset to score by; all when empty.
        store: folder for the features of the database, those of the queries going to
            ``<store>-queries``; by default in the cache, by dataset, root and config.
        retry_failed: try images with a recorded failure again, database and queries alike.
        extractor: a loaded extractor of this config, for instance from another dataset.
        progress: show progress bars.

    Raises:
        EvaluationError: the dataset has no queries, has no protocol, or lacks labels that its
            protocol needs.
        ConfigError: the dataset has no such protocol.
        StoreError: the store has another config, is damaged, or is being written.
        ReductionError: there are too few features to fit the reduction.
        WeightsError: weights are missing or damaged, do not fit, or are not those that a pinned
            config asks for.
    """
    started = time.perf_counter()
    config = pinned(config)
    # Check the protocols now: a missing label must not surface after hours of extraction.
    make_scorers(dataset, tuple(dataset.database), protocols)
    place = store or default_store(dataset, config)
    chosen = extractor or load_extractor(config)
    features, _ = extract_features(
        dataset, chosen, place, retry_failed=retry_failed, progress=progress
    )
    extracted = time.perf_counter()
    index = build_index(features.database, config=config, photos=str(dataset.root))
    built = time.perf_counter()
    found = score_index(dataset, index, features, protocols=protocols, progress=progress)
    finished = time.perf_counter()
    return DatasetEvaluation(
        **vars(found),
        config_hash=config_hash(config),
        weights=weights_of(config),
        seconds={
            "extract": extracted - started,
            **index.seconds,
            "search": finished - built,
            "total": finished - started,
        },
        num_images=len(features.database),
        num_failed=len(features.database.failures()),
        num_ignored=len(dataset.queries) - len(scored_queries(dataset)),
        failures=features.database.failures(),
    )


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
        config: only its sections ``search`` and ``verification`` are used; by default those of the
            index.
        protocols: protocols of the dataset to score by; all when empty.
        progress: show a progress bar.

    Raises:
        EvaluationError: the dataset has no queries, has no protocol, or lacks labels that its
            protocol needs.
        ConfigError: the dataset has no such protocol.
    """
    names = tuple(dataset.database)
    stages = {
        stage: _Stage(names, make_scorers(dataset, names, protocols))
        for stage in (_VOTES, _INLIERS)
    }
    searcher = _Searcher(index, dataset, config or index.config)
    called = query_names(dataset)
    query_failures: dict[str, str] = {}
    for number in tqdm(scored_queries(dataset), desc="search", unit="query", disable=not progress):
        query = dataset.queries[number]
        known = features.of(query)
        if known is None:
            query_failures[called[number]] = features.failure(query)
        for stage, answer in searcher.answers(known).items():
            stages[stage].add(called[number], query, answer)
    results = {
        protocol: {stage: stages[stage].scorers[protocol].record() for stage in stages}
        for protocol in stages[_VOTES].scorers
    }
    return DatasetScores(
        dataset=dataset.name,
        tiers=_tiers(results),
        results=results,
        rankings=stages[_INLIERS].rankings,
        rankings_by_votes=stages[_VOTES].rankings,
        scores={name: stage.scores for name, stage in stages.items()},
        beyond={name: stage.beyond for name, stage in stages.items()},
        query_failures=query_failures,
    )


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
    right = [np.zeros(0, np.int64)]
    wrong = [np.zeros(0, np.int64)]
    unanswered: dict[str, int] = {}
    for name, query in zip(query_names(dataset), dataset.queries, strict=True):
        if name not in found.rankings:
            continue
        images = np.array([number[image] for image in found.rankings[name]], np.int64)
        inliers = np.array(found.scores[_INLIERS][name], np.int64)
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


class _Stage:
    """Scores one of the two rankings and keeps what is reported of it."""

    def __init__(self, database: Sequence[str], scorers: dict[str, Scorer]) -> None:
        self.scorers = scorers
        self.rankings: dict[str, list[str]] = {}
        self.scores: dict[str, list[int]] = {}
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


class _Searcher:
    """Searches an index and answers with image numbers of the dataset."""

    def __init__(self, index: LocalIndex, dataset: RetrievalDataset, config: DelfConfig) -> None:
        self._index = index
        self._config = config
        self._places = positions(ImagePaths(index.names).column, dataset.database.column)
        self._in_order = np.argsort(self._places)

    def answers(self, features: ImageFeatures | None) -> dict[str, Answer]:
        """The images by votes and by inliers; no images for a query without features."""
        if features is None:
            nothing = Answer(np.zeros(0, np.int64), np.zeros(0, np.int64))
            return {_VOTES: nothing, _INLIERS: nothing}
        ranked = search(
            self._index,
            features,
            config=self._config.search,
            verification=self._config.verification,
        )
        votes = np.zeros(len(self._places), np.int64)
        votes[ranked.images] = ranked.votes
        found = int(np.count_nonzero(votes))
        # Images without a vote are tied, so they keep the order of the database.
        rest = self._in_order[votes[self._in_order] == 0]
        by_votes = np.concatenate([ranked.by_votes[:found], rest])
        return {
            _VOTES: Answer(self._places[by_votes], votes[by_votes]),
            _INLIERS: Answer(
                self._places[np.concatenate([ranked.images[:found], rest])], ranked.inliers
            ),
        }


def _tiers(results: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    if "folder" not in results:
        return {}
    by_stage = {stage: record["means"] for stage, record in results["folder"].items()}
    return {
        tier: {stage: means[tier] for stage, means in by_stage.items()} for tier in by_stage[_VOTES]
    }
