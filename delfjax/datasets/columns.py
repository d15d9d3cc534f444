"""The columns datasets are made of: paths as Arrow text, ragged index sets, and checks on both.

Anything with one row per image is a column rather than a list of Python objects: that is how a
manifest of a million rows opens in seconds. Indices are zero-based positions in the database,
``int64``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import SupportsIndex, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from delfjax.errors import DelfjaxError

# Rows converted to Python text at a time when a column is iterated over.
_ITERATION_ROWS = 65_536
# 32-bit offsets would overflow when columns of many millions of paths are joined.
_TEXT = pa.large_string()


class DatasetError(DelfjaxError):
    """A missing, incomplete or malformed dataset; the message names file, value and remedy."""


class ImagePaths(Sequence[str]):
    """Paths under the dataset's root, with forward slashes, held as one column of text."""

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
            raise IndexError(f"image {position}: the column has {len(self)} images")
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
        """The same paths, each prefixed with ``folder/``."""
        return ImagePaths(joined(folder, self._column, separator="/"))


@dataclass(frozen=True, eq=False)
class IndexSets:
    """One set of indices per query, ragged.

    Attributes:
        offsets: the indices of query ``i`` are ``indices[offsets[i]:offsets[i + 1]]``.
        indices: the sets of all queries, one after the other.
    """

    offsets: Int64[np.ndarray, " n_plus_1"]
    indices: Int64[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, query: int) -> Int64[np.ndarray, " k"]:
        if not 0 <= query < len(self):
            raise IndexError(f"query {query}: there are sets for {len(self)} queries")
        return self.indices[self.offsets[query] : self.offsets[query + 1]]

    @classmethod
    def of(cls, sets: Sequence[Sequence[int] | np.ndarray] | np.ndarray) -> IndexSets:
        """Ragged sets from one sequence per query."""
        lengths = np.array([len(one) for one in sets], np.int64)
        flat = [np.asarray(one, np.int64) for one in sets]
        return cls(offsets_of(lengths), np.concatenate([np.empty(0, np.int64), *flat]))


def offsets_of(lengths: np.ndarray) -> Int64[np.ndarray, " n_plus_1"]:
    """Offsets of a ragged array, from the length of each of its rows."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def joined(
    *parts: str | pa.Array | pa.ChunkedArray, separator: str = ""
) -> pa.Array | pa.ChunkedArray:
    """The parts concatenated row by row; a part that is a plain string repeats in every row."""
    alike = [
        pa.scalar(part, _TEXT) if isinstance(part, str) else part.cast(_TEXT) for part in parts
    ]
    return pc.binary_join_element_wise(*alike, pa.scalar(separator, _TEXT))


def positions(
    names: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray
) -> Int64[np.ndarray, " n"]:
    """Index in ``among`` of each of ``names``; −1 for a name that is not in there."""
    found = pc.index_in(names.cast(_TEXT), value_set=_one_array(among.cast(_TEXT)))
    return np.asarray(pc.fill_null(found, -1)).astype(np.int64)


def require_inside(paths: pa.Array | pa.ChunkedArray, where: str) -> None:
    """Refuse paths that are empty, absolute or lead out of the dataset's folder.

    A downloaded list may name files of its own folder only.

    Args:
        paths: a column of text.
        where: what the column is, for the message: a file, and possibly a key in it.

    Raises:
        DatasetError: a path is refused; the message names the first.
    """
    strays = pc.match_substring_regex(paths, r"^$|^/|\\|\x00|(^|/)\.\.(/|$)|^[A-Za-z]:")
    first = pc.index(strays, pa.scalar(True)).as_py()
    if first >= 0:
        raise DatasetError(
            f"{where}: entry {first + 1} is {paths[first].as_py()!r:.80}, "
            "expected a path inside the folder"
        )


def require_unique(names: pa.Array | pa.ChunkedArray, where: str) -> None:
    """Refuse a column in which a name occurs more than once.

    Args:
        names: a column of text.
        where: what the column is, for the message.

    Raises:
        DatasetError: a name is repeated; the message says which and how often.
    """
    if pc.count_distinct(names).as_py() == len(names):
        return
    counts = pc.value_counts(names)
    repeated = next(row for row in counts.to_pylist() if row["counts"] > 1)
    raise DatasetError(
        f"{where}: {repeated['values']!r:.80} occurs {repeated['counts']} times, expected once"
    )


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
