"""How a stage is trained: one frozen record for all stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from delfjax.config.values import PositiveFloat, PositiveInt, Strict, UnitFloat


@dataclass(frozen=True)
class OptimiserConfig(Strict):
    """Gradient descent. The paper names no optimiser, rate, batch size or duration: all of these
    are ours or TF's (D-06)."""

    # Source of "sgd" and its momentum: the TF2 code.
    name: Literal["sgd", "adamw"] = "sgd"
    # Source: the TF2 code, for batches of 32.
    learning_rate: PositiveFloat = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    # Of kernels, decoupled from the gradient for adamw and added to it for sgd. TF declares 1e-4
    # but never adds it to the loss.
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    # Down to 0 over all steps. Source of "linear": the TF2 code; "cosine" is ours.
    schedule: Literal["cosine", "linear"] = "cosine"
    # Steps of a linear rise from 0.
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    # Largest norm of the gradient of all parameters. Source: the TF2 code.
    clip_norm: PositiveFloat = 10.0


@dataclass(frozen=True)
class DelgConfig(Strict):
    """What the stage "delg" has of its own. Source of all: the TF2 code and the flags it was run
    with."""

    # Length of the autoencoder's code, the local descriptor.
    code_dim: PositiveInt = 128
    # Length of the global descriptor, between GeM and the classifier.
    embedding_dim: PositiveInt = 2048
    # ArcFace: angle added to that of the right landmark, radians, and what cosines are multiplied
    # by.
    margin: Annotated[float, Field(ge=0, lt=1.5)] = 0.1
    scale: PositiveFloat = 45.25
    # Of the losses of attention and autoencoder, beside that of the global descriptor.
    attention_weight: Annotated[float, Field(ge=0)] = 1.0
    reconstruction_weight: Annotated[float, Field(ge=0)] = 10.0


@dataclass(frozen=True)
class TrainingConfig(Strict):
    """One stage. Batch norm of the backbone keeps its running statistics in both; that of the
    scorer learns its own."""

    # "finetune": the backbone learns to classify by the mean of its features. "attention": on fixed
    # features, a scorer learns to classify by their weighted mean. "delg": both at once, a global
    # descriptor instead of the mean, and an autoencoder.
    stage: Literal["finetune", "attention", "delg"] = "finetune"
    # A photograph's central square is resized to this side, pixels. Source: the paper, 250 and 900.
    square_side: PositiveInt = 250
    # Side of the random square cut out of that, pixels. Source: the paper, 224 and 720.
    crop_side: PositiveInt = 224
    # The batch is resized as a whole by one of these, so that nothing is padded. Source: the
    # authors, in an issue of their code.
    rescales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
    # Mirror half of the photographs. Ours: off in TF.
    mirror: bool = True
    # Layers from the first that the stages "finetune" and "delg" leave as they are; "attention"
    # leaves all, and with cached maps may share those of these layers with every backbone that has
    # them.
    frozen_layers: Annotated[int, Field(ge=0)] = 0
    # Crops are cut out of feature maps that the frozen layers made once, not out of photographs:
    # minutes, not hours, on CPU.
    cached_maps: bool = False
    # Hidden width of the scorer. Source: TF1 and TF2 code.
    hidden: PositiveInt = 512
    # "mean" over the cells, as in TF, so that logits do not depend on the size of the map; "sum" as
    # on the poster.
    pooling: Literal["mean", "sum"] = "mean"
    batch_size: PositiveInt = 32
    # Parts that a batch is computed in, one after another. A CPU takes single images where the loss
    # of none needs the others.
    accumulate: PositiveInt = 1
    steps: PositiveInt = 1000
    label_smoothing: UnitFloat = 0.0
    # Draw a landmark first, then one of its photographs.
    class_balanced: bool = True
    # Photographs of each landmark that are kept for validation: at least one. Source: the TF2 code.
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    # Steps between validations; each writes a checkpoint.
    validate_every: PositiveInt = 1000
    # Steps between lines of the metrics.
    log_every: PositiveInt = 10
    # Arithmetic of the backbone's trained part and of the scorer.
    dtype: Literal["float32", "bfloat16"] = "float32"
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    delg: DelgConfig = field(default_factory=DelgConfig)


@dataclass(frozen=True)
class TrainingStages(Strict):
    """Two stages in their order, and the one that does the work of both at once."""

    finetune: TrainingConfig = field(default_factory=TrainingConfig)
    attention: TrainingConfig = field(default_factory=lambda: TrainingConfig(stage="attention"))
    delg: TrainingConfig = field(default_factory=lambda: TrainingConfig(stage="delg"))
