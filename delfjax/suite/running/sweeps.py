"""Sweeps: many runs of several notebooks from one YAML file, resumable, in parallel, each notebook
fed by the one before.

A sweep is a graph of runs. Points that share a setting share the runs it decides: twelve points
that differ in the search alone read one feature store. What a notebook reads is part of the graph,
whether the file lists it or not. A finished run is skipped, a crashed one made again, a failed one
costs the runs that would have read it and nothing else.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import yaml
from tqdm.auto import tqdm
from yaml.composer import ComposerError

from delfjax import paths
from delfjax.config import (
    Assignment,
    ConfigError,
    from_dict,
    joined_assignments,
    require_known,
)
from delfjax.errors import DelfjaxError, quoted, shown
from delfjax.suite.running.runner import Job, find_notebook, prepare
from delfjax.suite.running.workers import Call, Workers, local_workers, workers_of
from delfjax.suite.runs.folders import RunError, is_settled
from delfjax.suite.runs.provenance import command
from delfjax.suite.settings import relevant_overrides, upstream_of

# Of the notebooks that run at once, the progress bar names so many.
_SHOWN = 4
# Largest sweep file, bytes; the longest of the suite has a thousand. YAML is parsed at 100 kB/s.
MAX_BYTES = 200_000
# Deepest nesting of a sweep file: a list as a value of a field of a point of the list.
MAX_DEPTH = 10
# Most runs that a sweep may describe: a run takes seconds at least, and planning one 20 ms.
MAX_RUNS = 1000
# What a sweep can give a field, and the shapes of a file's entries.
Value = bool | int | float | str | list[Any]
Columns = dict[str, list[Value]]
Points = list[dict[str, Value]]
Names = list[int | str]
Seeds = list[int]


class SweepError(DelfjaxError):
    """Some of a sweep's runs failed."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml comes without types
    """Loads plain YAML: limited in depth, without aliases, and with dates as text.

    Values that share parts by aliases can be exponentially large when they are written out, and an
    impossible date could not be loaded.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, unless it is an alias or lies too deep."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "aliases (*name) are not supported here", mark)
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


@dataclass(frozen=True)
class SweepFile:
    """What a YAML file of ``notebooks/sweeps/`` says.

    Attributes:
        question: what the sweep is to answer.
        notebooks: experiments, in order, each by how its name begins; what they read is added.
        preset: of all runs.
        dataset: of all runs.
        grid: config field → values; every combination is a point.
        zip: config field → values of equal number, taken together.
        list: points written out, each field → value.
        seeds: every point is run with each.
    """

    question: str
    notebooks: Names
    preset: str = "ci"
    dataset: str = "world"
    grid: Columns = field(default_factory=dict)
    zip: Columns = field(default_factory=dict)
    list: Points = field(default_factory=list)
    seeds: Seeds = field(default_factory=lambda: [0])

    @property
    def runs(self) -> int:
        """Number of runs, those that they read not counted."""
        together = [len(column) for column in self.zip.values()][:1]
        factors = [len(column) for column in self.grid.values()] + together
        return math.prod([*factors, len(self.list) or 1, len(self.seeds), len(self.notebooks)])

    def points(self) -> Iterator[tuple[dict[str, Value], int]]:
        """Every combination of grid, zip, list and seeds: fields with their values, and the
        seed."""
        grid = [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]
        together = [
            dict(zip(self.zip, values, strict=True))
            for values in zip(*self.zip.values(), strict=True)
        ]
        for part in itertools.product(grid, together or [{}], self.list or [{}], self.seeds):
            *settings, seed = part
            yield {name: value for setting in settings for name, value in setting.items()}, seed


@dataclass(frozen=True)
class Task:
    """One run of a sweep.

    Attributes:
        job: the notebook, its parameters and its run folder.
        needs: the run folder it reads, if any.
    """

    job: Job
    needs: Path | None

    @property
    def name(self) -> str:
        """Experiment and hash."""
        return f"{self.job.path.parent.name}/{self.job.path.name}"

    @property
    def command(self) -> str:
        """The command that makes this run alone."""
        return command(self.job.notebook.stem, self.job.parameters)


@dataclass
class SweepReport:
    """What became of the runs, by name: done now, skipped as finished before or by another process
    meanwhile, failed with the reason."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = f"{len(self.done)} done, {len(self.skipped)} skipped, {len(self.failed)} failed"
        return f"{counts} in {self.seconds:.1f} s"


