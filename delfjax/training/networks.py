"""What each stage trains: a network from photographs, or from feature maps of its frozen part, to landmark logits.

Source: the paper: stage 1 is plain classification; stage 2 pools ``y = W Σ α(f_n; θ) · f_n`` on fixed descriptors, with α ≥ 0.
As in the TF code, scores are computed from the features as they are, while what is pooled is L2-normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from delfjax.models.attention import AttentionScorer
from delfjax.models.delf import Backbone
from delfjax.models.layers import FeatureMap
from delfjax.ops.pooling import l2_normalise
from delfjax.training.config import TrainingConfig

Path = Sequence[Any]


class FinetuneNetwork(nnx.Module):
    """The backbone, the mean of its features, and a classifier that is thrown away after."""

    def __init__(self, backbone: Backbone, classes: int, *, output: str, frozen_layers: int, rngs: nnx.Rngs) -> None:
        self.backbone = nnx.data(backbone)
        self.classifier = nnx.Linear(backbone.channels(output), classes, rngs=rngs)
        self.output = output
        self.frozen_layers = frozen_layers

    def fixed(self, pixels: Float[jax.Array, "b h w 3"], dtype: str = "float32") -> Float[jax.Array, "b fh fw c"]:
        """What the frozen layers make of RGB in 0 … 255, in the arithmetic of ``dtype``."""
        images = FeatureMap.full(self.backbone.normalise(pixels).astype(jnp.dtype(dtype)))
        return jnp.asarray(self.backbone(images, output=self.output, layers=slice(self.frozen_layers)).values)

    def __call__(self, maps: Float[jax.Array, "b fh fw c"]) -> Float[jax.Array, "b classes"]:
        """Logits of what :meth:`fixed` returns."""
        features = self.backbone(FeatureMap.full(maps), output=self.output, layers=slice(self.frozen_layers, None))
        logits: jax.Array = self.classifier(features.values.astype(jnp.float32).mean(axis=(1, 2)))
        return logits

    def learns(self, path: Path) -> bool:
        """Whether the variable at ``path`` is trained."""
        if path[0] == "classifier":
            return True
        learning = {id(layer) for layer in self.backbone.layers(self.output)[self.frozen_layers :]}
        node: Any = self
        for part in path[:-1]:
            node = node[part] if isinstance(part, int) else getattr(node, part)
            if id(node) in learning:
                return True
        return False

    def set_mode(self, *, training: bool) -> None:
        """Batch norm of the backbone keeps its running statistics in either mode."""
        nnx.Module.eval(self)


class AttentionNetwork(nnx.Module):
    """A frozen backbone, the scorer, and a classifier of the attention-weighted features that is thrown away after."""

    def __init__(
        self, backbone: Backbone, classes: int, *, output: str, hidden: int, pooling: Literal["mean", "sum"], rngs: nnx.Rngs
    ) -> None:
        channels = backbone.channels(output)
        self.backbone = nnx.data(backbone)
        self.scorer = AttentionScorer(channels, hidden=hidden, rngs=rngs)
        self.classifier = nnx.Linear(channels, classes, rngs=rngs)
        self.output = output
        self.pooling = pooling

    def fixed(self, pixels: Float[jax.Array, "b h w 3"], dtype: str = "float32") -> Float[jax.Array, "b fh fw c"]:
        """The backbone's features of RGB in 0 … 255, in the arithmetic of ``dtype``."""
        images = FeatureMap.full(self.backbone.normalise(pixels).astype(jnp.dtype(dtype)))
        return jnp.asarray(self.backbone(images, output=self.output).values)

    def __call__(self, maps: Float[jax.Array, "b fh fw c"]) -> Float[jax.Array, "b classes"]:
        """Logits of what :meth:`fixed` returns."""
        scores = self.scorer(FeatureMap.full(maps)).astype(jnp.float32)
        weighted = scores[..., None] * l2_normalise(maps.astype(jnp.float32))
        pooled = weighted.mean(axis=(1, 2)) if self.pooling == "mean" else weighted.sum(axis=(1, 2))
        logits: jax.Array = self.classifier(pooled)
        return logits

    def learns(self, path: Path) -> bool:
        """Whether the variable at ``path`` is trained."""
        return bool(path[0] != "backbone")

    def set_mode(self, *, training: bool) -> None:
        """Only the scorer's batch norm learns its statistics."""
        nnx.Module.eval(self)
        if training:
            nnx.Module.train(self.scorer)


Network = FinetuneNetwork | AttentionNetwork


def make_network(backbone: Backbone, classes: int, *, config: TrainingConfig, output: str, rngs: nnx.Rngs) -> Network:
    """The network of a stage."""
    if config.stage == "finetune":
        return FinetuneNetwork(backbone, classes, output=output, frozen_layers=config.frozen_layers, rngs=rngs)
    return AttentionNetwork(backbone, classes, output=output, hidden=config.hidden, pooling=config.pooling, rngs=rngs)
