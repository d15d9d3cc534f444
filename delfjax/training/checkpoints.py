"""Checkpoints of a training run: the last two, from which it resumes, and the best by validation.

A checkpoint is a single weight file named by its number of steps. It appears whole or not at all,
and what is read from it is compared with its digests. A run resumes from the last checkpoint that
is whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from delfjax.config import abbreviated, identity
from delfjax.errors import DelfjaxWarning
from delfjax.files import (
    Lock,
    LockHeldError,
    flatten,
    json_bytes,
    naming,
    read_json_object,
    remove_leftovers,
    write_json,
)
from delfjax.models.weights import Tensors, WeightsError, load_weights, match_report, save_weights
from delfjax.records import Number, Record, require_record
from delfjax.text import printable
from delfjax.training import earlier_checkpoints
from delfjax.training.batches import TrainingError

_ABOUT = "training.json"
_LOCK = "training.lock"
_FOLDER = "checkpoints"
_NAME = "checkpoint"
# Number of last checkpoints that are kept, so that there is another if one is damaged.
_LAST = 2


@dataclass
class _Accuracy(Record):
    loss: Number
    accuracy: Number


@dataclass
class _Precision(Record):
    precision: Number


@dataclass
class _Record(Record):
    """What describes a checkpoint.

    Attributes:
        about: the settings of the run; empty for a checkpoint of an earlier version.
        metrics: the validation scores; ``None`` if no photo is held out.
    """

    about: dict[str, Any]
    metrics: _Accuracy | _Precision | None


class Checkpoints:
    """The checkpoints of one training run, as a context manager that one process at a time can
    enter.

    Attributes:
        folder: folder of the run.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Name the folder; nothing is read or written before the context is entered.

        Args:
            folder: holds a single training run; created if missing.
            about: plain values that determine the result of training; a folder that exists must
                have been created with the same values.
        """
        self.folder = folder
        self._about: dict[str, Any] = json.loads(json_bytes(about))
        self._place = folder / _FOLDER
        self._lock = Lock(folder / _LOCK)
        self._records: dict[int, dict[str, Any]] = {}
        self._damaged: dict[int, str] = {}

    def __enter__(self) -> Checkpoints:
        """Open the folder; if another process is training there, wait until it ends.

        Raises:
            TrainingError: the folder belongs to another training run, and the message names the
                first setting that differs; or there are checkpoints and none is whole.
        """
        self._place.mkdir(parents=True, exist_ok=True)
        self._acquire()
        try:
            remove_leftovers(self.folder)
            earlier_checkpoints.remove_leftovers(self._place)
            self._read_records()
            # Those that were damaged stay until another is written.
            self._keep_only(self._records)
            settings = self._settings()
            self._require_same(settings)
            write_json(self.folder / _ABOUT, settings, indent=1, sort_keys=True)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    @property
    def last(self) -> int | None:
        """Number of steps done at the last checkpoint that is whole; ``None`` if there is none."""
        return max(self._records, default=None)

    @property
    def best(self) -> int | None:
        """Number of steps done at the checkpoint with the best validation accuracy or precision,
        the latest of equals; ``None`` if there is no checkpoint."""
        scores = self.validated

        def quality(step: int) -> float:
            found = scores.get(step, {})
            return found.get("precision", found.get("accuracy", 0.0))

        return max(self._records, key=lambda step: (quality(step), step), default=None)

    @property
    def validated(self) -> dict[int, dict[str, float]]:
        """Validation scores of the checkpoints, by their numbers of steps."""
        return {
            step: record["metrics"]
            for step, record in self._records.items()
            if record["metrics"] is not None
        }

    def resume(self, start: Any) -> tuple[int, Any]:
        """The number of steps done at the last checkpoint that can be read, and its state.

        Args:
            start: the state before the first step, returned if there is no checkpoint.

        Raises:
            TrainingError: there are checkpoints, and none can be read.
        """
        state = start
        for step in sorted(self._records, reverse=True):
            try:
                state = self.restore(step, start)
                break
            except TrainingError as error:
                self._damaged[step] = str(error)
                del self._records[step]
        self._require_one()
        first = self.last or 0
        if self._damaged:
            reasons = "; ".join(self._damaged[step] for step in sorted(self._damaged))
            warnings.warn(
                f"{reasons}; training resumes from step {first}", DelfjaxWarning, stacklevel=3
            )
        return first, state

    def restore(self, step: int, like: Any) -> Any:
        """The state after ``step`` steps, placed as ``like`` is.

        Raises:
            TrainingError: the checkpoint is damaged or belongs to another architecture.
        """
        if self._is_earlier(step):
            arrays = earlier_checkpoints.read_arrays(self._place / str(step), like)
        else:
            arrays = self._read_arrays(step, like)
        leaves, tree = jax.tree.flatten(like)
        placed = [
            # The step that follows overwrites the arrays of the state.
            jax.device_put(array, leaf.sharding, may_alias=False)
            if isinstance(leaf, jax.Array)
            else array
            for array, leaf in zip(arrays, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, placed)

    def save(self, step: int, state: Any, metrics: Mapping[str, float] | None) -> None:
        """Write the state after ``step`` steps, and delete the checkpoints that are not kept.

        Args:
            step: number of steps done.
            state: a tree of arrays.
                metrics: the validation scores; ``None`` if no photo is held out.

        Raises:
            OSError: it cannot be written, for instance because the disk is full; the error names
                the file, and the earlier checkpoints stay.
        """
        file = self._file(step)
        record = {"about": self._about, "metrics": None if metrics is None else dict(metrics)}
        described = {"name": _NAME, "record": record, "record_digest": _digest(record)}
        with naming(file):
            save_weights(file, _tensors(jax.device_get(state)), described)
        self._records[step] = record
        earlier_checkpoints.remove(self._place / str(step))
        self._keep_only(_steps(self._place))

    def _read_arrays(self, step: int, like: Any) -> list[np.ndarray]:
        """The arrays of a checkpoint, in the order of the leaves of ``like``."""
        file = self._file(step)
        tensors, _ = _read(file)
        wanted = _tensors(like)
        shapes = ({name: value.shape for name, value in held.items()} for held in (wanted, tensors))
        report = match_report(*shapes)
        if not report.fits:
            counts = str(report).split("\n")[0]
            raise TrainingError(f"{file}: does not fit the network: {counts}")
        for name, value in wanted.items():
            if tensors[name].dtype != value.dtype:
                raise TrainingError(
                    f"{file}: {name} has type {tensors[name].dtype}, expected {value.dtype}"
                )
        return [tensors[name] for name in wanted]

    def _keep_only(self, steps: Collection[int]) -> None:
        """Delete those checkpoints of ``steps`` that are neither the best nor the last ones."""
        for step in set(steps) - {self.best, *sorted(self._records)[-_LAST:]}:
            self._file(step).unlink(missing_ok=True)
            earlier_checkpoints.remove(self._place / str(step))
            self._records.pop(step, None)

    def _file(self, step: int) -> Path:
        return self._place / f"{step}.safetensors"

    def _is_earlier(self, step: int) -> bool:
        """Whether a checkpoint is one of an earlier version."""
        return not self._file(step).exists() and (self._place / str(step)).is_dir()

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except LockHeldError as error:
            # Another training is refused at once rather than after days.
            self._require_same(self._settings())
            warnings.warn(
                f"{self.folder}: {error.holder} is training in this folder; waiting for it to end",
                DelfjaxWarning,
                stacklevel=3,
            )
            self._lock = Lock(self.folder / _LOCK, wait_s=math.inf)
            self._lock.acquire()

    def _read_records(self) -> None:
        for step in sorted(_steps(self._place)):
            try:
                if self._is_earlier(step):
                    metrics = earlier_checkpoints.read_metrics(self._place / str(step))
                    self._records[step] = {"about": {}, "metrics": metrics}
                else:
                    self._records[step] = _read(self._file(step))[1]
            except TrainingError as error:
                self._damaged[step] = str(error)
        self._require_one()

    def _require_one(self) -> None:
        if self._damaged and not self._records:
            last = self._damaged[max(self._damaged)]
            raise TrainingError(
                f"{last}; no other checkpoint is whole; remove {self.folder} to start again"
            )

    def _settings(self) -> dict[str, Any]:
        """The settings that the run was started with.

        Each checkpoint holds a copy, which is used if the file is damaged. If there is no
        checkpoint, the run starts now.

        Raises:
            TrainingError: there are checkpoints, and none has a copy.
        """
        file = self.folder / _ABOUT
        copies = [record["about"] for _, record in sorted(self._records.items())]
        try:
            if file.exists() or copies:
                return read_json_object(file, error=TrainingError)
        except TrainingError as error:
            if copies and not copies[-1]:
                raise TrainingError(f"{error}; remove {self.folder} to start again") from None
        return copies[-1] if copies else self._about

    def _require_same(self, held: dict[str, Any]) -> None:
        found, wanted = flatten(identity(held)), flatten(identity(self._about))
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                old, new = (
                    abbreviated(flatten(values).get(name)) for values in (held, self._about)
                )
                raise TrainingError(
                    f"{self.folder}: holds a training run with {printable(name):.200} {old!r:.200},"
                    f" not {new!r:.200}; choose another folder"
                )


def _steps(place: Path) -> set[int]:
    """Numbers of steps of the checkpoints in a folder, whole or not."""
    names = (
        re.fullmatch(r"([1-9]\d{0,17})(\.safetensors)?", entry.name) for entry in place.iterdir()
    )
    return {int(name[1]) for name in names if name}


def _tensors(state: Any) -> dict[str, Any]:
    """The arrays of a state by their paths in the tree, in the tree's order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _read(file: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and the record of a checkpoint.

    Raises:
        TrainingError: the file is damaged.
    """
    try:
        tensors, described = load_weights(file)
    except WeightsError as error:
        raise TrainingError(error.message) from None
    record = described.get("record")
    if described["name"] != _NAME or described.get("record_digest") != _digest(record):
        raise TrainingError(f"{file}: damaged, or not a checkpoint of this version")
    require_record(record, _Record, where=str(file), error=TrainingError)
    assert isinstance(record, dict)
    return tensors, record


def _digest(record: object) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
