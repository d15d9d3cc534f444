"""PyTorch checkpoints, read without torch.

They are pickles, and a pickle is a program. :func:`delfjax.pickles.unpickle` gives it nothing to
call but stand-ins for tensors, and every size, stride and offset is checked afterwards.
Source of the two layouts: the documented behaviour of ``torch.save`` (legacy stream, zip archive).
"""

from __future__ import annotations

import io
import math
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from delfjax.models.weights import Tensors, WeightsError, file_bytes
from delfjax.pickles import BINARY_OPCODES, MALFORMED, Admitted, RefusedError, unpickle

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
# Names under which training scripts keep the state dictionary of the model.
_WRAPPERS = ("state_dict", "model")
_PARALLEL_PREFIX = "module."

# What unpickling, unzipping or viewing a malformed file raises; all of it means the same here.
_MALFORMED = (*MALFORMED, zipfile.BadZipFile, NotImplementedError, RuntimeError)


class _StorageType(NamedTuple):
    """Stands for ``torch.FloatStorage`` and its like; nothing can be done with it."""

    name: str


class _Storage(NamedTuple):
    """A run of ``stop − start`` elements of the stored run ``key`` of ``numel`` elements."""

    type_name: str
    key: str
    numel: int
    start: int
    stop: int


class _Tensor(NamedTuple):
    """A view of a storage; unchecked until :func:`_view`."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class _Dictionary(dict[Any, Any]):
    """Stands for ``collections.OrderedDict``, but without attributes, which could shadow its
    methods."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drop the module versions that PyTorch hangs on a state dictionary."""


class _RebuildTensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``; without attributes, so that no pickle leaves
    a trace on it."""

    __slots__ = ()

    def __call__(
        self, storage: object, offset: object, size: object, stride: object, *_unused: object
    ) -> _Tensor:
        return _Tensor(storage, offset, size, stride)


class _RebuildParameter:
    """Stands for ``torch._utils._rebuild_parameter``: the tensor itself."""

    __slots__ = ()

    def __call__(self, tensor: object, *_unused: object) -> object:
        return tensor


# What `torch.save` writes for dictionaries of tensors, in protocols 2 to 5.
_TENSORS = Admitted(
    what="tensors",
    opcodes=BINARY_OPCODES | {"BINPERSID"},
    names={
        ("collections", "OrderedDict"): _Dictionary,
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        **{("torch", name): _StorageType(name) for name in _STORAGE_TYPES},
    },
    # Checkpoints written under Python 2 hold byte strings.
    encoding="utf-8",
)


def read_torch_tensors(path: str | Path) -> Tensors:
    """Tensors of a PyTorch checkpoint, either layout, read without torch and without running
    anything in it.

    A state dictionary wrapped as ``state_dict`` or ``model`` is unwrapped, the prefix ``module.``
    of data-parallel models dropped, bfloat16 widened to float32. Arrays are read-only views of
    their storages, which tensors may share.

    Raises:
        WeightsError: the file is missing, truncated, damaged, of another kind, or holds anything
            but tensors.
    """
    path = Path(path)
    data = file_bytes(path)
    try:
        root, storages = _read_zip(data) if data.startswith(_ZIP_MAGIC) else _read_legacy(data)
        return {
            name: _view(name, value, storages) for name, value in _state_dictionary(root).items()
        }
    except RefusedError as reason:
        raise WeightsError(f"{path}: {reason}") from None
    except _MALFORMED as error:
        raise WeightsError(
            f"{path}: truncated or damaged checkpoint ({type(error).__name__}: {error})"
        ) from error


def _read_zip(data: bytes) -> tuple[object, Tensors]:
    """Zip archive: ``<stem>/data.pkl`` and the bytes of each storage as ``<stem>/data/<key>``."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickled = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise RefusedError(
                f"zip archive with {len(pickled)} members '*/data.pkl', a PyTorch checkpoint"
                " has one"
            )
        stem = pickled[0].removesuffix("data.pkl")

        def stored(name: str) -> bytes:
            info = members.get(stem + name)
            if info is None:
                raise RefusedError(f"member {stem + name!r} is missing")
            # PyTorch never compresses; refusing it leaves no way to blow a small file up in memory.
            if info.compress_type != zipfile.ZIP_STORED:
                raise RefusedError(
                    f"member {info.filename!r} is compressed, PyTorch stores members as they are"
                )
            return archive.read(info)

        order = stored("byteorder").decode("ascii") if stem + "byteorder" in members else "little"
        if order not in ("little", "big"):
            raise RefusedError(f"byte order {order!r:.20}, expected 'little' or 'big'")
        root, refs, _ = _unpickle(stored("data.pkl"), 0)
        return root, {
            key: _elements(ref, stored(f"data/{key}"), order=order) for key, ref in refs.items()
        }


