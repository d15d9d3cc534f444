"""Checkpoints of earlier versions, which Orbax wrote: a folder for each, without digests.

A run that was started then resumes from them; its next checkpoints are written as
:mod:`delfjax.training.checkpoints` describes.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from delfjax.errors import DelfjaxWarning, quoted
from delfjax.files import remove_folder
from delfjax.records import Number, Record, read_record
from delfjax.training.batches import TrainingError

_METRICS = "metrics/metrics"
_STATE = "default"
# The library checks little of what it reads, and raises whatever that leads to.
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
)
_TEMPORARY = "*.orbax-checkpoint-tmp*"


@dataclass
class _Scores(Record):
    loss: Number
    accuracy: Number


def read_metrics(folder: Path) -> dict[str, Any]:
    """The validation scores in the folder of a checkpoint.

    Raises:
        TrainingError: they cannot be read.
    """
    return read_record(folder / _METRICS, _Scores, error=TrainingError)


def read_state(folder: Path, like: Any) -> Any:
    """The state in the folder of a checkpoint, placed as ``like`` is.

    Raises:
        TrainingError: the checkpoint is damaged or belongs to another architecture.
    """
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    warnings.warn(
        f"{folder}: was written by an earlier version, without a digest; if it was damaged since,"
        " training ends with other weights",
        DelfjaxWarning,
        stacklevel=3,
    )
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            return reader.restore(
                (folder / _STATE).resolve(), args=ocp.args.StandardRestore(shapes)
            )
    except _DAMAGED as error:
        raise TrainingError(f"{folder}: cannot be read ({quoted(error)})") from None


def remove(folder: Path) -> None:
    """Delete the folder of a checkpoint, if it is there."""
    if folder.is_dir():
        remove_folder(folder)


def remove_leftovers(place: Path) -> None:
    """Delete the checkpoints that a killed process left unfinished."""
    for leftover in place.glob(_TEMPORARY):
        shutil.rmtree(leftover)
