"""Building blocks of the backbones: convolution with batch norm, on canvases that hold images of
different sizes.

A :class:`FeatureMap` carries the values and, for each image, how many rows and columns of the
canvas it fills (its extent). Every module maps one feature map to the next and guarantees that the
cells inside the extent, borders included, equal those of the image processed alone. The output has
``ceil(extent / stride)`` rows and columns for odd and even extents alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from delfjax.ops import convolution
from delfjax.ops.cpu import products
from delfjax.ops.receptive_field import Window
from delfjax.types import Array

Activation = Literal["none", "relu", "relu6"]
POINTWISE = Window(1)
# Batch norm adds this to a variance before dividing, unless a network sets another value.
EPSILON = 1e-5
# Mean and standard deviation of ImageNet's RGB in 0 … 255. Source: torchvision's published
# transforms (times 255).
_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * np.float32(255)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32) * np.float32(255)
# The fewest random numbers drawn for a kernel.
_FEWEST_DRAWN = 1 << 16
# All layers of a network.
WHOLE = slice(None)
M = TypeVar("M", bound=nnx.Module)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FeatureMap:
    """Values on a canvas, and the extent of each image on it.

    Attributes:
        values: one canvas per image, the image in its upper left corner.
        extent: rows and columns that each image fills, cells.
    """

    values: Float[Array, "b h w c"]
    extent: Int[Array, "b 2"]

    @classmethod
    def full(cls, values: Array) -> FeatureMap:
        """A map whose images fill the whole canvas."""
        batch, height, width, _ = values.shape
        return cls(values, jnp.asarray(np.tile(np.array([[height, width]], np.int32), (batch, 1))))


def activate(x: Float[Array, "*n"], activation: Activation) -> Float[jax.Array, "*n"]:
    """Apply the named non-linearity."""
    if activation == "relu":
        return jax.nn.relu(x)
    if activation == "relu6":
        return jax.nn.relu6(x)
    return jnp.asarray(x)


def _normal(key: jax.Array, shape: tuple[int, ...], *, deviation: float) -> jax.Array:
    """Normally distributed numbers, cut from a longer draw of one of few lengths.

    A draw begins with the same numbers whatever its length, so a few compiled programs serve every
    shape.
    """
    count = math.prod(shape)
    drawn = jax.random.normal(
        key, (max(_FEWEST_DRAWN, 1 << (count - 1).bit_length()),), jnp.float32
    )
    if isinstance(drawn, jax.core.Tracer):
        traced: jax.Array = drawn[:count].reshape(shape) * jnp.float32(deviation)
        return traced
    return jnp.asarray(np.asarray(drawn)[:count].reshape(shape) * np.float32(deviation))


class ConvNorm(nnx.Module):
    """Convolution, batch norm (once folded, or in a network without it, a bias), activation.

    Kernels are ``[k, k, in, out]`` (``[in, out]`` for 1×1, ``[k, k, c]`` for depthwise). ``pad``
    zeros stand before the first pixel, ``kernel − 1 − pad`` after the last, so the output has
    ``ceil(n / stride)`` cells for ``n`` pixels.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        window: Window = POINTWISE,
        *,
        rngs: nnx.Rngs,
        depthwise: bool = False,
        activation: Activation = "none",
        epsilon: float | None = EPSILON,
    ) -> None:
        """Draw the kernel.

        Args:
            features_in: channels of the input.
            features_out: channels of the output.
            window: taps, stride and padding.
            rngs: random streams of the weights.
            depthwise: whether each channel has a kernel of its own.
            activation: what follows the norm.
            epsilon: added to a variance by batch norm; ``None`` for a bias in place of batch norm.
        """
        kernel = window.kernel
        shape: tuple[int, ...] = (kernel, kernel, features_in, features_out)
        if depthwise:
            shape = (kernel, kernel, features_in)
        elif kernel == 1:
            shape = (features_in, features_out)
        fan_in = kernel * kernel * (1 if depthwise else features_in)
        self.kernel: nnx.Param[Any] = nnx.Param(
            _normal(rngs.params(), shape, deviation=np.sqrt(2 / fan_in))
        )
        # Exactly one of the two is set: the norm until it is folded, the bias afterwards.
        self.norm: nnx.BatchNorm | None = nnx.data(
            None
            if epsilon is None
            else nnx.BatchNorm(features_out, epsilon=epsilon, momentum=0.9, rngs=rngs)
        )
        self.bias: nnx.Param[Any] | None = nnx.data(
            nnx.Param(jnp.zeros(features_out, jnp.float32)) if epsilon is None else None
        )
        self.window = window
        self.depthwise = depthwise
        self.activation: Activation = activation

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Pad with zeros, convolve, normalise, activate."""
        pad = self.padding
        kernel = self.window.kernel
        stride = self.window.stride
        if kernel == 1:
            values = x.values[:, ::stride, ::stride] if stride > 1 else x.values
            values = products.pointwise(values, self._kernel(x))
        elif self.depthwise:
            return self.on_padded(pad_map(x, pad), before=pad[0])
        else:
            masked = convolution.zero_outside(x.values, x.extent)
            values = convolution.dense(masked, self._kernel(x), stride=stride, pad=pad)
        return FeatureMap(self.finish(values), strided(x.extent, stride))

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before the first and after the last pixel."""
        return self.window.pad, self.window.kernel - 1 - self.window.pad

    def on_padded(self, x: FeatureMap, *, before: int) -> FeatureMap:
        """Depthwise convolution of a map that is already padded; cells outside the extent may hold
        anything."""
        masked = convolution.zero_outside(x.values, x.extent, before=before)
        values = convolution.depthwise(masked, self._kernel(x), stride=self.window.stride)
        return FeatureMap(self.finish(values), strided(x.extent, self.window.stride))

    def finish(self, values: jax.Array) -> jax.Array:
        """Apply the rest of batch norm or the folded bias, then the activation."""
        if self.norm is not None and not self.norm.use_running_average:
            # Batch statistics are computed in float32.
            values = self.norm(values.astype(jnp.float32)).astype(values.dtype)
        elif self.norm is not None:
            values = products.add_bias(values, _gain_and_offset(self.norm)[1])
        elif self.bias is not None:
            values = products.add_bias(values, self.bias[...])
        return activate(values, self.activation)

    def fold(self) -> None:
        """Fold the running statistics of batch norm into kernel and bias, in place: for inference
        only."""
        if self.norm is None:
            return
        norm = self.norm
        parts: tuple[Any, ...] = (norm.scale, norm.bias, norm.mean, norm.var)
        scale, offset, mean, variance = (np.asarray(part[...], np.float64) for part in parts)
        gain = scale / np.sqrt(variance + norm.epsilon)
        # The output channel is the last axis of every kernel layout.
        self.kernel = nnx.Param(
            (np.asarray(self.kernel[...], np.float64) * gain).astype(np.float32)
        )
        self.bias = nnx.Param((offset - mean * gain).astype(np.float32))
        self.norm = None

    def _kernel(self, x: FeatureMap) -> jax.Array:
        kernel = jnp.asarray(self.kernel[...])
        if self.norm is not None and self.norm.use_running_average:
            # Scaling the kernel is equivalent to scaling every cell, for gradients as well.
            kernel = kernel * jnp.broadcast_to(_gain_and_offset(self.norm)[0], kernel.shape)
        return kernel.astype(x.values.dtype)


