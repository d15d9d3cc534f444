"""DELF's two networks in TensorFlow, from the published code's definitions: float64, one image,
TensorFlow's names.

:func:`slim_variables` and :func:`keras_variables` draw what a checkpoint holds; :func:`slim` and
:func:`keras` compute with it.
"""

from __future__ import annotations

import numpy as np

Named = dict[str, np.ndarray]

WIDTHS = (64, 128, 256, 512)
HIDDEN, CODE = 16, 8


def slim_variables(
    blocks: tuple[int, ...], rng: np.random.Generator, *, hidden: int = HIDDEN
) -> Named:
    """Variables of TF1's DELF."""
    named: Named = {}
    network = "resnet_v1_50"

    def conv(name: str, *shape: int, gain: float = 1.0) -> None:
        named[f"{name}/weights"] = kernel(shape, rng)
        for leaf, values in norm(shape[-1], rng, gain).items():
            named[f"{name}/BatchNorm/{leaf}"] = values

    conv(f"{network}/conv1", 7, 7, 3, 64)
    features = 64
    for stage, units in enumerate(blocks):
        width = WIDTHS[stage]
        for unit in range(units):
            name = f"{network}/block{stage + 1}/unit_{unit + 1}/bottleneck_v1"
            conv(f"{name}/conv1", 1, 1, features, width)
            conv(f"{name}/conv2", 3, 3, width, width)
            conv(f"{name}/conv3", 1, 1, width, 4 * width, gain=0.3)
            if unit == 0:
                conv(f"{name}/shortcut", 1, 1, features, 4 * width)
            features = 4 * width
    conv("attention_block/attention/compute/conv1", 1, 1, 1024, hidden)
    named["attention_block/attention/compute/conv2/weights"] = kernel((1, 1, hidden, 1), rng)
    named["attention_block/attention/compute/conv2/biases"] = rng.normal(0, 1, 1).astype(np.float32)
    return named


def keras_variables(blocks: tuple[int, ...], rng: np.random.Generator, *, coded: bool) -> Named:
    """Variables of TF2's DELF, or with ``coded`` DELG, by the attributes of its objects."""
    named: Named = {}

    def conv(name: str, norm_name: str, *shape: int, gain: float = 1.0) -> None:
        named[f"{name}/kernel"] = kernel(shape, rng)
        named[f"{name}/bias"] = rng.normal(0, 0.1, shape[-1]).astype(np.float32)
        for leaf, values in (norm(shape[-1], rng, gain) if norm_name else {}).items():
            named[f"{norm_name}/{leaf}"] = values

    conv("backbone/conv1", "backbone/bn_conv1", 7, 7, 3, 64)
    features = 64
    for stage, units in enumerate(blocks):
        width = WIDTHS[stage]
        for unit in range(units):
            name = f"backbone/l{stage + 2}{'abcdef'[unit]}"
            conv(f"{name}/conv2a", f"{name}/bn2a", 1, 1, features, width)
            conv(f"{name}/conv2b", f"{name}/bn2b", 3, 3, width, width)
            conv(f"{name}/conv2c", f"{name}/bn2c", 1, 1, width, 4 * width, gain=0.3)
            if unit == 0:
                conv(f"{name}/conv_shortcut", f"{name}/bn_shortcut", 1, 1, features, 4 * width)
            features = 4 * width
    conv("attention/conv1", "attention/bn_conv1", 1, 1, 1024, HIDDEN)
    conv("attention/conv2", "", 1, 1, HIDDEN, 1)
    if coded:
        conv("autoencoder/conv1", "", 1, 1, 1024, CODE)
        conv("autoencoder/conv2", "", 1, 1, CODE, 1024)
    return named


