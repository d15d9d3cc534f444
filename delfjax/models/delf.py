"""DELF: a backbone that describes every cell of an image, and a scorer that rates how relevant each
cell is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, UInt8

from delfjax.config import BackboneConfig, DelfConfig, ScorerConfig, WeightFile, weight_file
from delfjax.models.attention import AttentionScorer, AutoencodedScorer, feature_norm
from delfjax.models.branches import BranchedBackbone
from delfjax.models.efficientnet_lite import (
    EfficientNetLite,
    EfficientNetLite0,
    EfficientNetLite2,
)
from delfjax.models.foreign.packaged import PACKAGED, packaged_tensors
from delfjax.models.layers import FeatureMap, fold_batch_norm
from delfjax.models.model_files import BACKBONE, SCORER, load_part, part_digest
from delfjax.models.resnet import BLOCKS, ResNet
from delfjax.models.tensors import abstract, named_shapes, with_tensors
from delfjax.models.vgg import VGG16
from delfjax.models.weights import WeightsError, require_match, shipped_attention
from delfjax.ops.receptive_field import ReceptiveField, compose
from delfjax.types import Array

# Every backbone is callable and offers `windows`, `lost_px`, `normalise` and `channels`.
Backbone = EfficientNetLite | ResNet | VGG16
# Backbones that come in one form only; the others have a stride layout.
_WITHOUT_LAYOUT: dict[str, Callable[..., Backbone]] = {
    "efficientnet_lite0": EfficientNetLite0,
    "efficientnet_lite2": EfficientNetLite2,
    "vgg16": VGG16,
}
Scorer = AttentionScorer | AutoencodedScorer


class Delf(nnx.Module):
    """A backbone and a scorer; without a scorer, the norm of its features scores a cell."""

    def __init__(
        self, backbone: Backbone | BranchedBackbone, scorer: Scorer | None, *, output: str
    ) -> None:
        self.backbone = nnx.data(backbone)
        self.scorer = nnx.data(scorer)
        self.output = output

    def __call__(
        self, pixels: Float[Array, "b h w 3"], extent: Int[Array, "b 2"], *, dtype: str = "float32"
    ) -> tuple[FeatureMap, Float[jax.Array, "b fh fw"]]:
        """Features (float32, unnormalised) and attention scores of every cell.

        Args:
            pixels: RGB in 0 … 255, each image in the upper left corner of its canvas.
            extent: height and width of each image, pixels.
            dtype: type in which the backbone computes.
        """
        features = dense_features(self.backbone, pixels, extent, output=self.output, dtype=dtype)
        return features, relevance(self.scorer, features)

    @property
    def receptive_field(self) -> ReceptiveField:
        """The receptive field of a cell, composed from the layers."""
        return compose(self.backbone.windows(self.output))

    @property
    def channels(self) -> int:
        """Length of an unreduced descriptor."""
        encoder = _encoder(self.scorer)
        return self.backbone.channels(self.output) if encoder is None else int(encoder.out_features)


def dense_features(
    backbone: Backbone | BranchedBackbone,
    pixels: Float[Array, "b h w 3"],
    extent: Int[Array, "b 2"],
    *,
    output: str,
    dtype: str = "float32",
) -> FeatureMap:
    """Features of every cell, float32, unnormalised; for the arguments, see :class:`Delf`."""
    normalised = backbone.normalise(jnp.asarray(pixels)).astype(jnp.dtype(dtype))
    features = backbone(FeatureMap(normalised, extent), output=output)
    return FeatureMap(features.values.astype(jnp.float32), features.extent)


def relevance(scorer: Scorer | None, features: FeatureMap) -> Float[jax.Array, "b fh fw"]:
    """Score of every cell: that of the scorer or, without one, the norm of the cell's features."""
    return feature_norm(jnp.asarray(features.values)) if scorer is None else scorer(features)


def describe(
    scorer: Scorer | None, features: Float[jax.Array, "b k c"]
) -> Float[jax.Array, "b k d"]:
    """Unnormalised descriptors of cells: their features, or the codes of their features if the
    scorer is an autoencoder that replaces them."""
    encoder = _encoder(scorer)
    return features if encoder is None else jnp.asarray(encoder(features))


def _encoder(scorer: Scorer | None) -> nnx.Linear | None:
    if isinstance(scorer, AutoencodedScorer) and scorer.replaces_features:
        return scorer.encoder
    return None


def _describe_photos(
    backbone: Backbone | BranchedBackbone, photos: Float[Array, "b h w 3"], output: str
) -> jax.Array:
    extent = FeatureMap.full(photos).extent
    return jnp.asarray(dense_features(backbone, photos, extent, output=output).values)


def _score_maps(scorer: Scorer | None, maps: Float[Array, "b fh fw c"]) -> jax.Array:
    return relevance(scorer, FeatureMap.full(maps))


_described = nnx.jit(_describe_photos, static_argnums=2)
_scored = nnx.jit(_score_maps)


def cell_scores(model: Delf, photo: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "fh fw"]:
    """Scores of every cell of a photograph at its native size.

    Models with the same backbone share its compiled program.
    """
    maps = _described(model.backbone, photo[None].astype(np.float32), model.output)
    scores: np.ndarray = np.asarray(_scored(model.scorer, maps))[0]
    return scores


def load_delf(config: DelfConfig) -> Delf:
    """The model of ``config`` with its weights, ready for extraction: batch norm is folded.

    Raises:
        WeightsError: the weights are missing, damaged, or belong to another architecture.
    """
    backbone = load_backbone(config.backbone, seed=config.seed)
    scorer = None
    if config.scorer.kind == "attention":
        scorer = load_scorer(
            config.scorer,
            backbone=describe_backbone(config.backbone),
            channels=backbone.channels(config.backbone.output),
            seed=config.seed,
        )
    return fold_batch_norm(Delf(backbone, scorer, output=config.backbone.output))


