"""Conversion of published networks for global descriptors to delfjax model files.

Two kinds of PyTorch checkpoints are read, without PyTorch:

- cirtorch (siaMAC's successor, GeM): ``meta`` and a ``state_dict`` with ``features.…``, ``pool.p``
  (the exponent of GeM), ``whiten.weight`` and ``whiten.bias`` (a layer after the descriptor's L2),
  or ``pool.whiten.…`` (the same for each region of R-MAC). ``meta`` may hold a learned whitening
  ``Lw``, whose shift and projection for one image size ("ss") are taken if there is no layer.
- deep-image-retrieval (DIR): a ResNet with torchvision's names, ``adpool.p``, and ``fc.weight`` and
  ``fc.bias`` in place of the classifier. Its ``fc`` sees the descriptor before L2 unless the
  network was made with ``norm_features``; here a whitening always follows L2, so a bias weighs
  differently there.

A layer ``W·x + b`` becomes ``(x − shift)·matrix`` with ``matrix = Wᵀ`` and ``W·shift = −b``.
Source of the layouts: the repositories filipradenovic/cnnimageretrieval-pytorch and
    naver/deep-image-retrieval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from delfjax.config import BackboneConfig, DelfConfig, GlobalConfig, from_dict, override, to_dict
from delfjax.errors import shown
from delfjax.models.delf import architecture
from delfjax.models.foreign.importing import (
    import_cirtorch_resnet,
    import_torchvision_resnet,
    import_torchvision_vgg16,
)
from delfjax.models.foreign.torch_checkpoints import read_torch_network
from delfjax.models.model_files import (
    BACKBONE,
    GLOBAL_SECTIONS,
    PROJECTION,
    WHITENING,
    save_model,
)
from delfjax.models.tensors import named_shapes
from delfjax.models.weights import Tensors, WeightsError, tensor_digest
from delfjax.pickles import RefusedError, array_in

# Names that are no backbone's: the exponent, and the two layers that a descriptor may pass.
_HEADS = ("pool.", "whiten.", "adpool.", "fc.")
# Tensors of a layer.
_LEAVES = ("weight", "bias")
# Settings of a system of global descriptors that its file sets; sizes are the user's choice.
_SETTINGS = ("pooling", "gem_exponent", "rmac_levels", "rmac_whole_image")
# Largest relative error of a shift that stands for a bias.
_SHIFT_ERROR = 1e-3


@dataclass(frozen=True)
class _Said:
    """What a checkpoint says beside its state dictionary."""

    values: dict[str, Any]
    whitening: Tensors


@dataclass(frozen=True)
class RetrievalNetwork:
    """A published network for global descriptors.

    Attributes:
        path: its location.
        tensors: its state dictionary.
        said: plain values that come with it: architecture, pooling.
        whitening: shift and projection of a whitening beside the network; may be empty.
    """

    path: Path
    tensors: Tensors
    said: Mapping[str, Any]
    whitening: Tensors

    @property
    def numbered(self) -> bool:
        """Whether the layers have cirtorch's numbers."""
        return any(name.startswith("features.") for name in self.tensors)

    @property
    def architecture(self) -> str:
        """Name of the backbone, as the file says it, or as its tensors show."""
        named = self.said.get("architecture", self.said.get("arch"))
        if isinstance(named, str):
            return named.split("_")[0]
        if "features.28.weight" in self.tensors:
            return "vgg16"
        last = "features.6.22." if self.numbered else "layer3.22."
        return "resnet101" if any(name.startswith(last) for name in self.tensors) else "resnet50"


def recognise_network(path: str | Path) -> RetrievalNetwork | None:
    """The network in a PyTorch checkpoint if it is one for global descriptors.

    Raises:
        WeightsError: the checkpoint is missing or damaged, or holds anything but tensors, arrays
            and plain values.
    """
    tensors, said = read_torch_network(path, _described)
    heads = any(name.startswith(("pool.", "whiten.", "adpool.")) for name in tensors)
    layer = tensors.get("fc.weight")
    # Without a description, DIR's projection is told from a classifier by its shape.
    square = layer is not None and layer.ndim == 2 and layer.shape[0] == layer.shape[1]
    if not (heads or square or "pooling" in said.values):
        return None
    return RetrievalNetwork(Path(path), tensors, said.values, said.whitening)


