"""One shape for every retrieval benchmark: a database of images, queries, and their answers.

:class:`RetrievalDataset` is what every loader returns and every command, protocol and notebook
takes. Everything in it with one row per image is a column (:mod:`delfjax.datasets.columns`); the
pixels of a query are read by :mod:`delfjax.datasets.query_images`, which also says what its box
means.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Float64, Int64

from delfjax.datasets.columns import DatasetError, ImagePaths, IndexSets

# Label of the images that count neither for nor against a ranking.
_JUNK = "junk"


@dataclass(frozen=True, eq=False)
class DatasetQuery:
    """One query.

    Attributes:
        number: its position among the queries.
        path: its image, under the dataset's root.
        box: ``(y0, x0, y1, x1)`` in pixels of the upright image; ``None`` for the whole image.
        sets: database indices by label, such as good, ok, junk.
        landmarks: ids of the landmarks it shows, possibly several; empty for a query without a
            match.
        in_database: position of the query's own image in the database; ``None`` where the database
            does not contain it.
    """

    number: int
    path: str
    box: tuple[float, float, float, float] | None
    sets: dict[str, np.ndarray]
    landmarks: Int64[np.ndarray, " k"]
    in_database: int | None

    @property
    def answers(self) -> Int64[np.ndarray, " k"]:
        """Database indices of the images that any protocol counts as right: all labels but junk."""
        right = [members for label, members in self.sets.items() if label != _JUNK]
        return np.unique(np.concatenate([np.empty(0, np.int64), *right]))


@dataclass(frozen=True, eq=False)
class Queries(Sequence[DatasetQuery]):
    """The queries of a dataset as columns of ``n`` rows.

    Attributes:
        paths: images under the dataset's root.
        sets: label → the database indices that carry it, for each query.
        boxes: ``(y0, x0, y1, x1)`` in pixels; a row of NaN stands for the whole image.
        landmarks: ids of the landmarks of each query.
        in_database: position of the query's image in the database, −1 where it is not in there.
        split: name of the part that each query belongs to, such as Public; ``None`` where the
            queries are not divided.
        gps: latitude and longitude, degrees; NaN where unknown, ``None`` where no query has any.
    """

    paths: ImagePaths
    sets: Mapping[str, IndexSets]
    boxes: Float64[np.ndarray, "n 4"]
    landmarks: IndexSets
    in_database: Int64[np.ndarray, " n"]
    split: np.ndarray | None = None
    gps: Float64[np.ndarray, "n 2"] | None = None

    def __post_init__(self) -> None:
        columns: dict[str, Any] = {
            **self.sets,
            "landmarks": self.landmarks,
            "boxes": self.boxes,
            "in_database": self.in_database,
        }
        columns |= {} if self.split is None else {"split": self.split}
        wrong = {name: len(column) for name, column in columns.items() if len(column) != len(self)}
        if wrong:
            raise DatasetError(
                f"{len(self)} queries, but these columns have other numbers of rows: {wrong}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: SupportsIndex) -> DatasetQuery: ...

    @overload
    def __getitem__(self, index: slice) -> list[DatasetQuery]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> DatasetQuery | list[DatasetQuery]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        path = self.paths[index]
        number = operator.index(index) % len(self)
        y0, x0, y1, x1 = (float(edge) for edge in self.boxes[number])
        sets = {label: members[number] for label, members in self.sets.items()}
        own = int(self.in_database[number])
        box = None if np.isnan(y0) else (y0, x0, y1, x1)
        return DatasetQuery(
            number, path, box, sets, self.landmarks[number], None if own < 0 else own
        )


@dataclass(frozen=True, eq=False)
class RetrievalDataset:
    """A benchmark, or a training set if it has no queries.

    Attributes:
        name: the name it was opened by.
        root: folder that all paths are under.
        database: images that are searched, the distractors last.
        queries: images that are searched for.
        distractors: number of images at the end of the database that answer no query.
        landmarks: landmark id of each database image, −1 for an image of none; ``None`` where no
            image has one.
        landmark_names: name of each landmark where the ids are positions in this list; empty where
            the landmarks have no names.
        gps: latitude and longitude of each database image, degrees; NaN where unknown, ``None``
            where no image has any.
        pairs: pairs of database images, each with an image that is known to show the same points;
            ``None`` where nothing is known.
        corrupt: database indices of images known to be undecodable; they carry no label.
        notes: anything unusual found on opening, one line each.
    """

    name: str
    root: Path
    database: ImagePaths
    queries: Queries
    distractors: int = 0
    landmarks: Int64[np.ndarray, " n"] | None = None
    landmark_names: tuple[str, ...] = ()
    gps: Float64[np.ndarray, "n 2"] | None = None
    pairs: Int64[np.ndarray, "p 2"] | None = None
    corrupt: Int64[np.ndarray, " k"] = field(default_factory=lambda: np.empty(0, np.int64))
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = len(self.database)
        members = {f"label {label!r}": sets.indices for label, sets in self.queries.sets.items()}
        members |= {} if self.pairs is None else {"pairs": self.pairs.reshape(-1)}
        for what, indices in {**members, "corrupt": self.corrupt}.items():
            outside = indices[(indices < 0) | (indices >= size)]
            if len(outside):
                raise DatasetError(
                    f"{self.name}: {what} holds index {outside[0]}, "
                    f"the database has {size} images, counted from 0"
                )
        for what, column in (("landmarks", self.landmarks), ("gps", self.gps)):
            if column is not None and len(column) != size:
                raise DatasetError(
                    f"{self.name}: {what} has {len(column)} rows, "
                    f"expected one for each of {size} database images"
                )
        if not 0 <= self.distractors <= size:
            raise DatasetError(
                f"{self.name}: {self.distractors} distractors in a database of {size} images"
            )

    def digest(self) -> str:
        """Ten hexadecimal digits that differ between copies with other images, queries or labels.

        No image is opened.
        """
        queries = self.queries
        columns = [
            queries.boxes,
            queries.in_database,
            queries.landmarks.offsets,
            queries.landmarks.indices,
        ]
        for sets in queries.sets.values():
            columns += [sets.offsets, sets.indices]
        columns += [] if self.landmarks is None else [self.landmarks]
        whole = hashlib.sha256("\0".join([self.name, *queries.sets]).encode())
        for text in (self.database.column, queries.paths.column):
            for chunk in text.chunks:
                whole.update("".join(f"{path}\0" for path in chunk.to_pylist()).encode())
        for column in columns:
            whole.update(np.ascontiguousarray(column).tobytes())
        return whole.hexdigest()[:10]


def no_queries() -> Queries:
    """The queries of a training set: none."""
    return make_queries(ImagePaths([]), {})


def make_queries(
    paths: ImagePaths,
    sets: Mapping[str, IndexSets],
    *,
    boxes: np.ndarray | None = None,
    landmarks: IndexSets | None = None,
    in_database: np.ndarray | None = None,
    split: np.ndarray | None = None,
    gps: np.ndarray | None = None,
) -> Queries:
    """Queries with defaults for missing columns: whole images, no landmark, not in the database.

    The columns are those of :class:`Queries`.
    """
    count = len(paths)
    no_landmarks = IndexSets(np.zeros(count + 1, np.int64), np.empty(0, np.int64))
    return Queries(
        paths,
        sets,
        np.full((count, 4), np.nan) if boxes is None else boxes,
        no_landmarks if landmarks is None else landmarks,
        np.full(count, -1, np.int64) if in_database is None else in_database,
        split,
        gps,
    )


def grouped_dataset(
    name: str,
    root: Path,
    database: ImagePaths,
    *,
    landmarks: np.ndarray,
    landmark_names: tuple[str, ...],
    queries: np.ndarray,
) -> RetrievalDataset:
    """A benchmark whose queries are database images, each answered by the rest of its landmark.

    Label ok holds the answers, label junk the query itself, which protocols remove from its own
    ranking.

    Args:
        name: name of the dataset.
        root: folder that all paths are under.
        database: all images.
        landmarks: landmark of each image, a position in ``landmark_names``.
        landmark_names: names of the landmarks.
        queries: database indices of the queries.
    """
    ids = landmarks.astype(np.int64)
    own = queries.astype(np.int64)
    order = np.argsort(ids, kind="stable")
    starts = np.searchsorted(ids[order], np.arange(len(landmark_names) + 1))
    members = [order[starts[ids[query]] : starts[ids[query] + 1]] for query in own]
    ok = [group[group != query] for group, query in zip(members, own, strict=True)]
    columns = make_queries(
        ImagePaths(database.column.take(own)),
        {"ok": IndexSets.of(ok), "junk": IndexSets.of(own[:, None])},
        landmarks=IndexSets.of(ids[own][:, None]),
        in_database=own,
    )
    return RetrievalDataset(
        name, root, database, columns, landmarks=ids, landmark_names=landmark_names
    )


def with_distractors(
    dataset: RetrievalDataset, paths: ImagePaths, *, name: str
) -> RetrievalDataset:
    """The same benchmark with more images at the end of its database, none of them an answer."""
    count = len(paths)
    none = np.full(count, -1, np.int64)
    unknown = np.full((count, 2), np.nan)
    return dataclasses.replace(
        dataset,
        name=name,
        database=dataset.database + paths,
        distractors=dataset.distractors + count,
        landmarks=None if dataset.landmarks is None else np.concatenate([dataset.landmarks, none]),
        gps=None if dataset.gps is None else np.concatenate([dataset.gps, unknown]),
    )


def moved_below(dataset: RetrievalDataset, folder: str) -> RetrievalDataset:
    """The same dataset rooted one folder higher: every path is prefixed with ``folder``."""
    queries = dataclasses.replace(dataset.queries, paths=dataset.queries.paths.under(folder))
    return dataclasses.replace(
        dataset, root=dataset.root.parent, database=dataset.database.under(folder), queries=queries
    )
