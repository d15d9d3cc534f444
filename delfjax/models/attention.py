"""The attention scorer: how relevant each cell of the feature map is, learned from image labels
alone.

Source: the TF1 release and the TF2 code: 1×1 convolution to 512, batch norm, ReLU, 1×1 convolution
    to 1, softplus; its input is the unnormalised feature map.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from delfjax.models.layers import ConvNorm, FeatureMap, activate


class AttentionScorer(nnx.Module):
    """Softplus of a two-layer network on each cell."""

    def __init__(self, channels: int, *, hidden: int = 512, rngs: nnx.Rngs) -> None:
        self.hidden = ConvNorm(channels, hidden, activation="relu", rngs=rngs)
        self.score = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, x: FeatureMap) -> Float[jax.Array, "b h w"]:
        """Non-negative score of each cell of an unnormalised feature map."""
        scores: jax.Array = jax.nn.softplus(
            self.score(jnp.asarray(self.hidden(x).values, jnp.float32))
        )[..., 0]
        return scores


class AutoencodedScorer(nnx.Module):
    """Attention on what an autoencoder makes of each cell; its code is a descriptor that needs no
    other reduction.

    Source: DELG (Cao, Araujo, Sim 2020) and the TF2 code: 1×1 convolutions to the code and, with a
        ReLU, back; without it for features that may be negative (``rectified=False``), which it
        could not rebuild. The encoder that is trained here has no bias, so that a code keeps its
        direction when the feature is scaled to unit length first, as stores do; it serves as a
        reduction. The TF2 code's has one (``code_bias``): then codes are made of the features as
        they are, and kept instead of them.
    """

    def __init__(
        self,
        channels: int,
        *,
        code_dim: int,
        code_bias: bool = False,
        hidden: int = 512,
        rectified: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        self.encoder = nnx.Linear(channels, code_dim, use_bias=code_bias, rngs=rngs)
        self.decoder = nnx.Linear(code_dim, channels, rngs=rngs)
        self.attention = AttentionScorer(channels, hidden=hidden, rngs=rngs)
        self.rectified = rectified

    def __call__(self, x: FeatureMap) -> Float[jax.Array, "b h w"]:
        """Non-negative score of each cell of an unnormalised feature map."""
        return self.attention(self.rebuild(x))

    @property
    def replaces_features(self) -> bool:
        """Whether codes are kept instead of features; otherwise the encoder is a reduction of
        these."""
        return self.encoder.bias is not None

    def rebuild(self, x: FeatureMap) -> FeatureMap:
        """What is left of each cell after it was encoded and decoded."""
        rebuilt: jax.Array = self.decoder(self.encoder(jnp.asarray(x.values)))
        return FeatureMap(activate(rebuilt, "relu" if self.rectified else "none"), x.extent)


def feature_norm(x: Float[jax.Array, "*n d"]) -> Float[jax.Array, "*n"]:
    """Length of each feature vector: the explicit scorer until an attention is trained."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1))
