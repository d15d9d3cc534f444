"""The files of an index: a header, arrays that are mapped into memory, and vectors of FAISS.

Whatever kind an index is of, its folder is a file set (:mod:`delfjax.filesets`) whose header is
signed with its own hash. Nothing in a folder is trusted: the header's fields are compared with the
types that they must have, the digest of every file with the header, and the shape that an array
gives itself with the size of its file.
"""

from __future__ import annotations

import io
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import faiss
import numpy as np

from delfjax.config import ConfigError, DelfConfig, from_dict, values_hash
from delfjax.errors import DelfjaxError
from delfjax.files import read_json
from delfjax.filesets import FileSet
from delfjax.retrieval.faiss_files import VectorSettings, require_vectors

HEADER = "index.json"
VECTORS = "vectors.faiss"

# What NumPy writes before the values of an array: type, order and shape.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..{'descr': '([^']*)', 'fortran_order': (True|False),"
    rb" 'shape': \(([0-9, ]{0,60})\), } *\n",
    re.DOTALL,
)
_NPY_HEADER_BYTES = 1 << 16
# An array without values may claim any length; none has this one.
_LENGTH_LIMIT = 1 << 40
# Where FAISS has no type annotations.
_swig: Any = faiss


@dataclass(frozen=True)
class ArrayFormat:
    """What an array of an index must be.

    Attributes:
        dimensions: number of its dimensions.
        types: types that its values may have.
    """

    dimensions: int
    types: tuple[type[np.generic], ...]


