"""Conversion of the published DELF and DELG models from TensorFlow's files to a delfjax model file.

The input is a SavedModel or checkpoint of TF1's DELF (slim's ResNet50 or ResNet101 with
``attention_block``) or of TF2's DELF or DELG (``backbone``, ``attention``, with or without
``autoencoder``). Two things are left out on purpose: variables that only training needs, and DELG's
global head (GeM of conv5 and a whitening layer), which no delfjax setting corresponds to.
Source of the settings: the published extraction configs. The threshold of 100 is that of TF1's
    DELF; for other models, set ``features.threshold``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import nnx
from jaxtyping import Float32

from delfjax.config import (
    BackboneConfig,
    DelfConfig,
    FeaturesConfig,
    ReductionConfig,
    ScorerConfig,
    override,
    to_dict,
)
from delfjax.models.attention import AttentionScorer, AutoencodedScorer
from delfjax.models.delf import Backbone, Scorer, architecture
from delfjax.models.foreign.importing import (
    TensorFlowNames,
    import_tensorflow,
    keras_names,
    slim_names,
)
from delfjax.models.foreign.tf_checkpoints import read_tf_tensors
from delfjax.models.foreign.wire_format import Message
from delfjax.models.model_files import (
    BACKBONE,
    REDUCTION,
    SCORER,
    SYSTEM_FEATURES,
    part_tensors,
    save_model,
)
from delfjax.models.resnet import StrideLayout
from delfjax.models.tensors import abstract, named_shapes
from delfjax.models.weights import Tensors, WeightsError, file_bytes, tensor_digest
from delfjax.ops.receptive_field import compose

# Largest file of a PCA. A matrix of 2048 × 2048 takes 16 MB; a field takes twenty times its two
# bytes when it is parsed.
MAX_DATUM_BYTES = 32 << 20
# The first convolution identifies a checkpoint; any scope may precede its name.
_SLIM = re.compile(r"^(?P<scope>(?:.*/)?)resnet_v1_(?P<depth>50|101)/conv1/weights$")
_KERAS = re.compile(r"^(?P<scope>(?:.*/)?)backbone/conv1/kernel$")
# Keras 3 holds a kernel in the attribute `_kernel`.
_KERNEL = re.compile(r"/_kernel$")


@dataclasses.dataclass(frozen=True)
class Published:
    """A published checkpoint that was recognised.

    Attributes:
        path: its location.
        tensors: tensors by the names of ``naming``, without their common scope.
        naming: the scheme by which the checkpoint names its tensors.
        name: architecture of the backbone.
        layouts: stride layouts that the tensors can be for, the likeliest first.
    """

    path: Path
    tensors: Tensors
    naming: TensorFlowNames
    name: Literal["resnet50", "resnet101"]
    layouts: tuple[StrideLayout, ...]

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor that delfjax calls ``name``."""
        return self.naming(name) in self.tensors

    def width(self, name: str) -> int:
        """Output channels of the kernel that delfjax calls ``name``; the default attention width if
        the checkpoint lacks it."""
        kernel = self.tensors.get(self.naming(name))
        return ScorerConfig().hidden if kernel is None or kernel.ndim == 0 else kernel.shape[-1]

    @property
    def coded(self) -> bool:
        """Whether an autoencoder computes the descriptors; TF1's DELF has no autoencoder."""
        return self.naming.biased and self.has("scorer.encoder.kernel")


def recognise(path: str | Path) -> Published:
    """Identify the model in a TensorFlow checkpoint by the names of its tensors.

    Raises:
        WeightsError: the checkpoint is missing or damaged, or is neither DELF nor DELG.
    """
    path = Path(path)
    tensors = read_tf_tensors(path)
    for found in filter(None, map(_SLIM.match, tensors)):
        name: Literal["resnet50", "resnet101"] = (
            "resnet50" if found["depth"] == "50" else "resnet101"
        )
        naming = slim_names(f"resnet_v1_{found['depth']}")
        return Published(path, _without(found["scope"], tensors, path), naming, name, ("slim",))
    by_object = {
        _KERNEL.sub("/kernel", name): tensor
        for name, tensor in read_tf_tensors(path, names="objects").items()
    }
    for found in filter(None, map(_KERAS.match, by_object)):
        return Published(
            path,
            _without(found["scope"], by_object, path),
            keras_names(),
            "resnet50",
            ("keras_strided", "keras"),
        )
    first = ", ".join(sorted(tensors)[:3])
    raise WeightsError(
        f"{path}: neither DELF nor DELG: none of its {len(tensors)} tensors ({first}, …) is called"
        " 'resnet_v1_50/conv1/weights' or 'backbone/conv1/kernel'"
    )


