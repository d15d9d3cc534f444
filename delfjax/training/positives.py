"""Which photos may be the positive of a query, and which may be its negatives.

In the rendered world it is known exactly which photos see the same points of a landmark, and at
which scales. For other photos, pairs can be given, such as the verified pairs of mined landmarks;
without them, a photo's positives are all others of its landmark.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from delfjax import paths
from delfjax.config import TuplesConfig, values_hash
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.files import replace_file
from delfjax.training.batches import LabelledPhotos, TrainingError
from delfjax.world.overlap import CoObserved, co_observed
from delfjax.world.reading import World, open_world
from delfjax.world.solids import WorldError
from delfjax.world.writing import VERSION

# To be increased when the same world gives other pairs.
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Positives:
    """The positives of each of ``n`` photos, in rows one after another.

    Attributes:
        offsets: start of each row in ``indices``, and the end of the last.
        indices: positions of photos.
        groups: group of each photo; only photos of other groups are negatives.
    """

    offsets: Int64[np.ndarray, " m"]
    indices: Int64[np.ndarray, " k"]
    groups: Int64[np.ndarray, " n"]

    @classmethod
    def of_pairs(
        cls, pairs: Int64[np.ndarray, "p 2"], groups: Int64[np.ndarray, " n"]
    ) -> Positives:
        """The positives of ordered pairs: the second photo of each is one of the first's.

        Raises:
            TrainingError: a pair names a photo that is not there, or photos of different groups.
        """
        if pairs.size and (pairs.min() < 0 or pairs.max() >= len(groups)):
            raise TrainingError(
                f"pairs name the photos {pairs.min()} to {pairs.max()}, expected 0 to"
                f" {len(groups) - 1}"
            )
        apart = np.flatnonzero(groups[pairs[:, 0]] != groups[pairs[:, 1]])
        if apart.size:
            first, second = pairs[apart[0]]
            raise TrainingError(f"photos {first} and {second} are a pair, but of different groups")
        unique = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        counts = np.bincount(unique[:, 0], minlength=len(groups))
        return cls(np.concatenate([[0], np.cumsum(counts)]), unique[:, 1], groups)

    @classmethod
    def of_labels(cls, labels: Int64[np.ndarray, " n"]) -> Positives:
        """The positives of a photo are all others of its landmark."""
        order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels)
        sizes = counts[labels[order]]
        first = np.repeat(order, sizes)
        starts = np.repeat((np.cumsum(counts) - counts)[labels[order]], sizes)
        within = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return cls.of_pairs(np.stack([first, order[starts + within]], axis=1), labels)

    def among(self, kept: Bool[np.ndarray, " n"]) -> Positives:
        """The positives of the photos that are kept, among themselves."""
        pairs = self.pairs
        return Positives.of_pairs(pairs[kept[pairs].all(axis=1)], self.groups)

    @property
    def pairs(self) -> Int64[np.ndarray, "k 2"]:
        """Each photo with each of its positives."""
        first = np.repeat(np.arange(len(self.groups)), self.counts)
        return np.stack([first, self.indices], axis=1)

    @property
    def counts(self) -> Int64[np.ndarray, " n"]:
        """Number of positives of each photo."""
        return np.diff(self.offsets)

    def digest(self) -> str:
        """A digest of the positives and groups."""
        whole = hashlib.sha256()
        for column in (self.offsets, self.indices, self.groups):
            whole.update(np.ascontiguousarray(column, np.int64).tobytes())
        return whole.hexdigest()


def positives_of(
    dataset: RetrievalDataset,
    photos: LabelledPhotos,
    tuples: TuplesConfig,
    *,
    progress: bool = False,
) -> Positives:
    """The positives of a dataset's photos: its pairs, if it has any; in the landmark world, photos
    that see enough common points at a similar scale; elsewhere, all photos of the same landmark.

    Args:
        dataset: the dataset.
        photos: its labelled photos.
        tuples: bounds of overlap and scale.
        progress: show a progress bar.

    Raises:
        TrainingError: the world is damaged.
    """
    if dataset.pairs is not None:
        assert dataset.landmarks is not None
        rows = np.full(len(dataset.database), -1, np.int64)
        labelled = dataset.landmarks >= 0
        rows[labelled] = np.arange(labelled.sum())
        pairs = rows[dataset.pairs]
        same = (pairs >= 0).all(axis=1) & (photos.labels[pairs[:, 0]] == photos.labels[pairs[:, 1]])
        return Positives.of_pairs(pairs[same], photos.labels)
    if dataset.name != "world_train":
        return Positives.of_labels(photos.labels)
    try:
        found = _of_world(open_world(dataset.root), photos.paths, progress=progress)
    except WorldError as error:
        raise TrainingError(str(error)) from None
    change = np.maximum(found.scale, 1 / found.scale)
    near = (found.share >= tuples.min_overlap) & (change <= tuples.max_scale_change)
    _, groups = np.unique(found.sites, return_inverse=True)
    pairs = np.stack([found.first, found.second], axis=1)[near]
    # A photo of the neighbour of a landmark is no positive, but no negative either.
    same = photos.labels[pairs[:, 0]] == photos.labels[pairs[:, 1]]
    return Positives.of_pairs(pairs[same], groups.astype(np.int64))


def _of_world(world: World, names: Sequence[str], *, progress: bool) -> CoObserved:
    """Pairs of photos of a world, computed once and kept in the cache."""
    known = {"version": [VERSION, _VERSION], "world": world.census.config.plain()}
    file = paths.cache_root() / "overlaps" / f"{values_hash({**known, 'photos': list(names)})}.npz"
    found = _read(file, len(names))
    if found is None:
        rows = {path: row for row, path in enumerate(world.paths)}
        found = co_observed(world, [rows[name] for name in names], progress=progress)
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **vars(found))
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, stream.getbuffer())
    return found


def _read(file: Path, count: int) -> CoObserved | None:
    """The pairs in a file; ``None`` if it is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as held:
            found = CoObserved(*(held[field.name] for field in fields(CoObserved)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found if len(found.sites) == count else None