def import_network(out: Path, found: RetrievalNetwork, *, overrides: Iterable[str] = ()) -> None:
    """Convert a network to a model file.

    Args:
        out: the ``.safetensors`` file to write.
        found: from :func:`recognise_network`.
        overrides: ``global_features.field=value``.

    Raises:
        WeightsError: the backbone or the pooling is none of delfjax's, or tensors are unexpected,
            missing or of the wrong shape; all are listed.
        ConfigError: an override is not valid.
    """
    config = override(DelfConfig(global_features=_settings(found)), overrides)
    settings = config.global_features
    heads = {name: tensor for name, tensor in found.tensors.items() if name.startswith(_HEADS)}
    backbone, model = _backbone(found, settings.backbone)
    parts = _layers(found, heads, channels=model.channels(settings.backbone.output))
    layers: dict[str, str] = {
        "name": settings.backbone.name,
        "output": settings.backbone.output,
    }
    if settings.backbone.name != "vgg16":
        layers["stride_layout"] = settings.backbone.stride_layout
    made_for = {"backbone": {**layers, "weights": tensor_digest(backbone)}}
    described: dict[str, tuple[Tensors, dict[str, Any]]] = {
        BACKBONE: (backbone, {**layers, "source": found.path.name}),
        **{part: (held, {"name": part, **made_for}) for part, held in parts.items()},
    }
    plain = to_dict(settings)
    system: dict[str, Any] = {"backbone": layers, **{name: plain[name] for name in _SETTINGS}}
    # The network's own whitening, or none: it was published without another.
    system["whitening"] = {"kind": "learned" if WHITENING in parts else "none"}
    save_model(
        out, described, system={"global_features": system}, about={}, sections=GLOBAL_SECTIONS
    )


def _described(root: Mapping[Any, Any]) -> _Said:
    """Plain values of ``meta`` or ``model_options``, and the first learned whitening."""
    meta = root.get("meta", root.get("model_options"))
    if not isinstance(meta, dict):
        return _Said({}, {})
    values = {
        name: value
        for name, value in meta.items()
        if isinstance(name, str) and type(value) in (str, int, float, bool)
    }
    learned = meta.get("Lw")
    for by_size in learned.values() if isinstance(learned, dict) else ():
        single = by_size.get("ss") if isinstance(by_size, dict) else None
        if not isinstance(single, dict) or not {"m", "P"} <= single.keys():
            raise RefusedError(f"holds a whitening without 'ss', 'm' and 'P': {shown(by_size)}")
        return _Said(values, {"m": array_in(single["m"]), "P": array_in(single["P"])})
    return _Said(values, {})


def _settings(found: RetrievalNetwork) -> GlobalConfig:
    name = found.architecture
    if name not in ("vgg16", "resnet50", "resnet101"):
        raise WeightsError(
            f"{found.path}: a network of {shown(name)}; expected vgg16, resnet50 or resnet101"
        )
    backbone = from_dict(
        BackboneConfig, {**to_dict(BackboneConfig()), "name": name, "output": "conv5"}
    )
    settings = replace(GlobalConfig(), backbone=backbone)
    exponent = found.tensors.get("pool.p", found.tensors.get("adpool.p"))
    if any(each.startswith("pool.rpool.") for each in found.tensors):
        raise WeightsError(
            f"{found.path}: pools each region by GeM, which has no counterpart; expected MAC"
        )
    if any(each.startswith("pool.whiten.") for each in found.tensors):
        return replace(settings, pooling="rmac", rmac_levels=3, rmac_whole_image=True)
    pooling = found.said.get("pooling", "mac" if exponent is None else "gem")
    if pooling == "gem" and exponent is not None and exponent.size == 1:
        return replace(settings, pooling="gem", gem_exponent=float(exponent.reshape(())))
    if pooling == "rmac":
        return replace(settings, pooling="rmac", rmac_levels=3, rmac_whole_image=True)
    if pooling in ("mac", "max"):
        return replace(settings, pooling="mac")
    raise WeightsError(
        f"{found.path}: pooling is {shown(pooling)}; expected mac, rmac, or gem with one exponent"
    )


