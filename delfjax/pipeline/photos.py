"""From photos to answers: extract, index, search, match and evaluate in one call each.

A call takes a path or the result of an earlier call. ``import delfjax`` offers these functions, and
the commands ``delfjax extract | index | search | match`` print what they return. The first call
with an extraction config loads and compiles its network; later calls in the same process reuse it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from delfjax import device
from delfjax.config import DelfConfig, from_dict, to_dict, without_digest
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.catalogue import open_dataset
from delfjax.datasets.images import decode_image
from delfjax.datasets.photo_folder import FolderError, PhotoFolder, scan_folder
from delfjax.errors import DelfjaxWarning
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.extractor import Extractor, PendingBatch, load_extractor
from delfjax.features.folder_changes import warn_unfinished
from delfjax.features.store import FeatureStore
from delfjax.models.model_files import pinned
from delfjax.pipeline.answers import FoundPhoto, PhotoMatch, SearchResults
from delfjax.pipeline.one_system import DatasetEvaluation, evaluate_dataset
from delfjax.retrieval import local_index
from delfjax.retrieval.local_index import LocalIndex, open_index
from delfjax.retrieval.rejection import answer_probability, answer_terms, pair_probability
from delfjax.retrieval.search import compare, match_pair
from delfjax.retrieval.search import search as rank_images
from delfjax.types import ImageFeatures


def extract_photo(photo: str | Path, *, config: DelfConfig | None = None) -> ImageFeatures:
    """Extract the local features of one photo, with unreduced descriptors.

    Args:
        photo: an image file.
        config: only its sections ``backbone``, ``scorer`` and ``features`` are used; by default
            the default preset.

    Raises:
        ImageError: the file is missing or not an image.
        WeightsError: the weights of ``config`` are missing or do not fit.
    """
    return _features([photo], config or DelfConfig())[0]


def extract_folder(
    folder: str | Path,
    store: str | Path,
    *,
    config: DelfConfig | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> FeatureStore:
    """Extract every photo under a folder into a store.

    A second call resumes: it extracts only photos that are new or have changed. Photos that were
    renamed keep their features, and photos that were deleted leave the store.

    Args:
        folder: photos, searched for recursively.
        store: folder of the store, created if missing.
        config: how to extract the features; by default the default preset.
        retry_failed: try photos with a recorded failure again, whether or not their file has
            changed.
        progress: show a progress bar, which ends with the counts of skipped and failed photos.

    Returns:
        The features of the photos in this folder; ``failures()`` lists the unreadable ones.

    Raises:
        FolderError: the folder is missing or holds no photo.
        StoreError: the store has another config, holds the photos of another folder, is damaged, or
            is being written; or none of its photos is left in the folder.
        WeightsError: the weights of ``config`` are missing or do not fit.
    """
    photos = find_photos(folder)
    for name, reason in photos.problems:
        warnings.warn(f"{photos.root}: {name} is left out: {reason}", DelfjaxWarning, stacklevel=2)
    return extract_photos(
        photos, store, config=config, retry_failed=retry_failed, progress=progress
    )


def find_photos(folder: str | Path) -> PhotoFolder:
    """List the photos under a folder; there is at least one.

    Raises:
        FolderError: the folder is missing, cannot be listed, or holds no photo.
    """
    photos = scan_folder(Path(folder))
    if not photos.names:
        raise FolderError(f"{folder}: no photos in this folder ({photos.left_out or 'empty'})")
    return photos


def extract_photos(
    photos: PhotoFolder,
    store: str | Path,
    *,
    config: DelfConfig | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> FeatureStore:
    """Extract listed photos, such as the database of a dataset; see :func:`extract_folder`.

    Raises:
        StoreError: the store has another config, is damaged, or is being written.
        WeightsError: the weights of ``config`` are missing or do not fit.
    """
    place = Path(store)
    extractor = _extractor(config or DelfConfig())
    extract_dataset(extractor, photos, place, retry_failed=retry_failed, progress=progress)
    return FeatureStore.open(place).subset(photos.names)


def open_store(folder: str | Path) -> FeatureStore:
    """Open the feature store in ``folder`` for reading.

    Raises:
        StoreError: there is no store, it has another version, or it is damaged.
    """
    return FeatureStore.open(Path(folder))


def stored_config(store: FeatureStore, base: DelfConfig | None = None) -> DelfConfig:
    """The config ``base`` (default preset if omitted) with the extraction sections of ``store``."""
    return from_dict(DelfConfig, {**to_dict(base or DelfConfig()), **store.config})


def build_index(
    store: str | Path | FeatureStore,
    *,
    config: DelfConfig | None = None,
    photos: str | Path | None = None,
) -> LocalIndex:
    """Fit the reduction on a store and index its descriptors; ``save`` on the result keeps it.

    A warning says how many photos are not extracted yet, and how many have left their folder.

    Args:
        store: a store, or its folder.
        config: the whole system, with the extraction sections of the store; by default the default
            preset with those sections.
        photos: folder that the names in the store are relative to; by default the one that
            :func:`extract_folder` recorded.

    Raises:
        StoreError: the store is missing or damaged.
        LocalIndexError: the store is empty, or was extracted with another config.
        ReductionError: the store has too few descriptors for ``config.reduction.dim``.
    """
    opened = store if isinstance(store, FeatureStore) else open_store(store)
    used = config or stored_config(opened)
    # A store of an earlier version knows its weights by their path.
    if not without_digest(opened.config):
        used = pinned(used)
    warn_unfinished(opened)
    return local_index.build_index(
        opened,
        config=used,
        photos=_recorded_folder(opened) if photos is None else str(photos),
    )


def search(
    index: str | Path | LocalIndex,
    photo: str | Path | ImageFeatures,
    *,
    top: int = 10,
    config: DelfConfig | None = None,
) -> SearchResults:
    """Find the photos of an index that show what ``photo`` shows.

    The ranking is by verified inliers; votes break ties. The verdict rests on the evidence of each
    photo found, compared with the query on its own, because inliers mean less in a small index.

    Args:
        index: an index, or its folder. For many searches, open it once with :func:`open_index`.
        photo: an image file, or its features, extracted with the config of the index.
        top: maximum number of results.
        config: only its sections ``search``, ``verification`` and ``rejection`` are used; by
            default those of the index.

    Raises:
        LocalIndexError: the index is missing or damaged.
        ImageError: the file is missing or not an image.
        WeightsError: the weights that the index was built with are missing.
    """
    opened = index if isinstance(index, LocalIndex) else open_index(index)
    asked = config or opened.config
    for file in without_digest(to_dict(opened.config)):
        warnings.warn(
            f"the index was built by an earlier version, which did not record which weights {file}"
            " held; if they have changed since, its results are wrong",
            DelfjaxWarning,
            stacklevel=2,
        )
    query = _features([photo], opened.config)[0]
    ranked = rank_images(opened, query, config=asked.search, verification=asked.verification)
    shown = [int(image) for image in ranked.images[:top]]
    # Compared on their own, all in one call; photos that the search did not verify are not.
    verified = [image for image in shown if image in ranked.correspondences]
    compared = compare(opened, query, verified, verification=asked.verification)
    evidence = {image: pair.evidence for image, pair in zip(verified, compared, strict=True)}
    required = asked.verification.required_evidence(len(opened.names))
    inliers = dict(zip(ranked.images.tolist(), ranked.inliers.tolist(), strict=True))
    terms = answer_terms(
        evidence=np.array([evidence[image] for image in verified], np.float64),
        inliers=np.array([inliers[image] for image in verified], np.int64),
        photos=np.full(len(verified), len(opened.names)),
    )
    probability = dict(
        zip(verified, answer_probability(asked.rejection, terms).tolist(), strict=True)
    )
    found = tuple(
        FoundPhoto(
            rank=place + 1,
            image=opened.names[image],
            inliers=int(ranked.inliers[place]),
            votes=int(ranked.votes[place]),
            evidence=evidence.get(image),
            probability=probability.get(image),
            match=evidence[image] >= required if image in evidence else None,
        )
        for place, image in enumerate(shown)
    )
    return SearchResults(
        query=_file(photo),
        photos=found,
        root=Path(opened.photos) if opened.photos else None,
        ranked=ranked,
        content_hashes=dict(zip(opened.names, opened.content_hashes, strict=False)),
    )


def match(
    first: str | Path | ImageFeatures,
    second: str | Path | ImageFeatures,
    *,
    config: DelfConfig | None = None,
) -> PhotoMatch:
    """Match two photos and verify the matches geometrically.

    Args:
        first: an image file, or its features; the transform maps it to ``second``.
        second: the other photo.
        config: extraction, verification and rejection; by default the default preset. Features
            must have been extracted with it.

    Raises:
        ImageError: a file is missing or not an image.
        WeightsError: the weights of ``config`` are missing or do not fit.
    """
    used = config or DelfConfig()
    features = _features([first, second], used)
    found = match_pair(*features, verification=used.verification, max_side=used.features.max_side)
    return PhotoMatch(
        **vars(found),
        photos=(_file(first), _file(second)),
        required=used.verification.required_evidence(1),
        probability=pair_probability(
            used.rejection, evidence=found.evidence, inliers=int(found.inlier.sum())
        ),
        content_hashes=(features[0].content_hash, features[1].content_hash),
    )


def evaluate(
    dataset: str | Path | RetrievalDataset,
    config: DelfConfig | None = None,
    *,
    protocols: Sequence[str] = (),
    store: str | Path | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> DatasetEvaluation:
    """Score the whole system on a labelled folder or a dataset: extract, index, search, verify.

    Args:
        dataset: a folder with a ``groundtruth.json`` or with one subfolder per landmark, or a
            benchmark from :func:`~delfjax.datasets.catalogue.open_dataset`.
        config: the whole system; by default the default preset.
        protocols: protocols of the dataset to score by; all when empty.
        store: folder for the features; by default in the cache, by dataset and config.
        retry_failed: try images with a recorded failure again, whether or not their file has
            changed.
        progress: show progress bars.

    Raises:
        DatasetError: the folder has no labels, or they are malformed.
        EvaluationError: the dataset has no queries, or lacks labels that its protocol needs.
        ConfigError: the dataset has no such protocol.
        StoreError: the store has another config, is damaged, or is being written.
        ReductionError: there are too few features to fit the reduction.
    """
    used = config or DelfConfig()
    opened = dataset if isinstance(dataset, RetrievalDataset) else open_dataset("folder", dataset)
    _keep_programs()
    return evaluate_dataset(
        opened,
        used,
        protocols=protocols,
        store=None if store is None else Path(store),
        retry_failed=retry_failed,
        progress=progress,
    )


def _extractor(config: DelfConfig) -> Extractor:
    _keep_programs()
    return load_extractor(config)


def _keep_programs() -> None:
    """Keep compiled programs for the next process, as the commands do, unless the caller has set a
    cache."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        device.use_compilation_cache()


def _features(
    photos: Sequence[str | Path | ImageFeatures], config: DelfConfig
) -> list[ImageFeatures]:
    """Features of each photo; files are all dispatched before any result is awaited."""
    started = [
        photo if isinstance(photo, ImageFeatures) else _start(photo, config) for photo in photos
    ]
    return [held.result()[0] if isinstance(held, PendingBatch) else held for held in started]


def _start(photo: str | Path, config: DelfConfig) -> PendingBatch:
    image = decode_image(photo, max_side=config.features.max_side)
    return _extractor(config).dispatch([image])


def _file(photo: str | Path | ImageFeatures) -> Path | None:
    return None if isinstance(photo, ImageFeatures) else Path(photo)


def _recorded_folder(store: FeatureStore) -> str:
    return store.source.root if store.source is not None else ""
