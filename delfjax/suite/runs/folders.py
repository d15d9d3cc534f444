"""Run folders: where an experiment keeps its results, and where other notebooks read them.

``runs/<experiment>/<hash10>/`` holds ``config.json``, ``results.json``, ``provenance.json``,
``figures/``, ``queries/`` (scores per query) and any files of the experiment's own. ``DONE`` is
written last and holds digests of the JSON files. A folder without ``DONE`` did not finish and is
started again; a folder whose files do not match their digests is damaged. Neither is ever read. The
hash is that of the resolved config, seed included.

Only one process at a time makes a run, and a finished run that is made again is read until the new
one is finished; see :mod:`delfjax.suite.runs.claims`.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from tqdm.auto import tqdm

from delfjax import paths
from delfjax.config import DELF, METHOD, abbreviated, config_hash, identity
from delfjax.errors import DelfjaxError
from delfjax.files import (
    TEMPORARY,
    flatten,
    read_json_object,
    remove_leftovers,
    replacing,
    write_json,
)
from delfjax.records import Flag, Number, Record, Whole, read_record
from delfjax.suite.runs import claims
from delfjax.suite.runs.claims import DONE, OnWait
from delfjax.suite.runs.provenance import provenance
from delfjax.text import printable

# Presets that a run can have: seconds, minutes, as long as the data deserves.
PRESETS = ("ci", "quick", "full")

_CONFIG = "config.json"
_RESULTS = "results.json"
_PROVENANCE = "provenance.json"
_FIGURES = "figures"
_QUERIES = "queries"
_REMEDY = 'run {0} first, or ask for upstream="build"'
# Files that the runner writes into the folder while the notebook is still running.
KEPT = ("notebook.ipynb", "traceback.txt", claims.EXECUTING)


class RunError(DelfjaxError):
    """A run is missing, unfinished, damaged or being written, or its results cannot be written."""


@dataclass
class _Config(Record):
    """Fields of a run's config that do not depend on the experiment."""

    seed: Whole | None = None


@dataclass
class _Git(Record):
    commit: str
    dirty: Flag


@dataclass
class _Origin(Record):
    """Fields of a run's provenance; see :func:`delfjax.suite.runs.provenance.provenance`."""

    finished: str = ""
    seconds: Number | None = None
    device: str | None = None
    python: str | None = None
    command: str = ""
    git: _Git | None = None
    packages: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class Figure(Protocol):
    """Anything that can be saved as a picture."""

    def savefig(self, stream: BinaryIO, /, *, format: str) -> None:
        """Write the picture to ``stream``."""


@dataclass(frozen=True)
class FinishedRun:
    """One finished run, read from its folder.

    Attributes:
        experiment: name of the experiment, which is that of its notebook.
        path: folder of the run.
        config: plain values that determine the results, seed included.
        results: finite numbers, text and nested plain values.
        provenance: commit, versions, device, upstream runs, command, seconds, peak memory.
    """

    experiment: str
    path: Path
    config: dict[str, Any]
    results: dict[str, Any]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        # Shown by a notebook cell that ends with the run: say where everything is, do not dump it.
        return f"run {self.hash} of {self.experiment}, finished: {self.path}"

    @property
    def hash(self) -> str:
        """Ten hexadecimal digits that identify the config."""
        return self.path.name

    @property
    def figures(self) -> list[Path]:
        """Files of the figures, sorted by name."""
        return sorted((self.path / _FIGURES).glob("*.png"))

    def query_scores(self) -> dict[str, dict[str, float]]:
        """Scores per query: metric → query → score; empty if the run saved none.

        Raises:
            RunError: a file of scores is damaged.
        """
        return {
            file.stem: read_record(file, dict[str, Number], error=RunError)
            for file in sorted((self.path / _QUERIES).glob("*.json"))
        }


