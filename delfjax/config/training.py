"""The config of training: one dataclass serves all stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from delfjax.config.values import PositiveFloat, PositiveInt, Strict, UnitFloat


@dataclass(frozen=True)
class OptimiserConfig(Strict):
    """Gradient descent. The paper gives no optimiser, learning rate, batch size or duration: these
    values are TF's or ours (D-06)."""

    # Source: the TF2 code, for "sgd" and its momentum; "adamw" is ours.
    name: Literal["sgd", "adamw"] = "sgd"
    # Source: the TF2 code, for batches of 32.
    learning_rate: PositiveFloat = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    # Weight decay of kernels, decoupled from the gradient for adamw and added to it for sgd.
    # Source: TF declares 1e-4 but never adds it to the loss.
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    # Decay of the learning rate to 0 over all steps. Source: "linear" is the TF2 code's; "cosine"
    # is ours.
    schedule: Literal["cosine", "linear"] = "cosine"
    # Steps over which the learning rate first rises linearly from 0.
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    # Largest norm of the gradient over all parameters. Source: the TF2 code.
    clip_norm: PositiveFloat = 10.0


@dataclass(frozen=True)
class DelgConfig(Strict):
    """Fields of the stage "delg" alone. Source of all values: the TF2 code and its command line."""

    # Length of the autoencoder's code, the local descriptor.
    code_dim: PositiveInt = 128
    # Length of the global descriptor, computed between GeM pooling and the classifier.
    embedding_dim: PositiveInt = 2048
    # ArcFace: the margin added to the angle of the correct landmark, radians, and the factor that
    # multiplies the cosines.
    margin: Annotated[float, Field(ge=0, lt=1.5)] = 0.1
    scale: PositiveFloat = 45.25
    # Weights of the attention and autoencoder losses, relative to that of the global descriptor.
    attention_weight: Annotated[float, Field(ge=0)] = 1.0
    reconstruction_weight: Annotated[float, Field(ge=0)] = 10.0


@dataclass(frozen=True)
class TrainingConfig(Strict):
    """One training stage. In every stage, the backbone's batch norm keeps its running statistics;
    the scorer's learns its own."""

    # "finetune": the backbone learns to classify landmarks from the mean of its features.
    # "attention": with fixed features, the scorer learns to classify from their weighted mean.
    # "delg": both at once, with a global descriptor instead of the mean, and an autoencoder.
    stage: Literal["finetune", "attention", "delg"] = "finetune"
    # Side to which a photograph's central square is resized, pixels. Source: the paper, 250 for
    # "finetune" and 900 for "attention".
    square_side: PositiveInt = 250
    # Side of the random crop of that square, pixels. Source: the paper, 224 and 720.
    crop_side: PositiveInt = 224
    # Scales, one of which is applied to the whole batch; images of equal size need no padding.
    # Source: the authors, in an issue of their code.
    rescales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
    # Mirror each photograph with probability one half. Ours: TF does not.
    mirror: bool = True
    # Number of first layers that the stages "finetune" and "delg" do not train. "attention" trains
    # no layer of the backbone; with cached_maps, it shares the maps of these first layers with
    # every backbone whose first layers are the same.
    frozen_layers: Annotated[int, Field(ge=0)] = 0
    # Take crops from feature maps that the frozen layers computed once, instead of from
    # photographs: on a CPU, minutes instead of hours.
    cached_maps: bool = False
    # Hidden width of the scorer. Source: TF1 and TF2 code.
    hidden: PositiveInt = 512
    # Pooling of the weighted features: "mean" over the cells, as in TF, makes the logits
    # independent of the size of the map; "sum" is the poster's.
    pooling: Literal["mean", "sum"] = "mean"
    batch_size: PositiveInt = 32
    # Number of parts in which a batch is computed, one after another. A CPU computes single images
    # where the loss of an image does not depend on the others.
    accumulate: PositiveInt = 1
    steps: PositiveInt = 1000
    label_smoothing: UnitFloat = 0.0
    # Draw a landmark first and then one of its photographs, so that all landmarks are equally
    # frequent.
    class_balanced: bool = True
    # Share of each landmark's photographs held out for validation, at least one. Source: the TF2
    # code.
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    # Steps between validations; each validation writes a checkpoint.
    validate_every: PositiveInt = 1000
    # Steps between lines of metrics.jsonl.
    log_every: PositiveInt = 10
    # Precision of the scorer and of the trained layers of the backbone.
    dtype: Literal["float32", "bfloat16"] = "float32"
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    delg: DelgConfig = field(default_factory=DelgConfig)


@dataclass(frozen=True)
class TrainingStages(Strict):
    """The two stages of DELF in order, and the stage "delg", which replaces both."""

    finetune: TrainingConfig = field(default_factory=TrainingConfig)
    attention: TrainingConfig = field(default_factory=lambda: TrainingConfig(stage="attention"))
    delg: TrainingConfig = field(default_factory=lambda: TrainingConfig(stage="delg"))
