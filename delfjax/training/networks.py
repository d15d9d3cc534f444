"""The networks that the stages train: from photos, or from feature maps of the frozen layers, to
landmark logits.

Source: the paper: stage 1 is plain classification; stage 2 pools ``y = W Σ α(f_n; θ) · f_n`` on
    fixed descriptors, with α ≥ 0. As in the TF code, scores are computed from the unnormalised
    features, whereas the pooled features are L2-normalised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from delfjax.config import ConfigError, GlobalTrainingConfig, HeadConfig, TrainingConfig
from delfjax.models.attention import AttentionScorer, AutoencodedScorer
from delfjax.models.delf import Backbone
from delfjax.models.layers import FeatureMap
from delfjax.ops import pooling, selection
from delfjax.ops.convolution import inside
from delfjax.ops.pooling import generalised_mean, l2_normalise
from delfjax.ops.whitening import Projection
from delfjax.training.batches import PaddedPhotos
from delfjax.training.optimiser import cross_entropy
from delfjax.training.ranking_losses import contrastive_loss, triplet_loss

Path = Sequence[Any]
# A loss, and the logits from which accuracy is computed.
Loss = tuple[jax.Array, jax.Array]


class FinetuneNetwork(nnx.Module):
    """The backbone, the mean of its features, and a classifier that is discarded after training."""

    # Whether images can be computed apart, the loss of a batch being the mean of their losses. They
    # cannot where batch norm learns its statistics, which depend on the whole batch.
    images_apart = True

    def __init__(
        self, backbone: Backbone, classes: int, *, output: str, frozen_layers: int, rngs: nnx.Rngs
    ) -> None:
        self.backbone = nnx.data(backbone)
        self.classifier = nnx.Linear(backbone.channels(output), classes, rngs=rngs)
        self.output = output
        self.frozen_layers = frozen_layers

    @property
    def fixed_layers(self) -> list[nnx.Module]:
        """The layers of :meth:`fixed`."""
        return list(self.backbone.layers(self.output)[: self.frozen_layers])

    def fixed(
        self, pixels: Float[jax.Array, "b h w 3"], dtype: str = "float32"
    ) -> Float[jax.Array, "b fh fw c"]:
        """Feature maps after the frozen layers of RGB in 0 … 255, computed in ``dtype``."""
        images = FeatureMap.full(self.backbone.normalise(pixels).astype(jnp.dtype(dtype)))
        return jnp.asarray(
            self.backbone(images, output=self.output, layers=slice(self.frozen_layers)).values
        )

    def __call__(self, maps: Float[jax.Array, "b fh fw c"]) -> Float[jax.Array, "b classes"]:
        """Logits of what :meth:`fixed` returns."""
        features = self.backbone(
            FeatureMap.full(maps), output=self.output, layers=slice(self.frozen_layers, None)
        )
        logits: jax.Array = self.classifier(features.values.astype(jnp.float32).mean(axis=(1, 2)))
        return logits

    def loss(
        self, maps: Float[jax.Array, "b fh fw c"], labels: Int[jax.Array, " b"], *, smoothing: float
    ) -> Loss:
        """Cross-entropy, and the logits."""
        logits = self(maps)
        return cross_entropy(logits, labels, smoothing=smoothing), logits

    def learns(self, path: Path) -> bool:
        """Whether the variable at ``path`` is trained."""
        return path[0] != "backbone" or _in_layers(
            self, path, self.backbone.layers(self.output)[self.frozen_layers :]
        )

    def set_mode(self, *, training: bool) -> None:
        """Batch norm of the backbone keeps its running statistics in either mode."""
        nnx.Module.eval(self)


class AttentionNetwork(nnx.Module):
    """A frozen backbone, the scorer, and a classifier of the attention-weighted features that is
    discarded after training."""

    images_apart = False

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        output: str,
        hidden: int,
        pooling: Literal["mean", "sum"],
        rngs: nnx.Rngs,
    ) -> None:
        channels = backbone.channels(output)
        self.backbone = nnx.data(backbone)
        self.scorer = AttentionScorer(channels, hidden=hidden, rngs=rngs)
        self.classifier = nnx.Linear(channels, classes, rngs=rngs)
        self.output = output
        self.pooling = pooling

    @property
    def fixed_layers(self) -> list[nnx.Module]:
        """The layers of :meth:`fixed`."""
        return list(self.backbone.layers(self.output))

    def fixed(
        self, pixels: Float[jax.Array, "b h w 3"], dtype: str = "float32"
    ) -> Float[jax.Array, "b fh fw c"]:
        """The backbone's features of RGB in 0 … 255, computed in ``dtype``."""
        images = FeatureMap.full(self.backbone.normalise(pixels).astype(jnp.dtype(dtype)))
        return jnp.asarray(self.backbone(images, output=self.output).values)

    def __call__(self, maps: Float[jax.Array, "b fh fw c"]) -> Float[jax.Array, "b classes"]:
        """Logits of what :meth:`fixed` returns."""
        scores = self.scorer(FeatureMap.full(maps)).astype(jnp.float32)
        weighted = scores[..., None] * l2_normalise(maps.astype(jnp.float32))
        pooled = weighted.mean(axis=(1, 2)) if self.pooling == "mean" else weighted.sum(axis=(1, 2))
        logits: jax.Array = self.classifier(pooled)
        return logits

    def loss(
        self, maps: Float[jax.Array, "b fh fw c"], labels: Int[jax.Array, " b"], *, smoothing: float
    ) -> Loss:
        """Cross-entropy, and the logits."""
        logits = self(maps)
        return cross_entropy(logits, labels, smoothing=smoothing), logits

    def learns(self, path: Path) -> bool:
        """Whether the variable at ``path`` is trained."""
        return bool(path[0] != "backbone")

    def set_mode(self, *, training: bool) -> None:
        """Only the scorer's batch norm learns its statistics."""
        nnx.Module.eval(self)
        if training:
            nnx.Module.train(self.scorer)