def _read_legacy(data: bytes) -> tuple[object, Tensors]:
    """Legacy stream: pickles of magic, protocol, system, object and storage keys; then the
    storages, lengths first."""
    try:
        magic, _, position = _unpickle(data, 0)
    except (RefusedError, *_MALFORMED):
        magic, position = None, 0
    if type(magic) is not int or magic != _LEGACY_MAGIC:
        raise RefusedError(
            f"not a PyTorch checkpoint: starts with {data[:12]!r}, neither zip archive nor legacy"
            " magic"
        )
    protocol, _, position = _unpickle(data, position)
    if protocol != _LEGACY_PROTOCOL:
        raise RefusedError(f"legacy protocol {protocol!r:.20}, expected {_LEGACY_PROTOCOL}")
    system, _, position = _unpickle(data, position)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("legacy checkpoint that does not say it is little-endian")
    root, refs, position = _unpickle(data, position)
    keys, _, position = _unpickle(data, position)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(refs):
        raise RefusedError(
            "the list of storage keys does not agree with the storages that tensors name"
        )
    storages: Tensors = {}
    for key in keys:
        ref = refs[key]
        header, start = data[position : position + 8], position + 8
        position = start + ref.numel * _STORAGE_TYPES[ref.type_name].itemsize
        if len(header) < 8 or position > len(data):
            raise RefusedError(
                f"truncated: storage {key!r} should end at byte {position}, the file has"
                f" {len(data)}"
            )
        if int.from_bytes(header, "little", signed=True) != ref.numel:
            raise RefusedError(
                f"storage {key!r} has another length than its tensors say ({ref.numel})"
            )
        storages[key] = _elements(ref, data[start:position], order="little")
    return root, storages


def _unpickle(data: bytes, start: int) -> tuple[object, dict[str, _Storage], int]:
    """The object pickled at ``start``, the storages it names, and where its pickle ends."""
    storages: dict[str, _Storage] = {}
    root, end = unpickle(data, _TENSORS, start=start, persistent=partial(_storage, storages))
    return root, storages, end


def _storage(storages: dict[str, _Storage], pid: Any) -> _Storage:
    """The storage that a persistent id names, noted among ``storages``; its bytes come later, from
    elsewhere in the file."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        raise RefusedError(f"persistent id {pid!r:.80} is not that of a storage")
    kind, key, _location, numel = pid[1:5]
    if not isinstance(kind, _StorageType) or not isinstance(key, str) or not _is_count(numel):
        raise RefusedError(f"storage {pid!r:.80} needs a type, a key and a number of elements")
    whole = _Storage(kind.name, key, numel, 0, numel)
    if storages.setdefault(key, whole) != whole:
        raise RefusedError(f"storage {key!r} is described in two ways")
    view = pid[5] if len(pid) == 6 else None
    if view is None:
        return whole
    _key, start, length = view
    if not (_is_count(start) and _is_count(length) and start + length <= numel):
        raise RefusedError(f"view {view!r:.80} leaves storage {key!r} of {numel} elements")
    return whole._replace(start=start, stop=start + length)


def _elements(ref: _Storage, data: bytes, *, order: str) -> np.ndarray:
    """Elements of a stored run: a copy, aligned and in native byte order, not writeable."""
    dtype = _STORAGE_TYPES[ref.type_name]
    if len(data) != ref.numel * dtype.itemsize:
        raise RefusedError(
            f"storage {ref.key!r} has {len(data)} bytes, {ref.numel} × {dtype.itemsize} expected"
        )
    elements: np.ndarray
    if ref.type_name == "BFloat16Storage":
        # NumPy swaps no bytes of bfloat16: swap as integers, then reinterpret.
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
            raise RefusedError(f"holds an entry named {name!r:.40}, names are text")
        short = name.removeprefix(_PARALLEL_PREFIX)
        if short in named:
            raise RefusedError(
                f"holds {short!r} twice, with and without the prefix {_PARALLEL_PREFIX!r}"
            )
        named[short] = value
    return named


def _view(name: str, value: object, storages: Tensors) -> np.ndarray:
    """The array a tensor stands for, after checking that it stays inside its storage."""
    if type(value) in (int, float):
        return np.asarray(value)
    if not isinstance(value, _Tensor) or not isinstance(value.storage, _Storage):
        raise RefusedError(f"{name!r} is a {_kind(value)}, only tensors are admitted")
    ref, offset, size, stride = value
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)):
        raise RefusedError(
            f"{name!r} needs as many strides as sizes, has {size!r:.60} and {stride!r:.60}"
        )
    if not all(_is_count(number) for number in (offset, *size, *stride)):
        raise RefusedError(
            f"{name!r}: offset, sizes and strides are non-negative numbers, got {value[1:]!r:.90}"
        )
    elements = storages[ref.key][ref.start : ref.stop]
    count = math.prod(size)
    last = (
        offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if count
        else offset - 1
    )
    # The second condition keeps a small file from standing for a huge (overlapping) array.
    if last >= len(elements) or count > len(elements):
        where = f"offset {offset}, size {size}, stride {stride}"
        raise RefusedError(f"{name!r} with {where} leaves its storage of {len(elements)} elements")
    strides = tuple(step * elements.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(elements[offset:], size, strides, writeable=False)


def _kind(value: object) -> str:
    return type(value).__name__.lstrip("_").lower()


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