def _backbone(found: RetrievalNetwork, config: BackboneConfig) -> tuple[Tensors, Any]:
    """The backbone's tensors, and the backbone (shapes only)."""
    model = architecture(config)
    kept = {name: tensor for name, tensor in found.tensors.items() if not name.startswith(_HEADS)}
    convert = import_torchvision_resnet
    if config.name == "vgg16":
        convert = import_torchvision_vgg16
    elif found.numbered:
        convert = import_cirtorch_resnet
    return convert(kept, named_shapes(model), source=found.path), model


def _layers(found: RetrievalNetwork, heads: Tensors, *, channels: int) -> dict[str, Tensors]:
    """The part that a descriptor, or each region, passes after pooling."""
    prefixes = {"pool.whiten": PROJECTION, "whiten": WHITENING, "fc": WHITENING}
    places = {"pool.p", "adpool.p", *(f"{p}.{leaf}" for p in prefixes for leaf in _LEAVES)}
    parts: dict[str, Tensors] = {}
    problems = [
        f"  unexpected  {name} {heads[name].shape}" for name in sorted(heads.keys() - places)
    ]
    for prefix, part in prefixes.items():
        weight, bias = (heads.get(f"{prefix}.{leaf}") for leaf in _LEAVES)
        if weight is None and bias is None:
            continue
        if weight is None or bias is None:
            lacking = _LEAVES[0] if weight is None else _LEAVES[1]
            problems.append(f"  missing     {prefix}.{lacking}")
        elif weight.ndim != 2 or weight.shape[1] != channels or bias.shape != weight.shape[:1]:
            problems.append(
                f"  misshapen   {prefix}.weight {weight.shape} and {prefix}.bias {bias.shape},"
                f" expected (d, {channels}) and (d,)"
            )
        elif not problems:
            parts[part] = _shifted_product(found.path, weight, bias)
    if problems:
        raise WeightsError(
            f"{found.path}: does not fit the model: {len(problems)} tensors after the pooling",
            details=problems,
        )
    if found.whitening and WHITENING not in parts:
        parts[WHITENING] = _learned(found, channels)
    return parts


def _learned(found: RetrievalNetwork, channels: int) -> Tensors:
    """The learned whitening of ``meta``: ``P·(x − m)``."""
    mean, matrix = found.whitening["m"], found.whitening["P"]
    if mean.size != channels or matrix.ndim != 2 or matrix.shape[1] != channels:
        raise WeightsError(
            f"{found.path}: its whitening has m {mean.shape} and P {matrix.shape}, expected"
            f" ({channels}, 1) and (d, {channels})"
        )
    return {
        "shift": mean.reshape(-1).astype(np.float32),
        "matrix": np.ascontiguousarray(matrix.T, np.float32),
    }


def _shifted_product(path: Path, weight: np.ndarray, bias: np.ndarray) -> Tensors:
    """Shift and matrix that do what the layer ``weight·x + bias`` does."""
    wide, target = weight.astype(np.float64), -bias.astype(np.float64)
    square = wide.shape[0] == wide.shape[1]
    try:
        # The smallest of all shifts; a decomposition of 2048 × 2048 would take minutes.
        shift = (
            np.linalg.solve(wide, target)
            if square
            else wide.T @ np.linalg.solve(wide @ wide.T, target)
        )
    except np.linalg.LinAlgError:
        shift = np.zeros(wide.shape[1])
    error = float(np.linalg.norm(wide @ shift - target))
    if not error <= _SHIFT_ERROR * max(float(np.linalg.norm(target)), 1e-12):
        raise WeightsError(
            f"{path}: the bias of its projection cannot be written as a shift of the descriptor:"
            f" the nearest is off by {error:.2g}"
        )
    return {
        "shift": shift.astype(np.float32),
        "matrix": np.ascontiguousarray(weight.T, np.float32),
    }
