"""A stage from a dataset to a weight file: what the command line and the notebooks call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from delfjax.config import BackboneConfig, TrainingConfig, to_dict
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.models.delf import describe_backbone, load_backbone
from delfjax.models.model_files import BACKBONE, REDUCTION, SCORER, save_model
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import save_weights, tensor_digest
from delfjax.training.batches import Batches, LabelledPhotos, MapBatches, PhotoBatches
from delfjax.training.loop import TrainingReport, train
from delfjax.training.maps import cached_maps
from delfjax.training.networks import AttentionNetwork, DelgNetwork, make_network


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
    """Train one stage on the labelled photographs of a dataset, or go on where an earlier call was
    stopped.

    Args:
        dataset: its database is learnt from; queries are not looked at.
        backbone: where the stage starts: ImageNet's weights, or those of an earlier stage.
        config: how.
        seed: of everything drawn at random.
        folder: of the checkpoints and metrics.
        devices: where; all local ones otherwise.
        progress: show progress bars.

    Raises:
        TrainingError: see :func:`~delfjax.training.loop.train`; or labels that nothing can be
            learnt from.
        WeightsError: the backbone's weights are missing, damaged, or those of another architecture.
    """
    photos = LabelledPhotos.of(dataset)
    network = make_network(
        load_backbone(backbone, seed=seed),
        photos.classes,
        config=config,
        output=backbone.output,
        rngs=nnx.Rngs(seed),
    )
    batches: Batches
    if config.cached_maps:
        maps = cached_maps(network, photos, config=config, progress=progress)
        batches = MapBatches(photos, maps, config=config, seed=seed)
    else:
        batches = PhotoBatches(photos, config=config, seed=seed)
    about = {
        "seed": seed,
        "dataset": dataset.name,
        "photos": len(photos.paths),
        "backbone": to_dict(backbone),
    }
    return train(
        network,
        batches,
        config=config,
        folder=folder,
        about=about,
        devices=devices,
        progress=progress,
    )


def save_trained(
    file: Path, report: TrainingReport, *, backbone: BackboneConfig, about: dict[str, Any]
) -> None:
    """Write what a stage has learnt, the classifier left out: the backbone (``backbone.weights``),
    the scorer (``scorer.weights``), or of the stage "delg" the whole system (``model``), the
    autoencoder being its reduction.

    Args:
        file: a ``.safetensors`` file; a ``.json`` file of the same stem says what it is.
        report: of the training.
        backbone: that the stage started from.
        about: plain values worth keeping, such as the training's config and scores.
    """
    network = report.network
    if isinstance(network, DelgNetwork):
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
    hidden, code_dim = (
        int(network.scorer.attention.hidden.kernel.shape[-1]),
        int(network.scorer.encoder.kernel.shape[-1]),
    )
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
