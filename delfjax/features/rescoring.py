"""What another scorer would keep, from a store of every cell: systems that share a backbone run it once.

The backbone takes nearly all the time of an extraction, and neither the scorer nor the number of features changes what it
computes; a level of the pyramid knows nothing of the others. A dense store holds each cell's descriptor, of unit length, and
the norm it had; together they are the feature that a scorer scores, but for the half precision that stores keep descriptors in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float
from tqdm.auto import tqdm

from delfjax.config import BackboneConfig, ConfigError, DelfConfig, override
from delfjax.features.extractor import Extractor
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.models.attention import AutoencodedScorer
from delfjax.models.delf import Scorer, load_delf, load_scorer
from delfjax.models.layers import FeatureMap, fold_batch_norm
from delfjax.types import ImageFeatures

# Fields that decide a dense store, its levels aside: systems that agree in them can share one that has the levels of all.
DENSE_FIELDS = (
    *(f"backbone.{field.name}" for field in dataclasses.fields(BackboneConfig)),
    *(f"features.{name}" for name in ("max_side", "min_level_side", "border_px", "dtype")),
)


def dense_extractor(config: DelfConfig) -> Extractor:
    """An extractor for the backbone and the scales of ``config`` that keeps every cell, by the norm of its feature.

    Raises:
        WeightsError: the backbone's weights are missing, damaged, or those of another architecture.
    """
    plain = override(config, ["scorer.kind=norm", "features.nms_iou=1.0", "features.threshold_kind=none"])
    model = load_delf(plain)
    sides = [-(-round(config.features.max_side * scale) // model.receptive_field.stride) + 1 for scale in config.features.scales]
    return Extractor(override(plain, [f"features.max_features={sum(side * side for side in sides)}"]), model)


def rescore(dense: FeatureStore, config: DelfConfig, place: Path, *, progress: bool = True) -> FeatureStore:
    """The features that ``config`` keeps of each image of a dense store, in a store of their own.

    Args:
        dense: made by a :func:`dense_extractor` for the same backbone and, among others, the scales of ``config``.
        config: whose scorer, scales and number of features are wanted.
        place: folder of the new store.
        progress: show a progress bar.

    Raises:
        ConfigError: ``config`` has another backbone or scales that the store lacks, suppresses or thresholds features, or has a
            scorer whose codes take their place.
        WeightsError: the scorer's weights are missing, damaged, or for another backbone.
        StoreError: the new store is of another config, or being written.
    """
    wanted = config.extraction()
    if config.features.nms_iou < 1 or config.features.threshold_kind != "none":
        raise ConfigError("features.nms_iou or features.threshold_kind is set: a dense store knows neither; extract instead")
    for path in DENSE_FIELDS:
        section, field = path.split(".")
        held, asked = dense.config[section][field], wanted[section][field]
        if held != asked:
            raise ConfigError(f"{path} is {asked!r}, the dense store has {held!r}")
    scales, held = config.features.scales, dense.config["features"]["scales"]
    if not set(scales) <= set(held):
        raise ConfigError(f"features.scales is {list(scales)}, the dense store has {held}")
    learnt = config.scorer.kind == "attention" and dense.names
    scorer = fold_batch_norm(load_scorer(config, dense.descriptor_dim)) if learnt else None
    if isinstance(scorer, AutoencodedScorer) and scorer.replaces_features:
        raise ConfigError("scorer.weights describes cells by codes of its own, which a dense store lacks; extract instead")
    score, count = _scores(scorer, int(dense.counts().max(initial=1))), config.features.max_features
    failures = dense.failures()
    with StoreWriter(place, wanted) as writer:
        for group in tqdm(writer.plan([*dense.names, *failures]), desc="rescore", unit="shard", disable=not progress):
            kept = {name: _best(_of_scales(dense.get(name), scales), score, count) for name in group.names if name in dense}
            writer.commit(group, kept, {name: failures[name] for name in group.names if name in failures})
        return writer.store()


_Score = Callable[[Float[np.ndarray, "n c"]], Float[np.ndarray, " n"]]


def _scores(scorer: Scorer | None, most: int) -> _Score:
    """Scores of up to ``most`` raw features, always padded to as many: one program."""
    if scorer is None:
        return lambda features: np.linalg.norm(features, axis=1)
    graph, state = nnx.split(scorer)

    @jax.jit
    def run(state: nnx.State[Any, Any], maps: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(FeatureMap.full(maps))[0, :, 0]

    def score(features: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
        padded = np.zeros((1, most, 1, features.shape[1]), np.float32)
        padded[0, : len(features), 0] = features
        return np.asarray(run(state, padded))[: len(features)]

    return score


def _of_scales(image: ImageFeatures, scales: Sequence[float]) -> ImageFeatures:
    return _taken(image, np.isin(image.local.scales, np.asarray(scales, np.float32)))


def _best(image: ImageFeatures, score: _Score, count: int) -> ImageFeatures:
    local = image.local
    scores = score(np.asarray(local.descriptors, np.float32) * np.asarray(local.scores)[:, None])
    order = np.argsort(-scores, kind="stable")[:count]
    return _taken(image, order, scores=scores[order])


def _taken(image: ImageFeatures, rows: np.ndarray, **changes: np.ndarray) -> ImageFeatures:
    local = image.local
    taken = {name: np.asarray(value)[rows] for name, value in vars(local).items()}
    return dataclasses.replace(image, local=type(local)(**{**taken, **changes}))
