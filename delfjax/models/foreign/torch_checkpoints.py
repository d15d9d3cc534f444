"""A reader of PyTorch checkpoints without torch.

A checkpoint is a pickle, and a pickle is a program. :func:`delfjax.pickles.unpickle` lets it call
only stand-ins for tensors; every size, stride and offset is checked afterwards.
Source of the two layouts: the documented behaviour of ``torch.save`` (legacy stream, zip archive).
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np

from delfjax.errors import quoted, shown
from delfjax.models.weights import Tensors, WeightsError, file_bytes
from delfjax.pickles import (
    ARRAY_NAMES,
    BINARY_OPCODES,
    MALFORMED,
    MAX_AXES,
    Admitted,
    RefusedError,
    checked_key,
    unpickle,
)

D = TypeVar("D")

_STORAGE_TYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("f4"),
    "HalfStorage": np.dtype("f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype("f8"),
    "LongStorage": np.dtype("i8"),
    "IntStorage": np.dtype("i4"),
    "ShortStorage": np.dtype("i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Keys under which training scripts store the model's state dictionary.
_WRAPPERS = ("state_dict", "model")
_PARALLEL_PREFIX = "module."

# Exceptions that a malformed file may raise; all mean that the checkpoint is damaged.
_MALFORMED = (*MALFORMED, zipfile.BadZipFile, NotImplementedError, RuntimeError)


class _StorageType(NamedTuple):
    """Stands in for ``torch.FloatStorage`` and the like; it cannot be called."""

    name: str


class _Storage(NamedTuple):
    """Elements ``start`` to ``stop`` of the storage ``key``, which has ``numel`` elements."""

    type_name: str
    key: str
    numel: int
    start: int
    stop: int


class _Tensor(NamedTuple):
    """The view of a storage that a tensor describes; :func:`_view` checks it."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class _Dictionary(dict[Any, Any]):
    """A ``collections.OrderedDict``; it takes no attributes, which could shadow its methods."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drop the module versions that PyTorch attaches to a state dictionary."""


class _MakeDictionary:
    """Stands in for the class ``collections.OrderedDict``."""

    __slots__ = ()

    def __call__(self, pairs: Iterable[tuple[object, object]] = ()) -> _Dictionary:
        return _Dictionary({checked_key(key): value for key, value in pairs})


class _RebuildTensor:
    """Stands in for ``torch._utils._rebuild_tensor_v2``; it takes no attributes, so a pickle cannot
    modify it."""

    __slots__ = ()

    def __call__(
        self, storage: object, offset: object, size: object, stride: object, *_unused: object
    ) -> _Tensor:
        return _Tensor(storage, offset, size, stride)


class _RebuildParameter:
    """Stands in for ``torch._utils._rebuild_parameter``; returns the tensor itself."""

    __slots__ = ()

    def __call__(self, tensor: object, *_unused: object) -> object:
        return tensor


# What `torch.save` writes for dictionaries of tensors, in pickle protocols 2 to 5.
_TENSORS = Admitted(
    what="tensors",
    opcodes=BINARY_OPCODES | {"BINPERSID"},
    names={
        ("collections", "OrderedDict"): _MakeDictionary(),
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        **{("torch", name): _StorageType(name) for name in _STORAGE_TYPES},
    },
    # Checkpoints written under Python 2 contain byte strings.
    encoding="utf-8",
)


# Published retrieval networks hold NumPy arrays beside the tensors.
_TENSORS_AND_ARRAYS = replace(
    _TENSORS, what="tensors and NumPy arrays", names={**_TENSORS.names, **ARRAY_NAMES}
)


def read_torch_tensors(path: str | Path) -> Tensors:
    """Tensors of a PyTorch checkpoint of either layout; nothing in it is executed.

    A state dictionary stored under ``state_dict`` or ``model`` is unwrapped, the prefix ``module.``
    of data-parallel models is dropped, and bfloat16 is widened to float32. Arrays are read-only
    views of their storages, which several tensors may share.

    Raises:
        WeightsError: the file is missing, truncated or damaged, is not a PyTorch checkpoint, or
            holds anything other than tensors.
    """
    return _read(path, _TENSORS, lambda root, tensors: tensors)


def read_torch_network(
    path: str | Path, describe: Callable[[Mapping[Any, Any]], D]
) -> tuple[Tensors, D]:
    """Tensors of a PyTorch checkpoint, and what it says about them beside its state dictionary.

    NumPy arrays are admitted beside the tensors; nothing is executed.

    Args:
        path: the checkpoint.
        describe: makes a description of the dictionary around the state dictionary, whose arrays
            :func:`delfjax.pickles.array_in` returns. It may raise what a damaged file raises.

    Raises:
        WeightsError: see :func:`read_torch_tensors`.
    """

    def both(root: object, tensors: Tensors) -> tuple[Tensors, D]:
        return tensors, describe(root if isinstance(root, dict) else {})

    return _read(path, _TENSORS_AND_ARRAYS, both)


