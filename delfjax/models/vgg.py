"""VGG16 up to its last pooling, the backbone of MAC, R-MAC and siaMAC.

Thirteen 3×3 convolutions with a bias and a ReLU, in five groups; 2×2 max pooling follows each
group. As in PyTorch, pooling drops the last row or column of an odd number: ``n`` pixels become
``⌊n / stride⌋`` cells.
Input: RGB normalised by ImageNet's mean and deviation, as for torchvision's weights.
Source: Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1, column D.
"""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Float

from delfjax.models.layers import WHOLE, ConvNorm, FeatureMap, standardised
from delfjax.ops import convolution
from delfjax.ops.receptive_field import Window, compose

# (channels, convolutions) of each group.
_GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# Output → convolutions before it. "conv4" and "conv5" are read out before the pooling of their
# group.
_CONVOLUTIONS = {"conv4": 10, "conv5": 13, "pool5": 13}
_SPATIAL = Window.centred(3)
_POOL = Window(kernel=2, stride=2)


class Pooling(nnx.Module):
    """Largest value of each 2×2 cells; an odd row or column at the end is dropped."""

    windows = (_POOL,)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Pool; a cell inside the result's extent depends on cells inside the image alone."""
        values = convolution.maximum(x.values, taps=_POOL.kernel, stride=_POOL.stride, pad=(0, 0))
        return FeatureMap(values, x.extent // _POOL.stride)


class PooledConvolution(ConvNorm):
    """3×3 convolution, bias and ReLU; in the first layer of a group, after pooling."""

    def __init__(
        self, features_in: int, features_out: int, *, pooled: bool, rngs: nnx.Rngs
    ) -> None:
        super().__init__(
            features_in, features_out, _SPATIAL, activation="relu", epsilon=None, rngs=rngs
        )
        self.pooled = pooled

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Pool where the layer begins a group, then convolve."""
        return super().__call__(Pooling()(x) if self.pooled else x)

    @property
    def windows(self) -> tuple[Window, ...]:
        """The pooling, if there is one, and the convolution."""
        return (_POOL, self.window) if self.pooled else (self.window,)


class VGG16(nnx.Module):
    """The convolutions; calling it reads out a feature map."""

    # Features have passed a ReLU.
    rectified = True

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        members, features = [], 3
        for group, (channels, count) in enumerate(_GROUPS):
            for number in range(count):
                pooled = group > 0 and number == 0
                members.append(PooledConvolution(features, channels, pooled=pooled, rngs=rngs))
                features = channels
        self.convolutions = nnx.List(members)

    def __call__(
        self, x: FeatureMap, *, output: str = "conv5", layers: slice = WHOLE
    ) -> FeatureMap:
        """Feature map of normalised images, 512 channels: "conv4" (conv4_3 after its ReLU, stride
        8), "conv5" (conv5_3 after its ReLU, stride 16) or "pool5" (stride 32).

        Args:
            x: normalised images, or the output of the layers before ``layers``.
            output: the feature map that is read out.
            layers: which of the layers up to ``output`` are applied.
        """
        for layer in self.layers(output)[layers]:
            x = layer(x)
        return x

    def layers(self, output: str = "conv5") -> list[PooledConvolution | Pooling]:
        """The convolutions up to the feature map that is read out; for "pool5", the last pooling
        too."""
        last = [Pooling()] if output == "pool5" else []
        return [*list(self.convolutions)[: _CONVOLUTIONS[output]], *last]

    def windows(self, output: str = "conv5") -> list[Window]:
        """The layers, for the receptive field."""
        return [window for layer in self.layers(output) for window in layer.windows]

    def lost_px(self, output: str = "conv5") -> int:
        """Pixels lost to pooling: ``n`` pixels become ``ceil((n − lost_px) / stride)`` cells, which
        is ``⌊n / stride⌋``."""
        return compose(self.windows(output)).stride - 1

    @staticmethod
    def normalise(pixels: Float[jax.Array, "b h w 3"]) -> Float[jax.Array, "b h w 3"]:
        """Map RGB in 0 … 255 to zero mean and unit deviation over ImageNet."""
        return standardised(pixels)

    @staticmethod
    def channels(output: str = "conv5") -> int:
        """Number of channels of the feature map."""
        return _GROUPS[3 if output == "conv4" else 4][0]
