"""The compiled extractor of global descriptors: images in, one vector each out.

An image is reduced to each of the configured sizes, and the backbone describes every cell of it, by
the programs that the extractor of local features uses too (:mod:`delfjax.features.batching`). Each
map is pooled (:mod:`delfjax.ops.pooling`), and the normalised sum of the pooled vectors is the
descriptor. Whitening is not applied: it may be fitted on a store of descriptors, and the index
applies it.

Sources: MAC, R-MAC and GeM, see :mod:`delfjax.ops.pooling`; the sum over several sizes is that of
    DIR (Gordo et al. 2017).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from delfjax.config import ConfigError, DelfConfig, GlobalConfig, from_dict
from delfjax.datasets.images import DecodedImage
from delfjax.features.batching import (
    BATCHED,
    WHOLE,
    BatchFeatures,
    DenseExtractor,
    DenseSettings,
    LevelCells,
)
from delfjax.models.delf import Backbone, describe_backbone, load_backbone
from delfjax.models.layers import fold_batch_norm
from delfjax.models.model_files import PROJECTION, pinned
from delfjax.models.projections import load_projection
from delfjax.ops import pooling, pyramid, selection
from delfjax.ops.pyramid import Size
from delfjax.types import LocalFeatures

# Networks that stay loaded; a session alternates between few of them.
_LOADED_NETWORKS = 4

# Shift and matrix of the projection of regions; empty without one.
_Projection = tuple[jax.Array, ...]


@dataclass(frozen=True)
class SizeMaps:
    """The feature maps of a batch of images, all reduced to one size.

    Attributes:
        cells: the cells of the maps.
        targets: rows and columns of each reduced image, pixels.
    """

    cells: LevelCells
    targets: Int[np.ndarray, "b 2"]


class GlobalExtractor(DenseExtractor):
    """A backbone on the devices together with the compiled programs that pool its maps.

    The result is an :class:`~delfjax.types.ImageFeatures` without local features. The global
    descriptor is L2-normalised; it is zero for an image that is too small for a single cell.
    """

    def __init__(
        self,
        config: DelfConfig,
        backbone: Backbone,
        *,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Place the backbone on the devices; nothing is compiled before the first batch.

        Args:
            config: only the section ``global_features`` matters.
            backbone: the backbone that the section names, batch norm folded.
            devices: all devices of this process by default.

        Raises:
            ConfigError: a projection of regions is set for a pooling without regions.
            WeightsError: the projection is missing or damaged, or does not fit the backbone.
        """
        settings = config.global_features
        output = settings.backbone.output
        longest = max(settings.sides)
        dense = DenseSettings(
            output=output,
            dtype=settings.dtype,
            max_side=longest,
            canvases=sorted(
                {canvas for side in settings.sides for canvas in pyramid.canvases(side, [1.0])}
            ),
            batch_size=settings.batch_size,
        )
        super().__init__(backbone, dense, devices=devices)
        self.config = config
        projection = _region_projection(settings, channels=backbone.channels(output))
        self.dim = projection[-1].shape[1] if projection else backbone.channels(output)
        self._projection = self._put(projection, WHOLE)
        self._pool = self._program(
            partial(_pooled, settings),
            (WHOLE, BATCHED, BATCHED),
            {
                "program": "pool",
                "pooling": settings.pooling,
                "exponent": settings.gem_exponent if settings.pooling == "gem" else None,
            },
        )
        self._sum = self._program(_summed, (BATCHED,), {"program": "sum"})

    @property
    def extraction(self) -> dict[str, Any]:
        """The plain values that determine the descriptors."""
        return self.config.global_extraction()

    def canvas(self, height: int, width: int) -> tuple[Size, ...]:
        """The canvas of each size of an image; images with equal canvases can share a batch.

        Args:
            height: rows of the image, pixels.
            width: columns of the image, pixels.
        """
        return tuple(
            pyramid.canvas_for(size, float(side))
            for side, size in self._sizes((height, width)).items()
        )

    def _sizes(self, size: Size) -> dict[int, Size]:
        """Side → rows and columns of an image reduced to it, for the sides that are shorter than
        the image, and the next, at which the image keeps its size."""
        longer = max(size)
        sides = sorted(set(self.config.global_features.sides))
        shorter = list(itertools.takewhile(lambda side: side < longer, sides))
        reduced = {side: pyramid.level_size(size, side / longer) for side in shorter}
        return reduced | {side: size for side in sides[len(shorter) : len(shorter) + 1]}

    def _compute(self, images: Sequence[DecodedImage], shapes: Sequence[Size]) -> BatchFeatures:
        return self.pooled(self.maps(images, shapes))

    def maps(self, images: Sequence[DecodedImage], shapes: Sequence[Size]) -> list[SizeMaps]:
        """The feature maps of images that share the canvases ``shapes``, for each size."""
        source, extent = self._placed(images)
        by_image = [self._sizes(image.pixels.shape[:2]).values() for image in images]
        found = []
        for shape, sizes in zip(shapes, zip(*by_image, strict=True), strict=True):
            targets = np.array(sizes, np.int32)
            cells = self._dense[shape](self._state, (source, extent, self._padded(targets)))
            found.append(SizeMaps(cells, targets))
        return found

    def pooled(self, maps: Sequence[SizeMaps]) -> BatchFeatures:
        """The descriptors of images, given their maps, which an extractor with the same backbone,
        sizes and precision has computed."""
        return self._sum(
            tuple(
                self._pool(self._projection, held.cells, self._padded(self._regions(held.targets)))
                for held in maps
            )
        )

    def _regions(self, targets: Int[np.ndarray, "b 2"]) -> Int[np.ndarray, "b r 4"]:
        settings = self.config.global_features
        if settings.pooling != "rmac":
            return np.zeros((len(targets), 0, 4), np.int32)
        return np.stack(
            [
                pooling.rmac_regions(
                    *map(self._cells, map(int, sides)),
                    levels=settings.rmac_levels,
                    whole_image=settings.rmac_whole_image,
                )
                for sides in targets
            ]
        )


