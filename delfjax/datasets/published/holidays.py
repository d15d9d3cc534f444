"""INRIA Holidays, as published or with its images turned upright by hand.

Layout of both: images with six-digit names (``jpg/100000.jpg``). The first four digits are the
group; ``…00`` is its query, the others are the answers.

Source: Jégou et al., Hamming embedding and weak geometric consistency, ECCV 2008, and its page
    (lear.inrialpes.fr).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from delfjax.datasets.benchmark import RetrievalDataset, grouped_dataset
from delfjax.datasets.columns import DatasetError, ImagePaths
from delfjax.datasets.published.oxford_paris import images_by_name

_SIX_DIGITS = re.compile(r"\d{6}")
_IMAGES_PER_GROUP = 100


def load_holidays(root: Path) -> RetrievalDataset:
    """Holidays as published, where some images lie on their side."""
    return _load(root, "holidays")


def load_holidays_rotated(root: Path) -> RetrievalDataset:
    """Holidays with its images turned upright by hand, as many published results use it."""
    return _load(root, "holidays_rotated")


def _load(root: Path, name: str) -> RetrievalDataset:
    """Labels ok and junk; junk is the query itself, which the protocol removes from its ranking."""
    paths = images_by_name(root)
    for image, path in paths.items():
        if not _SIX_DIGITS.fullmatch(image):
            raise DatasetError(
                f"{root / path}: name {image!r} is not six digits; "
                "keep other files out of the dataset"
            )
    images = list(paths.values())
    numbers = np.array([int(image) for image in paths], np.int64)
    own = np.flatnonzero(numbers % _IMAGES_PER_GROUP == 0)
    groups, landmarks, counts = np.unique(
        numbers // _IMAGES_PER_GROUP, return_inverse=True, return_counts=True
    )
    orphan = np.flatnonzero(~np.isin(landmarks, landmarks[own]))
    if len(orphan):
        missing = f"{groups[landmarks[orphan[0]]]:04d}00"
        raise DatasetError(
            f"{root / images[orphan[0]]}: the query of its group, {missing}, is missing; "
            "unpack the archives again"
        )
    lonely = own[counts[landmarks[own]] < 2]
    if len(lonely):
        raise DatasetError(
            f"{root / images[lonely[0]]}: the other images of its group are missing; "
            "unpack the archives again"
        )
    names = tuple(f"{group:04d}" for group in groups)
    return grouped_dataset(
        name, root, ImagePaths(images), landmarks=landmarks, landmark_names=names, queries=own
    )
