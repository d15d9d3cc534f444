"""Every number that changes a result: frozen dataclasses, presets, strict overrides, a canonical
hash.

A config is a tree of frozen dataclasses. ``override(config, ["features.max_features=500"])`` is the
one way to change a field from text; an unknown field or a wrong type is a :class:`ConfigError` that
names the nearest field.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from delfjax import paths
from delfjax.errors import DelfjaxError
from delfjax.files import flatten, read_json

C = TypeVar("C")

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
UnitFloat = Annotated[float, Field(ge=0, le=1)]

# Seven levels, a factor √2 apart. Source: every DELF/DELG extraction config (0.25, 0.3536, …, 2.0).
PYRAMID = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)

# The one assignment that is no field, and what stands in a model file for the file itself.
_MODEL, _ITSELF = "model", "*"


class ConfigError(DelfjaxError):
    """A config field that does not exist or does not take the value given."""


class Strict:
    """Shared by all configs: unknown fields are refused, values are validated by their
    annotations."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)


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
class MiningConfig(Strict):
    """From photos with positions to landmarks. Not a section of the system's config: no search
    depends on it."""

    # Longest step between photos of one geographic cluster, metres. Source: photos of one landmark
    # of the world are taken within 120 m of it (95 %); with 2 km (reach 8 km), look-alikes are
    # joined and purity falls from 0.96 to 0.35.
    radius_m: PositiveFloat = 200.0
    # Photos of a cluster further apart than this are not compared, metres. Ours: bounds the pairs
    # of a city that is one cluster.
    reach_m: PositiveFloat = 1000.0
    # Features of each photo that take part, those with the highest scores. Ours: bounds the cost of
    # a pair.
    max_features: PositiveInt = 500
    # Cosine of two reduced descriptors below which they are no putative match; −1 admits all. Ours:
    # geometry decides.
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.0
    # Photos that each photo is verified against: those with the most putative matches. Ours: more
    # than a landmark needs.
    shortlist: PositiveInt = 20
    # Inliers from which two photos are joined by an edge. Source: measured on 1280 photos of the
    # world; of 12, 16, 20 and 25 recall is 0.92, 0.88, 0.84 and 0.71, purity the same. Fewer than a
    # search asks for, since neighbours cannot be far apart.
    min_inliers: PositiveInt = 16
    # Photos below which a community is no landmark: a triangle.
    min_photos: Annotated[int, Field(ge=3)] = 3


@dataclass(frozen=True)
class DelfConfig(Strict):
    """The whole system."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    reduction: ReductionConfig = field(default_factory=ReductionConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    seed: int = 0

    def extraction(self) -> dict[str, Any]:
        """The part that decides what a feature store holds."""
        features = {k: v for k, v in to_dict(self.features).items() if k != "batch_size"}
        part = {
            "backbone": to_dict(self.backbone),
            "scorer": to_dict(self.scorer),
            "features": features,
        }
        # Random weights are drawn from the seed; any other extraction is the same under every seed.
        random = "random" in (
            self.backbone.weights,
            self.scorer.kind == "attention" and self.scorer.weights,
        )
        return {**part, "seed": self.seed} if random else part


PRESETS: dict[str, DelfConfig] = {
    "default": DelfConfig(),
    # A laptop in a hurry: about a third of the time.
    "fast": DelfConfig(features=FeaturesConfig(max_side=384, max_features=500)),
    # Seconds, for tests and notebooks in continuous integration.
    "ci": DelfConfig(
        features=FeaturesConfig(max_side=256, max_features=300, scales=(0.5, 0.7071, 1.0))
    ),
    # The paper's index: 8192 coarse cells, 5 of them visited, 50-bit codes.
    "paper2017": DelfConfig(
        backbone=BackboneConfig(name="resnet50", stride_layout="he", weights="random"),
        scorer=ScorerConfig(weights="random"),
        # FAISS wants 39 training descriptors for each of the cells.
        index=IndexConfig(kind="ivf_pq", lists=8192, probes=5, train_samples=320_000),
    ),
}


def preset(name: str) -> DelfConfig:
    """The preset called ``name``.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    require_known("preset", name, PRESETS)
    return PRESETS[name]


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse a ``name`` that is not one of ``known``.

    Raises:
        ConfigError: the message names the nearest and all there are.
    """
    there = list(known)
    if name not in there:
        raise ConfigError(
            f"{kind} {name!r} is unknown{_nearest(name, there) or ';'} there are:"
            f" {', '.join(there)}"
        )


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON values of a config."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(kind: type[C], values: dict[str, Any]) -> C:
    """Validated config of type ``kind`` from plain JSON values.

    Raises:
        ConfigError: a field that does not exist, or a value that it does not take.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"config field {where!r}: {first['msg']}, got {first['input']!r}"
        ) from None


def config_hash(config: Any) -> str:
    """Ten hexadecimal digits that identify a config (or a plain dictionary of one), seed
    included."""
    values = config if isinstance(config, dict) else to_dict(config)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def override(config: C, assignments: Iterable[str]) -> C:
    """``config`` with each ``path.to.field=value`` applied in turn; values are JSON, or bare text.

    ``model=FILE`` stands for all fields that a model file sets (``delfjax weights export`` writes
    them); FILE may be the name of one that comes with the suite.

    Raises:
        ConfigError: no ``=``, an unknown field (the nearest is named), a value of the wrong type,
            or no such model file.
    """
    values = to_dict(config)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment!r} is not of the form path.to.field=value")
        settings = (
            _model_settings(text.strip())
            if path.strip() == _MODEL
            else {path.strip(): _parse(text.strip())}
        )
        for field_path, value in settings.items():
            _assign(values, field_path, value)
    return from_dict(type(config), values)


def _model_settings(name: str) -> dict[str, Any]:
    """Dotted field → value, of a model file."""
    file = (
        Path(name)
        if Path(name).suffix == ".safetensors"
        else paths.shipped_weights() / f"{name}.safetensors"
    )
    about = read_json(
        file.with_suffix(".json"), error=lambda reason: ConfigError(f"model={name}: {reason}")
    )
    try:
        found = flatten(about["config"]["system"])
    except (KeyError, TypeError, AttributeError):
        what = "holds no whole system; `delfjax weights export` writes one"
        raise ConfigError(f"model={name}: {file.with_suffix('.json')} {what}") from None
    return {path: str(file) if value == _ITSELF else value for path, value in found.items()}


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    known = list(flatten(values))
    if path not in known:
        raise ConfigError(f"config field {path!r} does not exist{_nearest(path, known)}")
    *rooms, leaf = path.split(".")
    for room in rooms:
        values = values[room]
    values[leaf] = value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