def import_published(
    out: Path, path: str | Path, *, pca: Sequence[Path] = (), overrides: Iterable[str] = ()
) -> None:
    """Convert a published model to a model file.

    Args:
        out: the ``.safetensors`` file to write.
        path: the checkpoint; see :func:`~delfjax.models.foreign.tf_checkpoints.read_tf_tensors`.
        pca: the ``.datum`` files of the model's reduction, or the folder that holds them.
        overrides: ``path.to.field=value``, for instance a stride layout, which the tensors do not
            reveal, ``reduction.dim`` or ``reduction.whiten``.

    Raises:
        WeightsError: the checkpoint is neither DELF nor DELG, does not fit the config, or a file is
            missing or damaged.
        ConfigError: an override is not valid.
    """
    found = recognise(path)
    config = override(_config(found), overrides)
    layers = {"name": config.backbone.name, "stride_layout": config.backbone.stride_layout}
    if layers["name"] != found.name or layers["stride_layout"] not in found.layouts:
        raise WeightsError(
            f"{path}: is a {found.name} in layout {' or '.join(found.layouts)}, but the config sets"
            f" {layers}"
        )
    backbone, tensors, scorer = _parts(found, config)
    hidden = found.width("scorer.hidden.kernel")
    system: dict[str, dict[str, Any]] = {
        BACKBONE: {**layers, "output": config.backbone.output},
        SCORER: {"kind": "attention", "hidden": hidden},
        "features": {name: to_dict(config.features)[name] for name in SYSTEM_FEATURES},
    }
    made_for = {"backbone": {**system[BACKBONE], "weights": tensor_digest(tensors)}}
    described = {"name": "attention", "hidden": hidden, **made_for}
    reduction: Tensors | None = None
    explained = 1.0
    if found.coded:
        # A code needs no further reduction.
        dim = found.width("scorer.encoder.kernel")
        described |= {"name": "delg", "code_dim": dim}
        reduction = {"mean": np.zeros(dim, np.float32), "projection": np.eye(dim, dtype=np.float32)}
    if pca:
        if found.coded:
            raise WeightsError(
                f"{path}: its descriptors are codes of an autoencoder, which take no PCA; leave"
                " --pca out"
            )
        reduction, explained = read_pca(pca, config=config.reduction)
    parts: dict[str, tuple[Tensors, dict[str, Any]]] = {
        BACKBONE: (tensors, {**layers, "source": Path(path).name}),
        SCORER: (scorer, described),
    }
    if reduction is not None:
        system[REDUCTION] = {
            "dim": reduction["projection"].shape[1],
            "whiten": config.reduction.whiten and not found.coded,
        }
        parts[REDUCTION] = reduction, {**system[REDUCTION], "explained": explained, **made_for}
    field = dataclasses.asdict(compose(backbone.windows(config.backbone.output)))
    save_model(out, parts, system=system, about={"receptive_field": field})


