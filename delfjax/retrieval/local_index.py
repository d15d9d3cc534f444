"""The index over all local descriptors of a database: it finds nearest neighbours and groups them
into putative matches per image.

The search is exact, uses inverted lists, or uses the paper's inverted lists with a product
quantiser (10 sub-vectors × 5 bits). Vectors have unit length, so the squared L2 distance ``d²``
gives the cosine: ``cosine = 1 − d² / 2``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Int

from delfjax.config import (
    DelfConfig,
    IndexConfig,
    config_hash,
    to_dict,
)
from delfjax.errors import DelfjaxError
from delfjax.features.reduction import Reduction, reduction_for
from delfjax.features.store import FeatureStore
from delfjax.retrieval.faiss_files import POINTS_PER_CENTROID, VectorSettings
from delfjax.retrieval.index_files import VECTORS, ArrayFormat, IndexFormat, Timed
from delfjax.rng import named_generator
from delfjax.types import LocalFeatures

# Version 1 lacks the digests in the names of its files, and is read as well.
FORMAT_VERSION = 2
# Limit on the neighbours of a query descriptor among copies: bounds the memory of a search.
_MOST_NEIGHBOURS = 4096
# FAISS compares by matrix products if the queries of a call hold at least this many values. Its
# default of 128000 suits single queries; an image asks with hundreds of features, and the lower
# value answers it three times faster.
faiss.cvar.distance_compute_blas_threshold = 800


class LocalIndexError(DelfjaxError):
    """An index cannot be built, or a folder is not an intact index of this version."""


_FORMAT = IndexFormat(
    what="an index",
    format="delfjax local index",
    versions=(1, FORMAT_VERSION),
    arrays={
        "keypoints_yx": ArrayFormat(2, (np.float32,)),
        "scales": ArrayFormat(1, (np.float32,)),
        "orientations": ArrayFormat(1, (np.float32,)),
        "offsets": ArrayFormat(1, (np.int64,)),
        "image_sizes": ArrayFormat(2, (np.int64,)),
        "mean": ArrayFormat(1, (np.float32,)),
        "projection": ArrayFormat(2, (np.float32,)),
    },
    fields={
        "config": dict,
        "extraction_hash": str,
        "explained": (int, float),
        "photos": str,
        "names": list,
        "seconds": dict,
        "files": dict,
    },
    error=LocalIndexError,
    advice="build one with `delfjax index`",
    optional=frozenset({"orientations"}),
)


@dataclass(frozen=True)
class PutativeMatches:
    """Putative matches of one query, grouped by database image; images with the most matches come
    first.

    Attributes:
        images: numbers of the matched database images.
        votes: number of matches of each image, at most one per query feature.
        similarity: sum of the matches' cosines for each image, which breaks ties of votes.
        starts: matches of ``images[i]`` are ``starts[i]:starts[i + 1]``.
        query_index: query feature of each match.
        database_index: database feature of each match, numbered across the whole database.
        cosine: cosine of each match.
    """

    images: Int[np.ndarray, " i"]
    votes: Int[np.ndarray, " i"]
    similarity: Float[np.ndarray, " i"]
    starts: Int[np.ndarray, " i1"]
    query_index: Int[np.ndarray, " m"]
    database_index: Int[np.ndarray, " m"]
    cosine: Float[np.ndarray, " m"]


@dataclass(frozen=True)
class LocalIndex:
    """Everything that a search needs to know of a database; neither store nor photos are needed.

    Attributes:
        config: the complete config that the index was built with.
        names: database images, in the order of their numbers.
        image_sizes: height and width of each original image, pixels.
        offsets: features of image ``i`` are ``offsets[i]:offsets[i + 1]``.
        keypoints_yx: position of each feature, pixels of the original image.
        scales: image scale of each feature.
        reduction: the reduction to apply to query descriptors.
        vectors: the FAISS index of the reduced descriptors.
        photos: folder that the names are relative to; empty if unknown.
        content_hashes: digest of the file of each image when it was extracted; empty in an index
            that does not record it.
        seconds: duration of each step of the build.
        orientations: direction of each feature, radians from the x axis towards the y axis;
            ``None`` of features without one.
    """

    config: DelfConfig
    names: list[str]
    image_sizes: Int[np.ndarray, "images 2"]
    offsets: Int[np.ndarray, " images1"]
    keypoints_yx: Float[np.ndarray, "n 2"]
    scales: Float[np.ndarray, " n"]
    reduction: Reduction
    vectors: Any = field(repr=False)
    photos: str = ""
    content_hashes: list[str] = field(default_factory=list, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)
    orientations: Float[np.ndarray, " n"] | None = None

    def putative_matches(
        self, descriptors: Float[np.ndarray, "q d"], *, neighbours: int, crowded: float = 1.0
    ) -> PutativeMatches:
        """Match each query descriptor to its nearest neighbours in the database.

        Args:
            descriptors: reduced query descriptors.
            neighbours: number of nearest neighbours per descriptor; of those in the same image,
                only the nearest becomes a match.
            crowded: where even the last neighbour has this cosine or more, the neighbours are
                copies of one thing, and the descriptor gets four times as many, repeatedly; 1 turns
                this off.
        """
        count = min(neighbours, len(self.scales))
        if not len(descriptors) or not count:
            return _group(np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float32), self.offsets)
        descriptors = np.ascontiguousarray(descriptors, np.float32)
        squared, found = self.vectors.search(descriptors, count)
        cosine = 1 - squared / 2
        while crowded < 1 and count < min(len(self.scales), _MOST_NEIGHBOURS):
            again = (found[:, -1] >= 0) & (cosine[:, -1] >= crowded)
            if not again.any():
                break
            more = min(4 * count, len(self.scales)) - count
            found = np.pad(found, ((0, 0), (0, more)), constant_values=-1)
            cosine = np.pad(cosine, ((0, 0), (0, more)), constant_values=-1)
            count += more
            squared, found[again] = self.vectors.search(descriptors[again], count)
            cosine[again] = 1 - squared / 2
        return _group(found, cosine, self.offsets)

    def features(self, image: int) -> LocalFeatures:
        """The indexed features of one image; descriptors are reduced, and approximate if the index
        is quantised.

        Args:
            image: number of the image.
        """
        held = slice(int(self.offsets[image]), int(self.offsets[image + 1]))
        count = held.stop - held.start
        ones = np.ones(count, np.float32)
        return LocalFeatures(
            keypoints_yx=np.asarray(self.keypoints_yx[held]),
            scales=np.asarray(self.scales[held]),
            scores=ones,
            descriptors=_reconstructed(self.vectors, held.start, count),
            valid=np.ones(count, bool),
            orientations=None if self.orientations is None else np.asarray(self.orientations[held]),
        )

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder, completely or not at all; an existing index is replaced in
        one step, and whoever reads meanwhile gets the old one or the new one.

        Raises:
            LocalIndexError: ``folder`` holds something else.
            OSError: the disk is full, or a file cannot be written; the error names it.
        """
        held = {name: getattr(self, name, None) for name in _FORMAT.arrays}
        arrays = {name: array for name, array in held.items() if array is not None}
        arrays |= {"mean": self.reduction.mean, "projection": self.reduction.projection}
        header = {
            "config": to_dict(self.config),
            "config_hash": config_hash(self.config),
            "extraction_hash": self.reduction.extraction_hash,
            "explained": self.reduction.explained,
            "photos": self.photos,
            "names": self.names,
            "content_hashes": self.content_hashes,
            "seconds": self.seconds,
        }
        _FORMAT.write(Path(folder), arrays, self.vectors, header)


