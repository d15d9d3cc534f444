"""From photos to answers: extract, index, search, match and evaluate in one call each.

A call takes a path or the result of an earlier call. ``import delfjax`` offers these functions, and
the commands ``delfjax extract | index | search | match`` print what they return. The first call
with an extraction config loads and compiles its network; later calls in the same process reuse it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax

from delfjax import device
from delfjax.config import (
    DELF,
    DelfConfig,
    from_dict,
    override,
    system_assignments,
    to_dict,
    uses_global,
    uses_local,
    without_digest,
)
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.catalogue import open_dataset
from delfjax.datasets.images import decode_image
from delfjax.datasets.photo_folder import FolderError, PhotoFolder, scan_folder
from delfjax.errors import DelfjaxWarning
from delfjax.features.dataset_loop import ImageExtractor, PendingFeatures, extract_dataset
from delfjax.features.folder_changes import warn_unfinished
from delfjax.features.global_extractor import load_global_extractor
from delfjax.features.local_methods import load_local_extractor
from delfjax.features.store import FeatureStore, StoreError, is_store
from delfjax.models.model_files import pinned
from delfjax.pipeline.answers import FoundPhoto, PhotoMatch, SearchResults
from delfjax.pipeline.one_system import DatasetEvaluation, evaluate_dataset
from delfjax.retrieval import local_index
from delfjax.retrieval.global_index import build_global_index
from delfjax.retrieval.local_index import LocalIndex
from delfjax.retrieval.ranking import Answers
from delfjax.retrieval.search import compare, match_pair
from delfjax.retrieval.system_index import GLOBAL_PART, SystemIndex, open_index
from delfjax.text import printable
from delfjax.types import ImageFeatures


def extract_photo(photo: str | Path, *, config: DelfConfig | None = None) -> ImageFeatures:
    """Extract the features of one photo that a system ranks by: local ones with unreduced
    descriptors, a global descriptor, or both.

    Args:
        photo: an image file.
        config: how to extract; by default the default preset.

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
    pooled: Path | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> FeatureStore:
    """Extract listed photos, such as the database of a dataset; see :func:`extract_folder`.

    Global descriptors of a system that also ranks by local features go to ``pooled``, by default a
    store within the other.

    Raises:
        StoreError: the store has another config, is damaged, or is being written.
        WeightsError: the weights of ``config`` are missing or do not fit.
    """
    place, used = Path(store), config or DelfConfig()
    _keep_programs()
    beside = pooled or place / GLOBAL_PART
    held = is_store(place) and not is_global(FeatureStore.open(place))
    parts: list[tuple[ImageExtractor[ImageFeatures], Path]] = []
    if uses_local(used):
        parts.append((load_local_extractor(used), place))
    if uses_global(used):
        parts.append((load_global_extractor(used), beside if parts or held else place))
    elif is_store(beside):
        # What the store also holds is not left behind.
        kept = stored_config(FeatureStore.open(beside), used)
        parts.append((load_global_extractor(kept), beside))
    for extractor, folder in parts:
        extract_dataset(extractor, photos, folder, retry_failed=retry_failed, progress=progress)
    return FeatureStore.open(place).subset(photos.names)


def open_store(folder: str | Path) -> FeatureStore:
    """Open the feature store in ``folder`` for reading.

    Raises:
        StoreError: there is no store, it has another version, or it is damaged.
    """
    return FeatureStore.open(Path(folder))


def stored_config(store: FeatureStore, base: DelfConfig | None = None) -> DelfConfig:
    """The config ``base`` (default preset if omitted) with the extraction of ``store``; also with
    that of a store of global descriptors within it, by which it then ranks as well."""
    used = base or DelfConfig()
    method = store.config.get("features", {}).get("method", DELF)
    if not is_global(store):
        suited = system_assignments(method, method=used.features.method)
        used = override(used, [each for each in suited if each.section in _SUITED])
    plain = to_dict(used)
    pooled = global_part(store)
    for held in [store] if pooled is None else [store, pooled]:
        for section, values in held.config.items():
            plain[section] = {**plain[section], **values} if isinstance(values, dict) else values
    if pooled is not None and plain["ranking"]["by"] == "local":
        plain["ranking"]["by"] = "fused"
    elif is_global(store):
        plain["ranking"]["by"] = "global"
    return from_dict(DelfConfig, plain)


