"""How often `search` says "match", right or wrong, in databases of different sizes.

Usage: python tests/benchmarks/bench_verdict.py FOLDER [SIZE ...]

FOLDER is a labelled folder as `delfjax evaluate` takes it. For each size, queries are searched for
in random databases that show their landmark, and in others that do not. The table gives, beside
today's verdict, the one that counts a photo with at least `verification.min_inliers` inliers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

import delfjax
from delfjax.datasets.benchmark import DatasetQuery, RetrievalDataset
from delfjax.datasets.photo_folder import PhotoFolder
from delfjax.device import use_compilation_cache
from delfjax.features.store import FeatureStore
from delfjax.pipeline.dataset_features import default_store
from delfjax.pipeline.photos import extract_photos
from delfjax.retrieval.local_index import LocalIndex

SIZES = (1, 2, 5, 20, 100, 400)
# Queries per size and kind; databases of 100 photos or more are shared by five queries.
QUERIES, SHARED = 100, 5


@dataclass
class Counts:
    """What was said of queries without an answer, and of right photos."""

    queries: int = 0
    false: int = 0
    false_by_inliers: int = 0
    right: int = 0
    true: int = 0
    true_by_inliers: int = 0


def main(folder: str, sizes: tuple[int, ...]) -> None:
    """Print a table of the shares for each size."""
    use_compilation_cache()
    dataset = delfjax.open_dataset("folder", folder)
    config = delfjax.DelfConfig()
    photos = PhotoFolder(dataset.root, tuple(dataset.database))
    store = extract_photos(photos, default_store(dataset, config.extraction()), config=config)
    rng = np.random.default_rng(1)
    print(f"{'photos':>6s}  {'false match':>20s}  {'right kept':>20s}   (by inliers alone)")
    for size in sizes:
        counts = Counts()
        group = SHARED if size >= 100 else 1
        for answerable in (False, True):
            for _ in tqdm(range(QUERIES // group), desc=f"{size} photos", leave=False):
                ask(dataset, store, size, group, answerable, rng, counts)
        print(
            f"{size:6d}  {counts.false / counts.queries:8.3f}"
            f" ({counts.false_by_inliers / counts.queries:.3f}) {counts.queries:4d}"
            f"  {counts.true / counts.right:8.3f} ({counts.true_by_inliers / counts.right:.3f})"
            f" {counts.right:4d}"
        )


def ask(
    dataset: RetrievalDataset,
    store: FeatureStore,
    size: int,
    group: int,
    answerable: bool,
    rng: np.random.Generator,
    counts: Counts,
) -> None:
    """Search a random database of ``size`` photos for ``group`` queries."""
    queries = [dataset.queries[i] for i in rng.permutation(len(dataset.queries))[:group]]
    queries = [query for query in queries if query.answers.size]
    related = np.concatenate([related_photos(query) for query in queries])
    others = np.setdiff1d(np.arange(len(dataset.database)), related)
    chosen = rng.permutation(others)[:size]
    if answerable:
        shown = np.unique([rng.choice(query.answers) for query in queries])
        chosen = np.concatenate([shown, chosen])[:size]
    names = [dataset.database[i] for i in chosen]
    index = delfjax.build_index(store.subset(names))
    for query in queries:
        judge(index, dataset, store, query, answerable, counts)


def related_photos(query: DatasetQuery) -> np.ndarray:
    """Everything that is not a wrong answer: the photo itself, right ones and ignored ones."""
    own = [] if query.in_database is None else [query.in_database]
    return np.concatenate([np.array(own, np.int64), query.answers, *query.sets.values()])


def judge(
    index: LocalIndex,
    dataset: RetrievalDataset,
    store: FeatureStore,
    query: DatasetQuery,
    answerable: bool,
    counts: Counts,
) -> None:
    """Count the verdicts of one search."""
    features = store.get(dataset.database[query.in_database])
    found = delfjax.search(index, features, top=len(index.names))
    least = index.config.verification.min_inliers
    if not answerable:
        counts.queries += 1
        counts.false += any(photo.match for photo in found)
        counts.false_by_inliers += any(photo.inliers >= least for photo in found)
        return
    right = {dataset.database[i] for i in query.answers}
    for photo in found:
        if photo.image in right:
            counts.right += 1
            counts.true += bool(photo.match)
            counts.true_by_inliers += photo.inliers >= least


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print(__doc__)
    else:
        main(sys.argv[1], tuple(map(int, sys.argv[2:])) or SIZES)
