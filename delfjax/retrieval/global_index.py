"""The index over the global descriptors of a database: one vector an image, compared by cosine.

An exact index compares a query with every image, by matrix products over blocks of fixed size, so
that the result does not depend on the number of processors. A compressed one (``ivf_pq``) finds
candidates by FAISS's inverted lists and product quantiser, one byte for each part of a vector, and
ranks them by the descriptors themselves, which stay on disk in half precision.

Descriptors are whitened when the index is built, and queries by :meth:`GlobalIndex.prepared`. With
database-side augmentation, the database holds weighted means, which are shorter than one; what is
called a cosine is then the inner product with such a mean.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Int

from delfjax.config import DelfConfig, config_hash, to_dict
from delfjax.device import one_blas_thread
from delfjax.errors import DelfjaxError, quoted
from delfjax.features.store import FeatureStore
from delfjax.models.delf import describe_backbone
from delfjax.models.model_files import WHITENING
from delfjax.models.projections import load_projection
from delfjax.ops.whitening import Projection, WhiteningError, pca_whitening
from delfjax.retrieval.expansion import Neighbours, augmented_database, nearest_by_cosine
from delfjax.retrieval.faiss_files import POINTS_PER_CENTROID, VectorSettings
from delfjax.retrieval.index_files import HEADER, VECTORS, ArrayFormat, IndexFormat, Timed
from delfjax.rng import named_generator

FORMAT_VERSION = 1

# Database vectors in one matrix product; products of several blocks run at the same time.
_BLOCK = 8192
# Queries compared at a time, which bounds the memory: four bytes for each of them and each image.
_QUERIES_AT_A_TIME = 32
# Inverted lists of a compressed index per square root of the number of images, at most, and lists
# visited per query. Source: measured on clustered vectors, bench_global_search.py.
_LISTS_PER_ROOT = 4
_PROBES = 64
# Candidates of the product quantiser that are ranked by their descriptors. Same measurement.
_RERANKED = 100
# Bits of the code of each part of a vector.
_BITS = 8
# Most vectors that the lists and the quantiser are trained on, and iterations of k-means.
_TRAINED_ON = 65536
_KMEANS_ITERATIONS = 10
# Where FAISS has no type annotations.
_swig: Any = faiss


class GlobalIndexError(DelfjaxError):
    """An index of global descriptors cannot be built or searched, or a folder is not an intact one
    of this version."""


_FORMAT = IndexFormat(
    what="an index of global descriptors",
    format="delfjax global index",
    versions=(FORMAT_VERSION,),
    arrays={
        "descriptors": ArrayFormat(2, (np.float32, np.float16)),
        "shift": ArrayFormat(1, (np.float64, np.float32)),
        "matrix": ArrayFormat(2, (np.float64, np.float32)),
    },
    fields={
        "config": dict,
        "extraction_hash": str,
        "extracted_dim": int,
        "photos": str,
        "names": list,
        "seconds": dict,
        "files": dict,
    },
    error=GlobalIndexError,
    advice="build one with `delfjax index`",
)


@dataclass(frozen=True)
class GlobalIndex:
    """Everything that a search by global descriptors needs to know of a database.

    Attributes:
        config: the complete config that the index was built with.
        names: database images, in the order of their numbers.
        descriptors: descriptor of each image, whitened and augmented as ``config`` says; in half
            precision in a compressed index.
        extraction_hash: hash of the extraction config of the descriptors.
        extracted_dim: length of a descriptor as it is extracted.
        whitening: what is applied to extracted descriptors; ``None`` for L2 alone.
        codes: FAISS index of a compressed index; ``None`` in an exact one.
        photos: folder that the names are relative to; empty if unknown.
        content_hashes: digest of the file of each image when it was extracted.
        seconds: duration of each step of the build.
    """

    config: DelfConfig
    names: list[str]
    descriptors: Float[np.ndarray, "n d"] = field(repr=False)
    extraction_hash: str
    extracted_dim: int
    whitening: Projection | None = field(default=None, repr=False)
    codes: Any = field(default=None, repr=False)
    photos: str = ""
    content_hashes: list[str] = field(default_factory=list, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Length of the descriptors that are compared."""
        return int(self.descriptors.shape[1])

    def prepared(self, descriptors: Float[np.ndarray, "q c"]) -> Float[np.ndarray, "q d"]:
        """Extracted descriptors as they are compared: whitened and L2-normalised.

        A descriptor of zeros, which an image too small for the network has, stays one, and has a
        cosine of zero with every image.

        Args:
            descriptors: of queries, extracted with the config of the index.

        Raises:
            GlobalIndexError: they have another length than those of the database, or hold values
                that are not finite.
        """
        if descriptors.shape[1] != self.extracted_dim:
            raise GlobalIndexError(
                f"the query's global descriptor has {descriptors.shape[1]} dimensions, but those of"
                f" the index have {self.extracted_dim}; extract it with the config of the index"
            )
        if not np.isfinite(descriptors).all():
            raise GlobalIndexError(
                "the query's global descriptor holds values that are not finite; expected numbers"
                " alone"
            )
        return _prepared(descriptors, self.whitening)

    def similarities(self, queries: Float[np.ndarray, "q d"]) -> Float[np.ndarray, "q n"]:
        """The cosine of each query with every image, float32.

        Args:
            queries: prepared descriptors, expanded or not.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        cosines = np.empty((len(queries), len(self.names)), np.float32)

        def compare(start: int) -> None:
            block = slice(start, start + _BLOCK)
            held = np.asarray(self.descriptors[block], np.float32)
            # One query is a product of a matrix and a vector, which is faster.
            if len(queries) == 1:
                cosines[0, block] = held @ queries[0]
            else:
                cosines[:, block] = queries @ held.T

        starts = range(0, len(self.names), _BLOCK)
        with one_blas_thread():
            if len(starts) <= 1:
                for start in starts:
                    compare(start)
            else:
                with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1)) as threads:
                    list(threads.map(compare, starts))
        return cosines

    def nearest(
        self,
        queries: Float[np.ndarray, "q d"],
        count: int,
        *,
        own: Int[np.ndarray, " q"] | None = None,
    ) -> Neighbours:
        """The images nearest to each query; equal ones by their numbers.

        A compressed index may miss some, and gives no more than it finds in the lists it visits.

        Args:
            queries: prepared descriptors, expanded or not.
            count: images for each query; fewer if the database has fewer.
            own: number of the database image that each query is, which is left out; −1 for none.
        """
        parts = []
        for start in range(0, max(len(queries), 1), _QUERIES_AT_A_TIME):
            block = slice(start, start + _QUERIES_AT_A_TIME)
            mine = None if own is None else own[block]
            if self.codes is None:
                cosines = self.similarities(queries[block])
                parts.append(nearest_by_cosine(cosines, count, own=mine))
            else:
                parts.append(self._nearest_by_codes(queries[block], count, mine))
        return Neighbours(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.cosines for part in parts]),
        )

    def _nearest_by_codes(
        self, queries: Float[np.ndarray, "q d"], count: int, own: Int[np.ndarray, " q"] | None
    ) -> Neighbours:
        queries = np.ascontiguousarray(queries, np.float32)
        wanted = min(max(count + (own is not None), _RERANKED), len(self.names))
        # In the order of their numbers: equal cosines keep it.
        found = np.sort(self.codes.search(queries, wanted)[1], axis=1)
        held = self.descriptors[np.maximum(found, 0)].astype(np.float32)
        cosines = np.einsum("qd,qkd->qk", queries, held).astype(np.float64)
        cosines = np.where(found >= 0, cosines, -np.inf)
        order = np.argsort(-cosines, axis=1, kind="stable")
        images = np.take_along_axis(found, order, axis=1)
        cosines = np.take_along_axis(cosines, order, axis=1)
        ranked = Neighbours(images, np.where(images >= 0, cosines, -1.0))
        if own is not None:
            return ranked.without(own, count)
        return Neighbours(ranked.images[:, :count], ranked.cosines[:, :count])

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder, completely or not at all; an existing index is replaced in
        one step.

        Raises:
            GlobalIndexError: ``folder`` holds something else.
            OSError: the disk is full, or a file cannot be written; the error names it.
        """
        whitening = self.whitening or Projection(np.zeros(0), np.zeros((0, 0)))
        arrays = {
            "descriptors": self.descriptors,
            "shift": whitening.shift,
            "matrix": whitening.matrix,
        }
        header = {
            "config": to_dict(self.config),
            "config_hash": config_hash(self.config),
            "extraction_hash": self.extraction_hash,
            "extracted_dim": self.extracted_dim,
            "photos": self.photos,
            "names": self.names,
            "content_hashes": self.content_hashes,
            "seconds": self.seconds,
        }
        _FORMAT.write(Path(folder), arrays, self.codes, header)


