"""Run folders: where an experiment leaves what it did, so that others read it and nothing
half-written is ever read.

``runs/<experiment>/<hash10>/`` holds ``config.json``, ``metrics.jsonl``, ``figures/``, ``queries/``
(scores per query), whatever the experiment keeps, ``results.json`` and ``provenance.json``;
``DONE`` is written last and holds the digests of the others. A folder without it is a crash and is
started anew; one whose files no longer agree with it is damaged, and neither is ever read. The hash
is that of the resolved config, seed included. One process at a time writes a folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from delfjax import paths
from delfjax.config import config_hash
from delfjax.errors import DelfjaxError
from delfjax.files import (
    Lock,
    LockHeldError,
    flatten,
    read_json_object,
    remove_leftovers,
    write_json,
)
from delfjax.suite.runs.provenance import provenance

# Presets that a run can have: seconds, minutes, as long as the data deserves.
PRESETS = ("ci", "quick", "full")

_DONE = "DONE"
_CONFIG = "config.json"
_RESULTS = "results.json"
_PROVENANCE = "provenance.json"
_FIGURES = "figures"
_QUERIES = "queries"
_REMEDY = 'run {0} first, or ask for upstream="build"'
# What the runner writes beside the run while the run is being written.
KEPT = ("notebook.ipynb", "traceback.txt")
# Seconds to wait for another process that writes the same folder: one that was killed may take that
# long to go.
_PATIENCE = 15.0
# Folders that this process is writing, with their locks: a cell run twice starts its run twice.
_held: dict[Path, Lock] = {}


class RunError(DelfjaxError):
    """A run that is missing, unfinished, damaged, being written, or whose results cannot be
    written."""


@runtime_checkable
class Figure(Protocol):
    """What can be saved as a picture."""

    def savefig(self, file: Path, /) -> None:
        """Write the picture to ``file``."""


@dataclass(frozen=True)
class FinishedRun:
    """One finished run, read from its folder.

    Attributes:
        experiment: name, that of the notebook.
        path: its folder.
        config: plain values that decided the results, seed included.
        results: what it found; finite numbers, text and nested plain values.
        provenance: commit, versions, device, upstream runs, command, seconds, peak memory.
    """

    experiment: str
    path: Path
    config: dict[str, Any]
    results: dict[str, Any]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        # What a notebook that ends with it shows: where everything is, not everything.
        return f"run {self.hash} of {self.experiment}, finished: {self.path}"

    @property
    def hash(self) -> str:
        """Ten digits that identify the config."""
        return self.path.name

    @property
    def figures(self) -> list[Path]:
        """The pictures, by name."""
        return sorted((self.path / _FIGURES).glob("*.png"))

    def query_scores(self) -> dict[str, dict[str, float]]:
        """Scores per query: metric → query → score; empty where the run kept none.

        Raises:
            RunError: a file of them is damaged.
        """
        return {
            file.stem: read_json_object(file, error=RunError)
            for file in sorted((self.path / _QUERIES).glob("*.json"))
        }


@dataclass(frozen=True)
class Run:
    """One run of one experiment, open for writing until :meth:`finish`.

    Attributes:
        experiment: name, that of the notebook.
        config: plain values that decide the results, seed included.
        path: its folder.
        parameters: the notebook's parameters, from which the command is made that would do this
            again.
        upstream: role → the finished run it read.
    """

    experiment: str
    config: dict[str, Any]
    path: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    upstream: Mapping[str, FinishedRun] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def hash(self) -> str:
        """Ten digits that identify the config."""
        return self.path.name

    def save_figure(self, name: str, figure: Figure) -> None:
        """Keep ``figure`` as ``figures/<name>.png``."""
        folder = self.path / _FIGURES
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / f"{name}.png")

    def save_query_scores(self, metric: str, scores: Mapping[str, float]) -> None:
        """Keep the scores of every query, so that two settings can be compared query by query.

        Raises:
            RunError: a score is not finite.
        """
        self._refuse_infinite({metric: dict(scores)})
        (self.path / _QUERIES).mkdir(exist_ok=True)
        self._write(self.path / _QUERIES / f"{metric}.json", dict(scores))

    def finish(
        self, results: dict[str, Any], *, timings: Mapping[str, float] | None = None
    ) -> FinishedRun:
        """Write results and provenance, then mark the run as done.

        Args:
            results: what was found: the same for the same config, so that runs can be compared byte
                by byte.
            timings: seconds and rates, which differ from run to run; they go with the provenance.

        Raises:
            RunError: a result is not finite, so that no table ever shows it; or the disk is full.
        """
        self._refuse_infinite(results)
        seconds = time.perf_counter() - self.started
        origin = provenance(
            self.experiment,
            parameters=self.parameters,
            seconds=seconds,
            timings=dict(timings or {}),
        )
        origin["upstream"] = {
            role: f"{run.experiment}/{run.hash}" for role, run in self.upstream.items()
        }
        self._write(self.path / _RESULTS, results)
        self._write(self.path / _PROVENANCE, origin)
        self._write(
            self.path / _DONE,
            {name: _digest(self.path / name) for name in (_CONFIG, _RESULTS, _PROVENANCE)},
        )
        _release(self.path)
        return open_run(self.path)

    def _refuse_infinite(self, results: dict[str, Any]) -> None:
        for name, value in flatten(results, lists=True).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise RunError(
                    f"run {self.experiment}: result {name!r} is {value}, which is not finite"
                )

    def _write(self, file: Path, values: dict[str, Any]) -> None:
        try:
            _write_json(file, values)
        except OSError as error:
            raise RunError(
                f"run {self.experiment}/{self.hash}: {file.name} cannot be written:"
                f" {error.strerror}"
            ) from None


def start_run(
    experiment: str,
    config: dict[str, Any],
    *,
    parameters: Mapping[str, Any] | None = None,
    upstream: Mapping[str, FinishedRun] | None = None,
    resume: bool = False,
) -> Run:
    """A run folder for ``experiment`` under ``config``; what an earlier run left there is removed.

    Args:
        experiment: name, that of the notebook.
        config: plain values that decide the results, seed included.
        parameters: of the notebook, as given.
        upstream: role → the finished run that is read.
        resume: keep what an unfinished run left, for experiments that go on from there; a finished
            one is made anew.

    Raises:
        RunError: another process is writing that folder, what is to be resumed has another config,
            or the disk is full.
    """
    path = run_path(experiment, config)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _acquire(path)
        if resume and (path / _CONFIG).is_file() and not (path / _DONE).is_file():
            _require_same(path, config)
            remove_leftovers(path)
        else:
            _clear(path)
        _write_json(path / _CONFIG, config)
    except OSError as error:
        raise RunError(
            f"run {experiment}/{path.name}: {error.filename or path} cannot be written:"
            f" {error.strerror}"
        ) from None
    return Run(experiment, config, path, parameters or {}, upstream or {})


def finished_run(experiment: str, config: dict[str, Any]) -> FinishedRun:
    """The finished run of ``experiment`` under ``config``.

    Raises:
        RunError: there is none (the message says which notebook makes it), or it is damaged.
    """
    path = run_path(experiment, config)
    if not (path / _DONE).is_file():
        raise RunError(
            f"no finished run of {experiment} with these settings at {path};"
            f" {_REMEDY.format(experiment)}"
        )
    run = open_run(path)
    _require_same(path, config)
    return run


def open_run(path: Path) -> FinishedRun:
    """The finished run in a folder.

    Raises:
        RunError: it is not finished, or its files are not those that were there when it finished.
    """
    if not (path / _DONE).is_file():
        raise RunError(f"{path}: not a finished run")
    digests = read_json_object(path / _DONE, error=RunError)
    for name in (_CONFIG, _RESULTS, _PROVENANCE):
        if not (path / name).is_file() or digests.get(name) != _digest(path / name):
            raise RunError(
                f"{path}: damaged, {name} is not what was written; remove the folder and run"
                f" {path.parent.name} again"
            )
    config, results, origin = (
        read_json_object(path / name, error=RunError) for name in (_CONFIG, _RESULTS, _PROVENANCE)
    )
    return FinishedRun(path.parent.name, path, config, results, origin)


def finished_runs(experiment: str) -> tuple[list[FinishedRun], list[str]]:
    """Every finished run of an experiment, the latest last, and one line for each that is
    damaged."""
    runs, problems = [], []
    for done in sorted((paths.runs_root() / experiment).glob(f"*/{_DONE}")):
        try:
            runs.append(open_run(done.parent))
        except RunError as error:
            problems.append(str(error))
    return sorted(runs, key=lambda run: (str(run.provenance.get("finished")), run.hash)), problems


def latest_run(experiment: str, settings: Mapping[str, Any]) -> FinishedRun:
    """The latest finished run of ``experiment`` whose config agrees with ``settings`` wherever
    these say something.

    Raises:
        RunError: there is none.
    """
    runs, problems = finished_runs(experiment)
    fitting = [run for run in runs if not differences(settings, run.config)]
    if not fitting:
        damaged = f" ({'; '.join(problems)})" if problems else ""
        raise RunError(
            f"no finished run of {experiment} with these settings{damaged};"
            f" {_REMEDY.format(experiment)}"
        )
    return fitting[-1]


def find_run(experiment: str, digits: str, settings: Mapping[str, Any]) -> FinishedRun:
    """The finished run whose hash begins with ``digits``.

    Raises:
        RunError: there is none or more than one, or it was made with other settings than these.
    """
    folder = paths.runs_root() / experiment
    known = sorted(done.parent for done in folder.glob(f"*/{_DONE}"))
    found = [path for path in known if path.name.startswith(digits)]
    if len(found) != 1:
        there = ", ".join(path.name for path in known[-5:]) or "none"
        raise RunError(
            f"{len(found)} finished runs of {experiment} are called {digits!r}; there are: {there}"
        )
    run = open_run(found[0])
    unlike = differences(settings, run.config)
    if unlike:
        raise RunError(
            f"run {experiment}/{run.hash} was made with other settings: {'; '.join(unlike[:3])}"
        )
    return run


def run_path(experiment: str, config: Mapping[str, Any]) -> Path:
    """Folder of the run of ``experiment`` under ``config``."""
    return paths.runs_root() / experiment / config_hash(dict(config))


def differences(settings: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Where ``config`` disagrees with ``settings``, one phrase each; fields that only ``config``
    has do not count."""
    held = flatten(config)
    return [
        f"{name} is {held.get(name)!r}, {wanted!r} is wanted"
        for name, wanted in flatten(settings).items()
        if held.get(name) != wanted
    ]


def _require_same(path: Path, config: dict[str, Any]) -> None:
    held = read_json_object(path / _CONFIG, error=RunError)
    unlike = differences(json.loads(json.dumps(config)), held)
    if unlike:
        raise RunError(f"{path}: holds a run of other settings: {'; '.join(unlike[:3])}")


def _clear(path: Path) -> None:
    (path / _DONE).unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.name not in KEPT:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _acquire(path: Path) -> None:
    """Take the lock of a run folder; it is released by :func:`_release` or with the process."""
    if path in _held:
        return
    lock = Lock(path.parent / f".{path.name}.lock", wait_s=_PATIENCE)
    try:
        lock.acquire()
    except LockHeldError as error:
        raise RunError(
            f"{path}: is being written by {error.holder}; wait for it, or stop it"
        ) from None
    _held[path] = lock


def _release(path: Path) -> None:
    lock = _held.pop(path, None)
    if lock is not None:
        lock.release()


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_json(path, values, indent=1, sort_keys=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
