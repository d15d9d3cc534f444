"""Runs of notebooks: ``delfjax run | sweep | compare``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from delfjax.cli.options import Flag, Maybe, UsageError, Words, require_at_least, require_writable
from delfjax.cli.output import print

_TABLES = (".csv", ".parquet")

Settings = Annotated[
    tyro.conf.UseAppendAction[Words],
    tyro.conf.arg(
        name="set",
        metavar="NAME=VALUE",
        help=(
            "change a config field (search.neighbours=5) or a parameter of the notebook (seed=1)"
        ),
    ),
]
# An option that was not given leaves the parameter as the notebook has it.
_HINT = "(default: the notebook's)"


@dataclass(frozen=True)
class RunCommand:
    """Execute one notebook without a browser; a finished run is kept.

    Example: delfjax run 41 --preset quick --set search.neighbours=5
    """

    notebook: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(metavar="NOTEBOOK", help="the beginning of a notebook's name, or a file"),
    ]
    preset: Annotated[
        Maybe[str],
        tyro.conf.arg(
            metavar="NAME",
            help="ci (seconds), quick (minutes) or full (hours to days)",
            help_behavior_hint=_HINT,
        ),
    ] = None
    dataset: Annotated[
        Maybe[str],
        tyro.conf.arg(metavar="NAME", help="name of the dataset", help_behavior_hint=_HINT),
    ] = None
    seed: Annotated[
        Maybe[int],
        tyro.conf.arg(metavar="INT", help="seed of all random choices", help_behavior_hint=_HINT),
    ] = None
    upstream: Annotated[
        Maybe[str],
        tyro.conf.arg(
            metavar="RUN",
            help=(
                "run to read: latest, build (make it first where there is none), or the beginning"
                " of its hash"
            ),
            help_behavior_hint=_HINT,
        ),
    ] = None
    settings: Settings = ()
    fresh: Annotated[Flag, tyro.conf.arg(help="run it even if a finished run exists")] = False

    def run(self) -> None:
        """Execute, then say where the executed copy is."""
        from delfjax.suite.running import runner

        job = runner.prepare(runner.find_notebook(self.notebook), self._parameters())
        if runner.run_notebook(job, fresh=self.fresh):
            print(f"executed: {job.executed}")
        else:
            print(f"finished already: {job.path} (--fresh runs it again)")

    def _parameters(self) -> dict[str, Any]:
        from delfjax.config import MODEL, SYSTEM, joined_assignments

        named = {
            "preset": self.preset,
            "dataset": self.dataset,
            "seed": self.seed,
            "upstream": self.upstream,
        }
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        overrides = []
        for assignment in self.settings:
            name, separator, value = (part.strip() for part in assignment.partition("="))
            if not separator:
                raise UsageError(f"--set {assignment}: expected NAME=VALUE")
            if name == "overrides":
                overrides.append(value)
            elif "." in name or name in (MODEL, SYSTEM):
                overrides.append(joined_assignments([assignment]))
            elif name in given:
                raise UsageError(f"--set {assignment}: {name} is given twice, as {given[name]} too")
            else:
                given[name] = value
        return {**given, "overrides": "; ".join(overrides)} if overrides else given


@dataclass(frozen=True)
class Sweep:
    """Execute the runs of a sweep file; the same command resumes.

    Example: delfjax sweep features_and_neighbours --workers 2
    """

    file: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(metavar="FILE", help="YAML file, or the name of one in notebooks/sweeps"),
    ]
    workers: Annotated[
        int, tyro.conf.arg(help="runs at a time, which share the processors equally")
    ] = 1
    scheduler: Annotated[
        Maybe[str],
        tyro.conf.arg(
            metavar="ADDRESS",
            help="Dask scheduler whose workers execute the runs, for instance tcp://host:8786",
            help_behavior_hint="(default: this machine alone)",
        ),
    ] = None
    dry_run: Annotated[Flag, tyro.conf.arg(help="only list the runs and their commands")] = False

    def run(self) -> None:
        """Execute, then list what failed."""
        from delfjax.suite.running import sweeps
        from delfjax.suite.runs.folders import is_settled

        require_at_least("--workers", self.workers, 1)
        tasks = sweeps.plan_sweep(sweeps.read_sweep(self.file))
        if self.dry_run:
            for task in tasks:
                state = "finished" if is_settled(task.job.path) else "to run"
                print(f"{state:8s}  {task.name}  {task.command}")
            return
        done = sweeps.run_sweep(tasks, workers=self.workers, scheduler=self.scheduler)
        print(f"sweep: {done}")
        for name, reason in done.failed.items():
            print(f"failed: {name}: {reason}", file=sys.stderr)
        if done.failed:
            raise sweeps.SweepError(
                f"{len(done.failed)} of {len(tasks)} runs failed; the same command tries them again"
            )


@dataclass(frozen=True)
class Compare:
    """Compare the finished runs of an experiment, with means and paired tests.

    Example: delfjax compare 41_search_and_verify --by search.neighbours
    """

    experiment: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(
            metavar="EXPERIMENT", help="name of the experiment, which is that of its notebook"
        ),
    ]
    by: Annotated[
        tyro.conf.UseAppendAction[Words],
        tyro.conf.arg(
            metavar="FIELD",
            help="config field to group by, for instance search.neighbours",
            help_behavior_hint="(repeatable; default: all that differ)",
        ),
    ] = ()
    out: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            metavar="FILE",
            help=".csv or .parquet file for a table with one row per run",
            help_behavior_hint="(default: none)",
        ),
    ] = None

    def run(self) -> None:
        """Print the tables."""
        from delfjax.suite.runs import comparison, tables

        require_writable("--out", self.out, _TABLES)
        compared = comparison.compare(self.experiment, by=self.by)
        if self.out is not None:
            tables.write_table(compared.table, self.out)
        print(compared)