class DelgNetwork(nnx.Module):
    """A global descriptor of conv5, whose loss trains the backbone, and an attention and an
    autoencoder on conv4, whose losses do not.

    The attention scores the reconstruction of the autoencoder but weights the original features.
    The autoencoder's squared error is relative to the features (D-07), which gives its weight the
    same meaning for any backbone.

    Source: DELG and the TF2 code: GeM, a linear embedding and ArcFace; neither the loss of the
        attention nor that of the autoencoder sends a gradient to the backbone.
    """

    images_apart = False
    output = "conv5"

    def __init__(
        self, backbone: Backbone, classes: int, *, config: TrainingConfig, rngs: nnx.Rngs
    ) -> None:
        middle, last = (backbone.channels(output) for output in ("conv4", "conv5"))
        self.backbone = nnx.data(backbone)
        self.embedding = nnx.Linear(last, config.delg.embedding_dim, rngs=rngs)
        self.landmarks = nnx.Linear(config.delg.embedding_dim, classes, use_bias=False, rngs=rngs)
        code_dim, rectified = config.delg.code_dim, backbone.rectified
        self.scorer = AutoencodedScorer(
            middle, code_dim=code_dim, hidden=config.hidden, rectified=rectified, rngs=rngs
        )
        self.classifier = nnx.Linear(middle, classes, rngs=rngs)
        self.frozen_layers = config.frozen_layers
        self.settings = config.delg
        self.pooling = config.pooling

    @property
    def fixed_layers(self) -> list[nnx.Module]:
        """The layers of :meth:`fixed`."""
        return list(self.backbone.layers("conv4")[: self.frozen_layers])

    def fixed(
        self, pixels: Float[jax.Array, "b h w 3"], dtype: str = "float32"
    ) -> Float[jax.Array, "b fh fw c"]:
        """Feature maps after the frozen layers of RGB in 0 … 255, computed in ``dtype``."""
        images = FeatureMap.full(self.backbone.normalise(pixels).astype(jnp.dtype(dtype)))
        return jnp.asarray(
            self.backbone(images, output="conv4", layers=slice(self.frozen_layers)).values
        )

    def __call__(self, maps: Float[jax.Array, "b fh fw c"]) -> Float[jax.Array, "b classes"]:
        """Logits of the global descriptor, without a margin, for what :meth:`fixed` returns."""
        return self.settings.scale * self._cosines(self._features(maps))

    def loss(
        self, maps: Float[jax.Array, "b fh fw c"], labels: Int[jax.Array, " b"], *, smoothing: float
    ) -> Loss:
        """The weighted sum of the three losses, and the logits without a margin."""
        features = self._features(maps)
        cosines = self._cosines(features)
        of_global = cross_entropy(self._with_margin(cosines, labels), labels, smoothing=smoothing)
        middle = jax.lax.stop_gradient(jnp.asarray(features.values)).astype(jnp.float32)
        rebuilt = self.scorer.rebuild(FeatureMap(middle, features.extent))
        of_autoencoder = jnp.mean(jnp.square(rebuilt.values - middle)) / jnp.mean(
            jnp.square(middle)
        )
        # The scorer learns from the reconstruction; the autoencoder learns from its own loss alone,
        # whereas in the TF code the attention loss trains it too.
        scores = self.scorer.attention(
            FeatureMap(jax.lax.stop_gradient(rebuilt.values), rebuilt.extent)
        )
        weighted = scores[..., None] * l2_normalise(middle)
        pooled = weighted.mean(axis=(1, 2)) if self.pooling == "mean" else weighted.sum(axis=(1, 2))
        of_attention = cross_entropy(self.classifier(pooled), labels, smoothing=smoothing)
        settings = self.settings
        total = (
            of_global
            + settings.attention_weight * of_attention
            + settings.reconstruction_weight * of_autoencoder
        )
        return total, settings.scale * cosines

    def learns(self, path: Path) -> bool:
        """Whether the variable at ``path`` is trained."""
        return path[0] != "backbone" or _in_layers(
            self, path, self.backbone.layers(self.output)[self.frozen_layers :]
        )

    def set_mode(self, *, training: bool) -> None:
        """Only the scorer's batch norm learns its statistics."""
        nnx.Module.eval(self)
        if training:
            nnx.Module.train(self.scorer)

    def _features(self, maps: jax.Array) -> FeatureMap:
        return self.backbone(
            FeatureMap.full(maps), output="conv4", layers=slice(self.frozen_layers, None)
        )

    def _cosines(self, features: FeatureMap) -> jax.Array:
        """Cosine of the global descriptor with the direction of each landmark."""
        deep = self.backbone(
            features, output=self.output, layers=slice(len(self.backbone.layers("conv4")), None)
        )
        values = jnp.asarray(deep.values, jnp.float32)
        held = inside(jnp.asarray(deep.extent), *values.shape[1:3])
        pooled = generalised_mean(
            values.reshape(len(values), -1, values.shape[-1]), held.reshape(len(values), -1)
        )
        kernel = jnp.asarray(self.landmarks.kernel[...])
        return l2_normalise(self.embedding(pooled)) @ l2_normalise(kernel.T).T

    def _with_margin(self, cosines: jax.Array, labels: jax.Array) -> jax.Array:
        """ArcFace logits: the margin is added to the angle to the correct landmark, provided that
        the sum stays below π."""
        margin = self.settings.margin
        sines = jnp.sqrt(jnp.maximum(1 - jnp.square(cosines), 1e-12))
        further = cosines * math.cos(margin) - sines * math.sin(margin)
        right = jax.nn.one_hot(labels, cosines.shape[1], dtype=bool) & (cosines > -math.cos(margin))
        return self.settings.scale * jnp.where(right, further, cosines)


