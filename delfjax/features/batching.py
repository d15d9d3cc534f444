"""What compiled extractors share: batches of images on canvases, the devices that it all runs on,
and, for those with a backbone, its program for each canvas.

The canvases are a fixed set (:func:`delfjax.ops.pyramid.canvases`), so a folder of photos of any
sizes needs a bounded number of programs, which the persistent cache keeps. Masks make every cell
equal to that of the image processed alone at its native size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int, PyTree, UInt8

from delfjax import programs
from delfjax.datasets.images import DecodedImage
from delfjax.device import processors
from delfjax.models.branches import BranchedBackbone
from delfjax.models.delf import Backbone, dense_features
from delfjax.models.layers import FeatureMap
from delfjax.ops import pyramid
from delfjax.ops.pyramid import Size
from delfjax.ops.receptive_field import ReceptiveField, compose
from delfjax.types import Array, ImageFeatures, LocalFeatures, storable

R = TypeVar("R")

# How an argument of a program lies on the devices: whole on each, or a part of the batch on each.
WHOLE, BATCHED = PartitionSpec(), PartitionSpec("batch")
_ACCELERATOR_BATCH = 16
# Batches in flight on an accelerator: one is computed while the next is transferred.
_ACCELERATOR_IN_FLIGHT = 2
# Most images extracted at once on a CPU. Each needs its own memory, and on sixteen cores a higher
# limit was no faster.
_MOST_THREADS = 8


@dataclass(frozen=True)
class DenseSettings:
    """How a backbone describes the cells of images.

    Attributes:
        output: the feature map that is read out.
        dtype: type in which the backbone computes.
        max_side: longest side of an image, pixels.
        canvases: every canvas that can be needed.
        batch_size: images per call and device; 0 chooses by platform.
    """

    output: str
    dtype: str
    max_side: int
    canvases: Iterable[Size]
    batch_size: int = 0


@storable
@dataclass(frozen=True)
class LevelCells:
    """Every cell of one level, in row-major order.

    Attributes:
        features: features of the cells, padded with zeros to ``n``.
        extent: rows and columns that each image fills, cells.
        width: number of cells in a row of the canvas.
    """

    features: Float[jax.Array, "b n c"]
    extent: Int[jax.Array, "b 2"]
    width: Int[jax.Array, " b"]


@storable
@dataclass(frozen=True)
class BatchFeatures:
    """Local features and global descriptors of a batch; the latter have length 0 if disabled."""

    local: LocalFeatures
    global_descriptors: Float[Array, "b g"]


@dataclass(frozen=True)
class PendingBatch:
    """A batch being computed on the device; :meth:`result` waits for it."""

    computed: BatchFeatures | Future[BatchFeatures]
    images: tuple[DecodedImage, ...]

    def result(self) -> list[ImageFeatures]:
        """Features of each image, on the host and without padding."""
        computed = self.computed.result() if isinstance(self.computed, Future) else self.computed
        found: BatchFeatures = jax.device_get(computed)
        local = found.local
        pooled = np.asarray(found.global_descriptors)
        return [
            ImageFeatures(
                local=jax.tree.map(lambda field, slot=slot: field[slot][local.valid[slot]], local),
                global_descriptor=pooled[slot] if pooled.shape[1] else None,
                image_size=image.original_size,
                content_hash=image.content_hash,
            )
            for slot, image in enumerate(self.images)
        ]


class BatchExtractor(ABC):
    """Batches of images on the devices, and the compiled programs that describe them."""

    def __init__(
        self,
        *,
        max_side: int,
        batch_size: int = 0,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Set up the devices.

        Args:
            max_side: longest side of an image, pixels.
            batch_size: images per call and device; 0 chooses by platform.
            devices: all devices of this process by default.
        """
        self.max_side = max_side
        devices = jax.local_devices() if devices is None else list(devices)
        per_device = batch_size or (1 if devices[0].platform == "cpu" else _ACCELERATOR_BATCH)
        self.batch_size = per_device * len(devices)
        # On a CPU, XLA runs a program on the thread that calls it, and small layers leave the other
        # cores idle. Several images at a time, each on its own thread, keep them busy.
        alone = len(devices) == 1 and devices[0].platform == "cpu"
        threads = min(_MOST_THREADS, len(processors()))
        self._threads = ThreadPoolExecutor(threads, "extract") if alone else None
        self.in_flight = threads + 1 if alone else _ACCELERATOR_IN_FLIGHT
        self._mesh = Mesh(np.array(devices), ("batch",))

    @abstractmethod
    def canvas(self, height: int, width: int) -> tuple[Size, ...]:
        """The canvas of each level of an image; images with equal canvases can share a batch.

        Args:
            height: rows of the image, pixels.
            width: columns of the image, pixels.
        """

    @abstractmethod
    def _compute(self, images: Sequence[DecodedImage], shapes: Sequence[Size]) -> BatchFeatures:
        """The features of images that share the canvases ``shapes``, on the devices."""

    def dispatch(self, images: Sequence[DecodedImage]) -> PendingBatch:
        """Start the extraction of one batch and return without waiting for it.

        Args:
            images: at most ``batch_size`` images with equal canvases.

        Raises:
            ValueError: there are too many images, or their canvases differ.
        """
        sizes = [image.pixels.shape[:2] for image in images]
        shapes = self.canvas(*sizes[0])
        if len(images) > self.batch_size:
            raise ValueError(f"a batch takes up to {self.batch_size} images, got {len(images)}")
        if any(self.canvas(*size) != shapes for size in sizes):
            raise ValueError(
                f"images of sizes {sizes} need different canvases (padded sizes); batch them apart"
            )
        return PendingBatch(self.start(lambda: self._compute(images, shapes)), tuple(images))

    def start(self, compute: Callable[[], R]) -> R | Future[R]:
        """Call ``compute``, which dispatches work to the devices; on a CPU, on a thread that waits
        for the work."""
        if self._threads is None:
            return compute()
        return self._threads.submit(lambda: jax.device_get(compute()))

    def _program(
        self,
        function: Callable[..., R],
        places: tuple[PartitionSpec, ...],
        settings: dict[str, Any],
    ) -> programs.StoredProgram[R]:
        """A stored program of which each device computes its own part of the batch; the devices
        exchange nothing.

        Args:
            function: see :class:`~delfjax.programs.StoredProgram`.
            places: :data:`WHOLE` or :data:`BATCHED` for each argument.
            settings: see :class:`~delfjax.programs.StoredProgram`.
        """
        on_each = jax.shard_map(
            function, mesh=self._mesh, in_specs=places, out_specs=BATCHED, check_vma=False
        )
        return programs.StoredProgram(on_each, settings=settings)

    def _placed(
        self, images: Sequence[DecodedImage]
    ) -> tuple[UInt8[jax.Array, "b s s 3"], Int[jax.Array, "b 2"]]:
        """The pixels of a batch on square canvases, and the size of each image."""
        canvas = pyramid.place(
            [image.pixels for image in images], (self.max_side, self.max_side), self.batch_size
        )
        sizes = np.array([image.pixels.shape[:2] for image in images], np.int32)
        return self._put(canvas), self._padded(sizes)

    def _padded(self, values: np.ndarray) -> jax.Array:
        # Unused slots repeat the numbers of the last image, which avoids divisions by zero.
        short = self.batch_size - len(values)
        padded: jax.Array = self._put(
            np.concatenate([values, np.repeat(values[-1:], short, axis=0)])
        )
        return padded

    def _put(self, values: PyTree, place: PartitionSpec = BATCHED) -> Any:
        return jax.device_put(values, NamedSharding(self._mesh, place))


