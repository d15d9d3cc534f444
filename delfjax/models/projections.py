"""Projections of global descriptors in weight files: that of DIR's regions, and learned whitenings.

A file holds the tensors ``shift`` (c) and ``matrix`` (c, d) of a
:class:`~delfjax.ops.whitening.Projection`. Its description names the backbone whose features they
were made for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from delfjax.config import WeightFile, weight_file
from delfjax.models.delf import is_for_backbone
from delfjax.models.model_files import load_part
from delfjax.models.weights import WeightsError, require_match
from delfjax.ops.whitening import Projection


def load_projection(
    weights: str, part: str, *, backbone: Mapping[str, str], channels: int
) -> Projection:
    """The projection in a weight file.

    Args:
        weights: the file, as a config names it.
        part: :data:`~delfjax.models.model_files.PROJECTION` or
            :data:`~delfjax.models.model_files.WHITENING`.
        backbone: the backbone whose features it is applied to, from
            :func:`~delfjax.models.delf.describe_backbone`.
        channels: length of the descriptors that it is applied to.

    Raises:
        WeightsError: the file is missing or damaged, has no such part, or was made for another
            backbone or for descriptors of another length, or it holds values that are not finite.
    """
    path = (weight_file(weights) or WeightFile(weights)).path
    tensors, about = load_part(weights, part)
    if about.get("backbone") is not None and not is_for_backbone(about, backbone):
        named = " ".join(f"{value:.18s}" for value in map(str, about["backbone"].values()))
        asked = " ".join(f"{value:.18s}" for value in backbone.values())
        raise WeightsError(
            f"{path}: its {part} was made for the features of {named}, but the config extracts"
            f" those of {asked}"
        )
    kept = tensors["matrix"].shape[-1] if "matrix" in tensors and tensors["matrix"].ndim else 0
    expected = {"shift": (channels,), "matrix": (channels, kept)}
    require_match(expected, tensors, source=path)
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise WeightsError(f"{path}: its {part} holds values that are not finite")
    return Projection(tensors["shift"], tensors["matrix"])
