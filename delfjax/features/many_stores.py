"""Several feature stores that one pass over the photos fills together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, TypeVar

from delfjax.datasets.image_source import ImageSource
from delfjax.features.dataset_loop import ImageExtractor, extract_images
from delfjax.features.store import FeatureStore, Group, Source, StoreError, StoreWriter
from delfjax.types import ImageFeatures

K = TypeVar("K", bound=Hashable)


def extract_together(
    extractor: ImageExtractor[Mapping[K, ImageFeatures]],
    photos: ImageSource,
    stores: Mapping[K, Path],
    extractions: Mapping[K, dict[str, Any]],
    *,
    retry_failed: bool = False,
    progress: bool = True,
) -> None:
    """Extract the features of ``photos`` into one store per system, skipping images that a store
    already holds.

    Args:
        extractor: computes the features of every system.
        photos: the images.
        stores: key → folder of the store, created if missing; each system needs its own.
        extractions: key → extraction config, for the systems of ``extractor``.
        retry_failed: try images with a recorded failure again.
        progress: show a progress bar.

    Raises:
        StoreError: a store was made with another config, is damaged, or is being written by another
            process.
    """
    with ExitStack() as opened:
        writers = {
            key: opened.enter_context(StoreWriter(stores[key], extraction))
            for key, extraction in extractions.items()
        }
        extract_images(
            extractor,
            photos,
            StoreWriters(writers),
            retry_failed=retry_failed,
            progress=progress,
        )


class StoreWriters(Generic[K]):
    """The stores of all systems, planned and filled together."""

    def __init__(self, writers: Mapping[K, StoreWriter]) -> None:
        self._writers = writers
        self._missing: dict[K, set[int]] = {}

    def store(self) -> FeatureStore:
        """One of the stores, which stands for all of them.

        Raises:
            StoreError: the stores hold the photos of different folders.
        """
        stores = [writer.store() for writer in self._writers.values()]
        first = {store.source.root: store for store in reversed(stores) if store.source}
        if len(first) > 1:
            (root, one), (other, another), *_ = first.items()
            raise StoreError(
                f"{one.path}: holds the photos of {root}, but {another.path} those of {other};"
                " name stores of one folder"
            )
        return stores[0]

    def record_source(self, source: Source) -> None:
        """Record in every store where the images come from."""
        for writer in self._writers.values():
            writer.record_source(source)

    def plan(
        self,
        names: Iterable[str],
        *,
        again: Iterable[str] = (),
        gone: Iterable[str] = (),
        known: Mapping[str, str] | None = None,
    ) -> list[Group]:
        """Groups that at least one store lacks: an interrupted run may have committed a group to
        some of the stores only."""
        wanted, repeated, left = list(names), list(again), list(gone)
        stores = [writer.store() for writer in self._writers.values()] if known else []
        shared = {
            name: digest
            for name, digest in (known or {}).items()
            if all(store.holds_content(digest) for store in stores)
        }
        plans = {
            key: writer.plan(wanted, again=repeated, gone=left, known=shared)
            for key, writer in self._writers.items()
        }
        self._missing = {key: {group.index for group in groups} for key, groups in plans.items()}
        lacking = {group.index: group for groups in plans.values() for group in groups}
        return [lacking[index] for index in sorted(lacking)]

    def commit(
        self,
        group: Group,
        features: Mapping[str, Mapping[K, ImageFeatures]],
        failures: Mapping[str, str],
        *,
        failure_hashes: Mapping[str, str] | None = None,
    ) -> None:
        """Write the shard of a group into every store that lacks it."""
        for key, writer in self._writers.items():
            if group.index in self._missing[key]:
                writer.commit(
                    group,
                    {name: found[key] for name, found in features.items()},
                    failures,
                    failure_hashes=failure_hashes,
                )
