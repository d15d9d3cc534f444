"""The command line.

Bad usage and bad input end in one line on standard error and exit code 1.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from delfjax import __version__
from delfjax.cli.datasets import DATASETS
from delfjax.cli.evaluate import Evaluate
from delfjax.cli.groups import Group, parse
from delfjax.cli.mining import Mine
from delfjax.cli.notebooks import NOTEBOOKS
from delfjax.cli.photos import Extract, Index, Match, Search
from delfjax.cli.reporting import REGRESSION, Report, Reproduce
from delfjax.cli.runs import Compare, RunCommand, Sweep
from delfjax.cli.training import Train
from delfjax.cli.weights import WEIGHTS
from delfjax.errors import DelfjaxError, DelfjaxWarning

# In the order in which somebody needs them who begins with a folder of photos.
COMMANDS = Group(
    about="Find the photos that show the same place or thing, with deep local features (DELF).",
    sections={
        "search photos": {
            "extract": Extract,
            "index": Index,
            "search": Search,
            "match": Match,
        },
        "score and explore": {
            "evaluate": Evaluate,
            "mine": Mine,
        },
        "get datasets": {
            "datasets": DATASETS,
        },
        "train models": {
            "train": Train,
            "weights": WEIGHTS,
        },
        "run notebooks": {
            "run": RunCommand,
            "sweep": Sweep,
            "compare": Compare,
            "report": Report,
            "reproduce": Reproduce,
            "regression": REGRESSION,
            "notebooks": NOTEBOOKS,
        },
    },
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 with one line on standard error."""
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["--version"]:
        print(f"delfjax {__version__}")
        return 0
    try:
        command = parse(words, COMMANDS, prog="delfjax")
        # JAX takes a second to import, which neither help nor a misspelt option should cost.
        from delfjax import device

        device.use_compilation_cache()
        with _warnings_in_one_line():
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


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print the library's own warnings as errors are printed, without a line of source code."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, DelfjaxWarning):
                print(f"delfjax: warning: {message}", file=sys.stderr)
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        warnings.simplefilter("always", DelfjaxWarning)
        yield
