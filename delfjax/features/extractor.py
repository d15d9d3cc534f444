"""The compiled pyramid extractor: images in, local features (and one global descriptor) out.

One program per canvas resizes an image and runs the backbone; a few score the cells of one level
and select the best; one more merges the levels. The canvases are a fixed set
(:func:`delfjax.ops.pyramid.canvases`), so a folder of photos of any sizes needs a bounded number of
programs, which the persistent cache keeps. Changing the scorer, the number of features or the
global descriptor does not recompile the backbone. Masks make every feature equal to that of the
image processed alone at its native size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int, PyTree

from delfjax import programs
from delfjax.config import (
    DELF,
    EXTRACTION_SECTIONS,
    ConfigError,
    DelfConfig,
    FeaturesConfig,
    from_dict,
    to_dict,
)
from delfjax.datasets.images import DecodedImage
from delfjax.features.batching import (
    BATCHED,
    WHOLE,
    BatchFeatures,
    DenseExtractor,
    DenseSettings,
    LevelCells,
)
from delfjax.models.delf import Delf, describe, load_delf, relevance
from delfjax.models.layers import FeatureMap
from delfjax.models.model_files import pinned
from delfjax.ops import pooling, pyramid, selection
from delfjax.ops.half_pixel import to_original_px
from delfjax.ops.pyramid import Size
from delfjax.ops.receptive_field import ReceptiveField, boxes_px, centres_px
from delfjax.types import LocalFeatures, storable

# Networks that stay loaded; a session alternates between few extraction configs.
_LOADED_NETWORKS = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LevelInput:
    """The sizes of a batch of images at one level of the pyramid.

    Attributes:
        originals: height and width of each original image, pixels.
        targets: height and width of each image at this level, pixels.
        regions: R-MAC regions of each image, cells.
    """

    originals: Int[jax.Array, "b 2"]
    targets: Int[jax.Array, "b 2"]
    regions: Int[jax.Array, "b r 4"]


@storable
@dataclass(frozen=True)
class LevelFeatures:
    """The best cells of one pyramid level.

    Attributes:
        scores: attention scores, best first; −inf in unused slots.
        keypoints_yx: pixels of the original image.
        descriptors: unnormalised descriptors.
        cells: number of cells that were candidates.
        pooled: global descriptor of the level.
    """

    scores: Float[jax.Array, "b k"]
    keypoints_yx: Float[jax.Array, "b k 2"]
    descriptors: Float[jax.Array, "b k c"]
    cells: Int[jax.Array, " b"]
    pooled: Float[jax.Array, "b g"]


class Extractor(DenseExtractor):
    """A model on the devices together with its compiled programs.

    Descriptors are L2-normalised but not reduced: a reduction is fitted on a store of descriptors,
    and the index applies it.
    """

    def __init__(
        self, config: DelfConfig, model: Delf, *, devices: Sequence[jax.Device] | None = None
    ) -> None:
        features = config.features
        if features.method != DELF:
            raise ConfigError(
                f"features.method is {features.method!r}, but what was asked for computes the"
                " features of DELF alone; `delfjax extract` and 62_compare_with_congas take other"
                " methods"
            )
        dense = DenseSettings(
            output=model.output,
            dtype=features.dtype,
            max_side=features.max_side,
            canvases=pyramid.canvases(features.max_side, features.scales),
            batch_size=features.batch_size,
        )
        super().__init__(model.backbone, dense, devices=devices)
        self.config = config
        self.channels = model.channels
        scorer, scorer_state = nnx.split(model.scorer)
        self._scorer_state = self._put(scorer_state, WHOLE)
        plain = to_dict(features)
        field = self.receptive_field
        chosen = {
            name: plain[name]
            for name in ("max_features", "border_px", "min_level_side", "global_descriptor")
        }
        self._best = self._program(
            partial(_best, scorer, features, field),
            (WHOLE, BATCHED, BATCHED),
            {
                "program": "best",
                "field": vars(field),
                "scorer": programs.description(scorer),
                **chosen,
            },
        )
        self._merge = self._program(
            partial(_merge, features, field),
            (BATCHED,),
            {"program": "merge", "field": vars(field), **plain},
        )

    @property
    def extraction(self) -> dict[str, Any]:
        """The plain values that determine the features."""
        return self.config.extraction()

    def canvas(self, height: int, width: int) -> tuple[Size, ...]:
        """The canvas of each level of the pyramid of an image; images with equal canvases can share
        a batch.

        Args:
            height: rows of the image, pixels.
            width: columns of the image, pixels.
        """
        longest = self.max_side * max(self.config.features.scales)
        sizes = [
            pyramid.level_size((height, width), scale) for scale in self.config.features.scales
        ]
        return tuple(pyramid.canvas_for(size, longest) for size in sizes)

    def _compute(self, images: Sequence[DecodedImage], shapes: Sequence[Size]) -> BatchFeatures:
        sizes = [image.pixels.shape[:2] for image in images]
        source, extent = self._placed(images)
        original = self._padded(np.array([image.original_size for image in images], np.int32))
        levels = []
        for scale, shape in zip(self.config.features.scales, shapes, strict=True):
            sides = np.array([pyramid.level_size(size, scale) for size in sizes], np.int32)
            level = LevelInput(original, self._padded(sides), self._padded(self._regions(sides)))
            cells = self._dense[shape](self._state, (source, extent, level.targets))
            levels.append(self._best(self._scorer_state, cells, level))
        return self._merge(tuple(levels))

    def _regions(self, targets: Int[np.ndarray, "b 2"]) -> Int[np.ndarray, "b r 4"]:
        if self.config.features.global_descriptor != "rmac":
            return np.zeros((len(targets), 0, 4), np.int32)
        # `_pool` leaves out a level without cells.
        return np.stack(
            [pooling.rmac_regions(*map(self._cells, map(int, sides))) for sides in targets]
        )


def load_extractor(config: DelfConfig) -> Extractor:
    """The extractor of ``config``; a process loads it once. The config of the extractor is pinned
    (:func:`~delfjax.models.model_files.pinned`).

    Args:
        config: only the sections ``backbone``, ``scorer`` and ``features`` matter; configs that
            differ elsewhere share an extractor.

    Raises:
        WeightsError: the weights are missing or damaged, do not fit, or are not those that a pinned
            config asks for.
    """
    plain = to_dict(config)
    kept = {section: plain[section] for section in EXTRACTION_SECTIONS}
    seed = {"seed": config.seed} if "seed" in config.extraction() else {}
    return _loaded(pinned(from_dict(DelfConfig, {**kept, **seed})))


@lru_cache(maxsize=_LOADED_NETWORKS)
def _loaded(config: DelfConfig) -> Extractor:
    return Extractor(config, load_delf(config))


def _best(
    graph: Any,
    config: FeaturesConfig,
    field: ReceptiveField,
    state: PyTree,
    found: LevelCells,
    level: LevelInput,
) -> LevelFeatures:
    """The best-scoring cells of one level."""
    scorer, features = nnx.merge(graph, state), found.features
    scores = relevance(scorer, FeatureMap.full(features[:, :, None]))[:, :, 0]
    yx = selection.numbered_cells(features.shape[1], found.width)
    big_enough = jnp.min(level.targets, axis=1) >= config.min_level_side
    own = jnp.all(yx < found.extent[:, None], axis=-1) & big_enough[:, None]
    held = own & _within(level.targets, yx, config.border_px, field)
    best, index, chosen = selection.top_cells(scores, held, yx, count=config.max_features)
    factors = level.targets.astype(jnp.float32) / level.originals.astype(jnp.float32)
    return LevelFeatures(
        scores=best,
        keypoints_yx=to_original_px(centres_px(field, chosen), factors[:, None]),
        descriptors=describe(scorer, jnp.take_along_axis(features, index[..., None], axis=1)),
        cells=jnp.sum(held, axis=1, dtype=jnp.int32),
        pooled=_pool(config, features, own, yx, level.regions),
    )


def _within(
    targets: Int[jax.Array, "b 2"],
    cells_yx: Int[jax.Array, "b n 2"],
    border: float,
    field: ReceptiveField,
) -> Bool[jax.Array, "b n"]:
    """Which cells are centred inside their image, at least ``border`` pixels from its edge."""
    centre = centres_px(field, cells_yx)
    edge = targets[:, None].astype(jnp.float32) - 0.5 - border
    return jnp.all((centre >= border - 0.5) & (centre <= edge), axis=-1)


def _pool(
    config: FeaturesConfig,
    features: Float[jax.Array, "b n c"],
    own: Bool[jax.Array, "b n"],
    cells_yx: Int[jax.Array, "b n 2"],
    regions: Int[jax.Array, "b r 4"],
) -> jax.Array:
    if config.global_descriptor == "gem":
        pooled = pooling.generalised_mean(features, own)
    elif config.global_descriptor == "mac":
        pooled = pooling.maximum(features, own)
    elif config.global_descriptor == "rmac":
        pooled = pooling.regional_maximum(features, cells_yx, regions)
    else:
        return jnp.zeros((features.shape[0], 0), features.dtype)
    # A level that is too small contributes nothing.
    return pooling.l2_normalise(jnp.where(jnp.any(own, axis=1)[:, None], pooled, 0.0))


def _merge(
    config: FeaturesConfig, field: ReceptiveField, levels: tuple[LevelFeatures, ...]
) -> BatchFeatures:
    """The best features over all levels, and the normalised sum of the global descriptors."""
    scores = jnp.concatenate([level.scores for level in levels], axis=1)
    keypoints = jnp.concatenate([level.keypoints_yx for level in levels], axis=1)
    descriptors = jnp.concatenate([level.descriptors for level in levels], axis=1)
    per_level = [
        jnp.full(level.scores.shape, s, jnp.float32)
        for s, level in zip(config.scales, levels, strict=True)
    ]
    scales = jnp.concatenate(per_level, axis=1)
    cells = sum((level.cells for level in levels), jnp.zeros_like(levels[0].cells))
    order = _order(config, field, scores, keypoints, scales)
    scores = jnp.take_along_axis(scores, order, axis=1, mode="fill", fill_value=-jnp.inf)
    valid = selection.keep_by_threshold(
        scores, cells, kind=config.threshold_kind, threshold=config.threshold
    )
    picked = jnp.take_along_axis(descriptors, order[..., None], axis=1, mode="clip")
    local = LocalFeatures(
        keypoints_yx=jnp.take_along_axis(keypoints, order[..., None], axis=1, mode="clip"),
        scales=jnp.take_along_axis(scales, order, axis=1, mode="clip"),
        scores=jnp.where(valid, scores, 0.0),
        descriptors=jnp.where(valid[..., None], pooling.l2_normalise(picked), 0.0),
        valid=valid,
    )
    pooled = sum((level.pooled for level in levels), jnp.zeros_like(levels[0].pooled))
    return BatchFeatures(local, pooling.l2_normalise(pooled))


def _order(
    config: FeaturesConfig,
    field: ReceptiveField,
    scores: jax.Array,
    keypoints: jax.Array,
    scales: jax.Array,
) -> jax.Array:
    count = min(config.max_features, scores.shape[1])
    if config.nms_iou >= 1:
        order: jax.Array = jax.lax.top_k(scores, count)[1]
        return order
    suppress = partial(selection.suppress_overlaps, limit=config.nms_iou, count=count)
    return jax.vmap(suppress)(boxes_px(field, keypoints, scales), scores)
