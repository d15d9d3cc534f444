"""Weights on disk in delfjax's format, and a report of all tensors that do not fit a model.

The format is a ``.safetensors`` file whose metadata hold a description, a JSON text: the format
version, the model's name and config, and a digest of the tensors, by which damage is detected and
refused. A file without a description has it in a ``.json`` file of the same stem beside it, as
earlier versions wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from delfjax import paths
from delfjax.config.weight_files import SUFFIX
from delfjax.errors import DelfjaxError, quoted, shown
from delfjax.files import parse_json, read_json_object, read_whole, replace_file, replacing
from delfjax.records import Flag, Number, Record, Size, Whole, require_record

Tensors = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

FORMAT = "delfjax-weights"
VERSION = 1
# The one entry of the metadata. The library writes several in random order.
_DESCRIPTION = "delfjax"
# Largest header of a safetensors file; a tensor takes about a hundred bytes, a network 100 kB.
MAX_HEADER_BYTES = 16 << 20


@dataclass
class Described(Record):
    """Fields of a part's description that this library reads; see :mod:`delfjax.records`.

    Attributes:
        name: architecture of a backbone, or kind of a scorer or reduction.
        stride_layout: of a ResNet.
        backbone: identity of the backbone that a scorer or a reduction was made for.
        same_backbone: another identity of the same backbone.
        code_dim: width of an autoencoder's code.
        rectified: whether the autoencoder rectifies its code.
        explained: share of the variance that a reduction keeps.
        best_step: step of the training whose weights these are.
        seconds: duration of the training.
    """

    name: str = ""
    stride_layout: str = ""
    backbone: dict[str, Any] | None = None
    same_backbone: dict[str, Any] | None = None
    code_dim: Size = 1
    rectified: Flag = True
    explained: Number = 1.0
    best_step: Whole = 0
    seconds: Number = 0.0


@dataclass
class DescribedPart(Described):
    """The description of one of several parts."""

    digest: str = field(kw_only=True)


@dataclass
class Score(Record):
    """The scores of one evaluation on the card of a weight file."""

    dataset: str
    config_hash: str
    inliers: dict[str, Number]


@dataclass
class DescribedWhole(Described):
    """The description of the file as a whole, which is the config of :func:`save_weights`."""

    name: str = field(kw_only=True)
    parts: dict[str, DescribedPart] = field(default_factory=dict)
    system: dict[str, dict[str, Any]] = field(default_factory=dict)
    receptive_field: dict[str, Any] = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)


@dataclass
class _About(Record):
    model: str
    digest: str
    config: DescribedWhole


class WeightsError(DelfjaxError):
    """A weight file is missing or damaged, has another format or version, or does not fit the
    model."""


@dataclass(frozen=True)
class MatchReport:
    """How the names and shapes found in a file differ from those a model expects.

    Attributes:
        unexpected: name and shape of each tensor that the model has no place for.
        missing: name and shape of each tensor that the file lacks.
        misshapen: name, expected shape and found shape of each tensor of the wrong shape.
    """

    unexpected: tuple[tuple[str, tuple[int, ...]], ...]
    missing: tuple[tuple[str, tuple[int, ...]], ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def fits(self) -> bool:
        """Whether every name and every shape agrees."""
        return not (self.unexpected or self.missing or self.misshapen)

    def __str__(self) -> str:
        """One line of counts, then one line per tensor."""
        kinds = {
            "unexpected": self.unexpected,
            "missing": self.missing,
            "misshapen": self.misshapen,
        }
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items())
        lines = [f"  unexpected  {name} {shape}" for name, shape in self.unexpected]
        lines += [f"  missing     {name} {shape}" for name, shape in self.missing]
        lines += [
            f"  misshapen   {name} {found}, expected {expected}"
            for name, expected, found in self.misshapen
        ]
        return "\n".join([f"{counts} tensors", *lines])


def match_report(expected: Shapes, found: Shapes) -> MatchReport:
    """Every name that is on one side only, and every name whose shapes differ."""
    return MatchReport(
        unexpected=tuple((name, found[name]) for name in sorted(found.keys() - expected.keys())),
        missing=tuple((name, expected[name]) for name in sorted(expected.keys() - found.keys())),
        misshapen=tuple(
            (name, expected[name], found[name])
            for name in sorted(expected.keys() & found.keys())
            if expected[name] != found[name]
        ),
    )


def require_match(
    expected: Shapes, tensors: Mapping[str, np.ndarray], *, source: str | Path
) -> None:
    """Check that ``tensors`` have exactly the names and shapes that a model expects.

    Raises:
        WeightsError: they have not; the message holds the complete :class:`MatchReport`.
    """
    report = match_report(expected, {name: tensor.shape for name, tensor in tensors.items()})
    if not report.fits:
        counts, *names = str(report).split("\n")
        raise WeightsError(f"{source}: does not fit the model: {counts}", details=names)


def save_weights(
    path: str | Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> None:
    """Write ``tensors`` with their description; the file appears complete or not at all.

    Args:
        path: the ``.safetensors`` file. A description that an earlier version wrote beside it is
            deleted.
        tensors: tensors by name.
        config: plain JSON values that describe the model; ``name`` is required.

    Raises:
        WeightsError: ``path`` has another suffix, or ``config`` has no ``name``.
    """
    path = _own_path(path)
    content = _serialised(path, tensors, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)
    _remove_beside(path)


def describe_again(path: str | Path, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Write a weight file with another description of the same tensors.

    Another process that does so at the same time waits, and changes what this one has written.

    Args:
        path: the file.
        change: makes the new config from the present one; both are those of :func:`save_weights`.

    Raises:
        WeightsError: see :func:`load_weights`; the file stays as it was.
    """
    path = _own_path(path)
    # Without a file, nothing is to be written.
    read_description(path)
    with replacing(path) as stream:
        tensors, config = load_weights(path)
        stream.write(_serialised(path, tensors, change(config)))
    _remove_beside(path)


