"""The resumable loop over photographs of a folder, or the cropped queries of a dataset: files in, a
feature store out.

Threads read and decode ahead, the main thread keeps the device busy, another thread writes; all
three overlap. An image that cannot be decoded is one recorded failure. The loop can be stopped at
any moment and started again.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from tqdm.auto import tqdm

from delfjax.config import DelfConfig
from delfjax.datasets.images import DecodedImage, ImageError
from delfjax.device import processors
from delfjax.features.store import SHARD_SIZE, FeatureStore, Group, StoreWriter
from delfjax.types import ImageFeatures

# What is kept of an image.
F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)
F_contra = TypeVar("F_contra", contravariant=True)
# Batches of decoded images kept ready.
_READY_BATCHES = 2
# A shard should hold several batches: its last ones are rarely full.
_BATCHES_PER_SHARD = 4
# Files checked for changes in one go.
_CHECKED_TOGETHER = 4096


@runtime_checkable
class ImageSource(Protocol):
    """Images by name, such as those of a :class:`~delfjax.datasets.photo_folder.PhotoFolder`."""

    @property
    def names(self) -> Sequence[str]:
        """What the images are called in the store."""

    def read(self, name: str, *, max_side: int) -> DecodedImage:
        """Pixels of one image, its longest side at most ``max_side``; ``ImageError`` where there
        are none."""

    def content_hash(self, name: str) -> str:
        """Digest of an image's file, as ``read`` gives it; ``OSError`` where there is none."""


@runtime_checkable
class PendingFeatures(Protocol[F_co]):
    """A batch under way on the device."""

    def result(self) -> Sequence[F_co]:
        """Wait for the features of each image of the batch."""


@runtime_checkable
class ImageExtractor(Protocol[F_co]):
    """What the loop needs of an extractor."""

    @property
    def max_side(self) -> int:
        """Longest side of an image it takes, pixels."""

    @property
    def batch_size(self) -> int:
        """Images it takes at once."""

    @property
    def in_flight(self) -> int:
        """Batches that are worth having under way at a time."""

    @property
    def config(self) -> DelfConfig:
        """What it was made from."""

    def canvas(self, height: int, width: int) -> Hashable:
        """Images of equal values can share a batch."""

    def dispatch(self, images: Sequence[DecodedImage]) -> PendingFeatures[F_co]:
        """Start the extraction of one batch, without waiting for it."""


@runtime_checkable
class FeaturesWriter(Protocol[F_contra]):
    """Where features go, such as a :class:`~delfjax.features.store.StoreWriter`."""

    def store(self) -> FeatureStore:
        """What is there now."""

    def plan(self, names: Iterable[str], *, again: Iterable[str] = ()) -> list[Group]:
        """Groups of the images that are not there, or are wanted ``again``."""

    def commit(
        self, group: Group, features: Mapping[str, F_contra], failures: Mapping[str, str]
    ) -> None:
        """Put a group where nothing can lose it."""


