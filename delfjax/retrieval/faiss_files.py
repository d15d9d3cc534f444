"""FAISS files, checked before FAISS reads them.

FAISS allocates what a file asks for, and trusts most of its numbers: a file of half a megabyte can
take gigabytes or crash the process. So every number in a file is compared with what the rest of the
index says, and with the size of the file, first. The kinds of index that
:mod:`delfjax.retrieval.local_index` and :mod:`delfjax.retrieval.global_index` build are accepted.

Source: ``faiss/impl/index_write.cpp`` of FAISS 1.15 describes the format.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from jaxtyping import UInt64

# Training points per centroid, below which FAISS warns; no index here has fewer.
POINTS_PER_CENTROID = 39
# Most bytes of the table that FAISS computes for a product quantiser; beyond that it searches
# without. An index needs 1280 for each of its lists in the default settings.
_variables: Any = faiss.cvar
_variables.precomputed_table_max_bytes = 1 << 29

_CODES = {"exact": b"IxF2", "ivf": b"IwFl", "ivf_pq": b"IwPQ"}
_FLAT = {faiss.METRIC_L2: b"IxF2", faiss.METRIC_INNER_PRODUCT: b"IxFI"}


@dataclass(frozen=True)
class VectorSettings:
    """What an index of vectors must be.

    Attributes:
        kinds: accepted kinds: "exact", "ivf", "ivf_pq".
        dim: length of a vector.
        count: number of vectors.
        subvectors: parts of a vector that are quantised one by one, for "ivf_pq".
        bits: bits of the code of each part.
        metric: what is compared, as FAISS numbers it; "exact" is of squared distances.
    """

    kinds: tuple[str, ...]
    dim: int
    count: int
    subvectors: int
    bits: int
    metric: int = faiss.METRIC_L2


def require_vectors(stream: io.BufferedReader, wanted: VectorSettings) -> None:
    """Check that a file holds an index of vectors that FAISS can read.

    Args:
        stream: the file, at its start; it is left there.
        wanted: what the index must be.

    Raises:
        ValueError: something in the file differs; the message says what.
    """
    fields = _Fields(stream)
    code = fields.content(4, "kind")
    kinds = {_CODES[kind]: kind for kind in wanted.kinds}
    if code not in kinds:
        raise ValueError(f"its kind is {code!r}, expected {' or '.join(wanted.kinds)}")
    kind = kinds[code]
    _header(fields, wanted, wanted.count)
    if kind == "exact":
        fields.vector("number of values", wanted.dim * wanted.count, 4)
    else:
        lists = fields.between("number of lists", "<Q", 1, _most_centroids(wanted.count))
        fields.between("number of probed lists", "<Q", 1, lists)
        fields.require("kind of the coarse index", "<4s", _FLAT[wanted.metric])
        _header(fields, wanted, lists)
        fields.vector("number of values of the centroids", wanted.dim * lists, 4)
        fields.require("direct map", "<B", 0)
        fields.require("size of the direct map", "<Q", 0)
        code_size = 4 * wanted.dim if kind == "ivf" else _quantiser(fields, wanted)
        _inverted_lists(fields, lists, code_size, wanted.count)
    fields.require_end()
    stream.seek(0)


def _most_centroids(count: int) -> int:
    return max(1, count // POINTS_PER_CENTROID)


def _header(fields: _Fields, wanted: VectorSettings, count: int) -> None:
    fields.require("dimension", "<i", wanted.dim)
    fields.require("number of vectors", "<q", count)
    fields.require("filling", "<q", 1 << 20)
    fields.require("filling", "<q", 1 << 20)
    fields.require("sign that it is trained", "<B", 1)
    fields.require("metric", "<i", wanted.metric)


def _quantiser(fields: _Fields, wanted: VectorSettings) -> int:
    """Read the product quantiser and return the size of a code, bytes."""
    size = (wanted.subvectors * wanted.bits + 7) // 8
    fields.require("coding of residuals", "<B", 1)
    fields.require("size of a code", "<Q", size)
    fields.require("dimension of the quantiser", "<Q", wanted.dim)
    fields.require("number of sub-vectors", "<Q", wanted.subvectors)
    fields.require("bits of a sub-vector", "<Q", wanted.bits)
    fields.vector("number of values of the quantiser", wanted.dim << wanted.bits, 4)
    return size


def _inverted_lists(fields: _Fields, lists: int, code_size: int, count: int) -> None:
    fields.require("kind of the lists", "<4s", b"ilar")
    fields.require("number of inverted lists", "<Q", lists)
    fields.require("size of a code in the lists", "<Q", code_size)
    if fields.content(4, "coding of the lists") == b"full":
        sizes = fields.numbers("number of list sizes", lists)
    else:
        # Pairs of a list and its size; lists that are not named are empty.
        named, sizes = fields.numbers("number of list sizes", None).reshape(-1, 2).T
        if (named >= lists).any() or (np.diff(named.astype(np.int64)) <= 0).any():
            raise ValueError(f"it names lists beyond the {lists} that it has, or one twice")
    if (sizes > count).any() or int(sizes.sum()) != count:
        raise ValueError(f"its lists do not hold {count} vectors")
    for size in sizes.tolist():
        fields.skip("codes of a list", code_size * size)
        members = np.frombuffer(fields.content(8 * size, "members of a list"), "<u8")
        if (members >= count).any():
            raise ValueError(f"a list holds a vector beyond the {count} that there are")


class _Fields:
    """The fields of a file in their order; none is read beyond the end."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._left = os.fstat(stream.fileno()).st_size - stream.tell()

    def content(self, size: int, name: str) -> bytes:
        """The next ``size`` bytes; ``name`` is for errors."""
        self._take(size, name)
        return self._stream.read(size)

    def skip(self, name: str, size: int) -> None:
        """Pass over ``size`` bytes."""
        self._take(size, name)
        self._stream.seek(size, os.SEEK_CUR)

    def number(self, name: str, form: str) -> int | bytes:
        """The next field, in a format of :mod:`struct`."""
        found: int | bytes = struct.unpack(form, self.content(struct.calcsize(form), name))[0]
        return found

    def require(self, name: str, form: str, wanted: int | bytes) -> None:
        """Check that the next field is ``wanted``."""
        found = self.number(name, form)
        if found != wanted:
            raise ValueError(f"its {name} is {found!r}, expected {wanted!r}")

    def between(self, name: str, form: str, least: int, most: int) -> int:
        """The next field, which must be from ``least`` to ``most``."""
        found = self.number(name, form)
        if not isinstance(found, int) or not least <= found <= most:
            raise ValueError(f"its {name} is {found!r}, expected {least} to {most}")
        return found

    def vector(self, name: str, wanted: int, size: int) -> None:
        """Skip a number of values and the values, of ``size`` bytes each."""
        self.require(name, "<Q", wanted)
        self.skip(name, wanted * size)

    def numbers(self, name: str, wanted: int | None) -> UInt64[np.ndarray, " n"]:
        """A number of 64-bit numbers, ``wanted`` or else even, and the numbers."""
        count = self.between(name, "<Q", wanted or 0, wanted or self._left // 8)
        if wanted is None and count % 2:
            raise ValueError(f"its {name} is {count}, expected an even one")
        return np.frombuffer(self.content(8 * count, name), "<u8")

    def require_end(self) -> None:
        """Check that nothing follows."""
        if self._left:
            raise ValueError(f"{self._left} bytes follow its end")

    def _take(self, size: int, name: str) -> None:
        if size > self._left:
            raise ValueError(f"it ends before its {name}")
        self._left -= size
