"""The system: from an image to its features, and from features to a ranked list of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from delfjax.config.values import PositiveFloat, PositiveInt, Strict, to_dict

# Seven levels, a factor √2 apart. Source: every DELF/DELG extraction config (0.25, 0.3536, …, 2.0).
PYRAMID = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
# What decides the features of an image.
EXTRACTION_SECTIONS = ("backbone", "scorer", "features")


@dataclass(frozen=True)
class BackboneConfig(Strict):
    """The convolutional network that turns an image into a feature map."""

    name: Literal["efficientnet_lite0", "resnet50", "resnet101"] = "efficientnet_lite0"
    # Feature map read out. conv4 is the paper's choice; EfficientNet-Lite0 offers its stride-16
    # output under that name.
    output: Literal["conv4", "conv5"] = "conv4"
    # Where a ResNet puts its strides: "he" in the first 1×1 of a stage (He et al. 2015; receptive
    # field 291 at conv4), "v1.5" in the 3×3 (torchvision; 267); and, with TensorFlow's padding and
    # input range, "slim" (the DELF that was released, 291/32), "keras" (DELF's and DELG's newer
    # code, 291/16) and "keras_strided" (the same at stride 32, its default). Must be that of the
    # weights. EfficientNet ignores it.
    stride_layout: Literal["he", "v1.5", "slim", "keras", "keras_strided"] = "v1.5"
    # "imagenet" (embedded for EfficientNet-Lite0), "random" (tests), or a path to a .safetensors
    # file of ours.
    weights: str = "imagenet"


@dataclass(frozen=True)
class ScorerConfig(Strict):
    """What ranks the cells of the feature map as keypoints."""

    # "attention": the learned scorer. "norm": length of the feature vector, for a backbone that
    # none was trained for.
    kind: Literal["attention", "norm"] = "attention"
    # Hidden width of the attention scorer. Source: TF1/TF2 code, 512.
    hidden: PositiveInt = 512
    # "landmark_world" (ships with the suite: trained on rendered landmarks, for EfficientNet-Lite0
    # of ImageNet), a path to a .safetensors file of ours, or "random" (tests). D-03: on real photos
    # it finds more than the norm.
    weights: str = "landmark_world"


@dataclass(frozen=True)
class FeaturesConfig(Strict):
    """From an image to its local features (and, on request, one global descriptor)."""

    # Longest side an image is reduced to before extraction, pixels; images are never enlarged.
    # Source: DELF configs.
    max_side: Annotated[int, Field(ge=32, le=4096)] = 1024
    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = PYRAMID
    # Features kept per image, over all scales. Source: DELF configs.
    max_features: PositiveInt = 1000
    # Levels whose shorter side is below this are left out, pixels. Source: TF code, images below 10
    # px are empty.
    min_level_side: PositiveInt = 10
    # Cells centred closer than this to the image's edge are no keypoints, pixels of the level.
    # Beyond the edge they describe padding, and padding matches padding. Source: measured on real
    # photos, where 0 is worth 0.01 to 0.06 mAP; 16 adds nothing.
    border_px: Annotated[float, Field(ge=0)] = 0.0
    # How low a score may be: "none"; "absolute" (score ≥ threshold); "percentile" (threshold in
    # 0–100 of the image's scores).
    threshold_kind: Literal["none", "absolute", "percentile"] = "none"
    threshold: float = 0.0
    # Receptive boxes overlapping more than this are suppressed; 1.0 turns suppression off. Source:
    # DELF configs.
    nms_iou: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Arithmetic of the backbone. bfloat16 halves the memory traffic on accelerators.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Optional global descriptor of the same pass.
    global_descriptor: Literal["none", "gem", "mac", "rmac"] = "none"
    # Images per compiled call and device; 0 picks one by platform (1 on CPU, 16 on accelerators).
    batch_size: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class ReductionConfig(Strict):
    """L2 → PCA → L2 of the local descriptors."""

    # Source: the paper, 40 dimensions.
    dim: PositiveInt = 40
    # Divide by the standard deviation of each component. D-02: the paper does not say; on real
    # photos it helps.
    whiten: bool = True
    # Descriptors sampled from the database to fit on.
    max_samples: PositiveInt = 200_000
    # A model file of ours whose reduction is used as it is; empty to fit one on the database.
    weights: str = ""


@dataclass(frozen=True)
class IndexConfig(Strict):
    """The nearest-neighbour index over all local descriptors of the database."""

    # "auto" is "exact" up to auto_exact_below descriptors, else "ivf". "ivf_pq" is the paper's
    # compressed index.
    kind: Literal["auto", "exact", "ivf", "ivf_pq"] = "auto"
    auto_exact_below: PositiveInt = 100_000
    # Inverted lists; 0 picks 4·√N. Source for 8192: the paper.
    lists: Annotated[int, Field(ge=0)] = 0
    # Lists visited per query descriptor. Source: measured, 64 of about 2600 are worth 0.01 to 0.04
    # mAP over 16.
    probes: PositiveInt = 64
    # Product quantiser: 10 sub-vectors × 5 bits = 50 bits. Source: the paper.
    pq_subvectors: PositiveInt = 10
    pq_bits: Annotated[int, Field(ge=4, le=12)] = 5
    # Rounds of k-means for the coarse codebook. Ours: more did not change the results measured.
    kmeans_iterations: PositiveInt = 10
    # Descriptors sampled to train the coarse codebook and the quantiser.
    train_samples: PositiveInt = 200_000


@dataclass(frozen=True)
class SearchConfig(Strict):
    """From query features to a ranked list."""

    # Nearest neighbours per query descriptor. Source: the paper (unconfirmed), K = 60.
    neighbours: PositiveInt = 60
    # Database images that go through geometric verification. Source: DELF/DELG re-ranking, 100.
    shortlist: PositiveInt = 100


@dataclass(frozen=True)
class VerificationConfig(Strict):
    """Geometric verification of putative matches."""

    model: Literal["affine", "homography"] = "affine"
    # Largest residual of an inlier, pixels of the database image as features were extracted from it
    # (longer side at most features.max_side). Source: measured on real photos of 512 px (D-05);
    # DELF's match_images has 20 for 1024 px.
    threshold_px: PositiveFloat = 12.0
    # Putative matches verified per pair of images: the most similar ones. Source: as many as a
    # query has features.
    max_matches: Annotated[int, Field(ge=3, le=65536)] = 1024
    # Similarities tried per pair of images, each through two matches. Source: measured on 1000
    # matches of which 1.5–4 % are true: 2048 keep 0.83 of these, 4096 0.90. One more is tried per
    # match and rotation below, at the features' scale.
    pair_hypotheses: PositiveInt = 4096
    # Rotations tried with each match's own scale, degrees. Source: visitors hold their cameras
    # upright.
    rotations_deg: tuple[float, ...] = (0.0,)
    # How many of the best hypotheses become affine fits (same measurement: 64 keep 0.88, 256 0.90),
    # and how many of those compete by one-to-one inliers.
    refined: PositiveInt = 256
    finalists: PositiveInt = 4
    # Tolerances of the first fits, as multiples of threshold_px; wide: a similarity only
    # approximates an affine map.
    refine_tolerances: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (2.0, 1.5, 1.25)
    # Fits at threshold_px itself after those; from two on, inliers no longer change in practice.
    final_fits: PositiveInt = 2
    # Largest enlargement or reduction in any direction. Source: the pyramid's ends, 2.0 / 0.25.
    max_scale_change: Annotated[float, Field(gt=1)] = 8.0
    # Largest ratio between the stretches of two directions. Source: a façade seen from 70° off its
    # normal, 1 / cos 70°.
    max_anisotropy: Annotated[float, Field(gt=1)] = 3.0
    # Largest rotation, degrees; 180 allows all. Source: the features are not rotation-invariant.
    max_rotation_deg: Annotated[float, Field(gt=0, le=180)] = 60.0
    # Narrowest spread of the inliers in either image, standard deviation as a multiple of
    # threshold_px: anything narrower is a point or a line, which fix no transform.
    min_spread: PositiveFloat = 0.25
    # Inliers below which two images are said not to match (the reject option). Source: measured on
    # 417 real photos, where 20 accepts 94 % of the right pairs and 0.4 % of the wrong ones; random
    # lists of 1000 matches reach 9.
    min_inliers: PositiveInt = 20


@dataclass(frozen=True)
class SystemSections(Strict):
    """The sections of the system."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    reduction: ReductionConfig = field(default_factory=ReductionConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    seed: int = 0


@dataclass(frozen=True)
class DelfConfig(SystemSections):
    """The whole system: what an extraction, an index and a search depend on."""

    def extraction(self) -> dict[str, Any]:
        """The part that decides what a feature store holds."""
        part = {name: to_dict(getattr(self, name)) for name in EXTRACTION_SECTIONS}
        del part["features"]["batch_size"]
        # Random weights are drawn from the seed; any other extraction is the same under every seed.
        random = "random" in (
            self.backbone.weights,
            self.scorer.kind == "attention" and self.scorer.weights,
        )
        return {**part, "seed": self.seed} if random else part