def build_global_index(store: FeatureStore, *, config: DelfConfig, photos: str = "") -> GlobalIndex:
    """Whiten the global descriptors of ``store``, augment them if the config says so, and index
    them.

    Args:
        store: global descriptors of the database.
        config: the complete config; its extraction of global descriptors must be the store's.
        photos: folder that the store's names are relative to; empty if unknown.

    Raises:
        GlobalIndexError: the store was extracted with another config or is empty, the whitening
            cannot be fitted on it, or it has too few images for a compressed index.
        StoreError: an image has no global descriptor, or a damaged one.
        WeightsError: the file of a learned whitening is missing or damaged, or is for another
            extraction.
    """
    wanted = config_hash(config.global_extraction())
    if store.config_hash != wanted:
        raise GlobalIndexError(
            f"{store.path}: extracted with config {store.config_hash}, but the index needs global"
            f" descriptors of {wanted}; extract them into a store of their own"
        )
    extracted = store.global_descriptors()
    if not len(extracted):
        raise GlobalIndexError(f"{store.path}: holds no image, so there is nothing to index")
    seconds: dict[str, float] = {}
    with Timed(seconds, "whitening"):
        whitening = _whitening(store, extracted, config)
        descriptors = _prepared(extracted, whitening)
    with Timed(seconds, "global index"):
        descriptors = _augmented(descriptors, config)
        codes = None
        if config.global_features.index == "ivf_pq":
            codes = _codes(descriptors, config)
            descriptors = descriptors.astype(np.float16)
    return GlobalIndex(
        config=config,
        names=list(store.names),
        descriptors=descriptors,
        extraction_hash=store.config_hash,
        extracted_dim=extracted.shape[1],
        whitening=whitening,
        codes=codes,
        photos=photos,
        content_hashes=[store.content_hash(name) for name in store.names],
        seconds=seconds,
    )