def build_index(store: FeatureStore, *, config: DelfConfig, photos: str = "") -> LocalIndex:
    """Fit the reduction on ``store``, or load it, and index the reduced descriptors.

    Args:
        store: features of the database.
        config: the complete config; its extraction part must be the store's.
        photos: folder that the store's names are relative to; empty if unknown.

    Raises:
        LocalIndexError: the store was extracted with another config, or the index cannot be built
            on so few descriptors.
        ReductionError: the store holds too few descriptors for ``config.reduction.dim``.
    """
    if store.config_hash != config_hash(config.extraction()):
        raise LocalIndexError(
            f"{store.path}: extracted with config {store.config_hash}, but the index needs"
            f" {config_hash(config.extraction())}; extract again or use the store's settings"
        )
    seconds: dict[str, float] = {}
    with Timed(seconds, "reduction"):
        reduction = reduction_for(store, config=config.reduction, seed=config.seed)
        features = store.arrays(reduce=reduction)
    with Timed(seconds, "index"):
        vectors = _build_vectors(features.descriptors, config.index, config.seed)
    return LocalIndex(
        config=config,
        names=list(store.names),
        image_sizes=np.array([store.get(name).image_size for name in store.names], np.int64),
        offsets=features.offsets,
        keypoints_yx=features.keypoints_yx,
        scales=features.scales,
        reduction=reduction,
        vectors=vectors,
        photos=photos,
        content_hashes=[store.content_hash(name) for name in store.names],
        seconds=seconds,
        orientations=features.orientations,
    )