@dataclass(frozen=True)
class IndexFormat:
    """A kind of index on disk.

    Attributes:
        what: what an index of this kind is, for errors: ``an index``.
        format: its name in the header.
        versions: versions that are read; the last one is written.
        arrays: its arrays by name; each is a file ``NAME.npy``.
        fields: fields of the header and their types.
        error: what is raised for a folder that holds no intact index.
        advice: how to get an index, for errors.
        optional: names of the arrays that an index may lack.
    """

    what: str
    format: str
    versions: tuple[int, ...]
    arrays: Mapping[str, ArrayFormat]
    fields: Mapping[str, Any]
    error: type[DelfjaxError]
    advice: str
    optional: frozenset[str] = frozenset()

    @property
    def files(self) -> FileSet:
        """The files of an index."""
        parts = (VECTORS, *(f"{name}.npy" for name in self.arrays))
        return FileSet(
            what=self.what,
            header=HEADER,
            parts=parts,
            error=self.error,
            optional=frozenset(f"{name}.npy" for name in self.optional),
        )

    def write(
        self,
        folder: Path,
        arrays: Mapping[str, np.ndarray],
        vectors: Any,
        header: Mapping[str, Any],
    ) -> None:
        """Write an index, completely or not at all.

        Args:
            folder: created if missing; an older index is replaced in one step.
            arrays: the arrays of this kind of index, by name, without the optional ones that it
                lacks.
            vectors: the FAISS index; ``None`` writes an empty file.
            header: fields of the header, without the format and the list of files.

        Raises:
            error: ``folder`` holds something else.
            OSError: the disk is full, or a file cannot be written; the error names it.
        """
        contents: dict[str, Callable[[BinaryIO], object]] = {
            f"{name}.npy": partial(np.save, arr=arrays[name], allow_pickle=False)
            for name in self.arrays
            if name in arrays
        }
        contents[VECTORS] = partial(_write_vectors, vectors)

        def signed(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
            fields = {
                "format": self.format,
                "version": self.versions[-1],
                **header,
                "files": files,
            }
            return {**fields, "header_hash": values_hash(fields)}

        self.files.write(folder, contents, signed)

    def read_header(self, folder: Path) -> dict[str, Any]:
        """The header of the index in ``folder``.

        Raises:
            error: there is none, or it is of another kind or version, damaged or modified.
        """
        file = folder / HEADER
        if not file.is_file():
            raise self.error(f"{folder}: not {self.what} ({HEADER} is missing); {self.advice}")
        header = read_json(file, error=self.error)
        if not isinstance(header, dict) or header.get("format") != self.format:
            raise self.error(
                f"{file}: damaged, or not the header of {self.what}; build the index again"
            )
        version, recorded = header.get("version"), header.pop("header_hash", None)
        if version not in self.versions:
            known = " and ".join(map(str, self.versions))
            raise self.error(
                f"{file}: index format is {version!r}, this delfjax reads {known}; build the index"
                " again"
            )
        if _hash(header) != recorded:
            raise self.error(
                f"{file}: damaged or modified (its hash is not the recorded {recorded}); build the"
                " index again"
            )
        wrong = [
            name for name, kind in self.fields.items() if not isinstance(header.get(name), kind)
        ]
        if wrong or not all(isinstance(name, str) for name in header["names"]):
            field = (wrong or ["names"])[0]
            raise self.error(f"{file}: damaged: {field!r} is missing or has another type")
        return header

    def mapped(
        self, folder: Path, streams: Mapping[str, io.BufferedReader]
    ) -> dict[str, np.ndarray]:
        """The arrays of an index, mapped into memory.

        Args:
            folder: the index, for errors.
            streams: the files of the index, from :meth:`FileSet.opened`.

        Raises:
            error: an array is damaged, or has another type or number of dimensions.
        """
        return {
            name: self._mapped(folder, name, streams[f"{name}.npy"])
            for name in self.arrays
            if f"{name}.npy" in streams
        }

    def _mapped(self, folder: Path, name: str, stream: io.BufferedReader) -> np.ndarray:
        """The array in a stream of an ``.npy`` file.

        The header is read here, and not by NumPy, which evaluates it as Python.
        """
        wanted = self.arrays[name]
        types = {np.dtype(each).str: np.dtype(each) for each in wanted.types}
        header = _NPY_HEADER.match(stream.read(_NPY_HEADER_BYTES))
        if header is None or header[1].decode("latin-1") not in types:
            expected = " or ".join(map(str, types.values()))
            raise self.damaged_array(folder, name, f"expected an array of {expected}")
        dtype = types[header[1].decode("latin-1")]
        shape = tuple(int(length) for length in header[3].split(b",") if length.strip())
        values = os.fstat(stream.fileno()).st_size - header.end()
        fits = math.prod(shape) * dtype.itemsize == values and max(shape, default=0) < _LENGTH_LIMIT
        if len(shape) != wanted.dimensions or not fits:
            reason = (
                f"has shape {shape} and {values} bytes, expected {wanted.dimensions} dimensions"
            )
            raise self.damaged_array(folder, name, reason)
        order: Literal["F", "C"] = "F" if header[2] == b"True" else "C"
        return np.memmap(stream, dtype, "r", header.end(), shape, order)

    def damaged_array(self, folder: Path, name: str, reason: str) -> DelfjaxError:
        """The error for an array that does not belong to its index."""
        return self.error(f"{folder / name}.npy: damaged: {reason}; build the index again")

    def require_shapes(
        self,
        folder: Path,
        arrays: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Check that arrays belong together.

        Raises:
            error: one has another shape; the message names its file.
        """
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                reason = f"has shape {arrays[name].shape}, but {shape} goes with the other files"
                raise self.damaged_array(folder, name, reason)

    def require_finite(
        self, folder: Path, arrays: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> None:
        """Check that some arrays hold finite values alone.

        Raises:
            error: one does not; the message names its file.
        """
        for name in names:
            if not np.isfinite(arrays[name]).all():
                raise self.damaged_array(folder, name, "holds values that are not finite")

    def config(self, folder: Path, header: Mapping[str, Any]) -> DelfConfig:
        """The config that a header records.

        Raises:
            error: it is no config.
        """
        try:
            return from_dict(DelfConfig, header["config"])
        except ConfigError as error:
            raise self.error(f"{folder / HEADER}: damaged: {error}") from None

    def content_hashes(self, folder: Path, header: Mapping[str, Any]) -> list[str]:
        """The digests of the image files that a header records; empty in an index of an earlier
        version.

        Raises:
            error: they do not go with the names.
        """
        hashes = header.get("content_hashes", [])
        if not isinstance(hashes, list) or len(hashes) not in (0, len(header["names"])):
            raise self.error(
                f"{folder / HEADER}: damaged: content_hashes is not a digest for each of the names;"
                " build the index again"
            )
        return hashes

    def read_vectors(self, folder: Path, stream: io.BufferedReader, wanted: VectorSettings) -> Any:
        """The FAISS index in a stream, once it is found to be what it must be.

        Args:
            folder: the index, for errors.
            stream: the file.
            wanted: what it must be.

        Raises:
            error: the file holds something else.
        """
        try:
            require_vectors(stream, wanted)
        except ValueError as error:
            raise self.error(
                f"{folder / VECTORS}: damaged, or not of this index: {error}; build the index again"
            ) from None
        return _swig.read_index(_swig.PyCallbackIOReader(stream.read))


class Timed:
    """Adds the seconds of the block to ``seconds[name]``."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = (
            self._seconds.get(self._name, 0.0) + time.perf_counter() - self._start
        )


def _write_vectors(vectors: Any, out: BinaryIO) -> None:
    if vectors is not None:
        _swig.write_index(vectors, _swig.PyCallbackIOWriter(out.write))


def _hash(header: dict[str, Any]) -> str | None:
    try:
        return values_hash(header)
    except (ValueError, RecursionError):
        # Numbers or characters that no header is written with.
        return None