@dataclass(frozen=True)
class ExtractionReport:
    """What a run did.

    Attributes:
        done: images whose features were stored by this run.
        skipped: images asked for that the store already had, failures included.
        failed: images that this run recorded as failures.
        seconds: wall time.
    """

    done: int
    skipped: int
    failed: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Images that this run went through, per second."""
        return (self.done + self.failed) / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        rate = f"{self.images_per_second:.2f} images/s"
        return (
            f"{self.done} done, {self.skipped} skipped, {self.failed} failed in {self.seconds:.1f}"
            f" s ({rate})"
        )


@dataclass
class _Record(Generic[F]):
    """What has come of a group so far."""

    group: Group
    features: dict[str, F] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Batch(Generic[F]):
    """Images of one group that share a canvas; without images it stands behind the last batch of
    its group."""

    record: _Record[F]
    names: tuple[str, ...] = ()
    images: tuple[DecodedImage, ...] = ()


def extract_dataset(
    extractor: ImageExtractor[ImageFeatures],
    photos: ImageSource,
    store: Path,
    *,
    num_threads: int | None = None,
    shard_size: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> ExtractionReport:
    """Extract the features of ``photos`` into the store at ``store``, leaving out what it already
    holds.

    An image whose file has changed since it was stored is extracted again. Features are a function
    of the image and the config alone, and shards of the plan, so that interrupted runs end in the
    same bytes as uninterrupted ones.

    Args:
        extractor: the compiled extractor.
        photos: the images.
        store: folder of the store, made when missing.
        num_threads: threads that read and decode; by default the number of processors, at most 8.
        shard_size: images per shard and commit; by default 32, or four batches if that is more.
        retry_failed: extract images with a recorded failure again.
        progress: show a progress bar, which ends with the counts of what was skipped and what
            failed.

    Raises:
        StoreError: the store is of another config, damaged, or being written by another process.
    """
    size = shard_size or max(SHARD_SIZE, _BATCHES_PER_SHARD * extractor.batch_size)
    with StoreWriter(store, extractor.config.extraction(), shard_size=size) as writer:
        return extract_images(
            extractor,
            photos,
            writer,
            num_threads=num_threads,
            retry_failed=retry_failed,
            progress=progress,
        )


def extract_images(
    extractor: ImageExtractor[F],
    photos: ImageSource,
    writer: FeaturesWriter[F],
    *,
    num_threads: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> ExtractionReport:
    """The loop of :func:`extract_dataset` for any extractor, into any writer that takes what it
    makes.

    Args:
        extractor: makes the features.
        photos: the images.
        writer: takes them.
        num_threads: threads that read and decode; by default the number of processors, at most 8.
        retry_failed: extract images with a recorded failure again.
        progress: show a progress bar, which ends with the counts of what was skipped and what
            failed.
    """
    started = time.perf_counter()
    threads = num_threads or min(8, len(processors()))
    with ThreadPoolExecutor(threads) as readers:
        held = writer.store()
        again = changed_images(held, photos, readers=readers, progress=progress)
        again += held.failures() if retry_failed else []
        groups = writer.plan(photos.names, again=again)
        window = max(2 * threads, _READY_BATCHES * extractor.batch_size)
        decoded = _decoded(groups, photos, extractor.max_side, readers, window)
        total = sum(len(group.names) for group in groups)
        with tqdm(total=total, desc="extract", unit="image", disable=not progress) as bar:
            failed = _run(extractor, _batches(groups, decoded, extractor), writer, bar)
            skipped = len(set(photos.names) - {name for group in groups for name in group.names})
            bar.set_postfix_str(f"{skipped} skipped, {failed} failed")
    return ExtractionReport(total - failed, skipped, failed, time.perf_counter() - started)


def changed_images(
    store: FeatureStore, photos: ImageSource, *, readers: Executor, progress: bool = False
) -> list[str]:
    """Images of the store whose file in ``photos`` has other bytes now; files that are gone do not
    count."""
    names = [name for name in photos.names if name in store]

    def changed(name: str) -> bool:
        try:
            return photos.content_hash(name) != store.content_hash(name)
        except OSError:
            return False

    found: list[str] = []
    # Hashing is fast: the bar shows up for large folders only.
    with tqdm(total=len(names), desc="check", unit="image", delay=2, disable=not progress) as bar:
        for at in range(0, len(names), _CHECKED_TOGETHER):
            part = names[at : at + _CHECKED_TOGETHER]
            found += itertools.compress(part, readers.map(changed, part))
            bar.update(len(part))
    return found


def _decoded(
    groups: Iterable[Group], photos: ImageSource, max_side: int, readers: Executor, window: int
) -> Iterator[DecodedImage | ImageError]:
    """The images of all groups in order, read and decoded up to ``window`` images ahead."""

    def read(name: str) -> DecodedImage | ImageError:
        try:
            return photos.read(name, max_side=max_side)
        except ImageError as error:
            return error

    ahead: deque[Future[DecodedImage | ImageError]] = deque()
    for name in itertools.chain.from_iterable(group.names for group in groups):
        ahead.append(readers.submit(read, name))
        if len(ahead) >= window:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _batches(
    groups: Iterable[Group],
    decoded: Iterator[DecodedImage | ImageError],
    extractor: ImageExtractor[F],
) -> Iterator[_Batch[F]]:
    """Batches of images that share a canvas and a group, each group followed by a batch without
    images."""
    for group in groups:
        record: _Record[F] = _Record(group)
        waiting: dict[Hashable, list[tuple[str, DecodedImage]]] = {}
        for name in group.names:
            image = next(decoded)
            if isinstance(image, ImageError):
                record.failures[name] = image.reason
                continue
            canvas = extractor.canvas(*image.pixels.shape[:2])
            waiting.setdefault(canvas, []).append((name, image))
            if len(waiting[canvas]) == extractor.batch_size:
                yield _Batch(record, *zip(*waiting.pop(canvas), strict=True))
        for part in waiting.values():
            yield _Batch(record, *zip(*part, strict=True))
        yield _Batch(record)


def _run(
    extractor: ImageExtractor[F], batches: Iterator[_Batch[F]], writer: FeaturesWriter[F], bar: tqdm
) -> int:
    """Extract every batch and commit every group; returns the number of failures."""
    failed = 0
    under_way: deque[tuple[_Batch[F], PendingFeatures[F] | None]] = deque()
    with ThreadPoolExecutor(1) as background:
        commit: Future[None] | None = None

        def settle() -> None:
            nonlocal commit, failed
            batch, pending = under_way.popleft()
            if pending is not None:
                batch.record.features.update(zip(batch.names, pending.result(), strict=True))
                bar.update(len(batch.names))
                return
            if commit is not None:
                commit.result()
            record = batch.record
            commit = background.submit(
                writer.commit, record.group, record.features, record.failures
            )
            failed += len(record.failures)
            bar.update(len(record.failures))

        for batch in batches:
            under_way.append((batch, extractor.dispatch(batch.images) if batch.images else None))
            if len(under_way) > extractor.in_flight:
                settle()
        while under_way:
            settle()
        if commit is not None:
            commit.result()
    return failed
