"""Run folders: where an experiment leaves what it did, so that others read it and nothing half-written is ever read.

``runs/<experiment>/<hash10>/`` holds ``config.json``, ``figures/``, whatever the experiment keeps, ``results.json`` and
``provenance.json``; ``DONE`` is written last. A folder without it is a crash and is started anew.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax

from delfjax import __version__, paths
from delfjax.config import config_hash
from delfjax.types import DelfjaxError

_DONE = "DONE"
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "faiss-cpu", "pillow", "scikit-image")


class RunError(DelfjaxError):
    """A run that is missing, unfinished, or whose results cannot be written."""


@runtime_checkable
class Figure(Protocol):
    """What can be saved as a picture."""

    def savefig(self, file: Path, /) -> None:
        """Write the picture to ``file``."""


@dataclass(frozen=True)
class Run:
    """One run of one experiment, open for writing until :meth:`finish`."""

    experiment: str
    config: dict[str, Any]
    path: Path
    started: float = field(default_factory=time.perf_counter)

    def save_figure(self, name: str, figure: Figure) -> None:
        """Keep ``figure`` as ``figures/<name>.png``."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / f"{name}.png")

    def finish(self, results: dict[str, Any]) -> None:
        """Write results and provenance, then mark the run as done.

        Raises:
            RunError: a result is not finite, so that no table ever shows it.
        """
        for name, value in _numbers(results):
            if not math.isfinite(value):
                raise RunError(f"run {self.experiment}: result {name!r} is {value}, which is not finite")
        device = jax.local_devices()[0]
        provenance = {
            "delfjax": __version__,
            "python": platform.python_version(),
            "packages": {name: version(name) for name in _PACKAGES},
            "device": f"{device.platform} {device.device_kind}",
            "seconds": round(time.perf_counter() - self.started, 3),
        }
        _write_json(self.path / "results.json", results)
        _write_json(self.path / "provenance.json", provenance)
        (self.path / _DONE).touch()


def start_run(experiment: str, config: dict[str, Any], *, keep: bool = False) -> Run:
    """An empty run folder for ``experiment`` under ``config``; what an earlier run left there is removed.

    Args:
        experiment: name, that of the notebook.
        config: plain values that decide the results, seed included.
        keep: leave what is there, for experiments that resume.
    """
    path = run_path(experiment, config)
    (path / _DONE).unlink(missing_ok=True)
    if not keep:
        shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    _write_json(path / "config.json", config)
    return Run(experiment, config, path)


def finished_run(experiment: str, config: dict[str, Any]) -> Run:
    """The finished run of ``experiment`` under ``config``.

    Raises:
        RunError: there is none; the message says which notebook makes it.
    """
    path = run_path(experiment, config)
    if not (path / _DONE).is_file():
        raise RunError(f"no finished run of {experiment} with these settings at {path}; run notebooks/{experiment}.ipynb first")
    return Run(experiment, config, path)


def run_path(experiment: str, config: dict[str, Any]) -> Path:
    """Folder of the run of ``experiment`` under ``config``."""
    return paths.runs_root() / experiment / config_hash(config)


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every float of nested plain values, with its dotted name."""
    if isinstance(values, float):
        yield name, values
    elif isinstance(values, dict | list | tuple):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _numbers(value, f"{name}.{key}" if name else str(key))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
    partial.replace(path)