class DenseExtractor(BatchExtractor):
    """An extractor with a backbone, which describes every cell of an image."""

    def __init__(
        self,
        backbone: Backbone | BranchedBackbone,
        settings: DenseSettings,
        *,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        super().__init__(
            max_side=settings.max_side, batch_size=settings.batch_size, devices=devices
        )
        self.receptive_field: ReceptiveField = compose(backbone.windows(settings.output))
        self._lost_px = backbone.lost_px(settings.output)
        graph, state = nnx.split(backbone)
        self._state = self._put(state, WHOLE)
        described = {
            "backbone": programs.description(graph),
            "output": settings.output,
            "dtype": settings.dtype,
        }
        describe = partial(dense_features, output=settings.output, dtype=settings.dtype)
        self._dense = {
            shape: self._program(
                partial(_dense, graph, describe, shape, self._scored(shape)),
                (WHOLE, BATCHED),
                {
                    "program": "dense",
                    "canvas": shape,
                    "cells": self._scored(shape),
                    **described,
                },
            )
            for shape in settings.canvases
        }

    def _scored(self, canvas: Size) -> int:
        """Number of cells scored for a level on ``canvas``, padding included.

        It is a power of four, so a few programs can score every canvas.
        """
        fewest = math.prod(self._cells(side) for side in canvas)
        exponent = math.ceil((fewest - 1).bit_length() / 2)
        return 1 << 2 * exponent

    def _cells(self, side: int) -> int:
        """Cells along a side of ``side`` pixels, at least one."""
        return max(-(-(side - self._lost_px) // self.receptive_field.stride), 1)


def _dense(
    graph: Any,
    describe_cells: Callable[..., FeatureMap],
    canvas: Size,
    count: int,
    state: PyTree,
    images: tuple[UInt8[jax.Array, "b s s 3"], Int[jax.Array, "b 2"], Int[jax.Array, "b 2"]],
) -> LevelCells:
    """Resize ``images`` (pixels, sizes, target sizes) to one level and describe every cell."""
    source, sizes, targets = images
    pixels = pyramid.resize_onto(source, sizes, targets, canvas)
    features = describe_cells(nnx.merge(graph, state), pixels, targets)
    flat = jnp.reshape(features.values, (len(pixels), -1, features.values.shape[-1]))
    padded = jnp.pad(flat, ((0, 0), (0, count - flat.shape[1]), (0, 0)))
    width = jnp.full(len(pixels), features.values.shape[2], jnp.int32)
    return LevelCells(padded, jnp.asarray(features.extent), width)