def is_global_index(folder: str | Path) -> bool:
    """Whether a folder claims to hold an index of global descriptors, intact or not."""
    try:
        with (Path(folder) / HEADER).open("rb") as stream:
            # The format is the first field.
            return f'"{_FORMAT.format}"'.encode() in stream.read(200)
    except OSError:
        return False


def open_global_index(folder: str | Path) -> GlobalIndex:
    """The index in ``folder``, its descriptors memory-mapped.

    Raises:
        GlobalIndexError: the folder is not an index of global descriptors, has another version, or
            is damaged; the message names the file.
    """
    path = Path(folder)
    return _FORMAT.files.read(path, lambda: _open(path))


def _open(path: Path) -> GlobalIndex:
    header = _FORMAT.read_header(path)
    with _FORMAT.files.opened(path, header["files"]) as streams:
        arrays = _FORMAT.mapped(path, streams)
        config = _FORMAT.config(path, header)
        _require_consistent(path, header, arrays, config)
        codes = None
        if config.global_features.index == "ivf_pq":
            count, dim = arrays["descriptors"].shape
            settings = VectorSettings(
                kinds=("ivf_pq",),
                dim=dim,
                count=count,
                subvectors=config.global_features.pq_subvectors,
                bits=_BITS,
                metric=faiss.METRIC_INNER_PRODUCT,
            )
            codes = _FORMAT.read_vectors(path, streams[VECTORS], settings)
    whitening = None
    if config.global_features.whitening.kind != "none":
        whitening = Projection(arrays["shift"], arrays["matrix"])
    return GlobalIndex(
        config=config,
        names=header["names"],
        descriptors=arrays["descriptors"],
        extraction_hash=header["extraction_hash"],
        extracted_dim=header["extracted_dim"],
        whitening=whitening,
        codes=codes,
        photos=header["photos"],
        content_hashes=_FORMAT.content_hashes(path, header),
        seconds=header["seconds"],
    )


