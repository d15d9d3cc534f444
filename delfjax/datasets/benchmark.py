"""One shape for every retrieval benchmark: a database of images, queries with boxes, and what
counts as an answer.

Everything with as many rows as there are images is a column (Arrow text, NumPy numbers): a manifest
of a million rows opens in seconds. Indices are zero-based positions in the database, ``int64``.

Boxes are ``(y0, x0, y1, x1)`` in pixels of the upright image, with the numbers the ground truth
has: edges, not pixel centres, so that the crop holds rows ``y0 … y1 − 1`` after rounding (half to
even, as Pillow's own ``crop`` does).
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64
from PIL import Image

from delfjax.datasets.images import DecodedImage, ImageError, decode_image, hash_file, reduced_size
from delfjax.errors import DelfjaxError

# How far a box may stick out of its image before it is refused, pixels: hand-drawn boxes end on the
# edge, and floats round over it. What sticks out is cut off.
BOX_SLACK_PX = 1.0
# Rows turned into Python text at a time when a column is walked through.
_ITERATION_ROWS = 65_536
# Longer than any image that is decoded: crops are taken at full size, before any reduction.
_NO_REDUCTION = 1 << 30
# 32-bit offsets would overflow when columns of many millions of paths are joined.
_TEXT = pa.large_string()
# Label of the images that count neither for nor against an answer.
_JUNK = "junk"


class DatasetError(DelfjaxError):
    """A dataset that is missing, incomplete or malformed; the message names the file, the value and
    the remedy."""


class ImagePaths(Sequence[str]):
    """Paths under the dataset's root, with forward slashes: a column of text, not a list of
    strings."""

    def __init__(self, column: pa.Array | pa.ChunkedArray | Sequence[str]) -> None:
        if not isinstance(column, pa.Array | pa.ChunkedArray):
            column = pa.array(list(column), pa.string())
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        self._column = pa.chunked_array([chunk.cast(_TEXT) for chunk in chunks], _TEXT)

    @property
    def column(self) -> pa.ChunkedArray:
        """The paths as an Arrow column of ``large_string``."""
        return self._column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> ImagePaths: ...

    def __getitem__(self, index: SupportsIndex | slice) -> str | ImagePaths:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            rows = np.arange(start, stop, step)
            return ImagePaths(
                self._column.slice(start, len(rows)) if step == 1 else self._column.take(rows)
            )
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"image {position} of {len(self)}")
        return str(self._column[position % len(self)].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ITERATION_ROWS):
            yield from self._column.slice(start, _ITERATION_ROWS).to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImagePaths) and bool(self._column.equals(other._column))

    def __hash__(self) -> int:
        return hash((len(self), self[0] if len(self) else ""))

    def __add__(self, other: ImagePaths) -> ImagePaths:
        return ImagePaths(pa.chunked_array([*self._column.chunks, *other._column.chunks], _TEXT))

    def under(self, folder: str) -> ImagePaths:
        """The same paths, ``folder/`` before each."""
        return ImagePaths(joined(folder, self._column, separator="/"))


@dataclass(frozen=True, eq=False)
class IndexSets:
    """One set of indices for each query, ragged: those of query ``i`` are
    ``indices[offsets[i]:offsets[i + 1]]``."""

    offsets: Int64[np.ndarray, " n_plus_1"]
    indices: Int64[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, query: int) -> Int64[np.ndarray, " k"]:
        if not 0 <= query < len(self):
            raise IndexError(f"query {query} of {len(self)}")
        return self.indices[self.offsets[query] : self.offsets[query + 1]]

    @classmethod
    def of(cls, sets: Sequence[Sequence[int] | np.ndarray] | np.ndarray) -> IndexSets:
        """Ragged sets from one sequence for each query."""
        lengths = np.array([len(one) for one in sets], np.int64)
        flat = [np.asarray(one, np.int64) for one in sets]
        return cls(offsets_of(lengths), np.concatenate([np.empty(0, np.int64), *flat]))


@dataclass(frozen=True, eq=False)
class DatasetQuery:
    """One query.

    Attributes:
        number: its position among the queries.
        path: its image, under the dataset's root.
        box: ``(y0, x0, y1, x1)`` in pixels of the upright image; ``None`` for the whole image.
        sets: database indices by label, such as good, ok, junk.
        landmarks: ids of the landmarks it shows; several are possible, none for a query without a
            match.
        in_database: where the query image itself stands in the database; ``None`` when it does not.
    """

    number: int
    path: str
    box: tuple[float, float, float, float] | None
    sets: dict[str, np.ndarray]
    landmarks: Int64[np.ndarray, " k"]
    in_database: int | None

    @property
    def answers(self) -> Int64[np.ndarray, " k"]:
        """Database indices of every image that is right in some protocol: those of all labels but
        junk."""
        right = [members for label, members in self.sets.items() if label != _JUNK]
        return np.unique(np.concatenate([np.empty(0, np.int64), *right]))


@dataclass(frozen=True, eq=False)
class Queries(Sequence[DatasetQuery]):
    """The queries of a dataset as columns of ``n`` rows.

    Attributes:
        paths: images under the dataset's root.
        sets: for each label, the database indices it holds for each query.
        boxes: ``(y0, x0, y1, x1)`` in pixels; a row of NaN is the whole image.
        landmarks: ids of the landmarks of each query.
        in_database: position of the query image in the database, −1 where it is not in there.
        split: name of the part each query belongs to, such as Public; ``None`` where there is one
            part only.
        gps: latitude and longitude, degrees; NaN where unknown, ``None`` where there is none at
            all.
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
            raise DatasetError(f"{len(self)} queries, but other numbers of rows in {wrong}")

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
    """A benchmark, or a training set when it has no queries.

    Attributes:
        name: the name it was opened by.
        root: folder all paths are under.
        database: images that are searched; the distractors are the last of them.
        queries: what is searched for.
        distractors: how many images at the end of the database show nothing any query asks for.
        landmarks: landmark id of each database image, −1 where there is none; ``None`` where
            nothing has one.
        landmark_names: name of each landmark id, where ids are positions in this list; empty where
            they have no names.
        gps: latitude and longitude of each database image, degrees; NaN where unknown, ``None``
            where there is none.
        corrupt: database indices of images known to be undecodable; no label holds them.
        notes: what was found out of the ordinary on opening, one line each.
    """

    name: str
    root: Path
    database: ImagePaths
    queries: Queries
    distractors: int = 0
    landmarks: Int64[np.ndarray, " n"] | None = None
    landmark_names: tuple[str, ...] = ()
    gps: Float64[np.ndarray, "n 2"] | None = None
    corrupt: Int64[np.ndarray, " k"] = field(default_factory=lambda: np.empty(0, np.int64))
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = len(self.database)
        members = {f"label {label!r}": sets.indices for label, sets in self.queries.sets.items()}
        for what, indices in {**members, "corrupt": self.corrupt}.items():
            outside = indices[(indices < 0) | (indices >= size)]
            if len(outside):
                raise DatasetError(
                    f"{self.name}: {what} holds index {outside[0]}, the database has {size} images"
                    " from 0"
                )
        for what, column in (("landmarks", self.landmarks), ("gps", self.gps)):
            if column is not None and len(column) != size:
                raise DatasetError(
                    f"{self.name}: {len(column)} {what} for a database of {size} images, expected"
                    " as many"
                )
        if not 0 <= self.distractors <= size:
            raise DatasetError(
                f"{self.name}: {self.distractors} distractors in a database of {size} images"
            )

    def digest(self) -> str:
        """Ten hexadecimal digits that tell this copy from one of other images, queries or labels;
        no image is opened."""
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
    """The queries of a training set."""
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
    """Queries with whatever is not given left empty: whole images, no landmark, not in the
    database."""
    count = len(paths)
    return Queries(
        paths,
        sets,
        np.full((count, 4), np.nan) if boxes is None else boxes,
        (
            IndexSets(np.zeros(count + 1, np.int64), np.empty(0, np.int64))
            if landmarks is None
            else landmarks
        ),
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
    """A benchmark whose queries are images of its own database, each answered by the others of its
    landmark.

    Label ok holds the answers, label junk the query itself: a protocol takes it out of its own
    ranking.

    Args:
        name: as of the dataset.
        root: folder all paths are under.
        database: all images.
        landmarks: landmark of each image, a position in ``landmark_names``.
        landmark_names: names of the landmarks.
        queries: database indices of the queries.
    """
    ids, own = landmarks.astype(np.int64), queries.astype(np.int64)
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
    """The same benchmark with more images, none of them an answer, at the end of its database."""
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
    """The same dataset seen from the folder that holds ``folder``: all paths begin with it."""
    queries = dataclasses.replace(dataset.queries, paths=dataset.queries.paths.under(folder))
    return dataclasses.replace(
        dataset, root=dataset.root.parent, database=dataset.database.under(folder), queries=queries
    )


def read_query(dataset: RetrievalDataset, number: int, *, max_side: int) -> DecodedImage:
    """Pixels of a query, cut to its box at full size, then reduced as
    :func:`~delfjax.datasets.images.decode_image` does.

    Args:
        dataset: the dataset.
        number: which query.
        max_side: longest side of the result, pixels.

    Returns:
        The crop; ``original_size`` is that of the crop before any reduction, ``content_hash`` that
        of the whole file.

    Raises:
        ImageError: the image is missing or damaged, or its box leaves it by more than
            :data:`BOX_SLACK_PX`.

    Source: the crop at full size, then the resize, of the revisited protocol
        (github.com/filipradenovic/revisitop).
    """
    query = dataset.queries[number]
    path = dataset.root / query.path
    if query.box is None:
        return decode_image(path, max_side=max_side)
    whole = decode_image(path, max_side=_NO_REDUCTION)
    y0, x0, y1, x1 = whole_pixels(query.box, whole.original_size, path)
    crop = whole.pixels[y0:y1, x0:x1]
    size = reduced_size((x1 - x0, y1 - y0), max_side)
    if size != (x1 - x0, y1 - y0):
        crop = np.array(Image.fromarray(crop).resize(size, Image.Resampling.BILINEAR), np.uint8)
    return DecodedImage(np.ascontiguousarray(crop), (y1 - y0, x1 - x0), whole.content_hash)


@dataclass(frozen=True, eq=False)
class QueryImages:
    """Queries as images to extract: each cut to its box, under a name of its own.

    The name is the path of the image, followed by ``#`` and the box where there is one: a query
    that is cut is another image than the one of the database it comes from, and one whose box was
    corrected is new.

    Attributes:
        dataset: the dataset.
        numbers: name → one of the queries called so; two that share image and box share their
            features.
    """

    dataset: RetrievalDataset
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, dataset: RetrievalDataset, numbers: Sequence[int]) -> QueryImages:
        """Some of the queries of a dataset."""
        return cls(dataset, {crop_name(dataset.queries[number]): number for number in numbers})

    @property
    def names(self) -> tuple[str, ...]:
        """What the images are called."""
        return tuple(self.numbers)

    def read(self, name: str, *, max_side: int) -> DecodedImage:
        """Pixels of a query, as :func:`read_query` cuts and refuses them."""
        return read_query(self.dataset, self.numbers[name], max_side=max_side)

    def content_hash(self, name: str) -> str:
        """Digest of the whole file a query is cut from; ``OSError`` where it cannot be read."""
        return hash_file(self.dataset.root / self.dataset.queries[self.numbers[name]].path)


