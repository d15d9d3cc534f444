"""The features of a labelled dataset: which images are extracted, into which stores, and how the
features of a query are found again.

The database has one store. Queries that are images of the database share it; queries that are cut
to a box, or that are not in the database, have a second store beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delfjax import paths
from delfjax.config import DelfConfig, config_hash, uses_global, uses_local
from delfjax.datasets.benchmark import DatasetQuery, RetrievalDataset
from delfjax.datasets.image_source import ImageSource
from delfjax.datasets.photo_folder import PhotoFolder
from delfjax.datasets.query_images import QueryImages, crop_name
from delfjax.evaluation.dataset_protocols import scored_queries
from delfjax.features.dataset_loop import ExtractionReport, ImageExtractor, extract_dataset
from delfjax.features.store import FeatureStore
from delfjax.types import ImageFeatures


@dataclass(frozen=True, eq=False)
class DatasetFeatures:
    """Features of a dataset: of its database and of its queries.

    Attributes:
        database: features of the database images.
        queries: features of the queries that are not whole database images; ``database`` again if
            there are none.
    """

    database: FeatureStore
    queries: FeatureStore

    def of(self, query: DatasetQuery) -> ImageFeatures | None:
        """Features of a query; ``None`` if its image could not be read."""
        store, name = self._place(query)
        return store.get(name) if name in store else None

    def failure(self, query: DatasetQuery) -> str:
        """The reason why a query has no features."""
        store, name = self._place(query)
        return store.failures().get(name, "not extracted")

    def _place(self, query: DatasetQuery) -> tuple[FeatureStore, str]:
        if _is_database_image(query):
            return self.database, query.path
        return self.queries, crop_name(query)


@dataclass(frozen=True)
class SystemFeatures:
    """The features that a system ranks by: local ones, global descriptors, or both.

    Attributes:
        local: local features; ``None`` if the system needs none.
        pooled: global descriptors; ``None`` if the system needs none.
    """

    local: DatasetFeatures | None = None
    pooled: DatasetFeatures | None = None

    def of(
        self,
        query: DatasetQuery,
        *,
        read: Callable[[DatasetFeatures], ImageFeatures | None] | None = None,
    ) -> ImageFeatures | None:
        """Features of a query; ``None`` if its image could not be read.

        Args:
            query: the query.
            read: reads its features of one kind, where several systems share them.
        """
        found = [features.of(query) if read is None else read(features) for features in self._held]
        if None in found:
            return None
        first, last = found[0], found[-1]
        assert first is not None and last is not None
        return replace(first, global_descriptor=last.global_descriptor)

    def failure(self, query: DatasetQuery) -> str:
        """The reason why a query has no features."""
        return next(held.failure(query) for held in self._held if held.of(query) is None)

    @property
    def _held(self) -> list[DatasetFeatures]:
        return [held for held in (self.local, self.pooled) if held is not None]


def extract_features(
    dataset: RetrievalDataset,
    extractor: ImageExtractor[ImageFeatures],
    store: Path,
    *,
    retry_failed: bool = False,
    progress: bool = True,
) -> tuple[DatasetFeatures, ExtractionReport]:
    """Extract the database into ``store``, and queries that are not database images beside it.

    What the stores already hold is not extracted again.

    Args:
        dataset: a benchmark.
        extractor: the compiled extractor.
        store: folder of the database's store; the queries go to ``<store>-queries``.
        retry_failed: try images with a recorded failure again, whether or not their file has
            changed.
        progress: show progress bars.

    Returns:
        The features, and the counts of the extraction for database and queries together.

    Raises:
        StoreError: a store has another config, is damaged, or is being written.
    """
    reports = [
        extract_dataset(extractor, source, place, retry_failed=retry_failed, progress=progress)
        for source, (place,) in image_sources(dataset, [store])
    ]
    total = {name: sum(getattr(report, name) for report in reports) for name in vars(reports[0])}
    return open_features(dataset, store), ExtractionReport(**total)


def open_features(dataset: RetrievalDataset, store: Path) -> DatasetFeatures:
    """Open the features that :func:`extract_features` wrote.

    Raises:
        StoreError: a store is missing or damaged.
    """
    opened = (
        FeatureStore.open(place).subset(source.names)
        for source, (place,) in image_sources(dataset, [store])
    )
    database, *queries = opened
    return DatasetFeatures(database, *(queries or [database]))


def image_sources(
    dataset: RetrievalDataset, stores: Sequence[Path]
) -> list[tuple[ImageSource, list[Path]]]:
    """The images to extract, each source with the stores it is extracted into.

    Args:
        dataset: a benchmark.
        stores: stores for its database.

    Returns:
        The database with ``stores``; then, if there are any, the queries that are not database
        images, with the query store beside each of ``stores``.
    """
    sources: list[tuple[ImageSource, list[Path]]] = [
        (PhotoFolder(dataset.root, tuple(dataset.database)), list(stores))
    ]
    own = [
        number
        for number in scored_queries(dataset)
        if not _is_database_image(dataset.queries[number])
    ]
    if own:
        sources.append((QueryImages.of(dataset, own), [query_store(store) for store in stores]))
    return sources


def default_store(dataset: RetrievalDataset, extraction: Mapping[str, Any]) -> Path:
    """Folder in the cache for the database features of a dataset, by its name, its root and the
    config of the extraction."""
    root = dataset.root.resolve()
    place = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    name = root.name if dataset.name == "folder" else dataset.name
    return paths.cache_root() / "stores" / f"{name}-{place}-{config_hash(dict(extraction))}"


def default_stores(dataset: RetrievalDataset, config: DelfConfig) -> tuple[Path, Path | None]:
    """Folders in the cache for what a system ranks by: the first for its local features, or for its
    global descriptors if it has no local features; the second for global descriptors beside local
    features."""
    parts = []
    if uses_local(config):
        parts.append(config.extraction())
    if uses_global(config):
        parts.append(config.global_extraction())
    places = [default_store(dataset, extraction) for extraction in parts]
    return places[0], places[1] if len(places) > 1 else None


def query_store(store: Path) -> Path:
    """Folder of the query features that belong to the database features in ``store``."""
    return store.with_name(f"{store.name}-queries")


def _is_database_image(query: DatasetQuery) -> bool:
    return query.box is None and query.in_database is not None
