"""A training stage from dataset to weight file, as the command line and the notebooks call it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from delfjax.config import (
    BackboneConfig,
    DelfConfig,
    GlobalTrainingConfig,
    TrainingConfig,
    to_dict,
)
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.errors import DelfjaxWarning
from delfjax.models.delf import describe_backbone, load_backbone
from delfjax.models.model_files import BACKBONE, REDUCTION, SCORER, pinned, save_model
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import save_weights, tensor_digest
from delfjax.training.batches import Batches, LabelledPhotos, MapBatches, PhotoBatches
from delfjax.training.checkpoints import Checkpoints
from delfjax.training.global_stage import (
    begin_projection,
    fitted_whitening,
    save_global_model,
    tuple_batches,
)
from delfjax.training.loop import TrainingReport, train
from delfjax.training.maps import cached_maps
from delfjax.training.networks import (
    AttentionNetwork,
    DelgNetwork,
    GlobalNetwork,
    Network,
    make_network,
)
from delfjax.training.photo_record import same_photos
from delfjax.training.positives import positives_of
from delfjax.training.tuple_batches import TupleBatches


def train_stage(
    dataset: RetrievalDataset,
    *,
    backbone: BackboneConfig,
    config: TrainingConfig,
    seed: int,
    folder: Path,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> TrainingReport:
    """Train one stage on the labelled photos of a dataset, or resume where an earlier call was
    stopped.

    A photo that cannot be read is replaced by another and reported. Another process that trains in
    the folder is waited for.

    Args:
        dataset: its database photos are used; its queries are not.
        backbone: the backbone that the stage starts from, with ImageNet's weights or those of an
            earlier stage.
        config: settings of the stage.
        seed: seed of everything random.
        folder: folder of the checkpoints and metrics.
        devices: devices to train on; by default, all local ones.
        progress: show progress bars.

    Raises:
        TrainingError: the labels cannot be learned from, most photos cannot be read, or the folder
            holds another run, a run on other photos, or no checkpoint that is whole; see also
            :func:`~delfjax.training.loop.train`.
        WeightsError: the backbone's weights are missing, damaged, or belong to another
            architecture.
    """
    backbone = pinned(DelfConfig(backbone=backbone)).backbone
    photos = LabelledPhotos.of(dataset)
    about = {
        **to_dict(config),
        "seed": seed,
        "dataset": dataset.name,
        "photos": len(photos.paths),
        "backbone": to_dict(backbone),
    }
    positives = None
    if isinstance(config, GlobalTrainingConfig):
        positives = positives_of(dataset, photos, config.tuples, progress=progress)
        about["positives"] = positives.digest()
    with Checkpoints(folder, about) as checkpoints:
        resumed = checkpoints.last is not None
        photos = same_photos(folder, photos.hashed(progress=progress), resumed=resumed)
        network = make_network(
            load_backbone(backbone, seed=seed),
            photos.classes,
            config=config,
            output=backbone.output,
            rngs=nnx.Rngs(seed),
        )
        batches: Batches | TupleBatches
        if isinstance(config, GlobalTrainingConfig):
            assert positives is not None and isinstance(network, GlobalNetwork)
            batches = tuple_batches(
                network, photos, positives=positives, config=config, seed=seed, progress=progress
            )
            # A checkpoint holds the projection.
            if not resumed:
                begin_projection(network, batches)
        else:
            batches = _batches(network, photos, config=config, seed=seed, progress=progress)
        _warn_of(batches)
        report = train(
            network,
            batches,
            config=config,
            checkpoints=checkpoints,
            devices=devices,
            progress=progress,
        )
        if isinstance(batches, TupleBatches) and isinstance(report.network, GlobalNetwork):
            return replace(report, whitening=fitted_whitening(report.network, batches))
        return report


def _warn_of(batches: Batches | TupleBatches) -> None:
    """Warn of photos that cannot be read."""
    if not batches.failures:
        return
    (path, reason), *others = batches.failures.items()
    more = f", nor can {len(others)} more photos" if others else ""
    warnings.warn(
        f"{batches.photos.root}: {path} cannot be read ({reason}){more}; others take their places",
        DelfjaxWarning,
        stacklevel=3,
    )


def _batches(
    network: Network, photos: LabelledPhotos, *, config: TrainingConfig, seed: int, progress: bool
) -> Batches:
    if not config.cached_maps:
        return PhotoBatches(photos, config=config, seed=seed)
    maps, failures = cached_maps(network, photos, config=config, progress=progress)
    return MapBatches(photos, maps, failures=failures, config=config, seed=seed)


def save_trained(
    file: Path, report: TrainingReport, *, backbone: BackboneConfig, about: dict[str, Any]
) -> None:
    """Write what a stage has learned, without the classifier.

    The file holds the backbone (for ``backbone.weights``), the scorer (for ``scorer.weights``), or
    after the stage "delg" the whole system (for ``model``), whose reduction is the autoencoder's
    encoder; after the stage "global", the whole system of global descriptors (for ``model``).

    Args:
        file: the ``.safetensors`` file to write.
        report: the result of training.
        backbone: the backbone that the stage started from.
        about: plain values worth keeping, such as the training config and scores.
    """
    network = report.network
    if isinstance(network, GlobalNetwork):
        save_global_model(file, network, report.whitening, backbone=backbone, about=about)
    elif isinstance(network, DelgNetwork):
        _save_delg(file, network, backbone=backbone, about=about)
    elif isinstance(network, AttentionNetwork):
        hidden = int(network.scorer.hidden.kernel.shape[-1])
        kept: dict[str, Any] = {
            "name": "attention",
            "hidden": hidden,
            "backbone": describe_backbone(backbone),
        }
        save_weights(file, named_tensors(network.scorer), {**kept, **about})
    else:
        kept = {"name": backbone.name, "stride_layout": backbone.stride_layout}
        save_weights(file, named_tensors(network.backbone), {**kept, **about})


def _save_delg(
    file: Path, network: DelgNetwork, *, backbone: BackboneConfig, about: dict[str, Any]
) -> None:
    tensors = named_tensors(network.backbone)
    layers = {"name": backbone.name, "stride_layout": backbone.stride_layout}
    started = BackboneConfig(
        name=backbone.name, output="conv4", stride_layout=backbone.stride_layout, weights="random"
    )
    made_for = {"backbone": {**describe_backbone(started), "weights": tensor_digest(tensors)}}
    hidden = int(network.scorer.attention.hidden.kernel.shape[-1])
    code_dim = int(network.scorer.encoder.kernel.shape[-1])
    scorer = {"hidden": hidden, "code_dim": code_dim, "rectified": network.scorer.rectified}
    reduction = {"dim": code_dim, "whiten": False}
    # An encoder without a bias is a reduction whose mean is zero.
    encoder = np.asarray(network.scorer.encoder.kernel[...], np.float32)
    mean = np.zeros(len(encoder), np.float32)
    parts = {
        BACKBONE: (tensors, {**layers, **about}),
        SCORER: (named_tensors(network.scorer), {"name": "delg", **scorer, **made_for}),
        REDUCTION: (
            {"mean": mean, "projection": encoder},
            {**reduction, "explained": 1.0, **made_for},
        ),
    }
    system = {
        BACKBONE: {**layers, "output": "conv4"},
        SCORER: {"kind": "attention", "hidden": hidden},
        REDUCTION: reduction,
    }
    save_model(file, parts, system=system, about={})