def _read(path: str | Path, admitted: Admitted, finish: Callable[[object, Tensors], D]) -> D:
    path = Path(path)
    data = file_bytes(path)
    reader = _read_zip if data.startswith(_ZIP_MAGIC) else _read_legacy
    try:
        root, storages = reader(data, admitted)
        tensors = {
            name: _view(name, value, storages) for name, value in _state_dictionary(root).items()
        }
        return finish(root, tensors)
    except RefusedError as reason:
        raise WeightsError(f"{path}: {reason}") from None
    except _MALFORMED as error:
        raise WeightsError(
            f"{path}: truncated or damaged checkpoint ({type(error).__name__}: {quoted(error)})"
        ) from error


def _read_zip(data: bytes, admitted: Admitted) -> tuple[object, Tensors]:
    """Read a zip archive: ``<stem>/data.pkl``, and the storages' bytes in ``<stem>/data/<key>``."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickled = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise RefusedError(
                f"zip archive with {len(pickled)} members '*/data.pkl'; a PyTorch checkpoint has"
                " exactly one"
            )
        # Without this, one region of a small file could be read as thousands of members.
        if sum(info.compress_size for info in archive.infolist()) > len(data):
            raise RefusedError("zip archive whose members overlap")
        stem = pickled[0].removesuffix("data.pkl")

        def stored(name: str) -> bytes:
            info = members.get(stem + name)
            if info is None:
                raise RefusedError(f"member {shown(stem + name)} is missing")
            # PyTorch never compresses, and a compressed member could expand to fill the memory.
            if info.compress_type != zipfile.ZIP_STORED:
                raise RefusedError(
                    f"member {shown(info.filename)} is compressed; PyTorch stores members"
                    " uncompressed"
                )
            return archive.read(info)

        order = stored("byteorder").decode("ascii") if stem + "byteorder" in members else "little"
        if order not in ("little", "big"):
            raise RefusedError(f"byte order {shown(order)}, expected 'little' or 'big'")
        root, refs, _ = _unpickle(stored("data.pkl"), 0, admitted)
        return root, {
            key: _elements(ref, stored(f"data/{key}"), order=order) for key, ref in refs.items()
        }


def _read_legacy(data: bytes, admitted: Admitted) -> tuple[object, Tensors]:
    """Read a legacy stream: pickles of magic, protocol, system, object and storage keys, followed
    by the storages, each after its length."""
    try:
        magic, _, position = _unpickle(data, 0)
    except (RefusedError, *_MALFORMED):
        magic, position = None, 0
    if type(magic) is not int or magic != _LEGACY_MAGIC:
        raise RefusedError(
            f"not a PyTorch checkpoint: starts with {data[:12]!r}, which is neither a zip archive"
            " nor the legacy magic number"
        )
    protocol, _, position = _unpickle(data, position)
    if protocol != _LEGACY_PROTOCOL:
        raise RefusedError(f"legacy protocol {shown(protocol)}, expected {_LEGACY_PROTOCOL}")
    system, _, position = _unpickle(data, position)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("legacy checkpoint that is not marked as little-endian")
    root, refs, position = _unpickle(data, position, admitted)
    keys, _, position = _unpickle(data, position)
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not isinstance(keys, list) or not texts or sorted(keys) != sorted(refs):
        raise RefusedError(
            "the list of storage keys does not match the storages that the tensors refer to"
        )
    storages: Tensors = {}
    for key in keys:
        ref = refs[key]
        header = data[position : position + 8]
        start = position + 8
        position = start + ref.numel * _STORAGE_TYPES[ref.type_name].itemsize
        if len(header) < 8 or position > len(data):
            raise RefusedError(
                f"truncated: storage {shown(key)} should end at byte {position}, but the file has"
                f" {len(data)} bytes"
            )
        if int.from_bytes(header, "little", signed=True) != ref.numel:
            raise RefusedError(
                f"storage {shown(key)} does not have the {ref.numel} elements that its tensors"
                " expect"
            )
        storages[key] = _elements(ref, data[start:position], order="little")
    return root, storages


def _unpickle(
    data: bytes, start: int, admitted: Admitted = _TENSORS
) -> tuple[object, dict[str, _Storage], int]:
    """The object pickled at ``start``, the storages it refers to, and the end of its pickle."""
    storages: dict[str, _Storage] = {}
    root, end = unpickle(data, admitted, start=start, persistent=partial(_storage, storages))
    return root, storages, end


def _storage(storages: dict[str, _Storage], pid: Any) -> _Storage:
    """The storage that a persistent id refers to, recorded in ``storages``; its bytes are elsewhere
    in the file and are read later."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        raise RefusedError(f"persistent id {shown(pid)} does not refer to a storage")
    kind, key, _location, numel = pid[1:5]
    if not isinstance(kind, _StorageType) or not isinstance(key, str) or not _is_count(numel):
        raise RefusedError(f"storage {shown(pid)} needs a type, a key and a number of elements")
    whole = _Storage(kind.name, key, numel, 0, numel)
    if storages.setdefault(key, whole) != whole:
        raise RefusedError(f"storage {shown(key)} is described in two different ways")
    view = pid[5] if len(pid) == 6 else None
    if view is None:
        return whole
    _key, start, length = view
    if not (_is_count(start) and _is_count(length) and start + length <= numel):
        raise RefusedError(
            f"view {shown(view)} extends beyond storage {shown(key)} of {numel} elements"
        )
    return whole._replace(start=start, stop=start + length)