def load_backbone(config: BackboneConfig, *, seed: int = 0) -> Backbone:
    """The backbone of ``config`` with its weights.

    Raises:
        WeightsError: the weights are missing, damaged, or belong to another architecture.
    """
    if config.weights == "random":
        return _builder(config)(nnx.Rngs(seed))
    if config.weights == "imagenet":
        if config.name not in PACKAGED:
            raise WeightsError(
                f"backbone.weights is 'imagenet', but only {', '.join(PACKAGED)} have packaged"
                f" weights; convert a checkpoint of {config.name} with `delfjax weights convert`"
                " and give its .safetensors file"
            )
        model = architecture(config)
        return with_tensors(model, packaged_tensors(config.name, named_shapes(model)))
    file = weight_file(config.weights) or WeightFile(config.weights)
    tensors, about = load_part(str(file), BACKBONE)
    held, layout = about.get("name"), about.get("stride_layout", config.stride_layout)
    if held != config.name or (layout != config.stride_layout and held not in _WITHOUT_LAYOUT):
        raise WeightsError(
            f"{file.path}: holds weights of {held} in stride layout {layout},"
            f" but the config sets {config.name} in {config.stride_layout}"
        )
    model = architecture(config, conv5=config.output == "conv5" or has_conv5(tensors))
    require_match(named_shapes(model), tensors, source=file.path)
    return with_tensors(model, tensors)


def architecture(config: BackboneConfig, *, conv5: bool = True) -> Backbone:
    """The backbone of ``config`` with shapes in place of weights.

    The model is cached, so callers must not modify it. With ``conv5=False``, a ResNet ends at
    conv4.
    """
    return _traced(replace(config, weights=""), conv5)


@cache
def _traced(config: BackboneConfig, conv5: bool) -> Backbone:
    # Tracing a constructor takes most of a second, and backbones often share an architecture.
    return abstract(_builder(config, conv5=conv5))


def _builder(config: BackboneConfig, *, conv5: bool = True) -> Callable[[nnx.Rngs], Backbone]:
    """A function that builds the architecture of ``config`` with random weights."""
    if config.output == "pool5" and config.name != "vgg16":
        raise WeightsError(
            f"backbone.output is pool5, which {config.name} does not have; set conv4 or conv5"
        )
    if config.name in _WITHOUT_LAYOUT:
        return lambda rngs: _WITHOUT_LAYOUT[config.name](rngs=rngs)
    blocks = BLOCKS[config.name][: 4 if conv5 else 3]
    return lambda rngs: ResNet(blocks, stride_layout=config.stride_layout, rngs=rngs)


def has_conv5(names: Iterable[str]) -> bool:
    """Whether a ResNet's tensors (by this library's names) include conv5; those of DELF's release
    end at conv4."""
    return any(name.startswith("stages.3.") for name in names)


def describe_backbone(config: BackboneConfig) -> dict[str, str]:
    """The identity of a backbone's features: architecture, output and weights.

    A weight file is identified by the digest of its tensors, so its path does not matter.

    Raises:
        WeightsError: the weights are missing, or their description is damaged.
    """
    layout = {} if config.name in _WITHOUT_LAYOUT else {"stride_layout": config.stride_layout}
    weights = config.weights
    if weights not in ("imagenet", "random"):
        file = weight_file(weights) or WeightFile(weights)
        weights = file.digest or part_digest(file.path, BACKBONE)
    return {"name": config.name, "output": config.output, **layout, "weights": weights}


def is_for_backbone(about: Mapping[str, Any], backbone: Mapping[str, str]) -> bool:
    """Whether a scorer or a reduction was made for the features of ``backbone``.

    Args:
        about: description of the scorer or reduction.
        backbone: from :func:`describe_backbone`.
    """
    return backbone in (about.get("backbone"), about.get("same_backbone"))


def load_scorer(
    config: ScorerConfig, *, backbone: Mapping[str, str], channels: int, seed: int = 0
) -> Scorer:
    """The attention scorer of ``config`` with its weights.

    Args:
        config: width and weights of the scorer.
        backbone: the backbone whose features it scores, from :func:`describe_backbone`.
        channels: length of a feature.
        seed: seed of random weights.

    Raises:
        WeightsError: the weights are missing, damaged, or were trained for another backbone.
    """
    weights, hidden = config.weights, config.hidden
    if weights == "random":
        return AttentionScorer(channels, hidden=hidden, rngs=nnx.Rngs(seed))
    file = weight_file(weights) or WeightFile(str(shipped_attention(weights)))
    tensors, about = load_part(str(file), SCORER)
    if not is_for_backbone(about, backbone):
        raise WeightsError(
            f"{file.path}: scores the features of {_summary(about.get('backbone'))}, but the config"
            f" extracts those of {_summary(backbone)}; train an attention for them with"
            " `delfjax train`, or set scorer.kind=norm"
        )

    def build(rngs: nnx.Rngs) -> Scorer:
        if "code_dim" in about:
            return AutoencodedScorer(
                channels,
                code_dim=int(about["code_dim"]),
                code_bias="encoder.bias" in tensors,
                hidden=hidden,
                rectified=bool(about.get("rectified", True)),
                rngs=rngs,
            )
        return AttentionScorer(channels, hidden=hidden, rngs=rngs)

    model = abstract(build)
    require_match(named_shapes(model), tensors, source=file.path)
    return with_tensors(model, tensors)


def _summary(backbone: Any) -> str:
    """A description of a backbone in one line, long digests cut short."""
    if not isinstance(backbone, Mapping):
        return "an unnamed backbone"
    return " ".join(f"{value:.18s}" for value in map(str, backbone.values()))