def _serialised(path: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> bytes:
    """The content of a weight file."""
    if not isinstance(config.get("name"), str):
        raise WeightsError(
            f"{path}: the config needs the model name in 'name', but holds only {sorted(config)}"
        )
    # safetensors writes the memory behind each array, which must therefore be in row-major order.
    ordered = {name: _widened(np.asarray(tensors[name], order="C")) for name in sorted(tensors)}
    about = {
        "format": FORMAT,
        "version": VERSION,
        "model": config["name"],
        "config": dict(config),
        "digest": tensor_digest(ordered),
    }
    description = json.dumps(about, sort_keys=True, allow_nan=False)
    return bytes(safetensors.numpy.save(ordered, metadata={_DESCRIPTION: description}))


def _remove_beside(path: Path) -> None:
    """Delete the description that an earlier version wrote beside a weight file."""
    beside = path.with_suffix(".json")
    with suppress(WeightsError):
        _checked(beside, read_json_object(beside, error=WeightsError))
        beside.unlink()


def load_weights(path: str | Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and config written by :func:`save_weights`.

    Raises:
        WeightsError: the file is missing or damaged, has another format or version, or its tensors
            are not those described.
    """
    path = _own_path(path)
    return read_whole(path, lambda: _load(path), error=WeightsError)


def _load(path: Path) -> tuple[Tensors, dict[str, Any]]:
    about = read_description(path)
    tensors = read_safetensors(path)
    digest = tensor_digest(tensors)
    if digest != about["digest"]:
        raise WeightsError(
            f"{path}: damaged, or not the file that its description is about: its tensors have the"
            f" digest {digest}, expected {shown(about['digest'])}"
        )
    config: dict[str, Any] = about["config"]
    return tensors, config


def read_description(path: str | Path) -> dict[str, Any]:
    """The description of a weight file, with ``config`` and ``digest``; the tensors are not read.

    Raises:
        WeightsError: the file or its description is missing or damaged, or has another format or
            version.
    """
    path = _own_path(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            text = (opened.metadata() or {}).get(_DESCRIPTION)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None
    if text is None:
        beside = path.with_suffix(".json")
        return _checked(beside, read_json_object(beside, error=WeightsError))
    described = f"{path}: its description"
    return _checked(path, parse_json(text.encode(), where=described, error=WeightsError))


def is_described(path: Path) -> bool:
    """Whether a weight file is there with its description, wherever that is."""
    try:
        read_description(path)
    except WeightsError:
        return False
    return True


def tensor_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and values, in hexadecimal; the order of the names does not
    matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.asarray(tensors[name], order="C")
        digest.update(json.dumps([name, tensor.dtype.name, tensor.shape]).encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _own_path(path: str | Path) -> Path:
    path = Path(path)
    if os.path.isdir(path):
        raise WeightsError(f"{path}: is a folder, expected a weight file ({SUFFIX})")
    if path.suffix != SUFFIX:
        raise WeightsError(
            f"{path}: the suffix is {path.suffix!r}, expected '.safetensors'; convert other formats"
            " with `delfjax weights convert`"
        )
    return path


def _checked(path: Path, about: object) -> dict[str, Any]:
    """A description that was read from ``path``, if it is one."""
    if not isinstance(about, dict):
        raise WeightsError(f"{path}: damaged: its description is not a JSON object")
    if about.get("format") != FORMAT:
        raise WeightsError(f"{path}: format is {shown(about.get('format'))}, expected {FORMAT!r}")
    if about.get("version") != VERSION:
        raise WeightsError(
            f"{path}: format version is {shown(about.get('version'))}, this delfjax reads {VERSION}"
        )
    require_record(about, _About, where=str(path), error=WeightsError)
    if about["config"]["name"] != about["model"]:
        raise WeightsError(
            f"{path}: damaged: 'model' is {shown(about['model'])}, but the config's 'name' is"
            f" {shown(about['config']['name'])}"
        )
    return about


def read_safetensors(path: str | Path) -> Tensors:
    """Tensors of a safetensors file; bfloat16 is widened to float32, which holds its values
    exactly.

    Raises:
        WeightsError: the file is missing, damaged or not a safetensors file.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise WeightsError(
                f"{path}: damaged or not a safetensors file: its header has {header_bytes:,} bytes,"
                f" expected at most {MAX_HEADER_BYTES:,}"
            )
        tensors = safetensors.numpy.load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from None
    return {name: _widened(tensor) for name, tensor in tensors.items()}


def _unreadable(path: Path, error: Exception) -> WeightsError:
    if not path.is_file():
        return WeightsError(f"{path}: no such file")
    return WeightsError(f"{path}: damaged or not a safetensors file ({quoted(error)})")


def shipped_attention(name: str) -> Path:
    """The weight file of an attention scorer that comes with the suite.

    Raises:
        WeightsError: there is no file of that name; the message lists the names.
    """
    path = paths.shipped_weights() / f"{name}.safetensors"
    if not path.is_file():
        raise WeightsError(
            f"scorer.weights is {name!r}, which is neither a .safetensors file nor the name of an"
            f" attention that comes with the suite ({path.parent} holds: {_shipped_names()}); train"
            " one with `delfjax train`, or set scorer.kind=norm"
        )
    return path


def named_file(name: str) -> Path:
    """The weight file of a path, or of the name of a file that comes with the suite.

    Raises:
        WeightsError: it is neither; the message lists the names.
    """
    path = Path(os.path.expanduser(name))
    shipped = paths.shipped_weights() / f"{name}{SUFFIX}"
    if path.suffix == SUFFIX:
        return path
    # Unlike the methods of a path, these take a name that cannot be one.
    if path.name == name and os.path.isfile(shipped):
        return shipped
    if os.path.exists(path):
        return _own_path(path)
    raise WeightsError(
        f"{name}: neither a weight file ({SUFFIX}) nor the name of one that comes with delfjax;"
        f" there are: {_shipped_names()}"
    )


def _shipped_names() -> str:
    files = paths.shipped_weights().glob(f"*{SUFFIX}")
    return ", ".join(sorted(file.stem for file in files)) or "none"


def file_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None


def _widened(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(np.float32) if tensor.dtype == ml_dtypes.bfloat16 else tensor
