"""Export of a trained system to one model file, for ``delfjax weights export``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from delfjax.config import DELF, ConfigError, DelfConfig, to_dict, weight_file
from delfjax.features.folder_changes import warn_unfinished
from delfjax.features.reduction import fit_from_store
from delfjax.features.store import FeatureStore
from delfjax.models.delf import describe_backbone, load_backbone, load_scorer
from delfjax.models.model_files import (
    BACKBONE,
    REDUCTION,
    SCORER,
    SYSTEM_FEATURES,
    load_part,
    pinned,
    save_model,
)
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import Tensors, shipped_attention, tensor_digest
from delfjax.ops.receptive_field import compose


def export_system(out: Path, config: DelfConfig, *, store: Path | None = None) -> None:
    """Write backbone, scorer and, given a store, the reduction of a system to one file.

    Args:
        out: the ``.safetensors`` file to write.
        config: the system.
        store: folder of features extracted by the system; the reduction is fitted on them.

    Raises:
        ConfigError: the system has no weights.
        WeightsError: weights are missing or damaged, or do not belong together.
        StoreError: the store is missing or damaged, or was made by another system.
        ReductionError: the store holds too few descriptors.
    """
    if config.features.method != DELF:
        raise ConfigError(
            f"features.method is {config.features.method!r}, which has no weights to export"
        )
    config = pinned(config)
    backbone = load_backbone(config.backbone, seed=config.seed)
    tensors = named_tensors(backbone)
    # The file identifies its backbone by the digest of the tensors, and keeps the identity from
    # before the export so that both are accepted.
    named = describe_backbone(config.backbone)
    made_for = {"backbone": {**named, "weights": tensor_digest(tensors)}, "same_backbone": named}
    layers = {"name": config.backbone.name, "stride_layout": config.backbone.stride_layout}
    parts: dict[str, tuple[Tensors, dict[str, Any]]] = {
        BACKBONE: (tensors, {**layers, **_backbone_about(config)})
    }
    system: dict[str, dict[str, Any]] = {
        BACKBONE: {**layers, "output": config.backbone.output},
        SCORER: {"kind": config.scorer.kind, "hidden": config.scorer.hidden},
        "features": {name: to_dict(config.features)[name] for name in SYSTEM_FEATURES},
        REDUCTION: {"dim": config.reduction.dim, "whiten": config.reduction.whiten},
    }
    if config.scorer.kind == "attention":
        scorer = load_scorer(
            config.scorer,
            backbone=named,
            channels=backbone.channels(config.backbone.output),
            seed=config.seed,
        )
        parts[SCORER] = named_tensors(scorer), {**_scorer_about(config), **made_for}
    if store is not None:
        opened = FeatureStore.open(store, config=config.extraction())
        warn_unfinished(opened)
        fitted = fit_from_store(
            opened, config=dataclasses.replace(config.reduction, weights=""), seed=config.seed
        )
        about = {
            **made_for,
            **system[REDUCTION],
            "explained": fitted.explained,
            "photos": len(opened),
        }
        parts[REDUCTION] = {"mean": fitted.mean, "projection": fitted.projection}, about
    field = dataclasses.asdict(compose(backbone.windows(config.backbone.output)))
    save_model(out, parts, system=system, about={"receptive_field": field})


def _backbone_about(config: DelfConfig) -> dict[str, Any]:
    weights = config.backbone.weights
    if weight_file(weights) is None:
        return {"weights": weights}
    return load_part(weights, BACKBONE)[1]


def _scorer_about(config: DelfConfig) -> dict[str, Any]:
    weights = config.scorer.weights
    if weights == "random":
        return {"name": "attention", "hidden": config.scorer.hidden}
    file = weight_file(weights) or shipped_attention(weights)
    return load_part(str(file), SCORER)[1]