@dataclass(frozen=True)
class Run:
    """One run of one experiment, open for writing until :meth:`finish`.

    Attributes:
        experiment: name of the experiment, which is that of its notebook.
        config: plain values that determine the results, seed included.
        path: folder of the run.
        parameters: the notebook's parameters, from which the command that repeats the run is made.
        upstream: role → finished run that this run reads.
        started: value of ``time.perf_counter`` at the start.
    """

    experiment: str
    config: dict[str, Any]
    path: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    upstream: Mapping[str, FinishedRun] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def hash(self) -> str:
        """Ten hexadecimal digits that identify the config."""
        return self.path.name

    def save_figure(self, name: str, figure: Figure) -> None:
        """Save ``figure`` as ``figures/<name>.png``.

        Raises:
            OSError: the file cannot be written; the error names it.
        """
        folder = self.path / _FIGURES
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"{name}.png") as stream:
            figure.savefig(stream, format="png")

    def save_query_scores(self, metric: str, scores: Mapping[str, float]) -> None:
        """Save the score of every query, so that two settings can be compared query by query.

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
            results: plain values that are the same for the same config, so that runs can be
                compared byte by byte.
            timings: seconds and rates, which differ from run to run; part of the provenance.

        Raises:
            RunError: a result is not finite, or a file cannot be written.
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
            self.path / DONE,
            {name: _digest(self.path / name) for name in (_CONFIG, _RESULTS, _PROVENANCE)},
        )
        claims.stop_writing(self.path)
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
    """Open a run folder for ``experiment`` under ``config``.

    The files of an unfinished run are removed. A finished run is read until the new one is
    finished. Another process that writes the folder, such as a notebook in an editor or one of
    ``delfjax run``, is waited for and named on standard error.

    Args:
        experiment: name of the experiment, which is that of its notebook.
        config: plain values that determine the results, seed included.
        parameters: the notebook's parameters, as given.
        upstream: role → finished run that this run reads.
        resume: keep the files of an unfinished run, for experiments that can resume from them. A
            finished run is still made again from the beginning.

    Raises:
        RunError: the unfinished run has another config, or a file cannot be written.
    """
    path = run_path(experiment, config)

    def on_wait(holder: str) -> None:
        line = f"{experiment}: {holder} is making {path}; waiting for it to finish or to be stopped"
        tqdm.write(printable(line), file=sys.stderr)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        claims.start_writing(path, on_wait=on_wait)
        try:
            _prepare(path, config, resume=resume)
        except BaseException:
            claims.stop_writing(path)
            raise
    except OSError as error:
        raise RunError(
            f"run {experiment}/{path.name}: {error.filename or path} cannot be written:"
            f" {error.strerror}"
        ) from None
    return Run(experiment, config, path, parameters or {}, upstream or {})


def is_settled(path: Path) -> bool:
    """Whether a run is finished and no process, even a killed one, has left anything else of it."""
    return (
        _is_settled(path)
        and not claims.has_earlier(path)
        and next(path.rglob(f".*{TEMPORARY}"), None) is None
    )


@contextmanager
def making(path: Path, *, fresh: bool, on_wait: OnWait) -> Iterator[bool]:
    """Let only this process execute the notebook of a run.

    Any other process that executes it, or whose notebook writes the folder, is waited for. Where
    the block raises, the run does not count as finished; where the process is killed in the block,
    the run is made again by the next.

    Args:
        path: the run folder.
        fresh: make the run even if it is finished.
        on_wait: is told for whom this process waits.

    Yields:
        Whether the run is to be made; it may have been finished by the process waited for.

    Raises:
        OSError: a file cannot be written, moved or deleted.
    """
    with claims.executing(path, on_wait=on_wait):
        with claims.undisturbed(path, on_wait=on_wait):
            needed = not _settle(path) or fresh
            if needed:
                _set_aside(path)
                remove_leftovers(path)
        try:
            if needed:
                claims.begin_executing(path)
            yield needed
        except BaseException:
            claims.retract(path)
            raise
        finally:
            claims.end_executing(path)


def finished_run(experiment: str, config: dict[str, Any]) -> FinishedRun:
    """The finished run of ``experiment`` under ``config``.

    Raises:
        RunError: there is no such run (the message says how to make it), or it is damaged.
    """
    path = run_path(experiment, config)
    if not (claims.current(path) / DONE).is_file():
        raise RunError(
            f"no finished run of {experiment} with these settings at {path};"
            f" {_REMEDY.format(experiment)}"
        )
    run = open_run(path)
    _require_same(run.path, run.config, config)
    return run


def open_run(path: Path) -> FinishedRun:
    """The finished run in a folder, or the earlier one while it is made again.

    Raises:
        RunError: the run is not finished, or its files have changed since it finished.
    """
    while True:
        found = claims.current(path)
        try:
            return _read(found)
        except RunError:
            # It may have been moved or replaced meanwhile.
            if claims.current(path) == found:
                raise


def _read(path: Path) -> FinishedRun:
    if not (path / DONE).is_file():
        raise RunError(f"{path}: not a finished run")
    digests = read_json_object(path / DONE, error=RunError)
    for name in (_CONFIG, _RESULTS, _PROVENANCE):
        if not _is_written(path / name, digests.get(name)):
            raise RunError(
                f"{path}: damaged, {name} is not what was written; remove the folder and run"
                f" {path.parent.name} again"
            )
    config = read_record(path / _CONFIG, _Config, error=RunError)
    results = read_json_object(path / _RESULTS, error=RunError)
    origin = read_record(path / _PROVENANCE, _Origin, error=RunError)
    return FinishedRun(path.parent.name, path, config, results, origin)


def finished_runs(experiment: str) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs of an experiment, the latest last, and one line per run that is left out:
    damaged, or a copy of another under a name of its own."""
    runs: list[FinishedRun] = []
    problems: list[str] = []
    folders = claims.finished_folders(experiment)
    taken = {path.name for path in folders}
    for path in folders:
        try:
            run = open_run(path)
        except RunError as error:
            problems.append(str(error))
            continue
        original = run_path(experiment, run.config).name
        if path.name != original and original in taken:
            problems.append(f"{path}: a copy of run {original}, which has the same settings")
        else:
            taken.add(original)
            runs.append(run)
    return sorted(runs, key=lambda run: (str(run.provenance.get("finished")), run.hash)), problems


