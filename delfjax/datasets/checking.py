"""Verification of a copy: its counts beside the expected ones, and missing or damaged images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.catalogue import Expected
from delfjax.datasets.images import ImageError, decode_image
from delfjax.datasets.query_images import read_query

# Longest side at which images are decoded to test them, pixels: a JPEG is read whole at any size.
_DECODED_SIDE = 256


@dataclass(frozen=True)
class Count:
    """One count of a dataset.

    Attributes:
        name: what is counted.
        found: the count of this copy.
        expected: the count of the real dataset; ``None`` where it is not known.
    """

    name: str
    found: int
    expected: Expected | None

    @property
    def agrees(self) -> bool:
        """Whether a complete copy may have this count, or the expected one is not known."""
        return self.expected is None or self.found in self.expected.values

    def __str__(self) -> str:
        """One line: the count found, beside the expected one."""
        if self.expected is None:
            return f"{self.name:12s} {self.found:>11,d}"
        accepted = " or ".join(f"{value:,d}" for value in self.expected.values)
        verdict = "ok" if self.agrees else "DIFFERS"
        return (
            f"{self.name:12s} {self.found:>11,d}   "
            f"expected {accepted} ({self.expected.source})   {verdict}"
        )


@dataclass(frozen=True)
class Check:
    """The outcome of a verification.

    Attributes:
        counts: every count beside the expected one.
        problems: (path, reason) of each image that is unusable without being known as corrupt, and
            of each box outside its image.
        known_corrupt: number of images known as corrupt that are missing or damaged, as expected.
        checked: number of files checked.
    """

    counts: tuple[Count, ...]
    problems: tuple[tuple[str, str], ...]
    known_corrupt: int
    checked: int

    @property
    def complete(self) -> bool:
        """Whether every image is usable and every confirmed count agrees."""
        sure = [
            count
            for count in self.counts
            if count.expected is not None and count.expected.confirmed
        ]
        return not self.problems and all(count.agrees for count in sure)


def count_dataset(dataset: RetrievalDataset) -> dict[str, int]:
    """Numbers of database images, distractors, queries, landmarks, corrupt images, and labels.

    A label is counted by its members over all queries.
    """
    ids = [dataset.queries.landmarks.indices]
    # A database with labels is counted by itself: in Google-Landmarks v2 the ids of the index are
    # not those of the queries.
    if dataset.landmarks is not None:
        ids = [dataset.landmarks[dataset.landmarks >= 0]]
    return {
        "database": len(dataset.database),
        "distractors": dataset.distractors,
        "queries": len(dataset.queries),
        "landmarks": len(np.unique(np.concatenate(ids))),
        "corrupt": len(dataset.corrupt),
        **{label: len(sets.indices) for label, sets in dataset.queries.sets.items()},
    }


def compare_counts(
    dataset: RetrievalDataset, expected: Mapping[str, Expected]
) -> tuple[Count, ...]:
    """Every count of a dataset beside that of the real one."""
    return tuple(
        Count(name, found, expected.get(name)) for name, found in count_dataset(dataset).items()
    )


def verify_dataset(
    dataset: RetrievalDataset, expected: Mapping[str, Expected], *, decode: bool = False
) -> Check:
    """Check that every image of a dataset exists and, with ``decode``, that it can be used.

    Args:
        dataset: an opened dataset.
        expected: counts of the real dataset.
        decode: also decode all images and cut the queries to their boxes, which takes hours for
            millions of images.
    """
    known = set(dataset.corrupt.tolist())
    problems: list[tuple[str, str]] = []
    excused = 0
    for number, path in enumerate(_progress(dataset.database, len(dataset.database), dataset.name)):
        reason = _database_problem(dataset, path, decode=decode)
        if reason and number in known:
            excused += 1
        elif reason:
            problems.append((path, reason))
    for number, path in enumerate(dataset.queries.paths):
        # The image of a query in the database was checked above, but its box was not.
        if dataset.queries.in_database[number] < 0 or decode:
            reason = _query_problem(dataset, number, path, decode=decode)
            if reason and (path, reason) not in problems:
                problems.append((path, reason))
    checked = len(dataset.database) + len(dataset.queries)
    return Check(compare_counts(dataset, expected), tuple(problems), excused, checked)


def _database_problem(dataset: RetrievalDataset, path: str, *, decode: bool) -> str | None:
    if not decode:
        return _file_problem(dataset, path)
    try:
        decode_image(dataset.root / path, max_side=_DECODED_SIDE)
    except ImageError as error:
        return error.reason
    return None


def _query_problem(
    dataset: RetrievalDataset, number: int, path: str, *, decode: bool
) -> str | None:
    if not decode:
        return _file_problem(dataset, path)
    try:
        read_query(dataset, number, max_side=_DECODED_SIDE)
    except ImageError as error:
        return error.reason
    return None


def _file_problem(dataset: RetrievalDataset, path: str) -> str | None:
    if not os.path.isfile(dataset.root / path):
        return "missing"
    # What a full disk or an interrupted copy leaves.
    return None if os.path.getsize(dataset.root / path) else "empty file (0 bytes)"


def _progress(items: Iterable[str], count: int, name: str) -> Iterable[str]:
    bar: Iterable[str] = tqdm(items, total=count, desc=name, unit="image", leave=False)
    return bar
