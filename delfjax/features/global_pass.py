"""Global descriptors of several systems in one pass over the photos.

The backbone takes nearly all the time. Systems that differ only in how its map is pooled share it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from delfjax.config import DelfConfig, config_hash
from delfjax.datasets.image_source import ImageSource
from delfjax.datasets.images import DecodedImage
from delfjax.features.batching import BatchFeatures, PendingBatch
from delfjax.features.global_extractor import GlobalExtractor, load_global_extractor
from delfjax.features.many_stores import extract_together
from delfjax.types import ImageFeatures

K = TypeVar("K", bound=Hashable)
# Fields of the section `global_features` that decide what the backbone computes.
_PASS_FIELDS = ("backbone", "sides", "dtype")


class GlobalPass(Generic[K]):
    """Compiled extractors of global descriptors for several systems."""

    def __init__(self, systems: Mapping[K, DelfConfig]) -> None:
        """Load every backbone.

        Args:
            systems: key → config, of which only the section ``global_features`` matters.

        Raises:
            ConfigError: a projection of regions is set for a pooling without regions.
            WeightsError: weights are missing or damaged, or do not fit.
        """
        groups: dict[str, dict[K, DelfConfig]] = {}
        for key, config in systems.items():
            extraction = config.global_extraction()
            shared = {name: extraction["global_features"].pop(name) for name in _PASS_FIELDS}
            seed = {"seed": extraction["seed"]} if "seed" in extraction else {}
            groups.setdefault(config_hash({**shared, **seed}), {})[key] = config
        self._passes = [_Pooled(group) for group in groups.values()]

    def extract(
        self,
        photos: ImageSource,
        stores: Mapping[K, Path],
        *,
        retry_failed: bool = False,
        progress: bool = True,
    ) -> None:
        """Extract the descriptors of ``photos`` into one store per system, skipping images that a
        store already holds.

        Args:
            photos: the images.
            stores: key → folder of the store, created if missing; each system needs its own.
            retry_failed: try images with a recorded failure again.
            progress: show a progress bar for each pass.

        Raises:
            StoreError: a store was made with another config, is damaged, or is being written by
                another process.
        """
        for shared in self._passes:
            extractions = {key: held.extraction for key, held in shared.extractors.items()}
            extract_together(
                shared,
                photos,
                stores,
                extractions,
                retry_failed=retry_failed,
                progress=progress,
            )


class _Pooled(Generic[K]):
    """Systems with one backbone, as a single extractor that returns the descriptor of each."""

    def __init__(self, systems: Mapping[K, DelfConfig]) -> None:
        self.extractors: dict[K, GlobalExtractor] = {
            key: load_global_extractor(config) for key, config in systems.items()
        }
        self._first = next(iter(self.extractors.values()))
        self.max_side = self._first.max_side
        self.batch_size = self._first.batch_size
        self.in_flight = self._first.in_flight
        self.canvas = self._first.canvas

    @property
    def extraction(self) -> dict[str, Any]:
        """The extraction config of the first system."""
        return self._first.extraction

    def dispatch(self, images: Sequence[DecodedImage]) -> _PendingPooled[K]:
        """Start the extraction of one batch and return without waiting for it."""
        return _PendingPooled(self._first.start(lambda: self._compute(images)), tuple(images))

    def _compute(self, images: Sequence[DecodedImage]) -> dict[K, BatchFeatures]:
        shapes = self.canvas(*images[0].pixels.shape[:2])
        maps = self._first.maps(images, shapes)
        return {key: extractor.pooled(maps) for key, extractor in self.extractors.items()}


@dataclass(frozen=True)
class _PendingPooled(Generic[K]):
    """A batch being computed on the device."""

    computed: dict[K, BatchFeatures] | Future[dict[K, BatchFeatures]]
    images: tuple[DecodedImage, ...]

    def result(self) -> list[dict[K, ImageFeatures]]:
        """The features of each system for each image."""
        held = self.computed.result() if isinstance(self.computed, Future) else self.computed
        found = {key: PendingBatch(batch, self.images).result() for key, batch in held.items()}
        return [{key: of[place] for key, of in found.items()} for place in range(len(self.images))]
