"""Extraction for several systems in one pass over the photos; what they share is computed once.

The backbone takes nearly all the time of an extraction. What it computes does not depend on the
scorer or the number of features, a level of the pyramid does not depend on the others, and
backbones fine-tuned from the same weights share their frozen layers. A pass therefore describes
every cell of every level once, and each system keeps the features that it would have kept alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from delfjax.config import (
    DELF,
    BackboneConfig,
    ConfigError,
    DelfConfig,
    config_hash,
    override,
    to_dict,
)
from delfjax.datasets.image_source import ImageSource
from delfjax.datasets.images import DecodedImage
from delfjax.features.batching import PendingBatch
from delfjax.features.extractor import Extractor
from delfjax.features.many_stores import extract_together
from delfjax.models.attention import AutoencodedScorer
from delfjax.models.branches import BranchedBackbone
from delfjax.models.delf import Delf, Scorer, describe_backbone, load_backbone, load_scorer
from delfjax.models.layers import FeatureMap, fold_batch_norm
from delfjax.types import ImageFeatures

K = TypeVar("K", bound=Hashable)
# Systems that agree in these fields share a pass.
_PASS_FIELDS = (
    *(
        f"backbone.{field.name}"
        for field in dataclasses.fields(BackboneConfig)
        if field.name != "weights"
    ),
    *(f"features.{name}" for name in ("max_side", "min_level_side", "border_px", "dtype")),
)
# The number of scored cells is padded to a multiple of this, which limits the number of programs.
_BLOCK = 512


class SharedPass(Generic[K]):
    """Compiled extractors for several systems."""

    def __init__(self, systems: Mapping[K, DelfConfig]) -> None:
        """Load every backbone and every scorer.

        Args:
            systems: key → config. A system must not suppress or threshold features, and its scorer
                must not replace features by codes. Its features are DELF's.

        Raises:
            ConfigError: a system does one of these.
            WeightsError: weights are missing, damaged, or belong to another architecture.
        """
        self._systems = dict(systems)
        groups: dict[str, dict[K, DelfConfig]] = {}
        for key, config in self._systems.items():
            if config.features.nms_iou < 1 or config.features.threshold_kind != "none":
                raise ConfigError(
                    "features.nms_iou or features.threshold_kind is set, which a shared pass does"
                    " not support; extract this system alone"
                )
            if config.features.method != DELF:
                raise ConfigError(
                    f"features.method is {config.features.method!r}, but a shared pass computes the"
                    " features of DELF alone; extract this system alone"
                )
            groups.setdefault(_pass_of(config), {})[key] = config
        self._passes = [_Pass(group) for group in groups.values()]

    def extract(
        self, photos: ImageSource, stores: Mapping[K, Path], *, progress: bool = True
    ) -> None:
        """Extract the features of ``photos`` into one store per system, skipping images that a
        store already holds.

        Args:
            photos: the images.
            stores: key → folder of the store, created if missing; each system needs its own.
            progress: show a progress bar for each pass.

        Raises:
            StoreError: a store was made with another config, is damaged, or is being written by
                another process.
        """
        for shared in self._passes:
            extractions = {key: self._systems[key].extraction() for key in shared.keys}
            extract_together(shared, photos, stores, extractions, progress=progress)


@dataclasses.dataclass(frozen=True)
class _Kept:
    """Which of a pass's cells a system keeps.

    Attributes:
        channels: the channels of the system's backbone.
        scorer: index of the system's scorer.
        scales: scales of the system's pyramid.
        count: largest number of features that the system keeps.
    """

    channels: slice
    scorer: int
    scales: Float[np.ndarray, " s"]
    count: int


class _Pass(Generic[K]):
    """The systems of one pass, as a single extractor that returns the features of each system."""

    def __init__(self, systems: Mapping[K, DelfConfig]) -> None:
        self.keys = tuple(systems)
        first = next(iter(systems.values()))
        output = first.backbone.output
        described = {key: describe_backbone(config.backbone) for key, config in systems.items()}
        backbone_of = {
            key: _backbone_identity(config, described[key]) for key, config in systems.items()
        }
        backbones = {backbone_of[key]: config for key, config in systems.items()}
        loaded = [load_backbone(config.backbone, seed=config.seed) for config in backbones.values()]
        # A single backbone uses the same compiled programs as an extractor of its own.
        together = BranchedBackbone(loaded, output=output) if len(loaded) > 1 else loaded[0]
        model = fold_batch_norm(Delf(together, None, output=output))
        scales = sorted({scale for config in systems.values() for scale in config.features.scales})
        sides = [
            -(-round(first.features.max_side * scale) // model.receptive_field.stride) + 1
            for scale in scales
        ]
        every_cell = [
            f"features.scales={scales}",
            f"features.max_features={sum(side * side for side in sides)}",
            "scorer.kind=norm",
        ]
        self._extractor = Extractor(override(first, every_cell), model)
        self.extraction = self._extractor.extraction
        self.max_side = self._extractor.max_side
        self.batch_size = self._extractor.batch_size
        self.in_flight = self._extractor.in_flight
        self.canvas = self._extractor.canvas
        width = model.channels // len(loaded)
        places = list(backbones)
        scorers: dict[str, int] = {}
        self._scorers: list[tuple[slice, _Score]] = []
        self._kept: dict[K, _Kept] = {}
        for key, config in systems.items():
            place = places.index(backbone_of[key])
            channels = slice(place * width, (place + 1) * width)
            identity = config_hash(
                {"backbone": place, "scorer": to_dict(config)["scorer"], "seed": config.seed}
            )
            if identity not in scorers:
                scorers[identity] = len(self._scorers)
                self._scorers.append((channels, _score(config, described[key], width)))
            held = np.asarray(config.features.scales, np.float32)
            self._kept[key] = _Kept(channels, scorers[identity], held, config.features.max_features)

    def dispatch(self, images: Sequence[DecodedImage]) -> _PendingSystems[K]:
        """Start the extraction of one batch and return without waiting for it."""
        return _PendingSystems(self._extractor.dispatch(images), self)

    def kept(self, image: ImageFeatures) -> dict[K, ImageFeatures]:
        """The features that each system keeps of an image, given the features of every cell."""
        local = image.local
        # The scores are the norms of the features, so the product restores the raw features.
        features = np.asarray(local.descriptors) * np.asarray(local.scores)[:, None]
        scored = [score(features[:, channels]) for channels, score in self._scorers]
        found = {}
        for key, kept in self._kept.items():
            rows = np.flatnonzero(np.isin(np.asarray(local.scales), kept.scales))
            scores = scored[kept.scorer]
            best = rows[np.argsort(-scores[rows], kind="stable")[: kept.count]]
            taken = jax.tree.map(lambda part, best=best: part[best], local)
            described = _unit(features[best, kept.channels])
            found[key] = dataclasses.replace(
                image,
                local=dataclasses.replace(taken, scores=scores[best], descriptors=described),
            )
        return found


@dataclasses.dataclass(frozen=True)
class _PendingSystems(Generic[K]):
    """A batch being computed on the device."""

    batch: PendingBatch
    shared: _Pass[K]

    def result(self) -> list[dict[K, ImageFeatures]]:
        """The features that each system keeps of each image."""
        return [self.shared.kept(image) for image in self.batch.result()]


def _pass_of(config: DelfConfig) -> str:
    plain = to_dict(config)
    return config_hash(
        {
            path: plain[section][field]
            for path in _PASS_FIELDS
            for section, field in [path.split(".")]
        }
    )


def _backbone_identity(config: DelfConfig, described: Mapping[str, str]) -> str:
    # Random weights depend on the seed.
    seed = config.seed if config.backbone.weights == "random" else None
    return config_hash({**described, "seed": seed})


_Score = Callable[[Float[np.ndarray, "n c"]], Float[np.ndarray, " n"]]


def _score(config: DelfConfig, backbone: Mapping[str, str], channels: int) -> _Score:
    """The function by which ``config`` scores unnormalised features of ``channels`` values."""
    if config.scorer.kind == "norm":
        return _norms
    loaded = load_scorer(config.scorer, backbone=backbone, channels=channels, seed=config.seed)
    scorer = fold_batch_norm(loaded)
    if isinstance(scorer, AutoencodedScorer) and scorer.replaces_features:
        raise ConfigError(
            "scorer.weights replaces features by codes of its own, which a shared pass does not"
            " support; extract this system alone"
        )
    graph, state = nnx.split(scorer)

    def score(features: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
        padded = np.zeros((1, -(-len(features) // _BLOCK) * _BLOCK, 1, channels), np.float32)
        padded[0, : len(features), 0] = features
        return np.asarray(_scores(graph, state, padded))[: len(features)]

    return score


@partial(jax.jit, static_argnums=0)
def _scores(graph: nnx.GraphDef[Scorer], state: nnx.State[Any, Any], maps: jax.Array) -> jax.Array:
    return nnx.merge(graph, state)(FeatureMap.full(maps))[0, :, 0]


def _norms(features: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
    return np.asarray(np.linalg.norm(features, axis=1))


def _unit(features: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    return np.asarray(features / np.maximum(_norms(features), np.finfo(np.float32).tiny)[:, None])
