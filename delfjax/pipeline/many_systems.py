"""Several systems evaluated on one dataset.

Systems that differ only in the scorer, the scales or the number of features share one pass of the
backbone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from delfjax.config import DelfConfig, config_hash
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.features.shared_pass import SharedPass
from delfjax.files import remove_folder
from delfjax.models.model_files import pinned
from delfjax.pipeline.dataset_features import image_sources, open_features
from delfjax.pipeline.scoring import DatasetScores, score_index
from delfjax.retrieval.local_index import build_index

K = TypeVar("K", bound=Hashable)


def evaluate_systems(
    dataset: RetrievalDataset,
    systems: Mapping[K, DelfConfig],
    *,
    place: Path,
    progress: bool = True,
) -> dict[K, DatasetScores]:
    """Evaluate every system; returns key → scores.

    Args:
        dataset: a benchmark.
        systems: key → config; see :class:`~delfjax.features.shared_pass.SharedPass`.
        place: folder for the feature stores, deleted once every system is scored. A call that was
            interrupted resumes from it.
        progress: show progress bars.

    Raises:
        ConfigError: a system suppresses or thresholds features, or its local descriptors are the
            codes of its own autoencoder.
        WeightsError: weights are missing, damaged, or made for another architecture.
        StoreError: a store is damaged, or another process is writing it.
        EvaluationError: the dataset cannot be scored.
    """
    systems = {key: pinned(config) for key, config in systems.items()}
    # Systems that differ only after the extraction share a store.
    extractions = {config_hash(config.extraction()): config for config in systems.values()}
    stores = {name: place / name for name in extractions}
    shared = SharedPass(extractions)
    for source, folders in image_sources(dataset, list(stores.values())):
        shared.extract(source, dict(zip(stores, folders, strict=True)), progress=progress)
    scores: dict[K, DatasetScores] = {}
    for key, config in tqdm(systems.items(), desc="evaluate", unit="system", disable=not progress):
        features = open_features(dataset, stores[config_hash(config.extraction())])
        index = build_index(features.database, config=config, photos=str(dataset.root))
        scores[key] = score_index(dataset, index, features, progress=False)
    remove_folder(place)
    return scores
