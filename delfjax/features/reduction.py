"""Dimensionality reduction of local descriptors: L2 → PCA (optionally whitened) → L2.

Source: the paper (40 dimensions).

A PCA must be fitted on descriptors of the model that it is applied to. Using another model's is a
common mistake, so a reduction carries the hash of the extraction config it was fitted on.

Matrix products run on a single thread (:func:`delfjax.device.one_blas_thread`), so a reduction is
the same on any number of cores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from delfjax.config import BackboneConfig, ReductionConfig, WeightFile, from_dict, weight_file
from delfjax.device import one_blas_thread
from delfjax.errors import DelfjaxError
from delfjax.features.store import FeatureStore
from delfjax.models.delf import describe_backbone, is_for_backbone
from delfjax.models.model_files import REDUCTION, load_part
from delfjax.models.weights import WeightsError, require_match
from delfjax.rng import named_generator


class ReductionError(DelfjaxError):
    """A reduction cannot be fitted, or does not fit the descriptors that it is applied to."""


@dataclass(frozen=True)
class Reduction:
    """A linear map of descriptors followed by L2 normalisation.

    Attributes:
        mean: mean descriptor, subtracted first.
        projection: principal directions in columns, scaled if the reduction whitens.
        explained: share of the variance that is kept, 0 … 1.
        extraction_hash: hash of the extraction config of the descriptors it was fitted on.
    """

    mean: Float[np.ndarray, " c"]
    projection: Float[np.ndarray, "c d"]
    explained: float
    extraction_hash: str

    def __call__(self, descriptors: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n d"]:
        """Reduced, L2-normalised descriptors (float32).

        Raises:
            ReductionError: the descriptors have another length than those it was fitted on.
        """
        if descriptors.shape[1] != len(self.mean):
            raise ReductionError(
                f"descriptors have {descriptors.shape[1]} dimensions, but the reduction was fitted"
                f" on {len(self.mean)}"
            )
        with one_blas_thread():
            reduced = (descriptors.astype(np.float32) - self.mean) @ self.projection
        norm = np.linalg.norm(reduced, axis=1, keepdims=True)
        normalised: np.ndarray = reduced / np.maximum(norm, np.finfo(np.float32).tiny)
        return normalised


def fit_pca(
    descriptors: Float[np.ndarray, "n c"], *, config: ReductionConfig, extraction_hash: str = ""
) -> Reduction:
    """PCA of ``descriptors``.

    The sign of each direction is chosen to make its entry of largest magnitude positive.

    Args:
        descriptors: one per row.
        config: number of dimensions, and whether to whiten.
        extraction_hash: hash of the extraction config of the descriptors.

    Raises:
        ReductionError: the descriptors span fewer than ``config.dim`` dimensions, or are all equal.
    """
    count, channels = descriptors.shape
    # n centred descriptors span at most n − 1 dimensions, and whitening would divide by the zero
    # variance of a missing one.
    possible = min(channels, count - 1)
    if config.dim > possible:
        advice = "no reduction can be fitted on so few"
        if possible > 0:
            advice = f"set reduction.dim to at most {possible}"
        raise ReductionError(
            f"reduction.dim is {config.dim}, but there are {count} descriptors of {channels}"
            f" dimensions; {advice}"
        )
    centred = descriptors.astype(np.float64)
    mean = centred.mean(axis=0)
    centred -= mean
    with one_blas_thread():
        covariance = centred.T @ centred / max(1, count - 1)
        variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    if variances[0] <= 0:
        raise ReductionError(
            f"all {count} descriptors are equal, so no reduction can be fitted on them"
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
    """The reduction in the model file that ``config`` names or, without one, a PCA fitted on the
    store.

    Args:
        store: the features to reduce.
        config: number of dimensions, whitening, and the model file, if any.
        seed: seed of the sample that a PCA is fitted on.

    Raises:
        ReductionError: the store holds too few descriptors, or the file's reduction was made for
            another backbone or other settings.
        WeightsError: the file is missing or damaged, or has no reduction.
    """
    if not config.weights:
        return fit_from_store(store, config=config, seed=seed)
    file = weight_file(config.weights) or WeightFile(config.weights)
    tensors, about = load_part(str(file), REDUCTION)
    required: dict[str, object] = {"dim": config.dim, "whiten": config.whiten}
    if "backbone" not in store.config:
        raise ReductionError(
            f"{file.path}: its reduction is for features of a network, but {store.path} holds"
            f" others; leave out the model, or set reduction.weights= to fit one on them"
        )
    backbone = describe_backbone(from_dict(BackboneConfig, store.config["backbone"]))
    if not is_for_backbone(about, backbone):
        required["backbone"] = backbone
    for name, value in required.items():
        if about.get(name) != value:
            raise ReductionError(
                f"{file.path}: its reduction is for {name} {about.get(name)}, not"
                f" {value}; export the model file again with `delfjax weights export`"
            )
    channels = tensors["mean"].size if "mean" in tensors else 0
    expected = {"mean": (channels,), "projection": (channels, config.dim)}
    require_match(expected, tensors, source=config.weights)
    if "explained" not in about:
        raise WeightsError(f"{config.weights}: its reduction lacks the field 'explained'")
    return Reduction(
        tensors["mean"], tensors["projection"], float(about["explained"]), store.config_hash
    )


def fit_from_store(store: FeatureStore, *, config: ReductionConfig, seed: int) -> Reduction:
    """PCA of a random sample of a store's descriptors: an equal share of every image's, at least
    one.

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
        raise ReductionError(
            f"{store.path}: the store holds no features that a reduction could be fitted on"
        )
    return fit_pca(np.concatenate(sample), config=config, extraction_hash=store.config_hash)
