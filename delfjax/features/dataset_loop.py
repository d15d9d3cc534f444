"""The resumable extraction loop over the photos of a folder or the cropped queries of a dataset:
files in, a feature store out.

Threads read and decode images ahead, the main thread keeps the device busy, and another thread
writes, all at the same time. An image that cannot be decoded is recorded as a failure. The loop can
be stopped at any moment; when started again, it resumes.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from tqdm.auto import tqdm

from delfjax.datasets.image_source import ImageSource
from delfjax.datasets.images import DecodedImage, ImageError
from delfjax.device import processors
from delfjax.features.folder_changes import find_changes
from delfjax.features.store import SHARD_SIZE, FeatureStore, Group, Source, StoreWriter
from delfjax.types import ImageFeatures

# The features of one image.
F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)
F_contra = TypeVar("F_contra", contravariant=True)
# Batches of decoded images held ready for the device.
_READY_BATCHES = 2
# A shard should hold several batches, because its last ones are rarely full.
_BATCHES_PER_SHARD = 4


@runtime_checkable
class PendingFeatures(Protocol[F_co]):
    """A batch being computed on the device."""

    def result(self) -> Sequence[F_co]:
        """Wait for the batch; returns the features of each image."""


@runtime_checkable
class ImageExtractor(Protocol[F_co]):
    """The part of an extractor that the loop uses."""

    @property
    def max_side(self) -> int:
        """Longest side of an image that the extractor accepts, pixels."""

    @property
    def batch_size(self) -> int:
        """Largest number of images in a batch."""

    @property
    def in_flight(self) -> int:
        """Number of batches to keep in flight on the device."""

    @property
    def extraction(self) -> dict[str, Any]:
        """The plain values that determine the features, and that a store of them records."""

    def canvas(self, height: int, width: int) -> Hashable:
        """A key of an image's size; images with equal keys can share a batch."""

    def dispatch(self, images: Sequence[DecodedImage]) -> PendingFeatures[F_co]:
        """Start the extraction of one batch and return without waiting for it."""


@runtime_checkable
class FeaturesWriter(Protocol[F_contra]):
    """The destination of features, such as a :class:`~delfjax.features.store.StoreWriter`."""

    def store(self) -> FeatureStore:
        """The features that have been written so far."""

    def record_source(self, source: Source) -> None:
        """Record where the images come from."""

    def plan(
        self,
        names: Iterable[str],
        *,
        again: Iterable[str] = (),
        gone: Iterable[str] = (),
        known: Mapping[str, str] | None = None,
    ) -> list[Group]:
        """Groups of the images that are missing or to be extracted ``again``."""

    def commit(
        self,
        group: Group,
        features: Mapping[str, F_contra],
        failures: Mapping[str, str],
        *,
        failure_hashes: Mapping[str, str] | None = None,
    ) -> None:
        """Write a group durably."""


@dataclass(frozen=True)
class ExtractionReport:
    """Counts and duration of one run of the loop.

    Attributes:
        done: images whose features this run stored.
        skipped: requested images that the store already had, failures included.
        failed: images that this run recorded as failures.
        seconds: wall time.
        known: requested images that have another name than before, or whose file is a copy.
        gone: images that have left the folder, or have another name now.
        failed_before: how many of the skipped images an earlier run recorded as failures.
    """

    done: int
    skipped: int
    failed: int
    seconds: float
    known: int = 0
    gone: int = 0
    failed_before: int = 0

    @property
    def images_per_second(self) -> float:
        """Images processed per second, failures included."""
        return (self.done + self.failed) / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        rate = f"{self.images_per_second:.2f} images/s"
        return f"{self.done} done, {self.counts} in {self.seconds:.1f} s ({rate})"

    @property
    def counts(self) -> str:
        """The counts of the images that this run did not store, in words."""
        before = f" ({self.failed_before} failed before)" if self.failed_before else ""
        said = [f"{self.skipped} skipped{before}", f"{self.failed} failed"]
        said += [f"{self.known} recognised by content"] if self.known else []
        said += [f"{self.gone} gone"] if self.gone else []
        return ", ".join(said)


@dataclass
class _Record(Generic[F]):
    """The results of a group so far."""

    group: Group
    features: dict[str, F] = field(default_factory=dict)
    failures: dict[str, ImageError] = field(default_factory=dict)


