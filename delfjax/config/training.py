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
    # Decay of the learning rate: to 0 over all steps ("linear" is the TF2 code's; "cosine" is
    # ours); "fifths", a fifth of it for the second third of the steps and a 25th for the last
    # (siaMAC); "tenth", a tenth of it for the second half (DIR, unconfirmed).
    schedule: Literal["cosine", "linear", "fifths", "tenth"] = "cosine"
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
    # "global": a global descriptor learns to rank photos (:class:`GlobalTrainingConfig`).
    stage: Literal["finetune", "attention", "delg", "global"] = "finetune"
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
class HeadConfig(Strict):
    """From a feature map to the global descriptor that is trained. The fields mean what those of
    the section "global_features" mean."""

    # Source: siaMAC, "mac"; DIR, "rmac"; Radenović et al. 2018, "gem".
    pooling: Literal["mac", "rmac", "gem"] = "mac"
    # Exponent of "gem" before it is learned.
    gem_exponent: PositiveFloat = 3.0
    rmac_levels: Annotated[int, Field(ge=1, le=4)] = 2
    rmac_whole_image: bool = False
    # Dimensions of the shift and projection of each region of "rmac", which are learned, too; 0 for
    # none. They start as PCA whitening of the regions of training photos. Source: DIR, 2048.
    projection_dim: Annotated[int, Field(ge=0)] = 0
    # Share of the mean variance that this PCA adds to every variance. Source: ours.
    shrinkage: PositiveFloat = 1.0
    # After training, learn a whitening (Lw) from photos and their positives: "trained", of the
    # descriptor that was trained; "rmac", of R-MAC with three levels and the whole image, by the
    # same network. Source: siaMAC does both; its row of the poster is R-MAC's.
    whiten: Literal["none", "trained", "rmac"] = "none"


@dataclass(frozen=True)
class TuplesConfig(Strict):
    """Tuples of photos: a query, a positive (a photo of the same landmark), and negatives (photos
    of other landmarks)."""

    # Source: siaMAC, contrastive; DIR, triplet.
    loss: Literal["contrastive", "triplet"] = "contrastive"
    # Contrastive: the distance from which a negative is far enough. Triplet: by how much the square
    # of its distance must exceed the positive's. Source: siaMAC, 0.7; DIR, 0.1 (unconfirmed).
    margin: PositiveFloat = 0.7
    # A positive shows at least this share of the points of the query, and at a scale that differs
    # by at most this factor, where it is known which points photos share. Source: siaMAC
    # (unconfirmed).
    min_overlap: UnitFloat = 0.2
    max_scale_change: Annotated[float, Field(ge=1)] = 1.5
    # Negatives of a tuple, drawn from the hardest: those of other landmarks that are nearest by the
    # present descriptor. Source: siaMAC, all 5 of 5; DIR, 1 of 25 (unconfirmed).
    negatives: PositiveInt = 5
    hardest: PositiveInt = 5
    # Take at most one negative from each landmark. Source: siaMAC; without, its mAP is lower.
    one_per_landmark: bool = True
    # Photos that negatives are searched in, drawn anew each time. Source: DIR, 5000 (unconfirmed);
    # Radenović et al. 2018, 22,000.
    pool: PositiveInt = 5000
    # Steps after which tuples are drawn anew. Source: siaMAC, three times per epoch; DIR, 16
    # (unconfirmed).
    mine_every: PositiveInt = 100


@dataclass(frozen=True)
class GlobalTrainingConfig(TrainingConfig):
    """The stage "global": a global descriptor learns that photos of one landmark are near each
    other and far from all others.

    Photos are whole, reduced to a longer side of `square_side` and padded to a square: `crop_side`,
    `rescales` and `mirror` do not apply, as in siaMAC and DIR. `batch_size` counts tuples, and
    `validation_share` landmarks: those held out are searched among each other.
    """

    stage: Literal["global"] = "global"
    head: HeadConfig = field(default_factory=HeadConfig)
    tuples: TuplesConfig = field(default_factory=TuplesConfig)


@dataclass(frozen=True)
class TrainingStages(Strict):
    """The two stages of DELF in order; the stage "delg", which replaces both; and the global
    descriptors of siaMAC and DIR."""

    finetune: TrainingConfig = field(default_factory=TrainingConfig)
    attention: TrainingConfig = field(default_factory=lambda: TrainingConfig(stage="attention"))
    delg: TrainingConfig = field(default_factory=lambda: TrainingConfig(stage="delg"))
    siamac: GlobalTrainingConfig = field(default_factory=GlobalTrainingConfig)
    dir: GlobalTrainingConfig = field(
        default_factory=lambda: GlobalTrainingConfig(
            head=HeadConfig(pooling="rmac", projection_dim=256),
            tuples=TuplesConfig(loss="triplet", margin=0.1, negatives=1, hardest=25),
        )
    )