# Sections in which a system's name sets what suits its local features.
_SUITED = ("features", "reduction", "index", "verification")


def is_global(store: FeatureStore) -> bool:
    """Whether a store holds global descriptors alone."""
    return "features" not in store.config


def global_part(store: FeatureStore, place: Path | None = None) -> FeatureStore | None:
    """The store of the global descriptors of the same photos; ``None`` if there is none.

    Args:
        store: the store of the local features.
        place: folder of the other store; by default one within the first.

    Raises:
        StoreError: it is damaged.
    """
    place = place or store.path / GLOBAL_PART
    if is_global(store) or not place.is_dir():
        return None
    opened = FeatureStore.open(place)
    return opened if store.wanted is None else opened.subset(store.wanted)


def build_index(
    store: str | Path | FeatureStore,
    *,
    config: DelfConfig | None = None,
    photos: str | Path | None = None,
    pooled: Path | None = None,
) -> LocalIndex | SystemIndex:
    """Fit the reduction on a store and index its descriptors; ``save`` on the result keeps it.

    Without global descriptors, the result is a :class:`LocalIndex`.

    A warning says how many photos are not extracted yet, and how many have left their folder.

    Args:
        store: a store, or its folder.
        config: the whole system, with the extraction sections of the store; by default the default
            preset with those sections.
        photos: folder that the names in the store are relative to; by default the one that
            :func:`extract_folder` recorded.
        pooled: store of the global descriptors, if it does not lie within the other.

    Raises:
        StoreError: the store is missing or damaged, or lacks global descriptors that the system
            ranks by.
        LocalIndexError: the store is empty, or was extracted with another config.
        ReductionError: the store has too few descriptors for ``config.reduction.dim``.
    """
    opened = store if isinstance(store, FeatureStore) else open_store(store)
    used = config or stored_config(opened)
    # A store of an earlier version knows its weights by their path.
    if not without_digest(opened.config):
        used = pinned(used)
    root = _recorded_folder(opened) if photos is None else str(photos)
    described = opened if is_global(opened) else global_part(opened, pooled)
    warn_unfinished(opened)
    if is_global(opened) and uses_local(used):
        raise StoreError(
            f"{opened.path}: holds global descriptors alone, but this system ranks by local"
            " features; extract the photos with this system"
        )
    if described is not None and described is not opened and uses_global(used):
        _require_same_photos(opened, described)
    local = None
    if not is_global(opened) and uses_local(used):
        local = local_index.build_index(opened, config=used, photos=root)
        if not uses_global(used):
            return local
    if described is None:
        raise StoreError(
            f"{opened.path}: holds no global descriptors, which this system ranks by; extract the"
            " photos again with this system"
        )
    return SystemIndex(used, local, build_global_index(described, config=used, photos=root))


def search(
    index: str | Path | LocalIndex | SystemIndex,
    photo: str | Path | ImageFeatures,
    *,
    top: int = 10,
    config: DelfConfig | None = None,
) -> SearchResults:
    """Find the photos of an index that show what ``photo`` shows.

    Of local features, the ranking is by verified inliers; votes break ties. The verdict rests on
    the evidence of each photo found, compared with the query on its own, because inliers mean less
    in a small index. Global descriptors alone give no verdict.

    Args:
        index: an index, or its folder. For many searches, open it once with :func:`open_index`.
        photo: an image file, or its features, extracted with the config of the index.
        top: maximum number of results.
        config: only its sections ``search``, ``verification``, ``ranking`` and ``expansion`` are
            used; by default those of the index.

    Raises:
        LocalIndexError: the index is missing or damaged.
        GlobalIndexError: its part of global descriptors is missing or damaged.
        RankingError: the system needs what the index or the features lack.
        ImageError: the file is missing or not an image.
        WeightsError: the weights that the index was built with are missing.
    """
    opened = open_index(index) if isinstance(index, str | Path) else index
    whole = SystemIndex(opened.config, opened) if isinstance(opened, LocalIndex) else opened
    asked = whole.config
    if config is not None:
        asked = replace(
            asked,
            search=config.search,
            verification=config.verification,
            ranking=config.ranking,
            expansion=config.expansion,
        )
    for file in without_digest(to_dict(opened.config)):
        warnings.warn(
            f"the index was built by an earlier version, which did not record which weights {file}"
            " held; if they have changed since, its results are wrong",
            DelfjaxWarning,
            stacklevel=2,
        )
    searcher = whole.searcher(asked)
    query = _features([photo], asked)[0]
    answers = searcher.answers(query)
    shown = [int(image) for image in answers.final.images[:top]]
    return SearchResults(
        query=_file(photo),
        photos=_found_photos(whole, query, answers, shown, asked),
        root=Path(whole.photos) if whole.photos else None,
        ranked=answers.local,
        content_hashes=dict(zip(whole.names, whole.content_hashes, strict=False)),
    )