def _require_consistent(
    path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray], config: DelfConfig
) -> None:
    """Check that the arrays belong together, and to the config."""
    wanted = config_hash(config.global_extraction())
    if header["extraction_hash"] != wanted:
        raise GlobalIndexError(
            f"{path / HEADER}: its descriptors and its whitening were made for extraction"
            f" {header['extraction_hash']}, but its config extracts {wanted}; build the index again"
        )
    settings = config.global_features
    extracted, dim = header["extracted_dim"], arrays["descriptors"].shape[1]
    whitened = settings.whitening.kind != "none"
    shapes = {
        "descriptors": (len(header["names"]), dim if whitened else extracted),
        "shift": (extracted,) if whitened else (0,),
        "matrix": (extracted, dim) if whitened else (0, 0),
    }
    _FORMAT.require_shapes(path, arrays, shapes)
    _FORMAT.require_finite(path, arrays, tuple(shapes))
    half = settings.index == "ivf_pq"
    if arrays["descriptors"].dtype != (np.float16 if half else np.float32):
        reason = f"holds {arrays['descriptors'].dtype}, which a {settings.index} index does not"
        raise _FORMAT.damaged_array(path, "descriptors", reason)


def _whitening(
    store: FeatureStore, extracted: Float[np.ndarray, "n c"], config: DelfConfig
) -> Projection | None:
    settings = config.global_features.whitening
    if settings.kind == "none":
        return None
    if settings.kind == "learned":
        found = load_projection(
            settings.weights,
            WHITENING,
            backbone=describe_backbone(config.global_features.backbone),
            channels=extracted.shape[1],
        )
        if settings.dim > found.matrix.shape[1]:
            raise GlobalIndexError(
                f"global_features.whitening.dim is {settings.dim}, but {settings.weights} has"
                f" {found.matrix.shape[1]}"
            )
        kept = settings.dim or found.matrix.shape[1]
        return Projection(found.shift, np.ascontiguousarray(found.matrix[:, :kept]))
    try:
        return pca_whitening(extracted, dim=settings.dim, shrinkage=settings.shrinkage)
    except WhiteningError as error:
        raise GlobalIndexError(
            f"{store.path}: {quoted(error)}; set global_features.whitening.kind=none"
        ) from None


def _prepared(
    descriptors: Float[np.ndarray, "n c"], whitening: Projection | None
) -> Float[np.ndarray, "n d"]:
    if whitening is not None:
        return whitening(descriptors)
    values = np.asarray(descriptors, np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1), np.float32)


def _augmented(
    descriptors: Float[np.ndarray, "n d"], config: DelfConfig
) -> Float[np.ndarray, "n d"]:
    count = config.expansion.database_neighbours
    if not count:
        return descriptors
    numbers = np.arange(len(descriptors))
    plain = GlobalIndex(config, [""] * len(descriptors), descriptors, "", descriptors.shape[1])
    return augmented_database(descriptors, plain.nearest(descriptors, count, own=numbers))


def _codes(descriptors: Float[np.ndarray, "n d"], config: DelfConfig) -> Any:
    """The compressed vectors in inverted lists."""
    count, dim = descriptors.shape
    settings = config.global_features
    if dim % settings.pq_subvectors:
        raise GlobalIndexError(
            f"global_features.pq_subvectors is {settings.pq_subvectors}, which does not divide the"
            f" {dim} dimensions of a descriptor"
        )
    least = POINTS_PER_CENTROID << _BITS
    if count < least:
        raise GlobalIndexError(
            f"global_features.index is 'ivf_pq', which needs {least} images, but there are only"
            f" {count}; use global_features.index=exact"
        )
    trained_on = min(count, _TRAINED_ON)
    lists = min(trained_on // POINTS_PER_CENTROID, int(_LISTS_PER_ROOT * np.sqrt(count)))
    coarse = _swig.IndexFlatIP(dim)
    codes = _swig.IndexIVFPQ(
        coarse, dim, lists, settings.pq_subvectors, _BITS, faiss.METRIC_INNER_PRODUCT
    )
    # The index takes ownership of the coarse quantiser, which Python would otherwise free too soon.
    coarse.this.disown()
    codes.own_fields = True
    # FAISS takes 31 bits.
    codes.cp.seed = (config.seed + 1) % 2**31
    codes.cp.niter = _KMEANS_ITERATIONS
    codes.nprobe = min(_PROBES, lists)
    generator = named_generator(config.seed, "global index")
    codes.train(descriptors[np.sort(generator.permutation(count)[:trained_on])])
    codes.add(descriptors)
    return codes
