"""What all runs amount to: ``delfjax report | reproduce | regression``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from delfjax.cli.groups import Group
from delfjax.cli.options import Maybe, Words, require_writable
from delfjax.cli.output import print

if TYPE_CHECKING:
    pass

Experiments = Annotated[
    tyro.conf.Positional[Words],
    tyro.conf.arg(
        metavar="[EXPERIMENT ...]",
        help="experiments, each by the beginning of its name",
        help_behavior_hint="(default: all)",
    ),
]


@dataclass(frozen=True)
class Report:
    """Build one HTML page from all finished runs, beside the poster's numbers.

    Example: delfjax report --out report.html
    """

    out: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            metavar="FILE",
            help=".html file to write",
            help_behavior_hint="(default: report/index.html in the folder of the runs)",
        ),
    ] = None

    def run(self) -> None:
        """Build the page and say where it is."""
        from delfjax.suite.reporting.report import build_report

        require_writable("--out", self.out, (".html",))
        print(f"report: {build_report(self.out)}")


@dataclass(frozen=True)
class Reproduce:
    """Run every notebook, then build the report.

    Experiments finished at this commit are kept, so the same command resumes.

    Example: delfjax reproduce --preset ci
    """

    preset: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME", help="size of the experiments: ci (minutes), quick or full (days)"
        ),
    ] = "quick"

    def run(self) -> None:
        """Run the suite and say where the report is."""
        from delfjax.suite.reporting.reproduction import reproduce

        print(f"report: {reproduce(self.preset)}")


@dataclass(frozen=True)
class CheckRegression:
    """List where results and figures of the `ci` runs drift from the expected ones.

    Example: delfjax regression check 41
    """

    experiments: Experiments = ()

    def run(self) -> None:
        """Print one line for each drift; any drift ends in an error."""
        from delfjax.suite.reporting.regression import ci_runs, drift, expected_folder
        from delfjax.suite.runs.folders import RunError

        runs = ci_runs(self.experiments)
        drifts = [
            f"{run.experiment}: {line}"
            for run in runs
            for line in drift(run, expected_folder(run.experiment))
        ]
        for line in drifts:
            print(line)
        if drifts:
            raise RunError(
                f"values and figures that are not as expected: {len(drifts)}, listed above"
            )
        print(f"{len(runs)} experiments are as expected")


@dataclass(frozen=True)
class AcceptRegression:
    """Make the results and figures of the `ci` runs the expected ones.

    Tolerances set by hand in data/fixtures/expected are kept.

    Example: delfjax regression accept 41_search_and_verify
    """

    experiments: Experiments = ()

    def run(self) -> None:
        """Write the expected results and name each experiment."""
        from delfjax.suite.reporting.regression import accept, ci_runs, expected_folder

        for run in ci_runs(self.experiments):
            accept(run, expected_folder(run.experiment))
            print(f"{run.experiment}: expects the results of run {run.hash}")


REGRESSION = Group(
    about="Compare results of the `ci` preset with the expected ones, or accept new ones.",
    sections={"commands": {"check": CheckRegression, "accept": AcceptRegression}},
)