def load_global_extractor(config: DelfConfig) -> GlobalExtractor:
    """The extractor of global descriptors of ``config``; a process loads it once. The config of the
    extractor is pinned (:func:`~delfjax.models.model_files.pinned`).

    Args:
        config: only the section ``global_features`` matters, without whitening and index; configs
            that differ elsewhere share an extractor.

    Raises:
        ConfigError: a projection of regions is set for a pooling without regions.
        WeightsError: the weights are missing or damaged, do not fit, or are not those that a pinned
            config asks for.
    """
    kept = config.global_extraction()
    kept["global_features"]["batch_size"] = config.global_features.batch_size
    return _loaded(pinned(from_dict(DelfConfig, kept)))


@lru_cache(maxsize=_LOADED_NETWORKS)
def _loaded(config: DelfConfig) -> GlobalExtractor:
    backbone = load_backbone(config.global_features.backbone, seed=config.seed)
    return GlobalExtractor(config, fold_batch_norm(backbone))


def _region_projection(settings: GlobalConfig, *, channels: int) -> tuple[np.ndarray, ...]:
    weights = settings.region_projection.weights
    if not weights:
        return ()
    if settings.pooling != "rmac":
        raise ConfigError(
            f"global_features.region_projection.weights is {weights!r}, but the pooling is"
            f" {settings.pooling!r}, which has no regions; set global_features.pooling=rmac"
        )
    found = load_projection(
        weights, PROJECTION, backbone=describe_backbone(settings.backbone), channels=channels
    )
    return found.shift.astype(np.float32), found.matrix.astype(np.float32)


def _pooled(
    settings: GlobalConfig,
    projection: _Projection,
    found: LevelCells,
    regions: Int[jax.Array, "b r 4"],
) -> Float[jax.Array, "b d"]:
    """The L2-normalised descriptor of each map; that of a map without cells is zero."""
    features = found.features
    yx = selection.numbered_cells(features.shape[1], found.width)
    own = jnp.all(yx < found.extent[:, None], axis=-1)
    if settings.pooling == "gem":
        # Powers of values up to 1 neither overflow nor vanish, whatever the exponent.
        largest = _largest(features, own)
        scaled = pooling.generalised_mean(features / largest, own, settings.gem_exponent)
        pooled = scaled * largest[:, 0]
    elif settings.pooling == "mac":
        pooled = pooling.maximum(features, own)
    else:
        project = None
        if projection:
            project = partial(pooling.projected, shift=projection[0], matrix=projection[1])
        pooled = pooling.regional_maximum(features, yx, regions, project)
    return pooling.l2_normalise(jnp.where(jnp.any(own, axis=1)[:, None], pooled, 0.0))


def _largest(
    features: Float[jax.Array, "b n c"], own: Bool[jax.Array, "b n"]
) -> Float[jax.Array, "b 1 c"]:
    """The largest value of each channel over the image's own cells; 1 where none is positive."""
    largest = jnp.where(own[..., None], features, 0.0).max(axis=1, keepdims=True)
    return jnp.where(largest > 0, largest, 1.0)


def _summed(sizes: tuple[Float[jax.Array, "b d"], ...]) -> BatchFeatures:
    """The normalised sum of the descriptors of all sizes, and no local features."""
    total = sum(sizes, jnp.zeros_like(sizes[0]))
    count = len(total)
    local = LocalFeatures(
        keypoints_yx=jnp.zeros((count, 0, 2), jnp.float32),
        scales=jnp.zeros((count, 0), jnp.float32),
        scores=jnp.zeros((count, 0), jnp.float32),
        descriptors=jnp.zeros((count, 0, 0), jnp.float32),
        valid=jnp.zeros((count, 0), bool),
    )
    return BatchFeatures(local, pooling.l2_normalise(total))
