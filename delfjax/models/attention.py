"""The attention scorer: the relevance of each cell of a feature map, learned from image labels
alone.

Source: the TF1 release and the TF2 code: 1×1 convolution to 512 channels, batch norm, ReLU, 1×1
    convolution to 1 channel, softplus, applied to the unnormalised feature map.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from delfjax.models.layers import ConvNorm, FeatureMap, activate


class AttentionScorer(nnx.Module):
    """A two-layer network applied to each cell, followed by softplus."""

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
    """An attention scorer on features that an autoencoder has reconstructed; the autoencoder's code
    is a descriptor that needs no further reduction.

    A 1×1 convolution encodes each cell, another decodes it. A ReLU follows the decoder, except for
    features that may be negative (``rectified=False``), which it could not reconstruct.

    The encoder trained by this library has no bias, so a code keeps its direction when the feature
    is first scaled to unit length, as it is in a store: the encoder then serves as a reduction. The
    encoder of the TF2 code has a bias (``code_bias=True``): codes are computed from the unscaled
    features and stored in their place.

    Source: DELG (Cao, Araujo, Sim 2020) and the TF2 code.
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
        """Whether codes are stored in place of features; if not, the encoder serves as their
        reduction."""
        return self.encoder.bias is not None

    def rebuild(self, x: FeatureMap) -> FeatureMap:
        """The feature map after encoding and decoding each cell."""
        rebuilt: jax.Array = self.decoder(self.encoder(jnp.asarray(x.values)))
        return FeatureMap(activate(rebuilt, "relu" if self.rectified else "none"), x.extent)


def feature_norm(x: Float[jax.Array, "*n d"]) -> Float[jax.Array, "*n"]:
    """L2 norm of each feature vector: the score used where no attention has been trained."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1))
