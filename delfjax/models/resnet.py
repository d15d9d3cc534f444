"""ResNet50 and ResNet101 (bottleneck blocks), in the stride layouts of published weights.

The layouts differ in where a stage has its stride. The number is the receptive field at conv4,
pixels:

- "he": in the first 1×1 convolution of a stage (He et al. 2015, Caffe; 291).
- "v1.5": in the 3×3 of the first block (torchvision and most newer weights; 267).
- "slim": in the 3×3 of the last block of conv2, conv3 and conv4, which gives conv4 a stride of 32
  (TensorFlow's slim; DELF as released in 2017 and 2019; 291).
- "keras": as "he" (TensorFlow's Keras; the DELF and DELG code of 2020; 291).
- "keras_strided": as "keras", but conv4 keeps every second cell and conv5 has no stride.

The tensors have the same shapes in every layout, so only the config can distinguish them.

Padding is symmetric, as in Caffe and PyTorch, except where TensorFlow's "SAME" meets a stride:
before slim's pool and before Keras' first convolution, an axis of even extent gets one zero less in
front. Keras pools without padding.
Input: torchvision's weights expect RGB normalised by ImageNet's mean and deviation, DELF's expect
``(x − 128) / 128``.
Source: He et al. 2015, table 1; the code of slim's ``resnet_v1`` and of DELF's ``resnet50`` in the
    repository tensorflow/models.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from delfjax.models.layers import (
    WHOLE,
    ConvNorm,
    FeatureMap,
    activate,
    evened,
    standardised,
    strided,
)
from delfjax.models.weights import WeightsError
from delfjax.ops import convolution
from delfjax.ops.cpu.barrier import once
from delfjax.ops.receptive_field import Window
from delfjax.types import Array

StrideLayout = Literal["he", "v1.5", "slim", "keras", "keras_strided"]

# Bottleneck blocks of the stages conv2 … conv5.
BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
# Inner width of each stage; a block's output is four times as wide.
_WIDTHS = (64, 128, 256, 512)
_EXPANSION, _STEM = 4, 64
_POOL = Window(kernel=3, stride=2, pad=1)
_STAGES_OF = {"conv4": 3, "conv5": 4}
_CONV5 = 3
_TENSORFLOW, _KERAS = ("slim", "keras", "keras_strided"), ("keras", "keras_strided")


class Bottleneck(nnx.Module):
    """1×1 to the inner width, 3×3, 1×1 to four times the inner width, added to the input or to its
    projection."""

    def __init__(
        self, features_in: int, width: int, *, strides: tuple[int, int], first: bool, rngs: nnx.Rngs
    ) -> None:
        """Make the layers.

        Args:
            features_in: channels of the input.
            width: channels inside the block.
            strides: strides of the first two convolutions.
            first: whether this is the first block of a stage, which projects its input.
            rngs: random streams of the weights.
        """
        features_out = width * _EXPANSION
        stride = strides[0] * strides[1]
        self.reduce = ConvNorm(
            features_in, width, Window(1, strides[0]), activation="relu", rngs=rngs
        )
        self.spatial = ConvNorm(
            width, width, Window.centred(3, strides[1]), activation="relu", rngs=rngs
        )
        self.expand = ConvNorm(width, features_out, rngs=rngs)
        shortcut = (
            ConvNorm(features_in, features_out, Window(1, stride), rngs=rngs) if first else None
        )
        self.shortcut = nnx.data(shortcut)
        self.stride = stride

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """The sum of the residual branch and the shortcut, after ReLU."""
        y = self.expand(self.spatial(self.reduce(x)))
        skipped = (
            x.values[:, :: self.stride, :: self.stride]
            if self.shortcut is None
            else self.shortcut(x).values
        )
        return FeatureMap(once(activate(skipped + y.values, "relu")), y.extent)

    @property
    def windows(self) -> list[Window]:
        """The layers along the residual branch, the longer of the two."""
        return [self.reduce.window, self.spatial.window, self.expand.window]


class ResNet(nnx.Module):
    """The network up to conv5, or up to conv4 given three block counts instead of four; calling it
    reads out a feature map."""

    # Whether features have passed a ReLU.
    rectified = True

    def __init__(
        self,
        blocks: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        stride_layout: StrideLayout = "v1.5",
        classes: int | None = None,
    ) -> None:
        stem = Window(7, 2, 2) if stride_layout in _KERAS else Window.centred(7, 2)
        self.stem = ConvNorm(3, _STEM, stem, activation="relu", rngs=rngs)
        self.stride_layout: StrideLayout = stride_layout
        stages, features = [], _STEM
        # Fewer stages than widths: a network may end at conv4.
        for stage, (width, repeats) in enumerate(zip(_WIDTHS, blocks, strict=False)):
            members = []
            for repeat in range(repeats):
                strides = _strides(
                    stride_layout, stage, first=repeat == 0, last=repeat == repeats - 1
                )
                members.append(
                    Bottleneck(features, width, strides=strides, first=repeat == 0, rngs=rngs)
                )
                features = width * _EXPANSION
            stages.append(nnx.List(members))
        self.stages = nnx.List(stages)
        self.classifier = nnx.data(
            None if classes is None else nnx.Linear(features, classes, rngs=rngs)
        )

    def __call__(
        self, x: FeatureMap, *, output: str = "conv4", layers: slice = WHOLE
    ) -> FeatureMap:
        """Feature map of normalised images: 1024 channels ("conv4") or 2048 ("conv5"), at the
        strides of the layout.

        Args:
            x: normalised images, or the output of the layers before ``layers``.
            output: the feature map that is read out.
            layers: which of the layers up to ``output`` are applied; the stem is the first.

        Raises:
            WeightsError: the network ends before ``output``.
        """
        for layer in self.layers(output)[layers]:
            x = self._begin(x) if layer is self.stem else layer(x)
        return x

    def layers(self, output: str = "conv4") -> list[ConvNorm | Bottleneck]:
        """The stem (max pooling follows it) and the blocks up to the feature map that is read
        out."""
        return [self.stem, *self._blocks(output)]

    def classify(self, x: FeatureMap) -> Float[jax.Array, "b classes"]:
        """Logits of normalised images; the average is over each image's own extent.

        Raises:
            ValueError: the network was built without classes.
        """
        if self.classifier is None:
            raise ValueError(
                "this ResNet was built without a classifier; classes=1000 gives it ImageNet's"
            )
        x = self(x, output="conv5")
        total = convolution.zero_outside(x.values, x.extent).sum(axis=(1, 2))
        cells = jnp.prod(x.extent, axis=1)[:, None].astype(total.dtype)
        logits: jax.Array = self.classifier(total / cells)
        return logits

    def windows(self, output: str = "conv4") -> list[Window]:
        """The layers along the longest path, for the receptive field.

        As in DELF's code, all windows are centred: cell ``i`` lies at pixel ``stride · i``. In
        TensorFlow's layouts that is up to two pixels ("slim") or three ("keras") before the true
        centre, depending on the parity of the image.
        """
        blocks = (window for block in self._blocks(output) for window in block.windows)
        return [Window.centred(7, 2), _POOL, *blocks]

    def lost_px(self, output: str = "conv4") -> int:
        """Pixels lost to layers without padding: ``n`` pixels become
        ``ceil((n − lost_px) / stride)`` cells.

        Keras pools without padding, which loses two cells of the stem, four pixels of the image.
        """
        return 4 if self.stride_layout in _KERAS else 0

    def normalise(self, pixels: Float[jax.Array, "b h w 3"]) -> Float[jax.Array, "b h w 3"]:
        """Map RGB in 0 … 255 to the range of the layout's weights: −1 … 1, or zero mean and unit
        deviation over ImageNet."""
        if self.stride_layout in _TENSORFLOW:
            return (pixels - 128.0) / 128.0
        return standardised(pixels)

    @staticmethod
    def channels(output: str = "conv4") -> int:
        """Number of channels of the feature map."""
        return _WIDTHS[_STAGES_OF[output] - 1] * _EXPANSION

    def _begin(self, x: FeatureMap) -> FeatureMap:
        """Apply the stem, then 3×3 max pooling with a stride of two."""
        if self.stride_layout in _KERAS:
            x = self.stem(evened(x))
            return FeatureMap(_pooled(x.values, (0, 0)), _unpadded(x.extent))
        x = self.stem(x)
        if self.stride_layout == "slim":
            x = evened(x)
        # After ReLU, zeros outside the image never win.
        masked = convolution.zero_outside(x.values, x.extent)
        return FeatureMap(
            _pooled(masked, (0, 1) if self.stride_layout == "slim" else (1, 1)),
            strided(x.extent, _POOL.stride),
        )

    def _blocks(self, output: str) -> list[Bottleneck]:
        stages = list(self.stages)
        if len(stages) < _STAGES_OF[output]:
            raise WeightsError(
                f"backbone.output is {output}, but these weights end at conv4; set"
                " backbone.output=conv4, or use weights that include conv5"
            )
        return [block for stage in stages[: _STAGES_OF[output]] for block in stage]


def _strides(layout: StrideLayout, stage: int, *, first: bool, last: bool) -> tuple[int, int]:
    """Strides of the first 1×1 and of the 3×3 convolution of a block; conv2, which follows the
    pool, is stage 0."""
    if layout == "slim":
        return 1, 2 if last and stage < _CONV5 else 1
    if layout == "keras_strided" and stage == _CONV5 - 1 and last:
        # The layers after the 3×3 work on single cells, so every second cell can be dropped before
        # them.
        return 2 if first else 1, 2
    if not first or stage == 0 or (layout == "keras_strided" and stage == _CONV5):
        return 1, 1
    return (1, 2) if layout == "v1.5" else (2, 1)


def _pooled(values: Float[Array, "b h w c"], pad: tuple[int, int]) -> Float[jax.Array, "b h2 w2 c"]:
    return convolution.maximum(values, taps=_POOL.kernel, stride=_POOL.stride, pad=pad)


def _unpadded(extent: Int[Array, "b 2"]) -> Int[Array, "b 2"]:
    """Rows and columns after pooling without padding; none for an image smaller than the window."""
    return (extent - 1) // _POOL.stride
