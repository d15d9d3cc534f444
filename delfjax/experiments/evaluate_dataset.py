"""Everything from a labelled dataset to its scores, in one call: extract, index, search every query, verify, score."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from delfjax import paths
from delfjax.config import DelfConfig, config_hash
from delfjax.datasets.folder import PhotoFolder
from delfjax.datasets.retrieval import (
    DatasetQuery,
    ImagePaths,
    QueryImages,
    RetrievalDataset,
    crop_name,
    positions,
)
from delfjax.evaluation.dataset_protocols import Answer, Scorer, make_scorers, query_names, scored_queries
from delfjax.features.dataset_loop import ImageSource, extract_dataset
from delfjax.features.extractor import Extractor
from delfjax.features.store import FeatureStore
from delfjax.models.delf import load_delf
from delfjax.retrieval.local_index import LocalIndex, build_index
from delfjax.retrieval.search import search
from delfjax.types import ImageFeatures

# The two orders that are scored: before and after geometric verification.
_VOTES, _INLIERS = "votes", "inliers"


@dataclass(frozen=True)
class DatasetEvaluation:
    """Scores of one config on one dataset.

    Attributes:
        dataset: name of the dataset.
        config_hash: of the whole config.
        seconds: wall time of each stage.
        num_images: images that were indexed.
        num_failed: images of the database that could not be read.
        num_ignored: queries that the ground truth says are not scored; they were not searched for.
        tiers: of a folder, tier → {"votes": mAP before, "inliers": mAP after verification}.
        results: protocol → {"votes": scores before, "inliers": scores after verification}, each with the ``protocol`` id,
            ``means`` and the scores of all ``queries``.
        rankings: query → database paths by inliers, best first, cut after as many as are worth reporting.
        rankings_by_votes: the same before verification.
        scores: {"votes", "inliers"} → query → votes or inliers of the images of its ranking.
        beyond: {"votes", "inliers"} → query → labelled images behind the cut, each with its rank, from 0: with them, every
            score follows from the rankings. Queries without any are left out.
        failures: image of the database that could not be read → reason.
        query_failures: query that could not be read, which scores 0 → reason.
    """

    dataset: str
    config_hash: str
    seconds: dict[str, float]
    num_images: int
    num_failed: int
    num_ignored: int
    tiers: dict[str, dict[str, float]]
    results: dict[str, dict[str, dict[str, Any]]]
    rankings: dict[str, list[str]]
    rankings_by_votes: dict[str, list[str]]
    scores: dict[str, dict[str, list[int]]]
    beyond: dict[str, dict[str, dict[str, int]]]
    failures: dict[str, str]
    query_failures: dict[str, str]

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
    """Extract (or reuse), fit the reduction, index, search with every query, verify, score.

    A query is cut to its box at full size; cut queries, and those that are not in the database, have a store of their own
    beside that of the database. An image that cannot be read is a failure on record; a query that cannot be read scores 0.

    Args:
        dataset: a benchmark, from :func:`~delfjax.datasets.catalogue.open_dataset`.
        config: the whole system.
        protocols: which of the dataset's protocols; all when empty.
        store: where the features of the database are kept, those of the queries in ``<store>-queries``; by default in the
            cache, by dataset, root and config.
        retry_failed: try images with a recorded failure again, of the database and of the queries.
        extractor: one of this config that is there already, for instance from another dataset.
        progress: show progress bars.

    Raises:
        EvaluationError: the dataset has no queries, no protocol, or lacks what its protocol judges by.
        ConfigError: a protocol that it does not have.
        StoreError: the store is of another config, damaged, or being written.
        ReductionError: too few features to fit the reduction.
    """
    started = time.perf_counter()
    names = tuple(dataset.database)
    stages = {stage: _Stage(names, make_scorers(dataset, names, protocols)) for stage in (_VOTES, _INLIERS)}
    numbers = scored_queries(dataset)
    place = store or default_store(dataset, config)
    chosen = extractor or Extractor(config, load_delf(config))
    extract = partial(extract_dataset, chosen, retry_failed=retry_failed, progress=progress)
    database, crops = _stored(dataset, names, numbers, place, extract)
    extracted = time.perf_counter()
    index = build_index(database, config=config, photos=str(dataset.root))
    built = time.perf_counter()
    searcher = _Searcher(index, dataset)
    called, failed = query_names(dataset), {**database.failures(), **crops.failures()}
    query_failures: dict[str, str] = {}
    for number in tqdm(numbers, desc="search", unit="query", disable=not progress):
        query = dataset.queries[number]
        features = _features(query, database, crops)
        if features is None:
            query_failures[called[number]] = failed.get(_stored_name(query), "not extracted")
        for stage, answer in searcher.answers(features).items():
            stages[stage].add(called[number], query, answer)
    results = {
        protocol: {stage: stages[stage].scorers[protocol].record() for stage in stages}
        for protocol in stages[_VOTES].scorers
    }
    finished = time.perf_counter()
    return DatasetEvaluation(
        dataset=dataset.name,
        config_hash=config_hash(config),
        seconds={
            "extract": extracted - started,
            **index.seconds,
            "search": finished - built,
            "total": finished - started,
        },
        num_images=len(database),
        num_failed=len(database.failures()),
        num_ignored=len(dataset.queries) - len(numbers),
        tiers=_tiers(results),
        results=results,
        rankings=stages[_INLIERS].rankings,
        rankings_by_votes=stages[_VOTES].rankings,
        scores={name: stage.scores for name, stage in stages.items()},
        beyond={name: stage.beyond for name, stage in stages.items()},
        failures=database.failures(),
        query_failures=query_failures,
    )


def default_store(dataset: RetrievalDataset, config: DelfConfig) -> Path:
    """Where the features of a dataset's database under a config are cached: by its name, its root and the extraction."""
    root = dataset.root.resolve()
    place = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    name = root.name if dataset.name == "folder" else dataset.name
    return paths.cache_root() / "stores" / f"{name}-{place}-{config_hash(config.extraction())}"


