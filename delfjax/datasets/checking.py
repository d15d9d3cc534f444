"""What a copy of a dataset holds beside what it should hold, and which of its images are missing or
damaged."""

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

# Images are decoded at this size to see whether they can be, pixels: a JPEG is read whole at any
# size.
_DECODED_SIDE = 256


@dataclass(frozen=True)
class Count:
    """One count of a dataset.

    Attributes:
        name: what is counted.
        found: how many there are.
        expected: what the real dataset has; ``None`` where nobody says.
    """

    name: str
    found: int
    expected: Expected | None

    @property
    def agrees(self) -> bool:
        """Whether it is what a complete copy may have, or nobody says."""
        return self.expected is None or self.found in self.expected.values

    def __str__(self) -> str:
        """One line: what was found, beside what was expected."""
        if self.expected is None:
            return f"{self.name:12s} {self.found:>11,d}"
        accepted = " or ".join(f"{value:,d}" for value in self.expected.values)
        verdict = "ok" if self.agrees else "DIFFERS"
        return (
            f"{self.name:12s} {self.found:>11,d}   expected {accepted} ({self.expected.source})  "
            f" {verdict}"
        )


@dataclass(frozen=True)
class Check:
    """The outcome of a verification.

    Attributes:
        counts: every count beside its expectation.
        problems: (path, reason) of each image that cannot be used and is not known to be corrupt,
            of each box outside its image.
        known_corrupt: how many images known to be corrupt were missing or damaged, as they should
            be.
        checked: how many files were looked at.
    """

    counts: tuple[Count, ...]
    problems: tuple[tuple[str, str], ...]
    known_corrupt: int
    checked: int

    @property
    def complete(self) -> bool:
        """Whether every image is there and every confirmed count agrees."""
        sure = [
            count
            for count in self.counts
            if count.expected is not None and count.expected.confirmed
        ]
        return not self.problems and all(count.agrees for count in sure)


def count_dataset(dataset: RetrievalDataset) -> dict[str, int]:
    """How many of what there are: database, distractors, queries, landmarks, corrupt images, and
    members of each label."""
    ids = [dataset.queries.landmarks.indices]
    # Ids of the index of Google-Landmarks v2 are not those of its queries: a database with labels
    # speaks for itself.
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
    """Every count of a dataset beside what the real one has."""
    return tuple(
        Count(name, found, expected.get(name)) for name, found in count_dataset(dataset).items()
    )


def verify_dataset(
    dataset: RetrievalDataset, expected: Mapping[str, Expected], *, decode: bool = False
) -> Check:
    """Look for every image of a dataset; open every one when asked to, queries with their boxes.

    Args:
        dataset: an opened dataset.
        expected: counts of the real one.
        decode: also decode all images, which takes hours for millions of them.
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
        # A query of the database was looked at, but its box was not.
        if dataset.queries.in_database[number] < 0 or decode:
            reason = _query_problem(dataset, number, path, decode=decode)
            if reason and (path, reason) not in problems:
                problems.append((path, reason))
    checked = len(dataset.database) + len(dataset.queries)
    return Check(compare_counts(dataset, expected), tuple(problems), excused, checked)


def _database_problem(dataset: RetrievalDataset, path: str, *, decode: bool) -> str | None:
    if not decode:
        return None if os.path.isfile(dataset.root / path) else "missing"
    try:
        decode_image(dataset.root / path, max_side=_DECODED_SIDE)
    except ImageError as error:
        return error.reason
    return None


def _query_problem(
    dataset: RetrievalDataset, number: int, path: str, *, decode: bool
) -> str | None:
    if not decode:
        return None if os.path.isfile(dataset.root / path) else "missing"
    try:
        read_query(dataset, number, max_side=_DECODED_SIDE)
    except ImageError as error:
        return error.reason
    return None


def _progress(items: Iterable[str], count: int, name: str) -> Iterable[str]:
    bar: Iterable[str] = tqdm(items, total=count, desc=name, unit="image", leave=False)
    return bar
