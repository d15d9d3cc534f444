"""Everything from a folder of photographs with a ground truth to its scores, in one call."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from delfjax import paths
from delfjax.config import DelfConfig, config_hash
from delfjax.datasets.folder import PhotoFolder, load_groundtruth
from delfjax.evaluation.folder_protocol import tier_mean_average_precisions
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.extractor import Extractor
from delfjax.features.store import FeatureStore
from delfjax.models.delf import load_delf
from delfjax.retrieval.local_index import LocalIndex, build_index
from delfjax.retrieval.search import search

# Ranked images reported per query.
_LONGEST_RANKING = 1000


@dataclass(frozen=True)
class FolderEvaluation:
    """Scores of one config on one folder.

    Attributes:
        config_hash: of the whole config.
        seconds: wall time of each stage.
        num_images: images that were indexed.
        num_failed: images that could not be read.
        tiers: tier → {"votes": mAP before, "inliers": mAP after verification}.
        rankings: query path → database paths, best first.
    """

    config_hash: str
    seconds: dict[str, float]
    num_images: int
    num_failed: int
    tiers: dict[str, dict[str, float]]
    rankings: dict[str, list[str]]

    def to_json(self) -> str:
        """The evaluation as one JSON object."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def evaluate_folder(
    folder: Path, config: DelfConfig, *, store: Path | None = None, progress: bool = True
) -> FolderEvaluation:
    """Extract (or reuse), fit the reduction, index, search with every query, verify, score.

    Args:
        folder: holds ``groundtruth.json`` and the photographs it names.
        config: the whole system.
        store: where the features are kept; by default in the cache, by folder and config.
        progress: show progress bars.

    Raises:
        FolderError: no valid ground truth.
        StoreError: the store is of another config, damaged, or being written.
        ReductionError: too few features to fit the reduction.
    """
    started = time.perf_counter()
    groundtruth = load_groundtruth(folder)
    photos = PhotoFolder(folder, tuple(sorted(groundtruth.imlist)))
    path = store or default_store(folder, config)
    extract_dataset(Extractor(config, load_delf(config)), photos, path, progress=progress)
    features = FeatureStore.open(path, config=config.extraction())
    extracted = time.perf_counter()
    index = build_index(features, config=config, photos=str(folder))
    built = time.perf_counter()
    by_votes: dict[str, list[str]] = {}
    by_inliers: dict[str, list[str]] = {}
    for query in tqdm(groundtruth.queries, desc="search", unit="query", disable=not progress):
        if query.path in features:
            by_votes[query.path], by_inliers[query.path] = _rank(index, features, query.path)
        else:
            by_votes[query.path] = by_inliers[query.path] = []
    votes = tier_mean_average_precisions(by_votes, groundtruth)
    inliers = tier_mean_average_precisions(by_inliers, groundtruth)
    finished = time.perf_counter()
    return FolderEvaluation(
        config_hash=config_hash(config),
        seconds={
            "extract": extracted - started,
            **index.seconds,
            "search": finished - built,
            "total": finished - started,
        },
        num_images=len(features),
        num_failed=len(features.failures()),
        tiers={tier: {"votes": votes[tier], "inliers": inliers[tier]} for tier in votes},
        rankings={query: ranking[:_LONGEST_RANKING] for query, ranking in by_inliers.items()},
    )


def default_store(folder: Path, config: DelfConfig) -> Path:
    """Where the features of a folder under a config are cached."""
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return paths.cache_root() / "stores" / f"{folder.resolve().name}-{place}-{config_hash(config.extraction())}"


def _rank(index: LocalIndex, store: FeatureStore, query: str) -> tuple[list[str], list[str]]:
    ranked = search(
        index, store.get(query), config=index.config.search, verification=index.config.verification
    )
    return [index.names[i] for i in ranked.by_votes], [index.names[i] for i in ranked.images]
