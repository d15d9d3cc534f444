"""Checkpoints of earlier versions, which Orbax wrote: a folder for each, without digests.

A run that was started then resumes from them; its next checkpoints are written as
:mod:`delfjax.training.checkpoints` describes.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tensorstore

from delfjax.errors import DelfjaxWarning, quoted, shown
from delfjax.files import parse_json, remove_folder
from delfjax.records import Number, Record, Whole, read_record, require_record
from delfjax.training.batches import TrainingError

_METRICS = "metrics/metrics"
_STATE = "default"
# What the library raises for damaged files.
_DAMAGED = (OSError, ValueError, LookupError, RuntimeError)
_TEMPORARY = "*.orbax-checkpoint-tmp*"


@dataclass
class _Scores(Record):
    loss: Number
    accuracy: Number


@dataclass
class _Compressor(Record):
    id: Literal["zstd"]


@dataclass
class _Layout(Record):
    """How an array is stored; the names are those of version 2 of the format Zarr."""

    shape: list[Whole]
    chunks: list[Whole]
    dtype: str
    compressor: _Compressor
    order: Literal["C"]
    filters: None
    zarr_format: Literal[2]


def read_metrics(folder: Path) -> dict[str, Any]:
    """The validation scores in the folder of a checkpoint.

    Raises:
        TrainingError: they cannot be read.
    """
    return read_record(folder / _METRICS, _Scores, error=TrainingError)


def read_arrays(folder: Path, like: Any) -> list[np.ndarray]:
    """The arrays in the folder of a checkpoint, in the order of the leaves of ``like``.

    Orbax joins the names on the path of a leaf with dots, and writes each array in the format Zarr
    into one database, in TensorStore's format OCDBT.

    Raises:
        TrainingError: the checkpoint is damaged or belongs to another architecture.
    """
    warnings.warn(
        f"{folder}: was written by an earlier version, without a digest; if it was damaged since,"
        " training ends with other weights",
        DelfjaxWarning,
        stacklevel=4,
    )
    paths, _ = jax.tree_util.tree_flatten_with_path(like)
    named = [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in paths]
    place = {"driver": "file", "path": f"{(folder / _STATE).resolve().as_posix()}/"}
    database = {"driver": "ocdbt", "base": place}
    try:
        held = tensorstore.KvStore.open(database).result()
        return [_array(folder, held, name, like=leaf) for name, leaf in named]
    except _DAMAGED as error:
        raise TrainingError(f"{folder}: cannot be read ({quoted(error)})") from None


def _array(folder: Path, held: tensorstore.KvStore, name: str, *, like: Any) -> np.ndarray:
    """One array, whose layout is checked before memory is taken for it."""
    where = f"{folder}: {name}"
    described = held.read(f"{name}/.zarray").result()
    if described.state != "value":
        raise TrainingError(f"{where} is missing")
    layout = parse_json(described.value, where=where, error=TrainingError)
    require_record(layout, _Layout, where=where, error=TrainingError)
    shape = list(like.shape)
    if layout["shape"] != shape:
        raise TrainingError(f"{where} has shape {shown(layout['shape'])}, expected {shown(shape)}")
    chunks = layout["chunks"]
    if len(chunks) != len(shape) or not all(
        0 < part <= side for part, side in zip(chunks, shape, strict=True)
    ):
        raise TrainingError(
            f"{where} is stored in pieces of shape {shown(chunks)}, expected at most {shown(shape)}"
        )
    place = {**held.spec().to_json(), "path": f"{name}/"}
    # Every piece was written; one that is missing is not read as zeros.
    spec = {"driver": "zarr", "kvstore": place, "fill_missing_data_reads": False}
    store = tensorstore.open(spec, read=True).result()
    if store.dtype != tensorstore.dtype(like.dtype):
        raise TrainingError(f"{where} has type {store.dtype.name}, expected {like.dtype}")
    return np.asarray(store.read().result())


def remove(folder: Path) -> None:
    """Delete the folder of a checkpoint, if it is there."""
    if folder.is_dir():
        remove_folder(folder)


def remove_leftovers(place: Path) -> None:
    """Delete the checkpoints that a killed process left unfinished."""
    for leftover in place.glob(_TEMPORARY):
        shutil.rmtree(leftover)
