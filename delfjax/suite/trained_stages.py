"""What the notebooks about training share: stages that are trained once per settings, systems built
from them, and measures of where their keypoints lie.

A trained stage lies in the cache, under a hash of the photographs, the layers it starts from, its
config and its seed. A notebook with the same settings reuses it, and an interrupted training
resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from delfjax import paths
from delfjax.config import (
    BackboneConfig,
    DelfConfig,
    TrainingConfig,
    config_hash,
    to_dict,
)
from delfjax.datasets.catalogue import open_dataset
from delfjax.features.store import FeatureStore
from delfjax.models.delf import describe_backbone
from delfjax.models.model_files import BACKBONE, load_part, override_system
from delfjax.models.weights import is_described
from delfjax.records import Number, Record, Whole, require_record
from delfjax.training.batches import TrainingError
from delfjax.training.loop import METRICS, metric_lines
from delfjax.training.stages import save_trained, train_stage
from delfjax.world.reading import World

# Increase this whenever a change of the code makes the same settings train to other weights.
_VERSION = 1


@dataclass(frozen=True)
class TrainedStage:
    """A stage after its training.

    Attributes:
        weights: file of the learned weights, ``.safetensors``.
        losses: step → loss of its batch.
        accuracy: step → share of the validation photographs that are classified correctly, or for a
            global descriptor the mean average precision of retrieval among those of held-out
            landmarks, [0, 1]; step 0 is before training.
        best_step: step whose weights were kept.
        seconds: duration of the training, including the feature maps.
    """

    weights: Path
    losses: dict[int, float]
    accuracy: dict[int, float]
    best_step: int
    seconds: float


@dataclass
class _Stage(Record):
    """Fields of the description of a trained backbone."""

    best_step: Whole
    seconds: Number


def trained_stage(
    world: Path,
    *,
    backbone: BackboneConfig,
    config: TrainingConfig,
    seed: int,
    progress: bool = False,
) -> TrainedStage:
    """Train a stage on the training photographs of a world, or reuse a cached result.

    Args:
        world: folder of the world, from :func:`~delfjax.suite.data.world_set`.
        backbone: the backbone that the stage starts from.
        config: config of the stage.
        seed: seed of all random draws.
        progress: show progress bars.

    Raises:
        TrainingError: see :func:`~delfjax.training.stages.train_stage`.
    """
    settings = {
        "version": _VERSION,
        "world": world.name,
        "backbone": describe_backbone(backbone),
        "config": to_dict(config),
        "seed": seed,
    }
    folder = paths.cache_root() / "trained" / config_hash(settings)
    weights = folder / f"{config.stage}.safetensors"
    if not is_described(weights):
        dataset = open_dataset("world_train", world)
        report = train_stage(
            dataset,
            backbone=backbone,
            config=config,
            seed=seed,
            folder=folder / "training",
            progress=progress,
        )
        description = {
            "trained_on": world.name,
            "training": to_dict(config),
            "seed": seed,
            "best_step": report.best_step,
            "seconds": report.seconds,
        }
        save_trained(weights, report, backbone=backbone, about=description)
    about = load_part(weights, BACKBONE)[1]
    require_record(about, _Stage, where=str(weights), error=TrainingError)
    lines = metric_lines(folder / "training" / METRICS)
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    accuracy = {
        line["step"]: line[name]
        for name in ("validation_accuracy", "validation_precision")
        for line in lines
        if name in line
    }
    return TrainedStage(weights, losses, accuracy, about["best_step"], about["seconds"])


def system(
    config: DelfConfig,
    *,
    descriptors: TrainedStage | None = None,
    attention: TrainedStage | None = None,
    delg: TrainedStage | None = None,
    pooled: TrainedStage | None = None,
) -> DelfConfig:
    """``config`` with trained stages; without an attention stage, the feature norm is the score.

    Args:
        config: the system to change.
        descriptors: a stage "finetune".
        attention: a stage "attention".
        delg: a stage "delg", which is a whole system: the other stages are then ignored.
        pooled: a stage "global", which sets the global descriptor alone.
    """
    if pooled is not None:
        others = system(config, descriptors=descriptors, attention=attention, delg=delg)
        local = any(stage is not None for stage in (descriptors, attention, delg))
        return override_system(others if local else config, [f"model={pooled.weights}"])
    if delg is not None:
        return override_system(config, [f"model={delg.weights}"])
    changes = [] if descriptors is None else [f"backbone.weights={descriptors.weights}"]
    if attention is None:
        changes.append("scorer.kind=norm")
    else:
        changes += ["scorer.kind=attention", f"scorer.weights={attention.weights}"]
    return override_system(config, changes)


def landmark_masks(world: World, *, split: str, count: int) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Path → mask of the pixels that show a landmark.

    Args:
        world: a landmark world.
        split: the split to take photographs from.
        count: most photographs to take, spread evenly over the split.
    """
    rows = world.rows(split)
    places = np.linspace(0, len(rows) - 1, min(count, len(rows)))
    chosen = rows[np.unique(places.round().astype(int))]
    return {world.paths[int(row)]: world.mask(int(row)) for row in chosen}


def landmark_shares(
    store: FeatureStore, masks: Mapping[str, Bool[np.ndarray, "h w"]], *, kept: Sequence[int]
) -> Float[np.ndarray, "photos kept"]:
    """Share of the best keypoints that lie on a landmark, per photograph and number of keypoints.

    Args:
        store: features of every photograph in ``masks``, sorted by score, best first.
        masks: photograph → mask of the pixels that show a landmark.
        kept: numbers of keypoints to evaluate.

    Returns:
        Shares in [0, 1]; 0 for a photograph without keypoints.
    """
    shares = np.empty((len(masks), len(kept)))
    for row, (name, mask) in enumerate(masks.items()):
        on = _on_mask(store, name, mask)
        running = np.cumsum(on) / np.arange(1, len(on) + 1)
        shares[row] = [running[min(number, len(on)) - 1] if len(on) else 0.0 for number in kept]
    return shares


def detector_curve(
    store: FeatureStore, masks: Mapping[str, Bool[np.ndarray, "h w"]], *, points: int = 50
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Recall and precision of the score as a detector of landmarks.

    The keypoints of all photographs are ranked together.

    Args:
        store: features of every photograph in ``masks``.
        masks: photograph → mask of the pixels that show a landmark.
        points: most points on the curve, at evenly spaced ranks.
    """
    on = np.concatenate([_on_mask(store, name, mask) for name, mask in masks.items()])
    scores = np.concatenate([store.get(name).local.scores for name in masks])
    right = np.cumsum(on[np.argsort(-scores, kind="stable")])
    lengths = np.ceil(np.linspace(0, len(right), points + 1)[1:]).astype(int)
    ends = np.unique(lengths) - 1
    recall = right[ends] / max(1, right[-1])
    precision = right[ends] / (ends + 1)
    return recall, precision


def _on_mask(
    store: FeatureStore, name: str, mask: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, " n"]:
    cells = np.round(store.get(name).local.keypoints_yx).astype(int)
    y, x = np.clip(cells, 0, np.array(mask.shape) - 1).T
    return np.asarray(mask[y, x], bool)
