"""Checkpoints of a training run: the last, from which it resumes, and the best by validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from delfjax.config import identity, shown
from delfjax.files import flatten, json_bytes, read_json_object, write_json
from delfjax.training.batches import TrainingError

_ABOUT = "training.json"
# Folder that holds one folder for each checkpoint, named by the number of its steps.
CHECKPOINTS = "checkpoints"


class Checkpoints:
    """The checkpoints in a folder, as a context manager that waits until the last one is
    written."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Open the folder, or create it.

        Args:
            folder: holds the checkpoints of a single training run.
            about: plain values that determine the result of training; a folder that exists must
                have been created with the same values.

        Raises:
            TrainingError: the folder belongs to another training run; the message names the first
                setting that differs.
        """
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / _ABOUT
        if file.is_file():
            found = read_json_object(file, error=TrainingError)
            _require_same(folder, found, json.loads(json_bytes(about)))
        else:
            write_json(file, about, indent=1, sort_keys=True)
        kept = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(get_metric_fn=_accuracy, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept, best_fn=_accuracy, best_mode="max"
        )
        self._manager = ocp.CheckpointManager(folder.resolve() / CHECKPOINTS, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    @property
    def last(self) -> int | None:
        """Number of steps done at the last checkpoint; ``None`` if there is no checkpoint."""
        step: int | None = self._manager.latest_step()
        return step

    @property
    def best(self) -> int | None:
        """Number of steps done at the checkpoint with the best validation accuracy, the earliest of
        equals; ``None`` if there is no checkpoint."""
        self._manager.wait_until_finished()
        step: int | None = self._manager.best_step()
        return step

    def save(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Write the state after ``step`` steps; return as soon as the arrays are copied."""
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=dict(metrics))

    def restore(self, step: int, like: Any) -> Any:
        """The state after ``step`` steps, placed as ``like`` is.

        Raises:
            TrainingError: the checkpoint is damaged or belongs to another architecture.
        """
        self._manager.wait_until_finished()
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"{self._manager.directory}: step {step} cannot be read ({reason:.200})"
            ) from None


def _require_same(folder: Path, held: dict[str, Any], asked: dict[str, Any]) -> None:
    found, wanted = flatten(identity(held)), flatten(identity(asked))
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            old, new = (shown(flatten(values).get(name)) for values in (held, asked))
            raise TrainingError(
                f"{folder}: holds a training run with {name} {old!r}, not {new!r}; choose another"
                " folder"
            )


def _accuracy(metrics: dict[str, float]) -> float:
    return float(metrics["accuracy"])