def query_store(store: Path) -> Path:
    """Where the features of queries are kept whose database has its features in ``store``."""
    return store.with_name(f"{store.name}-queries")


class _Stage:
    """What becomes of the answers in one order."""

    def __init__(self, database: Sequence[str], scorers: dict[str, Scorer]) -> None:
        self.scorers = scorers
        self.rankings: dict[str, list[str]] = {}
        self.scores: dict[str, list[int]] = {}
        self.beyond: dict[str, dict[str, int]] = {}
        self._database = database
        self._longest = max(scorer.longest for scorer in scorers.values())

    def add(self, name: str, query: DatasetQuery, answer: Answer) -> None:
        """Score an answer and keep what of it is reported."""
        for scorer in self.scorers.values():
            scorer.add(name, query, answer)
        head, tail = answer.images[: self._longest], answer.images[self._longest :]
        self.rankings[name] = [self._database[image] for image in head]
        self.scores[name] = answer.scores[: self._longest].tolist()
        labelled = np.concatenate([np.zeros(0, np.int64), *query.sets.values()])
        later = np.flatnonzero(np.isin(tail, labelled))
        if later.size:
            self.beyond[name] = {self._database[tail[rank]]: self._longest + int(rank) for rank in later}


class _Searcher:
    """Searches an index, and answers in the numbers of the dataset."""

    def __init__(self, index: LocalIndex, dataset: RetrievalDataset) -> None:
        self._index = index
        self._places = positions(ImagePaths(index.names).column, dataset.database.column)
        self._in_order = np.argsort(self._places)

    def answers(self, features: ImageFeatures | None) -> dict[str, Answer]:
        """The images by votes and by inliers; none for a query without features of its own."""
        if features is None:
            nothing = Answer(np.zeros(0, np.int64), np.zeros(0, np.int64))
            return {_VOTES: nothing, _INLIERS: nothing}
        config = self._index.config
        ranked = search(self._index, features, config=config.search, verification=config.verification)
        votes = np.zeros(len(self._places), np.int64)
        votes[ranked.images] = ranked.votes
        found = int(np.count_nonzero(votes))
        # Images that nothing speaks for are equal: they stand in the order of the database.
        rest = self._in_order[votes[self._in_order] == 0]
        by_votes = np.concatenate([ranked.by_votes[:found], rest])
        return {
            _VOTES: Answer(self._places[by_votes], votes[by_votes]),
            _INLIERS: Answer(self._places[np.concatenate([ranked.images[:found], rest])], ranked.inliers),
        }


def _stored(
    dataset: RetrievalDataset,
    names: tuple[str, ...],
    numbers: Sequence[int],
    store: Path,
    extract: Callable[[ImageSource, Path], object],
) -> tuple[FeatureStore, FeatureStore]:
    """Features of the database, and of the queries that are not images of it; the former twice where there are none."""
    extract(PhotoFolder(dataset.root, names), store)
    database = FeatureStore.open(store).subset(names)
    own = [number for number in numbers if not _is_database_image(dataset.queries[number])]
    if not own:
        return database, database
    crops = QueryImages.of(dataset, own)
    extract(crops, query_store(store))
    return database, FeatureStore.open(query_store(store)).subset(crops.names)


def _is_database_image(query: DatasetQuery) -> bool:
    return query.box is None and query.in_database is not None


def _stored_name(query: DatasetQuery) -> str:
    return query.path if _is_database_image(query) else crop_name(query)


def _features(query: DatasetQuery, database: FeatureStore, crops: FeatureStore) -> ImageFeatures | None:
    store, name = database if _is_database_image(query) else crops, _stored_name(query)
    return store.get(name) if name in store else None


def _tiers(results: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    if "folder" not in results:
        return {}
    by_stage = {stage: record["means"] for stage, record in results["folder"].items()}
    return {tier: {stage: means[tier] for stage, means in by_stage.items()} for tier in by_stage[_VOTES]}
