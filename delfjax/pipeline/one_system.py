"""A labelled dataset to its scores, in one call: extract, index, search with every query, verify,
score; by one system, or by several that share what they have in common."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delfjax.config import DelfConfig, config_hash, to_dict, uses_global, uses_local
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.evaluation.dataset_protocols import make_scorers, scored_queries
from delfjax.features.dataset_loop import ImageExtractor
from delfjax.features.extractor import Extractor
from delfjax.features.global_pass import GlobalPass
from delfjax.features.local_methods import load_local_extractor
from delfjax.models.model_files import pinned, weights_of
from delfjax.pipeline.dataset_features import (
    DatasetFeatures,
    SystemFeatures,
    default_store,
    extract_features,
    image_sources,
    open_features,
)
from delfjax.pipeline.scoring import DatasetScores, System, score_systems
from delfjax.retrieval.global_index import GlobalIndex, build_global_index
from delfjax.retrieval.index_files import Timed
from delfjax.retrieval.local_index import build_index
from delfjax.retrieval.ranking import LocalSearcher
from delfjax.retrieval.system_index import GLOBAL_PART
from delfjax.types import ImageFeatures

# Most images of a database of which all links are found for an expansion; beyond, only those that a
# query needs.
_ALL_LINKS = 20_000


@dataclass(frozen=True)
class DatasetEvaluation(DatasetScores):
    """Scores of one config on one dataset.

    Attributes:
        config_hash: hash of the whole config.
        weights: part of the system → digest of its weights, or their name if they are not in a
            file.
        seconds: stage → wall time, seconds. Systems that are evaluated together share the times of
            what they share.
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
    return evaluate_together(
        dataset,
        {"": config},
        protocols=protocols,
        store=store,
        retry_failed=retry_failed,
        extractor=extractor,
        progress=progress,
    )[""]


def evaluate_together(
    dataset: RetrievalDataset,
    systems: Mapping[str, DelfConfig],
    *,
    protocols: Sequence[str] = (),
    store: Path | None = None,
    retry_failed: bool = False,
    extractor: Extractor | None = None,
    progress: bool = True,
) -> dict[str, DatasetEvaluation]:
    """Evaluate several systems; what they share is extracted, indexed and searched once.

    Args:
        dataset: a benchmark, from :func:`~delfjax.datasets.catalogue.open_dataset`.
        systems: name → the whole system.
        protocols: protocols of the dataset to score by; all when empty.
        store: folder for the features; only for systems of one extraction.
        retry_failed: try images with a recorded failure again, database and queries alike.
        extractor: a loaded extractor of local features, of the config of every system.
        progress: show progress bars.

    Returns:
        Name → evaluation.

    Raises:
        EvaluationError: see :func:`evaluate_dataset`, as for all other errors.
    """
    started = time.perf_counter()
    # Check the protocols now: a missing label must not surface after hours of extraction.
    make_scorers(dataset, tuple(dataset.database), protocols)
    parts = _Parts(dataset, store, retry_failed, extractor, progress)
    configs = {name: pinned(config) for name, config in systems.items()}
    parts.describe([config for config in configs.values() if uses_global(config)])
    built = {name: parts.system(config) for name, config in configs.items()}
    searching = time.perf_counter()
    found = score_systems(dataset, built, protocols=protocols, progress=progress)
    finished = time.perf_counter()
    return {
        name: DatasetEvaluation(
            **vars(scores),
            config_hash=config_hash(configs[name]),
            weights=weights_of(configs[name]),
            seconds={
                **parts.seconds,
                "search": finished - searching,
                "total": finished - started,
            },
            **_counts(dataset, built[name].features),
        )
        for name, scores in found.items()
    }


