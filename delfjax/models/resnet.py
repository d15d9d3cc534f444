"""ResNet50 and ResNet101 (bottleneck blocks), in both places a stage can put its stride.

"he": in the first 1×1 convolution of the stage (He et al. 2015, Caffe, Keras; receptive field 291 at conv4).
"v1.5": in the 3×3 (torchvision and most newer weights; 267). The tensors of the two have the same shapes, so only the
config can tell them apart. Padding is symmetric, as in Caffe and PyTorch.
Source: He et al. 2015, table 1; the normalisation is that of the torchvision weights.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from delfjax.models.layers import WHOLE, ConvNorm, FeatureMap, activate, strided
from delfjax.ops import convolution
from delfjax.ops.receptive_field import Window

StrideLayout = Literal["he", "v1.5"]

# Bottleneck blocks of the stages conv2 … conv5.
BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
# Inner width of each stage; a block's output is four times as wide.
_WIDTHS = (64, 128, 256, 512)
_EXPANSION, _STEM = 4, 64
_POOL = Window(kernel=3, stride=2, pad=1)
_STAGES_OF = {"conv4": 3, "conv5": 4}
# Mean and standard deviation of ImageNet's RGB in 0 … 255. Source: torchvision's published transforms (times 255).
_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * np.float32(255)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32) * np.float32(255)


class Bottleneck(nnx.Module):
    """1×1 to the inner width, 3×3, 1×1 to four times the width; added to the input, or to its projection."""

    def __init__(
        self, features_in: int, width: int, *, stride: int, stride_layout: StrideLayout, rngs: nnx.Rngs, first: bool
    ) -> None:
        features_out = width * _EXPANSION
        in_reduce, in_spatial = (stride, 1) if stride_layout == "he" else (1, stride)
        self.reduce = ConvNorm(features_in, width, Window(1, in_reduce), activation="relu", rngs=rngs)
        self.spatial = ConvNorm(width, width, Window.centred(3, in_spatial), activation="relu", rngs=rngs)
        self.expand = ConvNorm(width, features_out, rngs=rngs)
        shortcut = ConvNorm(features_in, features_out, Window(1, stride), rngs=rngs) if first else None
        self.shortcut = nnx.data(shortcut)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Add, then ReLU."""
        y = self.expand(self.spatial(self.reduce(x)))
        skipped = x if self.shortcut is None else self.shortcut(x)
        return FeatureMap(activate(skipped.values + y.values, "relu"), y.extent)

    @property
    def windows(self) -> list[Window]:
        """The layers along the residual branch, the longer of the two."""
        return [self.reduce.window, self.spatial.window, self.expand.window]


class ResNet(nnx.Module):
    """The network up to conv5, with a classifier on request; :meth:`__call__` reads out a feature map."""

    # Whether features have passed a ReLU.
    rectified: ClassVar[bool] = True

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        *,
        rngs: nnx.Rngs,
        stride_layout: StrideLayout = "v1.5",
        classes: int | None = None,
    ) -> None:
        self.stem = ConvNorm(3, _STEM, Window.centred(7, 2), activation="relu", rngs=rngs)
        stages, features = [], _STEM
        for stage, (width, repeats) in enumerate(zip(_WIDTHS, blocks, strict=True)):
            members = []
            for repeat in range(repeats):
                # conv2 follows the max pool and keeps its resolution.
                stride = 2 if stage > 0 and repeat == 0 else 1
                members.append(
                    Bottleneck(
                        features, width, stride=stride, stride_layout=stride_layout, first=repeat == 0, rngs=rngs
                    )
                )
                features = width * _EXPANSION
            stages.append(nnx.List(members))
        self.stages = nnx.List(stages)
        self.classifier = nnx.data(None if classes is None else nnx.Linear(features, classes, rngs=rngs))

    def __call__(self, x: FeatureMap, *, output: str = "conv4", layers: slice = WHOLE) -> FeatureMap:
        """Feature map of normalised images: 1024 channels at stride 16 ("conv4") or 2048 at stride 32 ("conv5").

        Args:
            x: normalised images, or what the layers before ``layers`` made of them.
            output: the feature map that is read out.
            layers: which of the layers up to there are applied; the stem is the first.
        """
        for layer in self.layers(output)[layers]:
            x = _max_pool(layer(x)) if layer is self.stem else layer(x)
        return x

    def layers(self, output: str = "conv4") -> list[ConvNorm | Bottleneck]:
        """The stem, which a maximum follows, and the blocks up to the feature map that is read out."""
        return [self.stem, *self._blocks(output)]

    def classify(self, x: FeatureMap) -> Float[jax.Array, "b classes"]:
        """Logits of normalised images; the average is over each image's own extent.

        Raises:
            ValueError: the network was built without classes.
        """
        if self.classifier is None:
            raise ValueError("this ResNet was built without a classifier; classes=1000 gives it ImageNet's")
        x = self(x, output="conv5")
        total = convolution.zero_outside(x.values, x.extent).sum(axis=(1, 2))
        cells = jnp.prod(x.extent, axis=1)[:, None].astype(total.dtype)
        logits: jax.Array = self.classifier(total / cells)
        return logits

    def windows(self, output: str = "conv4") -> list[Window]:
        """The layers along the longest path, for the receptive field."""
        return [self.stem.window, _POOL, *(window for block in self._blocks(output) for window in block.windows)]

    @staticmethod
    def normalise(pixels: Float[jax.Array, "b h w 3"]) -> Float[jax.Array, "b h w 3"]:
        """RGB in 0 … 255 to zero mean and unit deviation over ImageNet."""
        return (pixels - _MEAN[None, None, None]) / _DEVIATION[None, None, None]

    @staticmethod
    def channels(output: str = "conv4") -> int:
        """Channels of the feature map."""
        return _WIDTHS[_STAGES_OF[output] - 1] * _EXPANSION

    def _blocks(self, output: str) -> list[Bottleneck]:
        return [block for stage in list(self.stages)[: _STAGES_OF[output]] for block in stage]


def _max_pool(x: FeatureMap) -> FeatureMap:
    """3×3 maximum at every second cell of a map after ReLU, where zeros outside the image never win."""
    masked = convolution.zero_outside(x.values, x.extent)
    pad = (_POOL.pad, _POOL.kernel - 1 - _POOL.pad)
    window, strides = (_POOL.kernel, _POOL.kernel), (_POOL.stride, _POOL.stride)
    values = nnx.max_pool(masked, window, strides, (pad, pad))
    return FeatureMap(values, strided(x.extent, _POOL.stride))