class GlobalNetwork(nnx.Module):
    """The backbone and the pooling of its features into a global descriptor, which learns to rank.

    A batch holds the queries of all tuples, then their positives, then the first negative of each,
    and so on.
    """

    # Whether tuples can be computed apart.
    images_apart = True

    def __init__(self, backbone: Backbone, *, output: str, config: GlobalTrainingConfig) -> None:
        head = config.head
        if head.projection_dim and head.pooling != "rmac":
            raise ConfigError(
                f"head.projection_dim is {head.projection_dim}, but the pooling is"
                f" {head.pooling!r}, which has no regions; set head.pooling=rmac"
            )
        depth = len(backbone.layers(output))
        if config.frozen_layers >= depth and head.pooling != "gem" and not head.projection_dim:
            raise ConfigError(
                f"frozen_layers is {config.frozen_layers}, but the backbone has {depth} layers up"
                f" to {output}, so nothing would be trained; freeze fewer"
            )
        channels = backbone.channels(output)
        self.backbone = nnx.data(backbone)
        self.exponent: nnx.Param[Any] | None = nnx.data(None)
        if head.pooling == "gem":
            self.exponent = nnx.Param(jnp.float32(head.gem_exponent))
        self.shift: nnx.Param[Any] | None = nnx.data(None)
        self.kernel: nnx.Param[Any] | None = nnx.data(None)
        if head.projection_dim:
            self.shift = nnx.Param(jnp.zeros(channels))
            self.kernel = nnx.Param(jnp.eye(channels, head.projection_dim))
        self.output = output
        self.frozen_layers = config.frozen_layers
        self.head = head
        self.tuples = config.tuples
        # It also describes photos before it is trained.
        self.set_mode(training=False)

    @property
    def fixed_layers(self) -> list[nnx.Module]:
        """The layers of :meth:`fixed`."""
        return list(self.backbone.layers(self.output)[: self.frozen_layers])

    def fixed(self, photos: PaddedPhotos, dtype: str = "float32") -> PaddedPhotos:
        """Feature maps after the frozen layers of pixels, computed in ``dtype``."""
        normal = self.backbone.normalise(jnp.asarray(photos.values)).astype(jnp.dtype(dtype))
        maps = self.backbone(
            FeatureMap(normal, photos.extent), output=self.output, layers=slice(self.frozen_layers)
        )
        return PaddedPhotos(maps.values, maps.extent)

    def __call__(self, maps: PaddedPhotos) -> Float[jax.Array, "b d"]:
        """L2-normalised descriptors of what :meth:`fixed` returns."""
        project = None
        if self.shift is not None and self.kernel is not None:
            project = partial(pooling.projected, shift=self.shift[...], matrix=self.kernel[...])
        return l2_normalise(self._pooled(maps, project))

    def regions(self, maps: PaddedPhotos) -> Float[jax.Array, "n c"]:
        """The L2-normalised descriptors of all regions of R-MAC, before they are projected; those
        of regions that a photo does not have are zero."""
        features, cells_yx, regions = self._regional(maps)
        each: jax.Array = jax.lax.map(
            lambda region: pooling.regional_maximum(features, cells_yx, region[:, None]),
            jnp.swapaxes(regions, 0, 1),
        )
        return each.reshape(-1, features.shape[-1])

    def pooled_by(self, head: HeadConfig) -> GlobalNetwork:
        """A copy that pools otherwise."""
        other = nnx.clone(self)
        other.head = head
        return other

    def projecting(self, projection: Projection) -> None:
        """Begin with a projection of regions."""
        assert self.shift is not None and self.kernel is not None
        self.shift[...] = jnp.asarray(projection.shift, jnp.float32)
        self.kernel[...] = jnp.asarray(projection.matrix, jnp.float32)

    def loss(self, maps: PaddedPhotos, labels: Int[jax.Array, " t"], *, smoothing: float) -> Loss:
        """The loss of the tuples, and the similarities of each query with the others of its tuple,
        the positive first."""
        found = self(maps)
        found = found.reshape(-1, len(labels), found.shape[-1])
        query, positive, negatives = found[0], found[1], jnp.moveaxis(found[2:], 0, 1)
        function = contrastive_loss if self.tuples.loss == "contrastive" else triplet_loss
        loss = function(query, positive, negatives, margin=self.tuples.margin)
        return loss, jnp.einsum("td,ntd->tn", query, found[1:])

    def learns(self, path: Path) -> bool:
        """Whether the variable at ``path`` is trained."""
        return path[0] != "backbone" or _in_layers(
            self, path, self.backbone.layers(self.output)[self.frozen_layers :]
        )

    def set_mode(self, *, training: bool) -> None:
        """Batch norm of the backbone keeps its running statistics in either mode."""
        nnx.Module.eval(self)

    def _features(self, maps: PaddedPhotos) -> FeatureMap:
        return self.backbone(
            FeatureMap(maps.values, maps.extent),
            output=self.output,
            layers=slice(self.frozen_layers, None),
        )

    def _pooled(
        self, maps: PaddedPhotos, project: Callable[[jax.Array], jax.Array] | None
    ) -> jax.Array:
        if self.head.pooling == "rmac":
            return pooling.regional_maximum(*self._regional(maps), project)
        found = self._features(maps)
        values = jnp.asarray(found.values, jnp.float32)
        held = inside(jnp.asarray(found.extent), *values.shape[1:3]).reshape(len(values), -1)
        features = values.reshape(len(values), -1, values.shape[-1])
        if self.exponent is None:
            return pooling.maximum(features, held)
        # A common factor changes the mean by that factor, and no exponent makes it overflow.
        largest = jnp.where(held[..., None], features, 0.0).max(axis=(1, 2), keepdims=True)
        scaled = features / jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))
        return generalised_mean(scaled, held, self.exponent[...])

    def _regional(self, maps: PaddedPhotos) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Features of the cells, positions of the cells, and regions."""
        found = self._features(maps)
        values = jnp.asarray(found.values, jnp.float32)
        count, height, width, channels = values.shape
        cells_yx = selection.numbered_cells(height * width, jnp.full(count, width, jnp.int32))
        table = jnp.asarray(_region_table(height, width, self.head))
        regions = table[found.extent[:, 0], found.extent[:, 1]]
        return values.reshape(count, -1, channels), cells_yx, regions


def _region_table(height: int, width: int, head: HeadConfig) -> Int[np.ndarray, "h w r 4"]:
    """The regions of R-MAC on maps of every size up to ``height`` × ``width`` cells."""
    whole_image = head.rmac_whole_image
    count = pooling.most_regions(head.rmac_levels, whole_image=whole_image)
    table = np.zeros((height + 1, width + 1, count, 4), np.int32)
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            table[y, x] = pooling.rmac_regions(
                y, x, levels=head.rmac_levels, whole_image=whole_image
            )
    return table


Network = FinetuneNetwork | AttentionNetwork | DelgNetwork | GlobalNetwork


def make_network(
    backbone: Backbone, classes: int, *, config: TrainingConfig, output: str, rngs: nnx.Rngs
) -> Network:
    """The network of the stage that ``config`` names.

    Raises:
        ConfigError: the head of a global descriptor is impossible.
    """
    if isinstance(config, GlobalTrainingConfig):
        return GlobalNetwork(backbone, output=output, config=config)
    if config.stage == "delg":
        return DelgNetwork(backbone, classes, config=config, rngs=rngs)
    if config.stage == "finetune":
        return FinetuneNetwork(
            backbone, classes, output=output, frozen_layers=config.frozen_layers, rngs=rngs
        )
    return AttentionNetwork(
        backbone, classes, output=output, hidden=config.hidden, pooling=config.pooling, rngs=rngs
    )


def _in_layers(network: Any, path: Path, layers: Sequence[Any]) -> bool:
    """Whether the variable at ``path`` of a network belongs to one of ``layers``."""
    wanted = {id(layer) for layer in layers}
    node = network
    for part in path[:-1]:
        node = node[part] if isinstance(part, int) else getattr(node, part)
        if id(node) in wanted:
            return True
    return False
