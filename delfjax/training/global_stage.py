"""What the stage "global" does before and after its steps: the projection that it begins with, the
learned whitening, and the model file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int64

from delfjax.config import BackboneConfig, GlobalTrainingConfig, HeadConfig
from delfjax.models.delf import describe_backbone
from delfjax.models.model_files import (
    BACKBONE,
    GLOBAL_SECTIONS,
    PROJECTION,
    WHITENING,
    save_model,
)
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import tensor_digest
from delfjax.ops.whitening import Projection, WhiteningError, learned_whitening, pca_whitening
from delfjax.rng import named_generator
from delfjax.training.batches import LabelledPhotos, TrainingError
from delfjax.training.maps import cached_whole_maps, read_photos
from delfjax.training.networks import GlobalNetwork
from delfjax.training.positives import Positives
from delfjax.training.tuple_batches import FilePhotos, MappedPhotos, TupleBatches, WholePhotos

# Photos whose regions the projection begins with: enough that all 2048 variances of a ResNet are
# estimated from several times as many regions.
_REGION_PHOTOS = 2048
# Photos that are described together.
_TOGETHER = 8


def tuple_batches(
    network: GlobalNetwork,
    photos: LabelledPhotos,
    *,
    positives: Positives,
    config: GlobalTrainingConfig,
    seed: int,
    progress: bool,
) -> TupleBatches:
    """The batches of the stage, of cached maps or of photos as ``config`` says.

    Raises:
        TrainingError: most photos cannot be read, no photo has a positive, or there are too few
            landmarks.
    """
    source: WholePhotos
    if config.cached_maps:
        source = MappedPhotos(cached_whole_maps(network, photos, config=config, progress=progress))
    else:
        photos = photos.hashed(progress=progress)
        failures = unreadable_photos(photos, config.square_side, progress=progress)
        source = FilePhotos(photos, config.square_side, failures)
    return TupleBatches(photos, source, positives=positives, config=config, seed=seed)


def begin_projection(network: GlobalNetwork, batches: TupleBatches) -> None:
    """Set the projection of regions, if the network has one, to the PCA whitening of regions of
    training photos.

    Raises:
        TrainingError: there are too few regions, or they hold values that are not finite.
    """
    head = network.head
    if not head.projection_dim:
        return
    members = np.flatnonzero(batches.training)
    rng = named_generator(0, "regions")
    members = np.sort(rng.permutation(members)[:_REGION_PHOTOS])
    found = _computed(network, batches, members, GlobalNetwork.regions)
    try:
        start = pca_whitening(
            found[found.any(axis=1)], dim=head.projection_dim, shrinkage=head.shrinkage
        )
    except WhiteningError as error:
        raise TrainingError(f"head.projection_dim: {error}") from None
    network.projecting(start)


def fitted_whitening(network: GlobalNetwork, batches: TupleBatches) -> Projection | None:
    """The learned whitening (Lw) of the descriptors of training photos, from all pairs of a photo
    and its positive; ``None`` if the stage asks for none.

    Raises:
        TrainingError: there are too few pairs.
    """
    if network.head.whiten == "none":
        return None
    members = np.flatnonzero(batches.training)
    pooled = network.pooled_by(_whitened_head(network.head))
    descriptors = _computed(pooled, batches, members, GlobalNetwork.__call__)
    pairs = batches.positives.among(batches.training).pairs
    try:
        return learned_whitening(descriptors, np.searchsorted(members, pairs))
    except WhiteningError as error:
        raise TrainingError(f"head.whiten: {error}") from None


def save_global_model(
    file: Path,
    network: GlobalNetwork,
    whitening: Projection | None,
    *,
    backbone: BackboneConfig,
    about: dict[str, Any],
) -> None:
    """Write a model file: the backbone, and the projection of regions or the learned whitening.

    ``--set model=FILE`` then sets the section ``global_features``.

    Args:
        file: the ``.safetensors`` file.
        network: the trained network.
        whitening: the learned whitening, if there is one.
        backbone: the backbone that the stage started from.
        about: further plain values for the description of the backbone.
    """
    tensors = named_tensors(network.backbone)
    layers = {"name": backbone.name, "stride_layout": backbone.stride_layout}
    started = replace(backbone, weights="random")
    made_for = {"backbone": {**describe_backbone(started), "weights": tensor_digest(tensors)}}
    head = _whitened_head(network.head)
    parts: dict[str, Any] = {BACKBONE: (tensors, {**layers, **about})}
    settings: dict[str, Any] = {
        "backbone": {**layers, "output": backbone.output},
        "pooling": head.pooling,
        "rmac_levels": head.rmac_levels,
        "rmac_whole_image": head.rmac_whole_image,
        # What an earlier model may have set.
        "region_projection": {"weights": ""},
        "whitening": {"kind": "none", "weights": "", "dim": 0},
    }
    if network.exponent is not None:
        settings["gem_exponent"] = float(network.exponent[...])
    if network.shift is not None and network.kernel is not None:
        learnt = Projection(np.asarray(network.shift[...]), np.asarray(network.kernel[...]))
        parts[PROJECTION] = (_projection_tensors(learnt), made_for)
    if whitening is not None:
        parts[WHITENING] = (_projection_tensors(whitening), made_for)
        settings["whitening"]["kind"] = "learned"
    save_model(
        file, parts, system={"global_features": settings}, about={}, sections=GLOBAL_SECTIONS
    )


def _projection_tensors(projection: Projection) -> dict[str, np.ndarray]:
    return {
        "shift": projection.shift.astype(np.float32),
        "matrix": projection.matrix.astype(np.float32),
    }


def _whitened_head(head: HeadConfig) -> HeadConfig:
    """The head whose descriptors are whitened, and that the model file sets."""
    if head.whiten != "rmac":
        return head
    return replace(head, pooling="rmac", rmac_levels=3, rmac_whole_image=True)


def unreadable_photos(photos: LabelledPhotos, side: int, *, progress: bool) -> dict[int, str]:
    """Photo → reason, for the photos that cannot be read."""
    return read_photos(photos, side, progress=progress)[1]


def _computed(
    network: GlobalNetwork,
    batches: TupleBatches,
    members: Int64[np.ndarray, " m"],
    function: Callable[[GlobalNetwork, Any], jax.Array],
) -> Float[np.ndarray, "n d"]:
    """``function`` of the network and the maps of some photos, a few photos at a time: its rows, in
    the order of the photos."""
    graph, state = nnx.split(network)

    def applied(state: nnx.State[Any, Any], photos: Any) -> jax.Array:
        held = nnx.merge(graph, state)
        if photos.values.dtype == np.uint8:
            photos = held.fixed(photos._replace(values=photos.values.astype(np.float32)))
        return function(held, photos._replace(values=photos.values.astype(np.float32)))

    compiled = jax.jit(applied)
    found = []
    for start in range(0, len(members), _TOGETHER):
        part = members[start : start + _TOGETHER]
        values = np.asarray(compiled(state, batches.take(np.resize(part, _TOGETHER))))
        found.append(values.reshape(_TOGETHER, -1, values.shape[-1])[: len(part)])
    rows = np.concatenate(found)
    return rows.reshape(-1, rows.shape[-1])