def read_pca(files: Sequence[Path], *, config: ReductionConfig) -> tuple[Tensors, float]:
    """The published reduction as tensors "mean" and "projection", and the share of the variance
    that it keeps (1 if no file holds variances).

    Args:
        files: ``DatumProto`` files of the mean, the projection matrix (one direction per row) and
            the variances, identified by "mean", "proj" and "var" in their names; or a folder that
            holds them. Only whitening needs the variances.
        config: number of directions, and whether to whiten.

    Raises:
        WeightsError: a file is missing or damaged, or the sizes do not agree.
    """
    named = {
        path.name.lower(): path
        for given in files
        for path in ([*given.glob("*.datum")] if given.is_dir() else [given])
    }

    def read(word: str) -> np.ndarray:
        paths = [path for name, path in named.items() if word in name]
        if len(paths) != 1:
            raise WeightsError(
                f"--pca: {len(paths)} of the files {sorted(named)} have '{word}' in their names;"
                " expected exactly one"
            )
        return read_datum(paths[0])

    mean = read("mean").reshape(-1)
    matrix = read("proj")
    dim = config.dim
    if matrix.ndim != 2 or matrix.shape[1] != len(mean) or len(matrix) < dim:
        raise WeightsError(
            f"--pca: a matrix of shape {matrix.shape} and a mean of {len(mean)} values cannot give"
            f" {dim} directions; directions are rows, and reduction.dim sets how many are used"
        )
    projection = matrix[:dim].T.astype(np.float64)
    explained = 1.0
    if config.whiten or any("var" in name for name in named):
        spread = read("var").reshape(-1).astype(np.float64)
        if len(spread) < dim or not (spread[:dim] > 0).all():
            raise WeightsError(
                f"--pca: {dim} directions need as many positive variances; the file holds"
                f" {len(spread)} values"
            )
        explained = float(spread[:dim].sum() / spread.sum())
        projection = projection / np.sqrt(spread[:dim]) if config.whiten else projection
    return {"mean": mean, "projection": np.ascontiguousarray(projection, np.float32)}, explained


def read_datum(path: str | Path) -> Float32[np.ndarray, ...]:
    """The array in a ``DatumProto`` file: a shape, and floats in row-major order.

    Source: ``datum.proto`` of DELF.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = Path(path)
    data = file_bytes(path)
    if len(data) > MAX_DATUM_BYTES:
        raise WeightsError(
            f"{path}: has {len(data):,} bytes, expected at most {MAX_DATUM_BYTES:,} of a DatumProto"
        )
    try:
        datum = Message.parse(data)
        shape = [size for message in datum.messages(1) for size in message.numbers(1)]
        return np.concatenate(
            [np.zeros(0, np.float32), *(part.floats(1) for part in datum.messages(2))]
        ).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"{path}: truncated or damaged, or not a DatumProto ({error})") from None


def _without(scope: str, tensors: Tensors, path: Path) -> Tensors:
    stripped = {name.removeprefix(scope): tensor for name, tensor in tensors.items()}
    if len(stripped) < len(tensors):
        raise WeightsError(f"{path}: holds a tensor both with and without the scope {scope!r}")
    return stripped


def _config(found: Published) -> DelfConfig:
    """The config that a published model is used with."""
    slim = found.layouts[0] == "slim"
    return DelfConfig(
        backbone=dataclasses.replace(
            BackboneConfig(), name=found.name, stride_layout=found.layouts[0], weights="random"
        ),
        scorer=ScorerConfig(weights="random"),
        features=(
            FeaturesConfig(threshold_kind="absolute", threshold=100.0) if slim else FeaturesConfig()
        ),
        reduction=ReductionConfig(dim=40, whiten=False),
    )


def _parts(found: Published, config: DelfConfig) -> tuple[Backbone, Tensors, Tensors]:
    """The backbone (shapes only), its tensors, and the tensors of the scorer."""
    backbone = architecture(config.backbone, conv5=found.has("backbone.stages.3.0.reduce.kernel"))
    channels = backbone.channels(config.backbone.output)
    hidden = found.width("scorer.hidden.kernel")

    def build(rngs: nnx.Rngs) -> Scorer:
        if found.coded:
            code_dim = found.width("scorer.encoder.kernel")
            return AutoencodedScorer(
                channels, code_dim=code_dim, code_bias=True, hidden=hidden, rngs=rngs
            )
        return AttentionScorer(channels, hidden=hidden, rngs=rngs)

    models: dict[str, nnx.Module] = {BACKBONE: backbone, SCORER: abstract(build)}
    expected = {
        f"{part}.{name}": shape
        for part, model in models.items()
        for name, shape in named_shapes(model).items()
    }
    tensors = import_tensorflow(found.tensors, expected, naming=found.naming, source=found.path)
    return backbone, part_tensors(tensors, BACKBONE), part_tensors(tensors, SCORER)