def _found_photos(
    index: SystemIndex,
    query: ImageFeatures,
    answers: Answers,
    shown: Sequence[int],
    config: DelfConfig,
) -> tuple[FoundPhoto, ...]:
    """The photos shown, with the verdict on each."""
    ranked, cosines = answers.local, answers.cosines
    evidence: dict[int, float] = {}
    counts: dict[str, dict[int, int]] = {"inliers": {}, "votes": {}}
    if ranked is not None and index.local is not None:
        for kind, held in counts.items():
            values = getattr(ranked, kind)
            held |= dict(zip(ranked.images.tolist(), values.tolist(), strict=True))
        # Compared on their own, all in one call; photos that the search did not verify are not.
        verified = [image for image in shown if image in ranked.correspondences]
        compared = compare(index.local, query, verified, verification=config.verification)
        evidence = {image: pair.evidence for image, pair in zip(verified, compared, strict=True)}
    required = config.verification.required_evidence(len(index.names))
    return tuple(
        FoundPhoto(
            rank=place + 1,
            image=index.names[image],
            inliers=counts["inliers"].get(image),
            votes=counts["votes"].get(image),
            evidence=evidence.get(image),
            match=evidence[image] >= required if image in evidence else None,
            cosine=None if cosines is None else float(cosines[image]),
            by_way_of=tuple(index.names[via] for via in answers.by_way_of(image)),
        )
        for place, image in enumerate(shown)
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
        config: extraction and verification; by default the default preset. Features must have been
            extracted with it.

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
    return [held if isinstance(held, ImageFeatures) else _finish(held) for held in started]


def _start(photo: str | Path, config: DelfConfig) -> list[PendingFeatures[ImageFeatures]]:
    """The photo's local features, global descriptor, or both, as the system needs them."""
    _keep_programs()
    extractors: list[ImageExtractor[ImageFeatures]] = []
    if uses_local(config):
        extractors.append(load_local_extractor(config))
    if uses_global(config):
        extractors.append(load_global_extractor(config))
    return [
        extractor.dispatch([decode_image(photo, max_side=extractor.max_side)])
        for extractor in extractors
    ]


def _finish(pending: Sequence[PendingFeatures[ImageFeatures]]) -> ImageFeatures:
    found = [part.result()[0] for part in pending]
    return replace(found[0], global_descriptor=found[-1].global_descriptor)


def _file(photo: str | Path | ImageFeatures) -> Path | None:
    return None if isinstance(photo, ImageFeatures) else Path(photo)


def _require_same_photos(local: FeatureStore, pooled: FeatureStore) -> None:
    """Check that two stores hold the same photos."""

    def held(store: FeatureStore) -> dict[str, str]:
        return {name: store.content_hash(name) for name in store.names}

    first, second = held(local), held(pooled)
    other = sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )
    if other:
        raise StoreError(
            f"{local.path}: {len(other)} of its photos have no global descriptor, or that of"
            f" another file ({printable(other[0])}, for instance); run `delfjax extract` on the"
            " folder again, which brings both up to date"
        )


def _recorded_folder(store: FeatureStore) -> str:
    return store.source.root if store.source is not None else ""
