"""Several backbones run side by side: layers that fine-tuning left unchanged are computed once."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from delfjax.models.efficientnet_lite import EfficientNetLite
from delfjax.models.layers import FeatureMap
from delfjax.models.resnet import ResNet
from delfjax.models.tensors import named_tensors
from delfjax.models.vgg import VGG16
from delfjax.ops.receptive_field import Window

_Backbone = EfficientNetLite | ResNet | VGG16


class BranchedBackbone(nnx.Module):
    """Backbones of one architecture whose features are concatenated along the channels; the leading
    layers that are equal in all of them run once."""

    def __init__(self, backbones: Sequence[_Backbone], *, output: str) -> None:
        """Find the leading layers that all backbones share.

        Args:
            backbones: at least one, all of one architecture and stride layout.
            output: the feature map that will be read out, "conv4", "conv5" or "pool5".
        """
        layers = [backbone.layers(output) for backbone in backbones]
        equal = [
            all(_same(layer, layers[0][depth]) for layer in same)
            for depth, same in enumerate(zip(*layers, strict=True))
        ]
        self.shared = equal.index(False) if False in equal else len(equal)
        self.backbones = nnx.List(backbones)

    def __call__(self, x: FeatureMap, *, output: str) -> FeatureMap:
        """Feature maps of normalised images, concatenated along the channels in the order of
        ``backbones``."""
        trunk = self._first(x, output=output, layers=slice(self.shared))
        maps = [
            backbone(trunk, output=output, layers=slice(self.shared, None))
            for backbone in self.backbones
        ]
        return FeatureMap(
            jnp.concatenate([found.values for found in maps], axis=-1), maps[0].extent
        )

    def lost_px(self, output: str) -> int:
        """Pixels lost to layers without padding; the same for every backbone."""
        return self._first.lost_px(output)

    def windows(self, output: str) -> list[Window]:
        """The layers along the longest path, for the receptive field."""
        return self._first.windows(output)

    def normalise(self, pixels: Float[jax.Array, "b h w 3"]) -> Float[jax.Array, "b h w 3"]:
        """RGB in 0 … 255 to the range the weights were trained with."""
        return self._first.normalise(pixels)

    def channels(self, output: str) -> int:
        """Number of channels of all backbones together."""
        return sum(backbone.channels(output) for backbone in self.backbones)

    @property
    def _first(self) -> _Backbone:
        first: _Backbone = self.backbones[0]
        return first


def _same(layer: nnx.Module, other: nnx.Module) -> bool:
    ours, theirs = named_tensors(layer), named_tensors(other)
    return all(np.array_equal(values, theirs[name]) for name, values in ours.items())
