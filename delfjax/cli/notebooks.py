"""Notebooks and their runs: ``delfjax run | sweep | compare | report``.

What executes notebooks takes seconds to import, so each command imports it when it is run:
searching photos need not wait.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from delfjax.cli.options import Flag, UsageError, require_writable

_TABLES = (".csv", ".parquet")

Settings = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(
        name="set",
        metavar="NAME=VALUE",
        help="a config field (a.b=1) or a parameter of the notebook; repeatable",
    ),
]


@dataclass(frozen=True)
class RunCommand:
    """Execute a notebook headlessly; a run that is finished already is kept."""

    notebook: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(metavar="NOTEBOOK", help="how the name of a notebook begins, or a file"),
    ]
    preset: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help="ci (seconds), quick or full")
    ] = None
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME", help="name of the dataset")] = None
    seed: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help="of everything drawn at random")
    ] = None
    upstream: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="RUN", help="run that is read: latest, build, or the beginning of its hash"
        ),
    ] = None
    settings: Settings = ()
    fresh: Annotated[Flag, tyro.conf.arg(help="run it even if it is finished")] = False

    def run(self) -> None:
        """Execute, then say where the executed copy is."""
        from delfjax.suite.running import runner
        from delfjax.suite.running.notebook_rules import Kind

        job = runner.prepare(runner.find_notebook(self.notebook), self._parameters())
        if job.kind == Kind.EXPERIMENT and job.finished and not self.fresh:
            print(f"finished already: {job.path} (--fresh runs it again)")
            return
        print(f"executed: {runner.run_notebook(job)}")

    def _parameters(self) -> dict[str, Any]:
        named = {
            "preset": self.preset,
            "dataset": self.dataset,
            "seed": self.seed,
            "upstream": self.upstream,
        }
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        overrides = []
        for assignment in self.settings:
            name, separator, value = assignment.partition("=")
            if not separator:
                raise UsageError(f"--set {assignment!r} is not of the form name=value")
            if "." in name:
                overrides.append(assignment)
            else:
                given[name.strip()] = value.strip()
        return {**given, "overrides": "; ".join(overrides)} if overrides else given


@dataclass(frozen=True)
class Sweep:
    """Execute the runs of a sweep file; those that are finished are skipped, so that the same
    command resumes."""

    file: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(metavar="FILE", help="YAML file, or the name of one in notebooks/sweeps"),
    ]
    workers: Annotated[
        int, tyro.conf.arg(help="runs at once; the processors are divided among them")
    ] = 1
    scheduler: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="ADDRESS", help="address of a Dask scheduler that shall execute the runs"
        ),
    ] = None
    dry_run: Annotated[
        Flag, tyro.conf.arg(help="list the runs and what would be done with each")
    ] = False

    def run(self) -> None:
        """Execute, then list what failed."""
        from delfjax.suite.running import sweeps

        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: at least one is needed")
        tasks = sweeps.plan_sweep(sweeps.read_sweep(self.file))
        if self.dry_run:
            for task in tasks:
                print(
                    f"{'finished' if task.job.finished else 'to run':8s}  {task.name} "
                    f" {task.command}"
                )
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
    """Compare the finished runs of an experiment: settings, results, means over seeds, and tests
    query by query."""

    experiment: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(metavar="EXPERIMENT", help="name of the experiment, that of its notebook"),
    ]
    by: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            metavar="FIELD",
            help=(
                "setting to group by, e.g. search.neighbours; repeatable; default: all that differ"
            ),
        ),
    ] = ()
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help="write one row per run to this .csv or .parquet file"),
    ] = None

    def run(self) -> None:
        """Print the tables."""
        from delfjax.suite.runs import (
            comparison as compare,
        )

        require_writable("--out", self.out, _TABLES)
        comparison = compare.compare(self.experiment, by=self.by)
        if self.out is not None:
            compare.write_table(comparison.table, self.out)
        print(comparison)


@dataclass(frozen=True)
class Report:
    """Build one self-contained HTML page from all finished runs, the poster's tables beside
    ours."""

    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help="file to write; by default in the folder of the runs"),
    ] = None

    def run(self) -> None:
        """Build the page and say where it is."""
        from delfjax.suite.reporting import report

        require_writable("--out", self.out, (".html",))
        print(f"report: {report.build_report(self.out)}")
