"""Reading a feature store: the features of one image, or the arrays of all images."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from delfjax.config import config_hash
from delfjax.features.store.contents import Contents, read_contents, records_by_content, view
from delfjax.features.store.format import (
    Source,
    StoreError,
    read_header,
    read_source,
    require_config,
)
from delfjax.features.store.shards import Rows, read_rows
from delfjax.types import ImageFeatures, LocalFeatures

# Number of recently used shards that stay mapped.
_OPEN_SHARDS = 64


@dataclass(frozen=True)
class StoreArrays:
    """Concatenated features of many images.

    Attributes:
        names: the images, sorted.
        descriptors: descriptor of each feature.
        keypoints_yx: position of each feature, pixels of the original image.
        scales: factor applied to the image when each feature was extracted.
        scores: attention score of each feature.
        offsets: features of image ``i`` are rows ``offsets[i]`` to ``offsets[i + 1]``.
        orientations: direction of each feature, radians; ``None`` of features without one.
    """

    names: tuple[str, ...]
    descriptors: Float[np.ndarray, "n d"]
    keypoints_yx: Float[np.ndarray, "n 2"]
    scales: Float[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    offsets: Int[np.ndarray, " images1"]
    orientations: Float[np.ndarray, " n"] | None = None


class FeatureStore:
    """A store opened for reading, as it was when it was opened.

    Arrays are memory-mapped and read-only; keypoints, scales, orientations, scores and global
    descriptors are ``float32``, local descriptors ``float16``. An instance must not be shared
    between threads.

    Attributes:
        path: folder of the store.
        config: the extraction config.
        config_hash: its hash.
        names: images with features, sorted.
        wanted: the images that a view made by :meth:`subset` is limited to; ``None`` for all.
    """

    def __init__(self, path: Path, config: dict[str, Any], contents: Contents) -> None:
        self.path = path
        self.config = config
        self.config_hash = config_hash(config)
        self._contents = contents
        self._shards = contents.shards
        held = view(contents)
        self._places = held.places
        self._failures = held.failures
        self._pending = tuple(held.pending)
        self.names: tuple[str, ...] = tuple(sorted(self._places))
        self.wanted: frozenset[str] | None = None
        self._mapped: OrderedDict[int, Rows] = OrderedDict()
        self._verified: set[int] = set()

    @classmethod
    def open(cls, path: Path, *, config: dict[str, Any] | None = None) -> FeatureStore:
        """Open the store in the folder ``path``.

        Args:
            path: the folder.
            config: the extraction config that the store must have been made with; by default, any
                config is accepted.

        Raises:
            StoreError: the folder is not a store, has another version or config, or is damaged.
        """
        stored = read_header(path)
        if config is not None:
            require_config(path, stored, config)
        return cls(path, stored, read_contents(path, config_hash(stored)))

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, index: int) -> ImageFeatures:
        return self.get(self.names[index])

    @property
    def descriptor_dim(self) -> int:
        """Number of dimensions of a local descriptor; 0 while the store holds no image."""
        return next((shard.descriptor_dim for shard in self._shards.values() if shard.names), 0)

    def done(self) -> frozenset[str]:
        """Images that need no extraction: those with features, and those that failed."""
        return frozenset(self._places) | frozenset(self._failures)

    def failures(self) -> dict[str, str]:
        """Image → reason, for images that could not be extracted."""
        return {
            name: self._shards[group].failures[name]
            for name, group in sorted(self._failures.items())
        }

    def failed_hash(self, name: str) -> str | None:
        """Digest of the file of ``name`` when it failed, empty if it could not be read; ``None`` if
        an earlier version of delfjax did not record it."""
        return self._shards[self._failures[name]].failure_hashes.get(name)

    def holds_content(self, digest: str) -> bool:
        """Whether the store has the features of an image file with this digest, under whatever
        name, also one that has left the folder."""
        return digest in self._by_content

    @cached_property
    def source(self) -> Source | None:
        """Where the images come from; ``None`` if that was never recorded.

        Raises:
            StoreError: ``source.json`` is damaged.
        """
        return read_source(self.path)

    @cached_property
    def _by_content(self) -> dict[str, tuple[int, int]]:
        return records_by_content(self._contents)

    def pending(self) -> tuple[str, ...]:
        """Images that were planned but not committed, as an interrupted run leaves them."""
        return self._pending

    def counts(self) -> Int[np.ndarray, " images"]:
        """Number of local features of each image, in the order of ``names``."""
        places = (self._places[name] for name in self.names)
        return np.array([self._shards[index].counts[row] for index, row in places], np.int64)

    def content_hash(self, name: str) -> str:
        """Digest of the file of ``name`` at the time of extraction."""
        index, row = self._place(name)
        return self._shards[index].content_hashes[row]

    def get(self, name: str) -> ImageFeatures:
        """Features of one image.

        Raises:
            StoreError: the store does not hold the image, or its shard is damaged.
        """
        index, row = self._place(name)
        return self._rows(index).features(row)

    def arrays(self, *, reduce: Callable[[np.ndarray], np.ndarray] | None = None) -> StoreArrays:
        """The features of all images, concatenated in the order of ``names``.

        Args:
            reduce: applied to the descriptors of each image in turn, so the unreduced descriptors
                of all images need not fit into memory.
        """
        offsets = np.concatenate([[0], np.cumsum(self.counts())]).astype(np.int64)
        images = [self.get(name).local for name in self.names]
        descriptors = [np.asarray(image.descriptors) for image in images]
        if reduce is not None:
            descriptors = [reduce(part) for part in descriptors]
        none = np.zeros(0, np.float32)
        return StoreArrays(
            names=self.names,
            descriptors=np.concatenate(
                descriptors or [np.zeros((0, self.descriptor_dim), np.float16)]
            ),
            keypoints_yx=np.concatenate(
                [np.asarray(image.keypoints_yx) for image in images] or [none.reshape(0, 2)]
            ),
            scales=np.concatenate([np.asarray(image.scales) for image in images] or [none]),
            scores=np.concatenate([np.asarray(image.scores) for image in images] or [none]),
            offsets=offsets,
            orientations=_orientations(images),
        )

    def global_descriptors(self) -> Float[np.ndarray, "images g"]:
        """The global descriptors of all images, float32, in the order of ``names``.

        Raises:
            StoreError: an image has no global descriptor, one of another length than the others, or
                one with values that are not finite; or a shard is damaged.
        """
        held = ((name, self.get(name).global_descriptor) for name in self.names)
        rows = {name: values for name, values in held if values is not None}
        if len(rows) < len(self):
            missing = next(name for name in self.names if name not in rows)
            raise StoreError(
                f"{self.path}: {len(self) - len(rows)} of {len(self)} images have no global"
                f" descriptor, {missing!r} for one; they were extracted for local features alone,"
                " so extract global descriptors into a new store"
            )
        lengths = sorted({len(values) for values in rows.values()})
        if len(lengths) > 1:
            raise StoreError(f"{self.path}: damaged: holds global descriptors of lengths {lengths}")
        descriptors = np.stack(list(rows.values())) if rows else np.zeros((0, 0), np.float32)
        finite = np.isfinite(descriptors).all(axis=1)
        if not finite.all():
            wrong = self.names[int(np.argmin(finite))]
            raise StoreError(
                f"{self.path}: the global descriptor of {wrong!r} holds values that are not finite;"
                " check the weights, and extract into a new store"
            )
        return descriptors

    def subset(self, names: Collection[str]) -> FeatureStore:
        """A view of the store limited to the images, failures and pending images in ``names``;
        unknown names are ignored."""
        wanted = frozenset(names)
        part = copy.copy(self)
        part._places = {name: place for name, place in self._places.items() if name in wanted}
        part._failures = {name: group for name, group in self._failures.items() if name in wanted}
        part.wanted = wanted if self.wanted is None else wanted & self.wanted
        part._pending = tuple(name for name in self._pending if name in wanted)
        part.names = tuple(name for name in self.names if name in wanted)
        part._mapped = OrderedDict()
        return part

    def verify(self) -> None:
        """Read every byte and compare all checksums.

        Raises:
            StoreError: a shard is damaged.
        """
        for index in self._shards:
            self._rows(index)

    def _place(self, name: str) -> tuple[int, int]:
        if name not in self._places:
            group = self._failures.get(name)
            why = "" if group is None else f"; it failed: {self._shards[group].failures[name]}"
            raise StoreError(f"{self.path}: holds no image {name!r}{why}")
        return self._places[name]

    def _rows(self, index: int) -> Rows:
        rows = self._mapped.pop(index, None)
        if rows is None:
            rows = read_rows(self._shards[index], verify=index not in self._verified)
            self._verified.add(index)
        self._mapped[index] = rows
        if len(self._mapped) > _OPEN_SHARDS:
            self._mapped.popitem(last=False)
        return rows


def _orientations(images: Sequence[LocalFeatures]) -> Float[np.ndarray, " n"] | None:
    held = [np.asarray(image.orientations) for image in images if image.orientations is not None]
    return np.concatenate(held) if held and len(held) == len(images) else None
