"""Training data: labelled photos, the choice of photos held out for validation, and batches that
are a function of the step.

Everything random about a batch depends only on the seed and the step, so a resumed run sees the
same batches as an uninterrupted one, for any number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float16, Int, Int64, Shaped, UInt8
from tqdm.auto import tqdm

from delfjax.config import TrainingConfig
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.images import (
    ImageError,
    central_square,
    decode_image,
    file_digest,
    resized,
)
from delfjax.device import processors
from delfjax.errors import DelfjaxError
from delfjax.rng import named_generator

# Larger than the side of any photo: the square is cut out at full size.
_NO_REDUCTION = 1 << 30


class TrainingError(DelfjaxError):
    """Photos, labels or a checkpoint cannot be used for training, or a loss is not finite."""


class PaddedPhotos(NamedTuple):
    """Whole photos on canvases of one size, or their feature maps after the frozen layers.

    Attributes:
        values: pixels (RGB, 0 … 255) or features, each photo in the upper left corner.
        extent: rows and columns that each photo fills.
    """

    values: Any
    extent: Any


@dataclass(frozen=True)
class Batch:
    """The inputs of one step.

    Attributes:
        inputs: pixels (RGB, 0 … 255), or their feature maps after the frozen layers.
        labels: landmark of each input; of tuples, the position of the positive among the others of
            each, which is 0.
        members: index of each input's photo.
    """

    inputs: UInt8[np.ndarray, "b h w 3"] | Float16[np.ndarray, "b h w c"] | PaddedPhotos
    labels: Int[np.ndarray, " t"]
    members: Int64[np.ndarray, " b"]


@dataclass(frozen=True, eq=False)
class LabelledPhotos:
    """Photos, each with the landmark that it shows.

    Attributes:
        root: folder of the files.
        paths: file of each photo, relative to ``root``.
        labels: landmark of each photo, 0 … ``classes`` − 1.
        classes: number of landmarks; each has at least one photo.
        contents: digest of each photo's file, empty for one that cannot be read, which is then not
            trained on even if it can be read later; none at all before :meth:`hashed`.

    Raises:
        TrainingError: a label is out of range, a landmark has no photo, there are fewer than two
            landmarks, or most photos cannot be read.
    """

    root: Path
    paths: Sequence[str]
    labels: Int64[np.ndarray, " n"]
    classes: int
    contents: Sequence[str] = ()

    def __post_init__(self) -> None:
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.classes))
        if wrong.size:
            first = int(wrong[0])
            raise TrainingError(
                f"{self.paths[first]}: label {self.labels[first]}, expected 0 to {self.classes - 1}"
            )
        empty = np.flatnonzero(np.bincount(self.labels, minlength=self.classes) == 0)
        if empty.size:
            raise TrainingError(
                f"landmark {empty[0]} has no photo; {len(empty)} of {self.classes} landmarks have"
                " none"
            )
        if self.classes < 2:
            raise TrainingError(
                f"{self.root}: all photos show the same landmark, expected at least 2 landmarks to"
                " tell apart"
            )
        self.require_enough(self.unreadable)

    @classmethod
    def of(cls, dataset: RetrievalDataset) -> LabelledPhotos:
        """The database photos of a dataset that show a landmark.

        If the landmarks have no names, their ids are renumbered from 0 in ascending order.

        Raises:
            TrainingError: the dataset has no labels, an id is beyond the landmarks' names, or a
                landmark has no photo.
        """
        if dataset.landmarks is None or not len(dataset.database):
            raise TrainingError(
                f"dataset {dataset.name}: its photos have no landmark labels to learn from"
            )
        rows = np.flatnonzero(dataset.landmarks >= 0)
        labels = dataset.landmarks[rows]
        classes = len(dataset.landmark_names)
        if not classes:
            ids, labels = np.unique(labels, return_inverse=True)
            classes = len(ids)
        return cls(
            dataset.root, [dataset.database[row] for row in rows], labels.astype(np.int64), classes
        )

    def hashed(self, *, progress: bool = False) -> LabelledPhotos:
        """These photos with the digests of their files, which are read unless they have been."""
        if self.contents:
            return self

        count = len(self.paths)
        with ThreadPoolExecutor(min(8, len(processors()))) as pool:
            found = pool.map(lambda path: file_digest(self.root / path), self.paths)
            # Hashing is fast, so the bar appears for large sets only.
            bar = tqdm(
                found, total=count, desc="check", unit="image", delay=2, disable=not progress
            )
            return replace(self, contents=tuple(bar))

    def square(self, member: int, side: int) -> UInt8[np.ndarray, "{side} {side} 3"]:
        """The central square of a photo, resized to ``side`` pixels.

        Raises:
            ImageError: the file cannot be read, or could not when it was hashed.
        """
        file = self.root / self.paths[member]
        pixels = decode_image(file, max_side=_NO_REDUCTION).pixels
        if self.contents and not self.contents[member]:
            raise ImageError(file, "could not be read when the training began")
        return resized(central_square(pixels), (side, side))

    def whole(self, member: int, side: int) -> UInt8[np.ndarray, "h w 3"]:
        """A photo, reduced if its longer side is above ``side`` pixels.

        Raises:
            ImageError: the file cannot be read, or could not when it was hashed.
        """
        file = self.root / self.paths[member]
        pixels = decode_image(file, max_side=side).pixels
        if self.contents and not self.contents[member]:
            raise ImageError(file, "could not be read when the training began")
        return pixels

    @property
    def unreadable(self) -> list[int]:
        """Photos whose files could not be read when they were hashed."""
        return [member for member, content in enumerate(self.contents) if not content]

    def require_enough(self, failed: Collection[int]) -> None:
        """Check that the photos other than ``failed`` are worth training on.

        Raises:
            TrainingError: they are less than half of the photos, or show fewer than two landmarks.
        """
        if not failed:
            return
        count = len(self.paths)
        left = np.delete(self.labels, list(failed))
        if 2 * len(left) < count or len(np.unique(left)) < 2:
            raise TrainingError(
                f"{self.root}: {len(failed)} of {count} photos cannot be read, for instance"
                f" {self.paths[min(failed)]}; expected at least half of them, of 2 landmarks or"
                " more"
            )


def held_out(labels: Int64[np.ndarray, " n"], share: float, *, seed: int) -> Bool[np.ndarray, " n"]:
    """Which photos are held out for validation.

    Args:
        labels: landmark of each photo.
        share: share of each landmark's photos to hold out, 0 … 1. At least one photo of a landmark
            is held out, and at least one is kept for training.
        seed: seed of the choice.
    """
    rng = named_generator(seed, "validation")
    chosen = np.zeros(len(labels), bool)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        wanted = max(1, int(share * len(members)))
        chosen[members[: min(wanted, len(members) - 1)]] = True
    return chosen


def _without(chosen: Bool[np.ndarray, " n"], members: Sequence[int]) -> Bool[np.ndarray, " n"]:
    left = chosen.copy()
    left[list(members)] = False
    return left


@dataclass(frozen=True)
class _Draw:
    """The random choices of a batch.

    Attributes:
        members: photos in the batch.
        rescale: index of the rescale of the whole batch.
        offset_yx: position of each crop as a share of the available range, 0 … 1.
        mirrored: which inputs are mirrored.
    """

    members: Int64[np.ndarray, " b"]
    rescale: int
    offset_yx: Float[np.ndarray, "b 2"]
    mirrored: Bool[np.ndarray, " b"]


class _Draws:
    """The random choices of each step."""

    def __init__(
        self, labels: np.ndarray, members: np.ndarray, config: TrainingConfig, seed: int
    ) -> None:
        self._members = members
        self._config = config
        self._seed = seed
        self._order = members[np.argsort(labels[members], kind="stable")]
        self._starts = np.searchsorted(labels[self._order], np.unique(labels[members]))
        self._counts = np.diff(np.append(self._starts, len(self._order)))

    def at(self, step: int) -> _Draw:
        """The random choices of a step."""
        config = self._config
        rng = named_generator(self._seed, f"batch {step}")
        size = config.batch_size
        if config.class_balanced:
            classes = rng.integers(0, len(self._starts), size)
            members = self._order[self._starts[classes] + rng.integers(0, self._counts[classes])]
        else:
            members = self._members[rng.integers(0, len(self._members), size)]
        mirrored = (rng.uniform(size=size) < 0.5) & config.mirror
        return _Draw(
            members, int(rng.integers(len(config.rescales))), rng.uniform(size=(size, 2)), mirrored
        )

    def central(self, members: np.ndarray, rescale: int) -> _Draw:
        """The choices for validation: central crops, nothing mirrored."""
        return _Draw(
            members, rescale, np.full((len(members), 2), 0.5), np.zeros(len(members), bool)
        )


def _replacements(
    photos: LabelledPhotos, split: Bool[np.ndarray, " n"], member: int
) -> Iterator[int]:
    """A photo and those that may replace it in a batch, in order: the others of its landmark, then
    those of the landmarks that follow, all on the same side of the split."""
    rows = np.flatnonzero((photos.labels == photos.labels[member]) & (split == split[member]))
    yield from np.roll(rows, -int(np.searchsorted(rows, member))).tolist()
    others = np.flatnonzero((photos.labels != photos.labels[member]) & (split == split[member]))
    after = (photos.labels[others] - photos.labels[member]) % photos.classes
    yield from others[np.argsort(after, kind="stable")].tolist()


def _irreplaceable(photos: LabelledPhotos, member: int) -> TrainingError:
    return TrainingError(
        f"{photos.root}: neither {photos.paths[member]} nor any photo that could replace it can be"
        " read"
    )


class PhotoBatches:
    """Batches of pixels, read on demand; a photo that cannot be read is replaced by another, of the
    same landmark where there is one."""

    def __init__(self, photos: LabelledPhotos, *, config: TrainingConfig, seed: int) -> None:
        self.photos = photos
        self._config = config
        self._split = held_out(photos.labels, config.validation_share, seed=seed)
        self.validation = _without(self._split, photos.unreadable)
        self._draws = _Draws(photos.labels, np.flatnonzero(~self._split), config, seed)
        self._failures: dict[int, str] = {}
        self._lock = threading.Lock()
        for member in photos.unreadable:
            self._square(member)

    @property
    def failures(self) -> dict[str, str]:
        """Photo → reason, for photos that could not be read so far."""
        with self._lock:
            return {
                self.photos.paths[member]: self._failures[member]
                for member in sorted(self._failures)
            }

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        return self._batch(self._draws.at(step))

    def central(self, members: Int64[np.ndarray, " b"], rescale: int) -> Batch:
        """The middle of each of ``members`` at one of the rescales: for validation."""
        return self._batch(self._draws.central(members, rescale))

    def _batch(self, draw: _Draw) -> Batch:
        config = self._config
        room = max(0, config.square_side - config.crop_side)
        crop = min(config.crop_side, config.square_side)
        side = max(1, round(crop * config.rescales[draw.rescale]))
        inputs = np.empty((len(draw.members), side, side, 3), np.uint8)
        members = np.empty(len(draw.members), np.int64)
        for slot, member in enumerate(draw.members):
            members[slot], square = self._readable(int(member))
            y, x = np.floor(draw.offset_yx[slot] * (room + 1)).astype(int).clip(0, room)
            cut = square[y : y + crop, x : x + crop]
            inputs[slot] = resized(cut[:, ::-1] if draw.mirrored[slot] else cut, (side, side))
        return Batch(inputs, self.photos.labels[members], members)

    def _readable(self, member: int) -> tuple[int, UInt8[np.ndarray, "side side 3"]]:
        """A photo or its replacement, and its square."""
        for other in _replacements(self.photos, self._split, member):
            square = self._square(other)
            if square is not None:
                return other, square
        raise _irreplaceable(self.photos, member)

    def _square(self, member: int) -> UInt8[np.ndarray, "side side 3"] | None:
        """The square of a photo; ``None`` if it cannot be read, which is recorded.

        Raises:
            TrainingError: too many photos cannot be read.
        """
        try:
            return self.photos.square(member, self._config.square_side)
        except ImageError as error:
            with self._lock:
                self._failures[member] = error.reason
                self.photos.require_enough(self._failures)
            return None


class MapBatches:
    """Batches of crops from cached feature maps, given one array per rescale; a photo without a map
    is replaced by another, of the same landmark where there is one."""

    def __init__(
        self,
        photos: LabelledPhotos,
        maps: Sequence[Float16[np.ndarray, "n _ _ c"]],
        *,
        failures: Mapping[int, str] | None = None,
        config: TrainingConfig,
        seed: int,
    ) -> None:
        self.photos = photos
        self._maps = maps
        self._config = config
        self._failures = failures or {}
        photos.require_enough(self._failures)
        split = held_out(photos.labels, config.validation_share, seed=seed)
        self.validation = _without(split, list(self._failures))
        self._draws = _Draws(photos.labels, np.flatnonzero(~split), config, seed)
        self._taken = np.arange(len(photos.paths))
        for member in self._failures:
            usable = (
                other
                for other in _replacements(photos, split, member)
                if other not in self._failures
            )
            self._taken[member] = next(usable, member)
            # Nobody asks for those held out.
            if self._taken[member] == member and not split[member]:
                raise _irreplaceable(photos, member)

    @property
    def failures(self) -> dict[str, str]:
        """Photo → reason, for photos that could not be read when the maps were computed."""
        return {self.photos.paths[member]: why for member, why in self._failures.items()}

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        return self._batch(self._draws.at(step))

    def central(self, members: Int64[np.ndarray, " b"], rescale: int) -> Batch:
        """The middle of each of ``members`` at one of the rescales: for validation."""
        return self._batch(self._draws.central(members, rescale))

    def _batch(self, draw: _Draw) -> Batch:
        maps = self._maps[draw.rescale]
        members = self._taken[draw.members]
        side = maps.shape[1]
        crop = min(side, max(1, round(side * self._config.crop_side / self._config.square_side)))
        start = np.floor(draw.offset_yx * (side - crop + 1)).astype(int).clip(0, side - crop)
        along = np.arange(crop)
        rows = start[:, :1] + along
        columns = np.where(draw.mirrored[:, None], start[:, 1:] + along[::-1], start[:, 1:] + along)
        inputs: Shaped[np.ndarray, "b k k c"] = maps[
            members[:, None, None], rows[:, :, None], columns[:, None]
        ]
        return Batch(inputs, self.photos.labels[members], members)


Batches = PhotoBatches | MapBatches
