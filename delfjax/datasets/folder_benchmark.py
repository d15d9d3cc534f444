"""A folder of photographs as a benchmark: by ``groundtruth.json`` or by a folder per landmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from delfjax.datasets.benchmark import RetrievalDataset, grouped_dataset, make_queries, no_queries
from delfjax.datasets.columns import DatasetError, ImagePaths, IndexSets
from delfjax.datasets.photo_folder import GROUNDTRUTH, load_groundtruth, scan_folder

# Largest number of pairs of query and answer: beyond it, the answers of every image would not fit
# the memory.
MAX_PAIRS = 50_000_000


def load_folder(root: Path) -> RetrievalDataset:
    """The images of a folder as a dataset.

    * With ``groundtruth.json``: its queries, with labels ok and junk; the split of a query is its
      tier.
    * Otherwise, if every image lies in a folder: the first folder of its path is its class. Each
      image of a class of two or more is a query; the others are its answers (ok), and the query
      itself is junk.
    * Otherwise: images only, no queries.

    Raises:
        DatasetError: there are no images, or the classes are too large.
        FolderError: the folder or its ground truth cannot be used.
    """
    if (root / GROUNDTRUTH).is_file():
        return _from_groundtruth(root)
    names = scan_folder(root).names
    if not names:
        raise DatasetError(f"{root}: no {GROUNDTRUTH} and no images in this folder")
    if all("/" in name for name in names):
        return _from_classes(root, names)
    return RetrievalDataset("folder", root, ImagePaths(names), no_queries())


def _from_groundtruth(root: Path) -> RetrievalDataset:
    truth = load_groundtruth(root)
    names = tuple(sorted({query.landmark for query in truth.queries}))
    queries = make_queries(
        ImagePaths([query.path for query in truth.queries]),
        {
            "ok": IndexSets.of([query.ok for query in truth.queries]),
            "junk": IndexSets.of([query.junk for query in truth.queries]),
        },
        landmarks=IndexSets.of([[names.index(query.landmark)] for query in truth.queries]),
        in_database=np.array([query.index for query in truth.queries], np.int64),
        split=np.array([query.tier for query in truth.queries], np.str_),
    )
    return RetrievalDataset("folder", root, ImagePaths(truth.imlist), queries, landmark_names=names)


def _from_classes(root: Path, images: tuple[str, ...]) -> RetrievalDataset:
    names, landmarks, counts = np.unique(
        [image.partition("/")[0] for image in images], return_inverse=True, return_counts=True
    )
    if int((counts.astype(np.int64) ** 2).sum()) > MAX_PAIRS:
        raise DatasetError(
            f"{root}: class {names[counts.argmax()]!r} has {counts.max()} images, too many for "
            f"each to be a query; list the queries in {GROUNDTRUTH}"
        )
    own = np.flatnonzero(counts[landmarks] > 1)
    classes = tuple(str(name) for name in names)
    return grouped_dataset(
        "folder", root, ImagePaths(images), landmarks=landmarks, landmark_names=classes, queries=own
    )