def crop_name(query: DatasetQuery) -> str:
    """What the image of a query is called among :class:`QueryImages`."""
    return query.path if query.box is None else f"{query.path}#{','.join(map(repr, query.box))}"


def whole_pixels(
    box: tuple[float, float, float, float], size: tuple[int, int], path: Path | str
) -> tuple[int, int, int, int]:
    """A box in whole pixels, inside its image of ``size`` rows and columns.

    Raises:
        ImageError: it leaves the image by more than :data:`BOX_SLACK_PX`, or nothing is left of it.
    """
    y0, x0, y1, x1 = box
    rows, columns = size
    overshoot = max(-y0, -x0, y1 - rows, x1 - columns)
    if overshoot > BOX_SLACK_PX:
        said = (
            f"box (y0, x0, y1, x1) = ({y0:g}, {x0:g}, {y1:g}, {x1:g}) leaves its image of"
            f" {rows}×{columns} rows × columns"
        )
        raise ImageError(path, f"{said}; use the original image, not a resized copy")
    top, left, bottom, right = (
        max(round(y0), 0),
        max(round(x0), 0),
        min(round(y1), rows),
        min(round(x1), columns),
    )
    if bottom <= top or right <= left:
        raise ImageError(
            path, f"box (y0, x0, y1, x1) = ({y0:g}, {x0:g}, {y1:g}, {x1:g}) holds no whole pixel"
        )
    return top, left, bottom, right


