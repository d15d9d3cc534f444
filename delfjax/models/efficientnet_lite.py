"""EfficientNet-Lite (no squeeze-and-excitation, ReLU6): Lite0, the embedded default backbone, and
Lite2, which is wider and deeper.

The weights were trained with TensorFlow's "SAME" padding, which for the even sizes used in training
puts ``(k − stride) // 2`` zeros before the image. Here every size gets that padding, which makes
the geometry independent of parity.
Source: the published block tables of EfficientNet-Lite; normalisation ``(x − 127) / 128``.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from delfjax.models.layers import WHOLE, ConvNorm, FeatureMap, pad_map
from delfjax.ops import convolution
from delfjax.ops.receptive_field import Window


@dataclass(frozen=True)
class Stage:
    """Blocks of one width.

    Attributes:
        expansion: width inside a block relative to its input's.
        channels: width of a block's output.
        kernel: taps of the depthwise convolution.
        stride: stride of the first block.
        repeats: number of blocks.
    """

    expansion: int
    channels: int
    kernel: int
    stride: int
    repeats: int


LITE0 = (
    Stage(1, 16, 3, 1, 1),
    Stage(6, 24, 3, 2, 2),
    Stage(6, 40, 5, 2, 2),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 5, 1, 3),
    Stage(6, 192, 5, 2, 4),
    Stage(6, 320, 3, 1, 1),
)
# Lite0 with 1.1 times the width, rounded to eights, and 1.2 times the blocks, rounded up, except in
# the first and the last stage.
LITE2 = (
    Stage(1, 16, 3, 1, 1),
    Stage(6, 24, 3, 2, 3),
    Stage(6, 48, 5, 2, 3),
    Stage(6, 88, 3, 2, 4),
    Stage(6, 120, 5, 1, 4),
    Stage(6, 208, 5, 2, 5),
    Stage(6, 352, 3, 1, 1),
)
# Stages up to stride 16, whose output this library calls conv4 after its counterpart in a ResNet.
_STAGES_OF = {"conv4": 5, "conv5": 7}
_STEM, _HEAD, _CLASSES, _EPSILON = 32, 1280, 1000, 1e-3


class InvertedBottleneck(nnx.Module):
    """1×1 expansion, depthwise k×k, 1×1 projection, and a skip where the shapes allow it."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        kernel: int,
        stride: int,
        expansion: int,
        rngs: nnx.Rngs,
    ) -> None:
        hidden = features_in * expansion
        self.expand = (
            ConvNorm(features_in, hidden, activation="relu6", epsilon=_EPSILON, rngs=rngs)
            if expansion > 1
            else None
        )
        self.depthwise = ConvNorm(
            hidden,
            hidden,
            Window(kernel, stride, (kernel - stride) // 2),
            depthwise=True,
            activation="relu6",
            epsilon=_EPSILON,
            rngs=rngs,
        )
        self.project = ConvNorm(hidden, features_out, epsilon=_EPSILON, rngs=rngs)
        self.skip = stride == 1 and features_in == features_out

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Expand, convolve depthwise, project, and add the input where shapes agree.

        The narrow map is padded rather than the wide one: a 1×1 convolution commutes with padding,
        and the mask restores the zeros.
        """
        pad = self.depthwise.padding
        hidden = pad_map(x, pad)
        if self.expand is not None:
            hidden = self.expand(hidden)
        y = self.project(self.depthwise.on_padded(hidden, before=pad[0]))
        return FeatureMap(x.values + y.values, y.extent) if self.skip else y


class EfficientNetLite(nnx.Module):
    """The complete classifier; calling it reads out a feature map."""

    # A block ends in a linear convolution, so features may be negative.
    rectified = False

    def __init__(self, stages: tuple[Stage, ...] = LITE0, *, rngs: nnx.Rngs) -> None:
        self.stem = ConvNorm(
            3, _STEM, Window(3, 2, 0), activation="relu6", epsilon=_EPSILON, rngs=rngs
        )
        blocks, features = [], _STEM
        for stage in stages:
            for repeat in range(stage.repeats):
                blocks.append(
                    InvertedBottleneck(
                        features,
                        stage.channels,
                        kernel=stage.kernel,
                        stride=stage.stride if repeat == 0 else 1,
                        expansion=stage.expansion,
                        rngs=rngs,
                    )
                )
                features = stage.channels
        self.stages = stages
        self.blocks = nnx.List(blocks)
        self.head = ConvNorm(features, _HEAD, activation="relu6", epsilon=_EPSILON, rngs=rngs)
        self.classifier = nnx.Linear(_HEAD, _CLASSES, rngs=rngs)

    def __call__(
        self, x: FeatureMap, *, output: str = "conv4", layers: slice = WHOLE
    ) -> FeatureMap:
        """Feature map of normalised images, at stride 16 ("conv4") or 32 ("conv5").

        Args:
            x: normalised images, or the output of the layers before ``layers``.
            output: the feature map that is read out.
            layers: which of the layers up to ``output`` are applied; the stem is the first.
        """
        for layer in self.layers(output)[layers]:
            x = layer(x)
        return x

    def layers(self, output: str = "conv4") -> list[ConvNorm | InvertedBottleneck]:
        """The stem and the blocks up to the feature map that is read out."""
        return [self.stem, *self._blocks(output)]

    def classify(self, x: FeatureMap) -> Float[jax.Array, "b 1000"]:
        """ImageNet logits of normalised images; the average is over each image's own extent."""
        x = self.head(self(x, output="conv5"))
        total = convolution.zero_outside(x.values, x.extent).sum(axis=(1, 2))
        cells = jnp.prod(x.extent, axis=1)[:, None].astype(total.dtype)
        logits: jax.Array = self.classifier(total / cells)
        return logits

    def windows(self, output: str = "conv4") -> list[Window]:
        """The layers along the longest path, for the receptive field."""
        return [self.stem.window, *(block.depthwise.window for block in self._blocks(output))]

    @staticmethod
    def normalise(pixels: Float[jax.Array, "b h w 3"]) -> Float[jax.Array, "b h w 3"]:
        """Map RGB in 0 … 255 to the range that the weights were trained with."""
        return (pixels - 127.0) / 128.0

    def lost_px(self, output: str = "conv4") -> int:
        """Pixels lost to layers without padding: none (compare `ResNet.lost_px`)."""
        return 0

    def channels(self, output: str = "conv4") -> int:
        """Number of channels of the feature map."""
        return self.stages[_STAGES_OF[output] - 1].channels

    def _blocks(self, output: str) -> list[InvertedBottleneck]:
        count = sum(stage.repeats for stage in self.stages[: _STAGES_OF[output]])
        return list(self.blocks)[:count]


class EfficientNetLite0(EfficientNetLite):
    """112 channels at conv4, 320 at conv5."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        super().__init__(LITE0, rngs=rngs)


class EfficientNetLite2(EfficientNetLite):
    """120 channels at conv4, 352 at conv5."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        super().__init__(LITE2, rngs=rngs)
