"""INRIA Holidays, as published or with its images turned upright by hand; the layout is the same.

Layout: images with six-digit names (``jpg/100000.jpg``); the first four digits are the group, ``…00`` is its query, the
others are the answers.

Source: Jégou et al., Hamming embedding and weak geometric consistency, ECCV 2008, and its page (lear.inrialpes.fr).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from delfjax.datasets.buildings import images_by_name
from delfjax.datasets.retrieval import DatasetError, ImagePaths, IndexSets, RetrievalDataset, make_queries

_SIX_DIGITS = re.compile(r"\d{6}")
_IMAGES_PER_GROUP = 100


def load_holidays(root: Path) -> RetrievalDataset:
    """Holidays as published: some images lie on their side."""
    return _load(root, "holidays")


def load_holidays_rotated(root: Path) -> RetrievalDataset:
    """Holidays with its images turned upright by hand, which many published figures are for."""
    return _load(root, "holidays_rotated")


def _load(root: Path, name: str) -> RetrievalDataset:
    """Labels ok, and junk, which holds the query itself: the protocol takes it out of its own ranking."""
    paths = images_by_name(root)
    for image, path in paths.items():
        if not _SIX_DIGITS.fullmatch(image):
            raise DatasetError(f"{root / path}: name {image!r} is not six digits; keep other files out of the dataset")
    numbers = np.array([int(image) for image in paths], np.int64)
    groups = numbers // _IMAGES_PER_GROUP
    own = np.flatnonzero(numbers % _IMAGES_PER_GROUP == 0)
    orphan = np.flatnonzero(~np.isin(groups, groups[own]))
    if len(orphan):
        image = list(paths.values())[orphan[0]]
        raise DatasetError(f"{root / image}: the query of its group, {groups[orphan[0]]:04d}00, is missing; unpack again")
    ok = [np.setdiff1d(np.flatnonzero(groups == groups[query]), [query]) for query in own]
    lonely = next((query for query, answers in zip(own, ok, strict=True) if not len(answers)), None)
    if lonely is not None:
        image = list(paths.values())[lonely]
        raise DatasetError(f"{root / image}: no other image of its group is there, a query needs one; unpack again")
    columns = list(paths.values())
    names, landmarks = np.unique(groups, return_inverse=True)
    queries = make_queries(
        ImagePaths([columns[query] for query in own]),
        {"ok": IndexSets.of(ok), "junk": IndexSets.of(own[:, None])},
        landmarks=IndexSets.of(landmarks[own][:, None]),
        in_database=own.astype(np.int64),
    )
    return RetrievalDataset(
        name,
        root,
        ImagePaths(columns),
        queries,
        landmarks=landmarks.astype(np.int64),
        landmark_names=tuple(f"{group:04d}" for group in names),
    )