def require_replaceable(path: Path) -> None:
    """Check that an index can be written to ``path`` without deleting anything but an older index.

    Raises:
        LocalIndexError: ``path`` holds something else, or cannot be written.
    """
    _FORMAT.files.require_replaceable(path)


def open_local_index(folder: str | Path) -> LocalIndex:
    """The index in ``folder``, its arrays memory-mapped.

    Raises:
        LocalIndexError: the folder is not an index, has another version, or is damaged; the message
            names the file.
    """
    path = Path(folder)
    return _FORMAT.files.read(path, lambda: _open(path))


def _open(path: Path) -> LocalIndex:
    header = _FORMAT.read_header(path)
    with _FORMAT.files.opened(path, header["files"]) as streams:
        arrays = _FORMAT.mapped(path, streams)
        config = _FORMAT.config(path, header)
        _require_consistent(path, header, arrays)
        wanted = VectorSettings(
            kinds=("exact", "ivf") if config.index.kind == "auto" else (config.index.kind,),
            dim=arrays["projection"].shape[1],
            count=len(arrays["scales"]),
            subvectors=config.index.pq_subvectors,
            bits=config.index.pq_bits,
        )
        vectors = _FORMAT.read_vectors(path, streams[VECTORS], wanted)
    mean, projection = arrays.pop("mean"), arrays.pop("projection")
    return LocalIndex(
        config=config,
        names=header["names"],
        reduction=Reduction(mean, projection, header["explained"], header["extraction_hash"]),
        vectors=vectors,
        photos=header["photos"],
        content_hashes=_FORMAT.content_hashes(path, header),
        seconds=header["seconds"],
        **arrays,
    )