def latest_run(experiment: str, settings: Mapping[str, Any]) -> FinishedRun:
    """The latest finished run of ``experiment`` whose config agrees with all of ``settings``.

    Raises:
        RunError: there is no such run.
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
        RunError: no run or more than one begins like that, or the run has other settings.
    """
    known = claims.finished_folders(experiment)
    found = [path for path in known if path.name.startswith(digits)]
    if len(found) != 1:
        names = ", ".join(path.name for path in known[-5:]) or "none"
        raise RunError(
            f"{len(found)} finished runs of {experiment} begin with {digits!r}; there are: {names}"
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
    """One phrase for each field of ``settings`` that has another value in ``config``."""
    held, wanted = _compared(config), _compared(settings)
    there, asked = flatten(config), flatten(settings)
    return [
        f"{name} is {abbreviated(there.get(name, held.get(name)))!r}, expected"
        f" {abbreviated(asked.get(name, value))!r}"
        for name, value in wanted.items()
        if held.get(name) != value
    ]


def _compared(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that count; earlier versions, and the identity of a config, do not name the method
    where it is DELF."""
    named = {f"features.{METHOD}": DELF} if "features" in values else {}
    return {**named, **flatten(identity(values))}


def _prepare(path: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Make a locked run folder ready to be written."""
    _set_aside(path)
    claims.forget_killed(path)
    path.mkdir(exist_ok=True)
    if resume and (path / _CONFIG).is_file():
        _require_same(path, read_json_object(path / _CONFIG, error=RunError), config)
        remove_leftovers(path)
    else:
        _clear(path)
    _write_json(path / _CONFIG, config)


def _require_same(path: Path, held: Mapping[str, Any], config: dict[str, Any]) -> None:
    unlike = differences(json.loads(json.dumps(config)), held)
    if unlike:
        raise RunError(f"{path}: holds a run with other settings: {'; '.join(unlike[:3])}")


def _is_finished(path: Path) -> bool:
    """Whether the folder itself, and not that of an earlier run, holds a finished run."""
    try:
        _read(path)
    except RunError:
        return False
    return True


def _is_settled(path: Path) -> bool:
    """Whether the folder holds a finished run whose notebook, if it was executed, ended too."""
    return _is_finished(path) and not claims.is_executing(path)


def _settle(path: Path) -> bool:
    """Clear away what killed processes left of a finished run; return whether there is one."""
    if not _is_settled(path):
        if _is_finished(claims.earlier_folder(path)):
            claims.restore_earlier(path)
        if not _is_settled(path):
            return False
    claims.discard_earlier(path)
    remove_leftovers(path)
    return True


def _set_aside(path: Path) -> None:
    """Leave a locked folder without a finished run; one that is whole is read elsewhere."""
    if _is_finished(path):
        claims.set_aside(path)
    elif (path / DONE).is_file():
        # Without its config, a damaged run is never resumed.
        for name in (DONE, _CONFIG):
            (path / name).unlink(missing_ok=True)


def _clear(path: Path) -> None:
    # Without its config, a folder that is half cleared is never resumed.
    (path / _CONFIG).unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.name not in KEPT:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_json(path, values, indent=1, sort_keys=True)


def _is_written(path: Path, digest: object) -> bool:
    """Whether a file is there and has this digest."""
    with suppress(OSError):
        return _digest(path) == digest
    return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