@dataclass(frozen=True)
class _Batch(Generic[F]):
    """Images of one group that share a canvas; a batch without images ends its group."""

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
    """Extract the features of ``photos`` into the store in the folder ``store``.

    Images that the store already holds are skipped, unless their file has changed since; a failure
    is tried again when its file has changed. Images that were renamed keep their features, and
    images that were deleted leave the store. Features depend only on the image and the config, and
    shards only on the plan, so an interrupted and resumed run produces the same bytes as an
    uninterrupted one.

    Args:
        extractor: the compiled extractor.
        photos: the images.
        store: folder of the store; created if missing.
        num_threads: threads that read and decode; by default the number of processors, at most 8.
        shard_size: images per shard and commit; by default 32, or four batches if that is more.
        retry_failed: extract images with a recorded failure again, whether or not their file has
            changed.
        progress: show a progress bar, which ends with the counts of skipped and failed images.

    Raises:
        StoreError: the store was made with another config or from another folder, is damaged, or is
            being written by another process; or none of its images is left.
    """
    size = shard_size or max(SHARD_SIZE, _BATCHES_PER_SHARD * extractor.batch_size)
    with StoreWriter(store, extractor.extraction, shard_size=size) as writer:
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
    """The loop of :func:`extract_dataset` for any extractor and any writer that accepts its
    features.

    Args:
        extractor: computes the features.
        photos: the images.
        writer: stores the features.
        num_threads: threads that read and decode; by default the number of processors, at most 8.
        retry_failed: extract images with a recorded failure again, whether or not their file has
            changed.
        progress: show a progress bar, which ends with the counts of skipped and failed images.

    Raises:
        StoreError: the store holds the images of another folder, or none of its images is left.
    """
    started = time.perf_counter()
    threads = num_threads or min(8, len(processors()))
    with ThreadPoolExecutor(threads) as readers:
        held = writer.store()
        changes = find_changes(
            held, photos, readers=readers, retry_failed=retry_failed, progress=progress
        )
        writer.record_source(Source(str(photos.root.resolve()), photos.scanned))
        groups = writer.plan(photos.names, **vars(changes))
        window = max(2 * threads, _READY_BATCHES * extractor.batch_size)
        decoded = _decoded(groups, photos, extractor.max_side, readers, window)
        total = sum(len(group.names) for group in groups)
        with tqdm(total=total, desc="extract", unit="image", disable=not progress) as bar:
            failed = _run(extractor, _batches(groups, decoded, extractor), writer, bar)
            planned = {name for group in groups for name in group.names}
            skipped = set(photos.names) - planned - changes.known.keys()
            report = ExtractionReport(
                done=total - failed,
                skipped=len(skipped),
                failed=failed,
                seconds=time.perf_counter() - started,
                known=len(changes.known),
                gone=len(changes.gone),
                failed_before=len(skipped & held.failures().keys()),
            )
            bar.set_postfix_str(report.counts)
    return report


def _decoded(
    groups: Iterable[Group], photos: ImageSource, max_side: int, readers: Executor, window: int
) -> Iterator[DecodedImage | ImageError]:
    """The images of all groups in order, or their errors; up to ``window`` are decoded ahead."""

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
    """Batches of images that share a canvas and a group; a batch without images ends each group."""
    for group in groups:
        record: _Record[F] = _Record(group)
        waiting: dict[Hashable, list[tuple[str, DecodedImage]]] = {}
        for name in group.names:
            image = next(decoded)
            if isinstance(image, ImageError):
                record.failures[name] = image
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
    """Extract every batch and commit every group; return the number of failures."""
    failed = 0
    in_flight: deque[tuple[_Batch[F], PendingFeatures[F] | None]] = deque()
    with ThreadPoolExecutor(1) as background:
        commit: Future[None] | None = None

        def settle() -> None:
            nonlocal commit, failed
            batch, pending = in_flight.popleft()
            if pending is not None:
                batch.record.features.update(zip(batch.names, pending.result(), strict=True))
                bar.update(len(batch.names))
                return
            if commit is not None:
                commit.result()
            record = batch.record
            commit = background.submit(
                writer.commit,
                record.group,
                record.features,
                {name: error.reason for name, error in record.failures.items()},
                failure_hashes={
                    name: error.content_hash for name, error in record.failures.items()
                },
            )
            failed += len(record.failures)
            bar.update(len(record.failures))

        for batch in batches:
            in_flight.append((batch, extractor.dispatch(batch.images) if batch.images else None))
            if len(in_flight) > extractor.in_flight:
                settle()
        while in_flight:
            settle()
        if commit is not None:
            commit.result()
    return failed