def _require_consistent(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Check that the arrays belong together; the message names the file of one that does not."""
    images, features = len(header["names"]), len(arrays["scales"])
    wanted = {
        "keypoints_yx": (features, 2),
        "offsets": (images + 1,),
        "image_sizes": (images, 2),
        "projection": (len(arrays["mean"]), arrays["projection"].shape[1]),
    }
    if "orientations" in arrays:
        wanted["orientations"] = (features,)
    _FORMAT.require_shapes(path, arrays, wanted)
    offsets = arrays["offsets"]
    if offsets[0] != 0 or offsets[-1] != features or (np.diff(offsets) < 0).any():
        reason = f"must rise from 0 to the {features} features"
        raise _FORMAT.damaged_array(path, "offsets", reason)
    _FORMAT.require_finite(path, arrays, ("mean", "projection"))


def _build_vectors(descriptors: Float[np.ndarray, "n d"], config: IndexConfig, seed: int) -> Any:
    count, dim = descriptors.shape
    kind = config.kind
    if kind == "auto":
        kind = "exact" if count <= config.auto_exact_below else "ivf"
    if kind == "exact":
        vectors = faiss.IndexFlatL2(dim)
    else:
        vectors = _inverted_lists(kind, count, dim, config, seed)
        picked = np.sort(named_generator(seed, "index").permutation(count)[: config.train_samples])
        vectors.train(descriptors[picked])
    vectors.add(descriptors)
    return vectors


def _reconstructed(vectors: Any, start: int, count: int) -> Float[np.ndarray, "n d"]:
    """Vectors ``start`` to ``start + count``, of unit length."""
    if isinstance(vectors, faiss.IndexIVF) and vectors.direct_map.no():
        # Where each vector lies among the lists; needs 8 bytes a vector, and is not saved.
        vectors.make_direct_map()
    found = vectors.reconstruct_n(start, count) if count else np.zeros((0, vectors.d), np.float32)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(length, np.finfo(np.float32).tiny), np.float32)


def _inverted_lists(kind: str, count: int, dim: int, config: IndexConfig, seed: int) -> Any:
    trainable = max(1, min(count, config.train_samples) // POINTS_PER_CENTROID)
    lists = config.lists or min(trainable, int(4 * np.sqrt(count)))
    if lists > trainable:
        raise LocalIndexError(
            f"index.lists is {lists}, but {min(count, config.train_samples)} training descriptors"
            f" allow {trainable}; lower index.lists or raise index.train_samples"
        )
    if kind == "ivf_pq":
        _require_quantisable(dim, min(count, config.train_samples), config)
    # FAISS's SWIG objects have no type annotations.
    coarse: Any = faiss.IndexFlatL2(dim)
    vectors: Any
    if kind == "ivf":
        vectors = faiss.IndexIVFFlat(coarse, dim, lists, faiss.METRIC_L2)
    else:
        vectors = faiss.IndexIVFPQ(
            coarse, dim, lists, config.pq_subvectors, config.pq_bits, faiss.METRIC_L2
        )
    # The index takes ownership of the coarse quantiser, which Python would otherwise free too soon.
    coarse.this.disown()
    vectors.own_fields = True
    # FAISS takes 31 bits.
    vectors.cp.seed = (seed + 1) % 2**31
    vectors.cp.niter = config.kmeans_iterations
    vectors.nprobe = min(config.probes, lists)
    return vectors


def _require_quantisable(dim: int, training: int, config: IndexConfig) -> None:
    if dim % config.pq_subvectors:
        raise LocalIndexError(
            f"index.pq_subvectors is {config.pq_subvectors}, which does not divide reduction.dim"
            f" {dim}"
        )
    if training < POINTS_PER_CENTROID << config.pq_bits:
        raise LocalIndexError(
            f"index.pq_bits is {config.pq_bits}, which needs"
            f" {POINTS_PER_CENTROID << config.pq_bits} training descriptors, but there are only"
            f" {training}; use index.kind=exact for a database this small"
        )


def _group(
    found: Int[np.ndarray, "q k"],
    cosine: Float[np.ndarray, "q k"],
    offsets: Int[np.ndarray, " images1"],
) -> PutativeMatches:
    """Group neighbours into matches per image.

    Args:
        found: database features, the best first in each row; −1 where there are no more.
        cosine: their cosines.
        offsets: features of image ``i`` are ``offsets[i]:offsets[i + 1]``.
    """
    queries = np.repeat(np.arange(len(found)), found.shape[1])
    flat = found.ravel()
    cosine = cosine.ravel()
    held = flat >= 0
    queries, flat, cosine = queries[held], flat[held], cosine[held]
    image = np.searchsorted(offsets, flat, side="right") - 1
    # Neighbours come best first, so the first occurrence of an (image, query feature) pair is its
    # best match.
    pairs, first = np.unique(image * (len(found) + 1) + queries, return_index=True)
    image = pairs // (len(found) + 1)
    queries, flat, cosine = queries[first], flat[first], cosine[first]
    images, begin, votes = np.unique(image, return_index=True, return_counts=True)
    similarity = np.add.reduceat(cosine.astype(np.float64), begin) if len(images) else np.zeros(0)
    order = np.lexsort((images, -similarity, -votes))
    # Matches keep their order within an image; images move to their new places.
    starts = np.concatenate([[0], np.cumsum(votes[order])]).astype(np.int64)
    pick = np.arange(starts[-1]) + np.repeat(begin[order] - starts[:-1], votes[order])
    return PutativeMatches(
        images=images[order],
        votes=votes[order],
        similarity=similarity[order],
        starts=starts,
        query_index=queries[pick],
        database_index=flat[pick],
        cosine=cosine[pick],
    )
