"""A folder of photographs as a benchmark: by ``groundtruth.json`` or by a folder per landmark."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from delfjax.datasets.benchmark import (
    RetrievalDataset,
    grouped_dataset,
    make_queries,
    no_queries,
    with_distractors,
)
from delfjax.datasets.columns import DatasetError, ImagePaths, IndexSets
from delfjax.datasets.photo_folder import GROUNDTRUTH, load_groundtruth, scan_folder

# Largest number of pairs of query and answer: beyond it, the answers of every image would not fit
# the memory.
MAX_PAIRS = 50_000_000


def load_folder(root: Path) -> RetrievalDataset:
    """The images of a folder as a dataset.

    * With ``groundtruth.json``: its queries, with labels ok and junk; the split of a query is its
      tier.
    * Otherwise, if there are images in folders: the first folder of its path is the class of an
      image. Each image of a class of two or more is a query; the others are its answers (ok), and
      the query itself is junk. Images beside the folders belong to no class; they are distractors.
    * Otherwise: images only, no queries.

    The notes of the dataset say what has no class, what is not in it, and whether there is one
    class only.

    Raises:
        DatasetError: there are no images, or the classes are too large.
        FolderError: the folder or its ground truth cannot be used.
    """
    if (root / GROUNDTRUTH).is_file():
        return _from_groundtruth(root)
    photos = scan_folder(root)
    if not photos.names:
        rest = f" ({photos.left_out})" if photos.left_out else ""
        raise DatasetError(f"{root}: no {GROUNDTRUTH} and no images in this folder{rest}")
    notes = [f"{root}: {photos.left_out} left out"] if photos.left_out else []
    filed = tuple(name for name in photos.names if "/" in name)
    loose = tuple(name for name in photos.names if "/" not in name)
    if not filed:
        dataset = RetrievalDataset("folder", root, ImagePaths(loose), no_queries())
    else:
        dataset = with_distractors(_from_classes(root, filed), ImagePaths(loose), name="folder")
        if loose:
            notes.append(
                f"{root}: {len(loose)} of {len(photos.names)} images lie beside the folders and"
                f" have no class, for instance {loose[0]!r}"
            )
        elif len(dataset.landmark_names) == 1:
            notes.append(
                f"{root}: all {len(filed)} images are in the folder {dataset.landmark_names[0]!r},"
                " so they are one landmark and any answer is right; each landmark needs a folder"
                " of its own in the folder that is named"
            )
    return dataclasses.replace(dataset, notes=tuple(notes))


def _from_groundtruth(root: Path) -> RetrievalDataset:
    truth = load_groundtruth(root)
    if not any(os.path.lexists(root / name) for name in truth.imlist):
        raise DatasetError(
            f"{root / GROUNDTRUTH}: none of its {len(truth.imlist)} images is in this folder, for"
            f" instance {truth.imlist[0]!r:.80}"
        )
    names = tuple(sorted({query.landmark for query in truth.queries}))
    number = {name: position for position, name in enumerate(names)}
    queries = make_queries(
        ImagePaths([query.path for query in truth.queries]),
        {
            "ok": IndexSets.of([query.ok for query in truth.queries]),
            "junk": IndexSets.of([query.junk for query in truth.queries]),
        },
        landmarks=IndexSets.of([[number[query.landmark]] for query in truth.queries]),
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
