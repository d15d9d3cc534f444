"""The run that a notebook reads: the latest with its settings, one named by its hash, or one built on demand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from delfjax.experiments.photo_suite import PhotoExperiment, upstream_of
from delfjax.experiments.runs import FinishedRun, RunError, find_run, finished_run, latest_run


def upstream_run(experiment: PhotoExperiment, name: str) -> FinishedRun:
    """The finished run of experiment ``name`` that a notebook reads, as its parameter ``upstream`` says.

    ``"latest"`` is the latest finished run with these settings, ``"build"`` makes it first where there is none, and anything
    else is the beginning of a run's hash.

    Raises:
        RunError: there is none, it was made with other settings, it is damaged, or building it failed.
    """
    reference, settings = str(experiment.parameters["upstream"]), experiment.settings(name)
    if reference == "latest":
        return latest_run(name, settings)
    if reference != "build":
        return find_run(name, reference, settings)
    try:
        return finished_run(name, settings)
    except RunError:
        # Only a notebook that reads a run itself is told which.
        told = {key: value for key, value in experiment.parameters.items() if key != "upstream" or upstream_of(name)}
        _in_process(name, told)
    return finished_run(name, settings)


def process_command(name: str, parameters: Mapping[str, Any], *, processors: Iterable[int] = ()) -> list[str]:
    """What executes a notebook in a process of its own; its last line on standard error says what went wrong.

    Args:
        name: of the notebook.
        parameters: by name.
        processors: those that it may use; all of them when there is none.
    """
    words = [sys.executable, "-m", "delfjax.experiments.runner", name, json.dumps(dict(parameters))]
    return [*words, *map(str, sorted(processors))]


def said_last(stderr: str) -> str:
    """The last line of what a process said, without the name it begins with."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return lines[-1].removeprefix("delfjax: ") if lines else "ended without a word"


def _in_process(name: str, parameters: Mapping[str, Any]) -> None:
    # A kernel cannot execute another notebook in its own event loop.
    done = subprocess.run(process_command(name, parameters), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"building {name}: {said_last(done.stderr)}")