def read_sweep(path: Path) -> SweepFile:
    """The sweep in a YAML file; a bare name is looked for in ``notebooks/sweeps/``.

    Raises:
        RunError: there is no such file, or it is no YAML.
        ConfigError: a key that does not exist, or a value that it does not take.
    """
    root = paths.repository_root()
    if not path.is_file() and root is not None and path.name == str(path):
        path = root / "notebooks" / "sweeps" / path.with_suffix(".yaml")
    values = _loaded(path)
    if not isinstance(values, dict):
        raise RunError(f"{path}: no sweep; it must have the keys {', '.join(_required())}")
    known = [entry.name for entry in fields(SweepFile)]
    for key in values:
        require_known(f"{path.name}: key", str(key), known)
    missing = [key for key in _required() if key not in values]
    if missing:
        raise ConfigError(f"{path.name}: the key {missing[0]!r} is missing")
    try:
        sweep = from_dict(SweepFile, values)
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    if len({len(column) for column in sweep.zip.values()}) > 1:
        raise ConfigError(f"{path.name}: the fields of zip have different numbers of values")
    if not 0 < sweep.runs <= MAX_RUNS:
        raise ConfigError(
            f"{path.name}: describes {shown(sweep.runs)} runs, expected 1 to {MAX_RUNS}; every"
            " combination of grid, zip, list, seeds and notebooks is a run"
        )
    return sweep


def _loaded(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RunError(
                f"{path}: has {path.stat().st_size:,} bytes, a sweep has at most {MAX_BYTES:,}"
            )
        return _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 ({quoted(error)})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise RunError(f"{path}: no YAML: {quoted(error)}") from None


def plan_sweep(sweep: SweepFile) -> list[Task]:
    """Every run of the sweep once, each after the one it reads.

    Raises:
        RunError: a notebook that does not exist.
        ConfigError: a field that does not exist, or a value that it does not take.
    """
    tasks: dict[Path, Task] = {}
    for settings, seed in sweep.points():
        overrides = joined_assignments(
            Assignment(name, _text(value)) for name, value in settings.items()
        )
        for name in sweep.notebooks:
            _add(tasks, find_notebook(str(name)), sweep, overrides, seed)
    return list(tasks.values())


def run_sweep(
    tasks: list[Task], *, workers: int = 1, scheduler: str | None = None, progress: bool = True
) -> SweepReport:
    """Run what is not finished. A run that another process is making is waited for and taken.

    Args:
        tasks: as planned.
        workers: runs at once on this machine; the processors are divided among them.
        scheduler: address of a Dask scheduler; its workers execute the runs instead and must share
            the data root.
        progress: show one progress bar for the whole.

    Raises:
        RunError: the scheduler cannot be reached, or is lost.
    """
    started = time.perf_counter()
    report = SweepReport(skipped=[task.name for task in tasks if is_settled(task.job.path)])
    calls = {task.name: _call(task) for task in tasks if task.name not in report.skipped}
    if calls:
        with (
            local_workers(min(workers, len(calls))) if scheduler is None else workers_of(scheduler)
        ) as executing:
            _execute(calls, executing, report, progress)
    report.seconds = time.perf_counter() - started
    return report


def _execute(
    calls: Mapping[str, Call], workers: Workers, report: SweepReport, progress: bool
) -> None:
    """Execute runs and note in ``report`` how each ended."""
    with tqdm(total=len(calls), desc="sweep", unit="run", disable=not progress) as bar:

        def show(names: Sequence[str]) -> None:
            bar.set_postfix_str(", ".join(name.partition("/")[0] for name in names[:_SHOWN]))

        for name, outcome in workers.execute_all(calls, on_start=show):
            bar.update()
            if outcome.problem:
                report.failed[name] = outcome.problem
            else:
                (report.done if outcome.executed else report.skipped).append(name)


def _add(
    tasks: dict[Path, Task], notebook: Path, sweep: SweepFile, overrides: str, seed: int
) -> Path:
    """Put a run and what it reads into ``tasks``; returns its folder."""
    stem, read = notebook.stem, upstream_of(notebook.stem)
    needs = None if read is None else _add(tasks, find_notebook(read[1]), sweep, overrides, seed)
    parameters = {"preset": sweep.preset, "dataset": sweep.dataset, "seed": seed}
    job = prepare(notebook, {**parameters, "overrides": relevant_overrides(stem, overrides)})
    tasks.setdefault(job.path, Task(job, needs))
    return job.path


def _call(task: Task) -> Call:
    if task.needs is None:
        return Call(str(task.job.notebook), task.job.parameters)
    needs = f"{task.needs.parent.name}/{task.needs.name}"
    parameters = {**task.job.parameters, "upstream": task.needs.name}
    return Call(str(task.job.notebook), parameters, frozenset({needs}))


def _required() -> list[str]:
    return ["question", "notebooks"]


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
