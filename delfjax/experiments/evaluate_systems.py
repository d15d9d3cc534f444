"""Several systems on one dataset: those that differ in the scorer, the scales or the number of features share one pass of the
backbone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from tqdm.auto import tqdm

from delfjax.config import DelfConfig, config_hash, override, to_dict
from delfjax.datasets.retrieval import RetrievalDataset
from delfjax.experiments.evaluate_dataset import DatasetFeatures, DatasetScores, extract_features, query_store, score_index
from delfjax.features.rescoring import DENSE_FIELDS, dense_extractor, rescore
from delfjax.retrieval.local_index import build_index

K = TypeVar("K", bound=Hashable)


def evaluate_systems(
    dataset: RetrievalDataset, systems: Mapping[K, DelfConfig], *, progress: bool = True
) -> dict[K, DatasetScores]:
    """Scores of every system, by its key; the stores lie in a temporary folder and go.

    Args:
        dataset: a benchmark.
        systems: key → config; without suppression and thresholds of features.
        progress: show a progress bar.

    Raises:
        ConfigError: a system suppresses or thresholds features.
        EvaluationError: the dataset cannot be scored.
    """
    groups: dict[str, list[K]] = {}
    for key, config in systems.items():
        groups.setdefault(_dense_part(config), []).append(key)
    scores: dict[K, DatasetScores] = {}
    with tqdm(total=len(systems), desc="evaluate", unit="system", disable=not progress) as bar:
        for keys in groups.values():
            with TemporaryDirectory() as scratch:
                scales = sorted({scale for key in keys for scale in systems[key].features.scales})
                extractor = dense_extractor(override(systems[keys[0]], [f"features.scales={scales}"]))
                dense, _ = extract_features(dataset, extractor, Path(scratch, "dense"), progress=False)
                for number, key in enumerate(keys):
                    features = _rescored(dense, systems[key], Path(scratch, f"system-{number}"))
                    index = build_index(features.database, config=systems[key], photos=str(dataset.root))
                    scores[key] = score_index(dataset, index, features, progress=False)
                    bar.update()
    return {key: scores[key] for key in systems}


def _dense_part(config: DelfConfig) -> str:
    """What decides a dense store, its levels aside."""
    plain = to_dict(config)
    return config_hash({path: plain[section][field] for path in DENSE_FIELDS for section, field in [path.split(".")]})


def _rescored(dense: DatasetFeatures, config: DelfConfig, place: Path) -> DatasetFeatures:
    database = rescore(dense.database, config, place, progress=False)
    if dense.queries is dense.database:
        return DatasetFeatures(database, database)
    return DatasetFeatures(database, rescore(dense.queries, config, query_store(place), progress=False))
