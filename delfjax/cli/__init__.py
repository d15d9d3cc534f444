"""The command line.

Photos: ``delfjax extract | index | search | match | evaluate | mine``. Notebooks: ``delfjax run |
    sweep | compare | report``.
Training: ``delfjax train``. Weight files: ``delfjax weights``. Datasets: ``delfjax datasets``.
Bad usage and bad input end in one line on standard error and exit code 1.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from typing import Annotated, Any

import tyro

from delfjax import device
from delfjax.cli.datasets import DatasetsCommand
from delfjax.cli.evaluate import Evaluate
from delfjax.cli.mining import Mine
from delfjax.cli.notebooks import Compare, Report, RunCommand, Sweep
from delfjax.cli.options import UsageError
from delfjax.cli.photos import Extract, Index, Match, Search
from delfjax.cli.training import Train
from delfjax.cli.weights import WeightsCommand
from delfjax.errors import DelfjaxError

Command = (
    Annotated[Extract, tyro.conf.subcommand("extract")]
    | Annotated[Index, tyro.conf.subcommand("index")]
    | Annotated[Search, tyro.conf.subcommand("search")]
    | Annotated[Match, tyro.conf.subcommand("match")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Mine, tyro.conf.subcommand("mine")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[RunCommand, tyro.conf.subcommand("run")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[WeightsCommand, tyro.conf.subcommand("weights")]
    | Annotated[DatasetsCommand, tyro.conf.subcommand("datasets")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 with one line on standard error."""
    try:
        command = _parse(sys.argv[1:] if arguments is None else arguments)
        device.use_compilation_cache()
        command.run()
    except DelfjaxError as error:
        print(f"delfjax: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # A full disk, a missing permission: the system's own words, with the file they are about.
        print(f"delfjax: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("delfjax: interrupted; the same command resumes", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: list[str]) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(Command, args=arguments, prog="delfjax", description=__doc__)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(said.getvalue())) from None


def _one_line(message: str) -> str:
    # tyro draws a box around its message and appends hints; the first sentences say what was wrong.
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    lines = [re.sub("[─╭╮╰╯│]+", " ", line).strip() for line in text.splitlines()]
    kept = [line for line in lines if line and "Parsing error" not in line]
    return " ".join(kept)[:300] or "bad usage; see --help"