def box_from_xyxy(numbers: Sequence[object], where: str) -> tuple[float, float, float, float]:
    """``(y0, x0, y1, x1)`` from the ``x1 y1 x2 y2`` of a ground-truth file.

    Raises:
        DatasetError: not four finite numbers, or corners in the wrong order; ``where`` names file
            and entry.
    """
    try:
        x0, y0, x1, y1 = (float(str(number)) for number in numbers)
    except ValueError:
        raise DatasetError(
            f"{where}: box {list(numbers)!r:.80} is not four numbers x1 y1 x2 y2"
        ) from None
    if not np.isfinite([x0, y0, x1, y1]).all() or x1 <= x0 or y1 <= y0:
        raise DatasetError(
            f"{where}: box x1 y1 x2 y2 = {x0:g} {y0:g} {x1:g} {y1:g}, expected x1 < x2 and y1 < y2"
        )
    return y0, x0, y1, x1


def offsets_of(lengths: np.ndarray) -> Int64[np.ndarray, " n_plus_1"]:
    """Offsets of a ragged array from the length of each of its rows."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def joined(
    *parts: str | pa.Array | pa.ChunkedArray, separator: str = ""
) -> pa.Array | pa.ChunkedArray:
    """Row by row, the parts in one text; a part that is one text is the same in every row."""
    alike = [
        pa.scalar(part, _TEXT) if isinstance(part, str) else part.cast(_TEXT) for part in parts
    ]
    return pc.binary_join_element_wise(*alike, pa.scalar(separator, _TEXT))


def positions(
    names: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray
) -> Int64[np.ndarray, " n"]:
    """Where each of ``names`` stands in ``among``; −1 where it does not."""
    found = pc.index_in(names.cast(_TEXT), value_set=_one_array(among.cast(_TEXT)))
    return np.asarray(pc.fill_null(found, -1)).astype(np.int64)


def require_inside(paths: pa.Array | pa.ChunkedArray, where: str) -> None:
    """Refuse paths that are empty, absolute or leave the folder: a downloaded list names files of
    its own folder alone.

    Raises:
        DatasetError: the message names the first of them.
    """
    strays = pc.match_substring_regex(paths, r"^$|^/|\\|\x00|(^|/)\.\.(/|$)|^[A-Za-z]:")
    first = pc.index(strays, pa.scalar(True)).as_py()
    if first >= 0:
        raise DatasetError(
            f"{where}: entry {first + 1} is {paths[first].as_py()!r:.80}, expected a path inside"
            " the folder"
        )


def require_unique(names: pa.Array | pa.ChunkedArray, where: str) -> None:
    """Refuse a column that names something twice.

    Raises:
        DatasetError: the message names what.
    """
    if pc.count_distinct(names).as_py() == len(names):
        return
    counts = pc.value_counts(names)
    repeated = next(row for row in counts.to_pylist() if row["counts"] > 1)
    raise DatasetError(
        f"{where}: {repeated['values']!r:.80} is there {repeated['counts']} times, expected once"
    )


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
