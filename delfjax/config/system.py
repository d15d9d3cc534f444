"""The system: from an image to its features, and from features to a ranked list of images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from delfjax.config.backbone import BackboneConfig
from delfjax.config.global_features import GlobalConfig
from delfjax.config.identities import DELF
from delfjax.config.keypoint_methods import CongasConfig, SiftConfig
from delfjax.config.ranking import ExpansionConfig, RankingConfig
from delfjax.config.values import PositiveFloat, PositiveInt, Seed, Strict, to_dict

# Seven scales, a factor of √2 apart. Source: every DELF/DELG extraction config (0.25, …, 2.0).
PYRAMID = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
# Fields of the section "features" that matter to every method.
_COMMON_FEATURES = ("method", "max_side", "max_features")
# Sections that determine the features of DELF.
EXTRACTION_SECTIONS = ("backbone", "scorer", "features")


@dataclass(frozen=True)
class ScorerConfig(Strict):
    """What ranks the cells of the feature map as keypoints."""

    # "attention": the learned scorer. "norm": the length of the feature vector, for a backbone
    # without a trained scorer.
    kind: Literal["attention", "norm"] = "attention"
    # Hidden width of the attention scorer. Source: TF1/TF2 code, 512.
    hidden: PositiveInt = 512
    # "landmark_world" (shipped with the library: trained on rendered landmarks, for
    # EfficientNet-Lite0 with ImageNet weights), the path of a .safetensors file written by delfjax,
    # or "random" (for tests). D-03: on real photos, "landmark_world" finds more than the norm.
    weights: str = "landmark_world"


@dataclass(frozen=True)
class FeaturesConfig(Strict):
    """From an image to its local features and, optionally, one global descriptor.

    Methods other than DELF use ``max_side`` and ``max_features`` alone, and a section of their own.
    """

    # What finds and describes local features: "delf", or "sift" or "congas" with the section of
    # that name.
    method: Literal["delf", "sift", "congas"] = "delf"
    # Images with a longer side than this are reduced to it before extraction, pixels; images are
    # never enlarged. Source: DELF configs.
    max_side: Annotated[int, Field(ge=32, le=4096)] = 1024
    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = PYRAMID
    # Features kept per image, over all scales. Source: DELF configs.
    max_features: PositiveInt = 1000
    # Pyramid levels with a shorter side than this are skipped, pixels. Source: TF code, where
    # images below 10 px have no features.
    min_level_side: PositiveInt = 10
    # Smallest distance of a keypoint from the image's edge, pixels of the pyramid level. A cell
    # centred beyond the edge describes padding, and padding matches padding. Source: measured on
    # real photos, where 0 gains 0.01 to 0.06 mAP over no limit, and 16 gains nothing more.
    border_px: Annotated[float, Field(ge=0)] = 0.0
    # Lower bound of the attention score: "none"; "absolute" (score ≥ threshold); "percentile"
    # (threshold is a percentile of the image's scores, 0–100).
    threshold_kind: Literal["none", "absolute", "percentile"] = "none"
    threshold: float = 0.0
    # Largest overlap (intersection over union) of two receptive boxes; above it, the one with the
    # lower score is suppressed. 1.0 turns suppression off. Source: DELF configs.
    nms_iou: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Precision of the backbone. bfloat16 halves the memory traffic on accelerators.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Global descriptor to compute in the same pass.
    global_descriptor: Literal["none", "gem", "mac", "rmac"] = "none"
    # Images per compiled call and device; 0 chooses by platform (1 on CPU, 16 on accelerators).
    batch_size: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class ReductionConfig(Strict):
    """L2 → PCA → L2 of the local descriptors."""

    # Source: the paper, 40 dimensions.
    dim: PositiveInt = 40
    # Divide each component by its standard deviation. D-02: the paper does not say whether to; on
    # real photos it helps.
    whiten: bool = True
    # Most descriptors sampled from the database to fit on.
    max_samples: PositiveInt = 200_000
    # Path of a delfjax model file whose reduction is used unchanged; empty to fit one on the
    # database.
    weights: str = ""


@dataclass(frozen=True)
class IndexConfig(Strict):
    """The nearest-neighbour index over all local descriptors of the database."""

    # "auto" is "exact" up to auto_exact_below descriptors and "ivf" above. "ivf_pq" is the paper's
    # compressed index.
    kind: Literal["auto", "exact", "ivf", "ivf_pq"] = "auto"
    auto_exact_below: PositiveInt = 100_000
    # Inverted lists; 0 chooses 4·√N for N descriptors. Source: the paper uses 8192.
    lists: Annotated[int, Field(ge=0)] = 0
    # Lists visited per query descriptor. Source: measured, 64 of about 2600 lists gain 0.01 to 0.04
    # mAP over 16.
    probes: PositiveInt = 64
    # Product quantiser: 10 sub-vectors of 5 bits, 50 bits in all. Source: the paper.
    pq_subvectors: PositiveInt = 10
    pq_bits: Annotated[int, Field(ge=4, le=12)] = 5
    # Iterations of k-means for the coarse codebook. Ours: more did not change measured results.
    kmeans_iterations: PositiveInt = 10
    # Most descriptors sampled to train the coarse codebook and the quantiser.
    train_samples: PositiveInt = 200_000


@dataclass(frozen=True)
class SearchConfig(Strict):
    """From query features to a ranked list."""

    # Nearest neighbours per query descriptor. Source: the paper (unconfirmed), K = 60.
    neighbours: PositiveInt = 60
    # Where even the last of the neighbours has this cosine or more, all of them are copies of one
    # thing (many copies of one photo, for instance), and more neighbours are taken; and another
    # shortlist is verified if nearly all of one match. 1 turns both off. Source: on 120 real photos
    # without copies, the 60th neighbour never reaches 0.9.
    crowded_cosine: Annotated[float, Field(gt=0, le=1)] = 0.9
    # Database images verified geometrically, those with most votes. Source: DELF/DELG re-ranking,
    # 100.
    shortlist: PositiveInt = 100


@dataclass(frozen=True)
class VerificationConfig(Strict):
    """Geometric verification of putative matches."""

    model: Literal["affine", "homography"] = "affine"
    # Largest residual of an inlier, pixels of the database image at extraction size (longer side at
    # most features.max_side). Source: measured on real photos of 512 px (D-05); DELF's match_images
    # uses 20 for 1024 px.
    threshold_px: PositiveFloat = 12.0
    # Most putative matches verified per pair of images, the most similar ones. Source: the number
    # of features of a query.
    max_matches: Annotated[int, Field(ge=3, le=65536)] = 1024
    # Similarity transforms tried per pair of images, each estimated from two matches. Source:
    # measured on 1000 matches of which 1.5–4 % are true: 2048 recover 0.83 of the true ones, 4096
    # recover 0.90. One more transform is tried per match and rotation (below), at the scale given
    # by the match's two features.
    pair_hypotheses: PositiveInt = 4096
    # Rotations tried for each single match at its own scale, degrees. Source: visitors hold
    # their cameras upright.
    rotations_deg: tuple[float, ...] = (0.0,)
    # Number of best hypotheses refined to affine fits (same measurement: 64 recover 0.88, 256
    # recover 0.90), and number of best fits that are then compared by one-to-one inliers.
    refined: PositiveInt = 256
    finalists: PositiveInt = 4
    # Tolerances of the first fits, as multiples of threshold_px. They are wide because a similarity
    # only approximates an affine map.
    refine_tolerances: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (2.0, 1.5, 1.25)
    # Further fits at threshold_px itself; beyond two, the inliers no longer change in practice.
    final_fits: PositiveInt = 2
    # Largest enlargement or reduction in any direction. Source: ratio of the pyramid's extreme
    # scales, 2.0 / 0.25.
    max_scale_change: Annotated[float, Field(gt=1)] = 8.0
    # Largest ratio between the stretches in two directions. Source: a façade seen at 70° from its
    # normal, 1 / cos 70°.
    max_anisotropy: Annotated[float, Field(gt=1)] = 3.0
    # Largest rotation, degrees; 180 allows all. Source: the features are not rotation-invariant.
    max_rotation_deg: Annotated[float, Field(gt=0, le=180)] = 60.0
    # Smallest spread of the inliers in either image, as a standard deviation in multiples of
    # threshold_px. Inliers closer together form a point or a line and determine no transform.
    min_spread: PositiveFloat = 0.25
    # Fewest inliers for which an image counts as found in a ranked list. Source: measured on 417
    # real photos, where 20 accepts 94 % of the right pairs and 0.4 % of the wrong ones. In small
    # databases, where nearly every feature votes for every image, most wrong images reach it, so
    # the verdict on a photo rests on the two numbers below.
    min_inliers: PositiveInt = 20
    # Least evidence for which two photos match: the sum of the squared cosines of those mutual
    # nearest neighbours that are inliers. The more photos a query is compared with, the higher the
    # best of the wrong ones reaches, so each factor of ten in the number of photos adds
    # evidence_per_decade. Source: measured on 417 real photos (D-08), in databases of 1 to 400: of
    # the queries without an answer, 1 to 5 % are told that something matches (27 to 96 % by 20
    # inliers), and nine in ten of the right pairs that 20 inliers accept are kept. Nothing that
    # was tried beside it (counts, coverage, scales, guided matching) told look-alikes apart better;
    # the cosine of a global descriptor does, by 2 to 6 of 100 right pairs at 2 % false ones, but
    # would have to be extracted, too. A steeper bar (3.75) loses 7 % of the right answers among 100
    # photos to save 1 % of false ones.
    min_evidence: PositiveFloat = 6.0
    evidence_per_decade: Annotated[float, Field(ge=0)] = 2.5

    def required_evidence(self, photos: int) -> float:
        """Least evidence for which a photo matches a query that is compared with ``photos``."""
        return self.min_evidence + self.evidence_per_decade * math.log10(max(photos, 1))


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
    global_features: GlobalConfig = field(default_factory=GlobalConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    expansion: ExpansionConfig = field(default_factory=ExpansionConfig)
    sift: SiftConfig = field(default_factory=SiftConfig)
    congas: CongasConfig = field(default_factory=CongasConfig)
    seed: Seed = 0


@dataclass(frozen=True)
class DelfConfig(SystemSections):
    """The whole system: everything that an extraction, an index and a search depend on."""

    def extraction(self) -> dict[str, Any]:
        """The plain values that determine the contents of a feature store."""
        method = self.features.method
        if method != DELF:
            common = {name: getattr(self.features, name) for name in _COMMON_FEATURES}
            return {"features": common, method: to_dict(getattr(self, method))}
        part = {name: to_dict(getattr(self, name)) for name in EXTRACTION_SECTIONS}
        del part["features"]["batch_size"], part["features"]["method"]
        # Only random weights depend on the seed; any other extraction is the same for every seed.
        random = "random" in (
            self.backbone.weights,
            self.scorer.kind == "attention" and self.scorer.weights,
        )
        return {**part, "seed": self.seed} if random else part

    def global_extraction(self) -> dict[str, Any]:
        """The plain values that determine the global descriptors in a store."""
        part = to_dict(self.global_features)
        for name in ("batch_size", "whitening", "index", "pq_subvectors"):
            del part[name]
        # Only random weights depend on the seed.
        seed = {"seed": self.seed} if self.global_features.backbone.weights == "random" else {}
        return {"global_features": part, **seed}