def kernel(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Weights that keep values of order one."""
    return (
        rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[:-1])))
    ).astype(np.float32)


def norm(width: int, rng: np.random.Generator, gain: float) -> Named:
    """Batch norm after training."""
    drawn = {
        "gamma": rng.uniform(0.5, 1.5, width) * gain,
        "beta": rng.normal(0, 0.1, width),
        "moving_mean": rng.normal(0, 0.1, width),
        "moving_variance": rng.uniform(0.3, 1.5, width),
    }
    return {leaf: values.astype(np.float32) for leaf, values in drawn.items()}


def slim(named: Named, pixels: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Feature maps of all blocks from RGB ``[h, w, 3]`` in 0 … 255, and the scores ``[h, w]`` of
    the third."""
    network = "resnet_v1_50"

    def conv(x: np.ndarray, name: str, *, stride: int = 1, relu: bool = True) -> np.ndarray:
        # conv2d_same: with a stride, the padding is that of stride one.
        y = convolve(x, named[f"{name}/weights"], stride, same=stride == 1)
        y = normalised(y, {leaf: named[f"{name}/BatchNorm/{leaf}"] for leaf in LEAVES}, 1e-5)
        return np.maximum(y, 0) if relu else y

    x = conv((pixels.astype(np.float64) - 128) / 128, f"{network}/conv1", stride=2)
    x = maximum(x, same=True)
    maps = []
    for block in range(1, 5):
        units = sum(
            name.startswith(f"{network}/block{block}/") and name.endswith("conv1/weights")
            for name in named
        )
        for unit in range(1, units + 1):
            name, stride = (
                f"{network}/block{block}/unit_{unit}/bottleneck_v1",
                2 if unit == units and block < 4 else 1,
            )
            projected = f"{name}/shortcut/weights" in named
            skipped = (
                conv(x, f"{name}/shortcut", stride=stride, relu=False)
                if projected
                else x[::stride, ::stride]
            )
            y = conv(conv(x, f"{name}/conv1"), f"{name}/conv2", stride=stride)
            x = np.maximum(skipped + conv(y, f"{name}/conv3", relu=False), 0)
        maps += [x] if units else []
    compute = "attention_block/attention/compute"
    scores = convolve(
        conv(maps[2], f"{compute}/conv1"), named[f"{compute}/conv2/weights"], 1, same=True
    )
    return maps, softplus(scores + named[f"{compute}/conv2/biases"].astype(np.float64))[..., 0]


def keras(
    named: Named, pixels: np.ndarray, *, block3_strides: bool
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray | None]:
    """Feature maps of all blocks from RGB ``[h, w, 3]`` in 0 … 255, the scores ``[h, w]`` of the
    third, and its codes."""

    def conv(x: np.ndarray, name: str, norm_name: str = "", *, stride: int = 1) -> np.ndarray:
        y = convolve(x, named[f"{name}/kernel"], stride, same=True) + named[f"{name}/bias"].astype(
            np.float64
        )
        return (
            normalised(y, {leaf: named[f"{norm_name}/{leaf}"] for leaf in LEAVES}, 1e-3)
            if norm_name
            else y
        )

    x = (pixels.astype(np.float64) - 128) / 128
    x = np.maximum(conv(x, "backbone/conv1", "backbone/bn_conv1", stride=2), 0)
    x = maximum(x, same=False)
    maps = []
    for stage in range(2, 6):
        units = [
            letter for letter in "abcdef" if f"backbone/l{stage}{letter}/conv2a/kernel" in named
        ]
        for letter in units:
            name = f"backbone/l{stage}{letter}"
            stride = 2 if letter == "a" and stage > 2 and not (stage == 5 and block3_strides) else 1
            skipped = (
                conv(x, f"{name}/conv_shortcut", f"{name}/bn_shortcut", stride=stride)
                if letter == "a"
                else x
            )
            y = np.maximum(conv(x, f"{name}/conv2a", f"{name}/bn2a", stride=stride), 0)
            y = np.maximum(conv(y, f"{name}/conv2b", f"{name}/bn2b"), 0)
            x = np.maximum(conv(y, f"{name}/conv2c", f"{name}/bn2c") + skipped, 0)
        if stage == 4 and block3_strides:
            x = x[::2, ::2]
        maps += [x] if units else []
    scored, codes = maps[2], None
    if "autoencoder/conv1/kernel" in named:
        codes = conv(scored, "autoencoder/conv1")
        scored = np.maximum(conv(codes, "autoencoder/conv2"), 0)
    hidden = np.maximum(conv(scored, "attention/conv1", "attention/bn_conv1"), 0)
    return maps, softplus(conv(hidden, "attention/conv2"))[..., 0], codes


LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")


def normalised(x: np.ndarray, leaves: Named, epsilon: float) -> np.ndarray:
    """Batch norm with its running statistics."""
    gamma, beta, mean, variance = (leaves[leaf].astype(np.float64) for leaf in LEAVES)
    result: np.ndarray = (x - mean) / np.sqrt(variance + epsilon) * gamma + beta
    return result


def same_padding(size: int, taps: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: as many zeros as ``ceil(size / stride)`` windows need, the odd one
    behind."""
    total = max((-(-size // stride) - 1) * stride + taps - size, 0)
    return total // 2, total - total // 2


def convolve(x: np.ndarray, weights: np.ndarray, stride: int, *, same: bool) -> np.ndarray:
    """Convolution with padding SAME, or with ``(taps − 1) / 2`` zeros on every side, as a sum over
    taps."""
    taps, half = weights.shape[0], (weights.shape[0] - 1) // 2
    pads = [same_padding(size, taps, stride) if same else (half, half) for size in x.shape[:2]]
    padded = np.pad(x, (*pads, (0, 0)))
    rows, columns = ((size - taps) // stride + 1 for size in padded.shape[:2])
    total = np.zeros((rows, columns, weights.shape[3]))
    for i in range(taps):
        for j in range(taps):
            total += padded[
                i : i + stride * rows : stride, j : j + stride * columns : stride
            ] @ weights[i, j].astype(np.float64)
    return total


def maximum(x: np.ndarray, *, same: bool) -> np.ndarray:
    """3×3 maximum at a stride of 2, with padding SAME or none."""
    pads = [same_padding(size, 3, 2) if same else (0, 0) for size in x.shape[:2]]
    padded = np.pad(x, (*pads, (0, 0)), constant_values=-np.inf)
    largest: np.ndarray = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[
        ::2, ::2
    ].max(axis=(-2, -1))
    return largest


def softplus(x: np.ndarray) -> np.ndarray:
    """``log(1 + exp x)``."""
    result: np.ndarray = np.logaddexp(x, 0)
    return result