def _elements(ref: _Storage, data: bytes, *, order: str) -> np.ndarray:
    """The elements of a storage: a copy, aligned, in native byte order and read-only."""
    dtype = _STORAGE_TYPES[ref.type_name]
    if len(data) != ref.numel * dtype.itemsize:
        raise RefusedError(
            f"storage {shown(ref.key)} has {len(data)} bytes, expected {ref.numel} ×"
            f" {dtype.itemsize}"
        )
    elements: np.ndarray
    if ref.type_name == "BFloat16Storage":
        # NumPy cannot swap the bytes of bfloat16: swap them as integers, then reinterpret.
        halves = np.frombuffer(data, _ordered(np.dtype("u2"), order)).astype(np.uint16)
        elements = halves.view(ml_dtypes.bfloat16).astype(np.float32)
    elif ref.type_name == "BoolStorage":
        elements = np.frombuffer(data, np.uint8) != 0
    else:
        elements = np.frombuffer(data, _ordered(dtype, order)).astype(dtype)
    elements.setflags(write=False)
    return elements


def _ordered(dtype: np.dtype[Any], order: str) -> np.dtype[Any]:
    return dtype.newbyteorder("<" if order == "little" else ">")


def _state_dictionary(root: object) -> dict[str, object]:
    """The mapping of names to values inside ``root``, unwrapped and without the data-parallel
    prefix."""
    for wrapper in _WRAPPERS:
        if isinstance(root, dict) and isinstance(root.get(wrapper), dict):
            root = root[wrapper]
    if not isinstance(root, dict):
        raise RefusedError(f"holds a {_kind(root)}, expected a dictionary of tensors")
    named: dict[str, object] = {}
    for name, value in root.items():
        if not isinstance(name, str):
            raise RefusedError(f"holds an entry named {shown(name)}; names must be text")
        short = name.removeprefix(_PARALLEL_PREFIX)
        if short in named:
            raise RefusedError(
                f"holds {shown(short)} twice, with and without the prefix {_PARALLEL_PREFIX!r}"
            )
        named[short] = value
    return named


def _view(name: str, value: object, storages: Tensors) -> np.ndarray:
    """The array that a tensor describes, checked to lie inside its storage."""
    if type(value) in (int, float):
        return np.asarray(value)
    if not isinstance(value, _Tensor) or not isinstance(value.storage, _Storage):
        raise RefusedError(f"{shown(name)} is a {_kind(value)}; only tensors are admitted")
    ref, offset, size, stride = value
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)):
        raise RefusedError(
            f"{shown(name)} needs as many strides as sizes, got {shown(size)} and {shown(stride)}"
        )
    if len(size) > MAX_AXES:
        raise RefusedError(f"{shown(name)} has {len(size)} axes, expected at most {MAX_AXES}")
    if not all(_is_count(number) for number in (offset, *size, *stride)):
        raise RefusedError(
            f"{shown(name)}: offset, sizes and strides must be non-negative integers, got"
            f" {shown(offset)}, {shown(size)} and {shown(stride)}"
        )
    elements = storages[ref.key][ref.start : ref.stop]
    count = math.prod(size)
    last = offset - 1
    if count:
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    # The second condition keeps a small file from describing a huge (overlapping) array.
    if last >= len(elements) or count > len(elements):
        raise RefusedError(
            f"{shown(name)} with offset {offset}, size {size}, stride {stride} extends beyond its"
            f" storage of {len(elements)} elements"
        )
    strides = tuple(step * elements.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(elements[offset:], size, strides, writeable=False)


def _kind(value: object) -> str:
    return type(value).__name__.lstrip("_").lower()


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