def _gain_and_offset(norm: nnx.BatchNorm) -> tuple[jax.Array, jax.Array]:
    """Gain and offset that batch norm applies to each channel when its statistics are fixed."""
    parts: tuple[Any, ...] = (norm.scale, norm.bias, norm.mean, norm.var)
    scale, offset, mean, variance = (jnp.asarray(part[...]) for part in parts)
    gain = scale * jax.lax.rsqrt(variance + norm.epsilon)
    return gain, offset - mean * gain


def standardised(pixels: Float[jax.Array, "b h w 3"]) -> Float[jax.Array, "b h w 3"]:
    """RGB in 0 … 255 minus ImageNet's mean, divided by its deviation, as torchvision's weights
    expect it."""
    return (pixels - _MEAN[None, None, None]) / _DEVIATION[None, None, None]


def pad_map(x: FeatureMap, pad: tuple[int, int]) -> FeatureMap:
    """The canvas widened by ``pad`` rows and columns before and after; the extent stays that of the
    image."""
    return FeatureMap(jnp.pad(x.values, ((0, 0), pad, pad, (0, 0))), x.extent)


def evened(x: FeatureMap) -> FeatureMap:
    """Prepend a row of zeros where an image has an odd number of rows, and likewise a column.

    With a stride of two and a window of odd length, TensorFlow's padding "SAME" depends on the
    parity of the extent. After this step every extent is even, and ``(kernel − 1) / 2 − 1`` zeros
    in front give what "SAME" gives.
    """
    odd = x.extent % 2
    values = jnp.asarray(x.values)
    for axis in (1, 2):
        size = values.shape[axis]
        around = [(0, 0)] * 4
        around[axis] = (1, size % 2)
        padded = jnp.pad(values, around)
        moved, unmoved = (
            jax.lax.slice_in_dim(padded, start, start + size + size % 2, axis=axis)
            for start in (0, 1)
        )
        values = jnp.where((odd[:, axis - 1] > 0)[:, None, None, None], moved, unmoved)
    return FeatureMap(values, x.extent + odd)


def strided(extent: Int[Array, "b 2"], stride: int) -> Int[Array, "b 2"]:
    """Rows and columns that remain of ``extent`` after a stride: ``ceil(extent / stride)``."""
    return (extent + (stride - 1)) // stride if stride > 1 else extent


def fold_batch_norm(model: M) -> M:
    """A copy of ``model`` for inference, every batch norm folded into its convolution."""
    folded: M = nnx.clone(model)
    for _, node in nnx.iter_graph(folded):
        if isinstance(node, ConvNorm):
            node.fold()
    return folded
