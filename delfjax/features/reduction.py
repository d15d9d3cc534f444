"""Dimensionality reduction of local descriptors: L2 → PCA (optionally whitened) → L2.

Source: the paper (40 dimensions). The PCA must be fitted on descriptors of the same model: another
    model's is a frequent mistake, so a reduction carries the hash of the extraction it was fitted
    on.

Products are computed by one thread: several add up in an order that depends on their number, and
the last bit of a projection decides which of two neighbours is the nearer. It is the same on any
number of cores.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from threadpoolctl import ThreadpoolController

from delfjax.config import BackboneConfig, ReductionConfig, from_dict
from delfjax.errors import DelfjaxError
from delfjax.features.store import FeatureStore
from delfjax.models.delf import describe_backbone, is_for_backbone
from delfjax.models.model_files import REDUCTION, load_part
from delfjax.rng import named_generator


class ReductionError(DelfjaxError):
    """A reduction that cannot be fitted, or does not fit the descriptors it is given."""


@dataclass(frozen=True)
class Reduction:
    """A linear map of descriptors followed by L2 normalisation.

    Attributes:
        mean: subtracted first.
        projection: principal directions in columns, whitening included.
        explained: share of the variance kept.
        extraction_hash: hash of the extraction config of the descriptors it was fitted on.
    """

    mean: Float[np.ndarray, " c"]
    projection: Float[np.ndarray, "c d"]
    explained: float
    extraction_hash: str

    def __call__(self, descriptors: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n d"]:
        """Reduced, L2-normalised descriptors (float32)."""
        if descriptors.shape[1] != len(self.mean):
            raise ReductionError(
                f"descriptors have {descriptors.shape[1]} dimensions, the reduction was fitted on"
                f" {len(self.mean)}"
            )
        with _threads().limit(limits=1, user_api="blas"):
            reduced = (descriptors.astype(np.float32) - self.mean) @ self.projection
        norm = np.linalg.norm(reduced, axis=1, keepdims=True)
        normalised: np.ndarray = reduced / np.maximum(norm, np.finfo(np.float32).tiny)
        return normalised


@functools.cache
def _threads() -> ThreadpoolController:
    """Looks for the libraries once: for every query it would take longer than the product."""
    return ThreadpoolController()


def fit_pca(
    descriptors: Float[np.ndarray, "n c"], *, config: ReductionConfig, extraction_hash: str = ""
) -> Reduction:
    """PCA of ``descriptors``; the sign of each direction is fixed so that its largest entry is
    positive.

    Raises:
        ReductionError: fewer dimensions than ``config.dim``, no more descriptors than that, or all
            of them equal.
    """
    count, channels = descriptors.shape
    # Centred descriptors span one dimension less than their number; whitening would blow up the
    # missing one.
    possible = min(channels, count - 1)
    if config.dim > possible:
        raise ReductionError(
            f"reduction.dim is {config.dim}, but there are {count} descriptors of {channels}"
            " dimensions; "
            + (
                f"set reduction.dim to at most {possible}"
                if possible > 0
                else "no reduction can be fitted on so few"
            )
        )
    centred = descriptors.astype(np.float64)
    mean = centred.mean(axis=0)
    centred -= mean
    with _threads().limit(limits=1, user_api="blas"):
        covariance = centred.T @ centred / max(1, count - 1)
        variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    if variances[0] <= 0:
        raise ReductionError(
            f"all {count} descriptors are equal: no reduction can be fitted on them"
        )
    kept = directions[:, : config.dim]
    kept = kept * np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(config.dim)])
    if config.whiten:
        kept = kept / np.sqrt(np.maximum(variances[: config.dim], variances[0] * 1e-9))
    explained = float(
        variances[: config.dim].sum() / max(variances.sum(), np.finfo(np.float64).tiny)
    )
    return Reduction(mean.astype(np.float32), kept.astype(np.float32), explained, extraction_hash)


def reduction_for(store: FeatureStore, *, config: ReductionConfig, seed: int) -> Reduction:
    """The reduction of a model file when ``config`` names one, otherwise one that is fitted on the
    store.

    Raises:
        ReductionError: the store holds too few descriptors, or was made with another backbone or
            for other dimensions than the reduction of the file.
        WeightsError: the file is missing or damaged, or has no reduction.
    """
    if not config.weights:
        return fit_from_store(store, config=config, seed=seed)
    tensors, about = load_part(config.weights, REDUCTION)
    asked: dict[str, object] = {"dim": config.dim, "whiten": config.whiten}
    backbone = describe_backbone(from_dict(BackboneConfig, store.config["backbone"]))
    if not is_for_backbone(about, backbone):
        asked["backbone"] = backbone
    for name, value in asked.items():
        if about.get(name) != value:
            raise ReductionError(
                f"{config.weights}: its reduction is for {name} {about.get(name)}, not {value};"
                " export it anew"
            )
    return Reduction(
        tensors["mean"], tensors["projection"], float(about["explained"]), store.config_hash
    )


def fit_from_store(store: FeatureStore, *, config: ReductionConfig, seed: int) -> Reduction:
    """PCA of a sample of the descriptors of a store: the same share of every image's, at least one.

    Raises:
        ReductionError: the store holds too few descriptors.
    """
    counts = store.counts()
    share = min(1.0, config.max_samples / max(1, int(counts.sum())))
    rng = named_generator(seed, "reduction")
    sample = []
    for name, count in zip(store.names, counts, strict=True):
        picked = np.sort(rng.permutation(count)[: int(np.ceil(share * count))])
        sample.append(store.get(name).local.descriptors[picked])
    if not sample:
        raise ReductionError(f"{store.path}: the store holds no features to fit a reduction on")
    return fit_pca(np.concatenate(sample), config=config, extraction_hash=store.config_hash)