@dataclass
class _Parts:
    """Features and indexes of a dataset, each made once for all systems that share it."""

    dataset: RetrievalDataset
    store: Path | None
    retry_failed: bool
    extractor: Extractor | None
    progress: bool
    seconds: dict[str, float] = field(default_factory=dict)
    _features: dict[str, DatasetFeatures] = field(default_factory=dict)
    _local: dict[str, LocalSearcher] = field(default_factory=dict)
    _pooled: dict[str, GlobalIndex] = field(default_factory=dict)

    def system(self, config: DelfConfig) -> System:
        """A system with its indexes and the features of its queries."""
        local = self._local_features(config) if uses_local(config) else None
        pooled = self._global_features(config) if uses_global(config) else None
        return System(
            config,
            SystemFeatures(local, pooled),
            None if local is None else self._local_index(config, local),
            None if pooled is None else self._global_index(config, pooled),
        )

    def _local_features(self, config: DelfConfig) -> DatasetFeatures:
        extraction = config.extraction()
        key = config_hash(extraction)
        if key not in self._features:
            place = self.store or default_store(self.dataset, extraction)
            with Timed(self.seconds, "extract"):
                extractor = self.extractor or load_local_extractor(config)
                self._features[key] = self._extract(extractor, place)
        return self._features[key]

    def describe(self, systems: Sequence[DelfConfig]) -> None:
        """Extract the global descriptors of several systems, in one pass where they share one."""
        extractions = {config_hash(config.global_extraction()): config for config in systems}
        if not extractions:
            return
        stores = {key: self._global_store(config) for key, config in extractions.items()}
        with Timed(self.seconds, "extract global"):
            shared = GlobalPass(extractions)
            for source, folders in image_sources(self.dataset, list(stores.values())):
                shared.extract(
                    source,
                    dict(zip(stores, folders, strict=True)),
                    retry_failed=self.retry_failed,
                    progress=self.progress,
                )
        for key, store in stores.items():
            self._features[key] = open_features(self.dataset, store)

    def _global_store(self, config: DelfConfig) -> Path:
        if self.store is None:
            return default_store(self.dataset, config.global_extraction())
        return self.store / GLOBAL_PART if uses_local(config) else self.store

    def _global_features(self, config: DelfConfig) -> DatasetFeatures:
        return self._features[config_hash(config.global_extraction())]

    def _extract(self, extractor: ImageExtractor[ImageFeatures], place: Path) -> DatasetFeatures:
        return extract_features(
            self.dataset,
            extractor,
            place,
            retry_failed=self.retry_failed,
            progress=self.progress,
        )[0]

    def _local_index(self, config: DelfConfig, features: DatasetFeatures) -> LocalSearcher:
        plain = to_dict(config)
        key = config_hash(
            {name: plain[name] for name in ("reduction", "index", "seed")}
            | {"extraction": config.extraction()}
        )
        if key not in self._local:
            index = build_index(features.database, config=config, photos=str(self.dataset.root))
            for name, seconds in index.seconds.items():
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self._local[key] = LocalSearcher(
                index, all_links=len(index.names) <= _ALL_LINKS, progress=self.progress
            )
        return self._local[key]

    def _global_index(self, config: DelfConfig, features: DatasetFeatures) -> GlobalIndex:
        plain = to_dict(config)
        key = config_hash(
            {
                "global_features": plain["global_features"],
                "database_neighbours": config.expansion.database_neighbours,
                "seed": config.seed,
            }
        )
        if key not in self._pooled:
            with Timed(self.seconds, "index global"):
                self._pooled[key] = build_global_index(
                    features.database, config=config, photos=str(self.dataset.root)
                )
        return self._pooled[key]


def _counts(dataset: RetrievalDataset, features: SystemFeatures) -> dict[str, Any]:
    """Counts of the database images and the reasons of those that could not be read."""
    held = features.local or features.pooled
    assert held is not None
    failures = held.database.failures()
    return {
        "num_images": len(held.database),
        "num_failed": len(failures),
        "num_ignored": len(dataset.queries) - len(scored_queries(dataset)),
        "failures": failures,
    }
