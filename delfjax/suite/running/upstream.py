"""The run that a notebook reads: the latest with its settings, one identified by its hash, or one
made on demand."""

from __future__ import annotations

from typing import Any

from delfjax.suite.runs.folders import FinishedRun, RunError, find_run, finished_run, latest_run
from delfjax.suite.settings import PhotoExperiment, upstream_of


def upstream_run(experiment: PhotoExperiment, name: str) -> FinishedRun:
    """The finished run of experiment ``name`` that a notebook's parameter ``upstream`` selects.

    ``"latest"`` selects the latest finished run with the notebook's settings. ``"build"`` makes
    that run first if there is none. Any other value is the beginning of a run's hash.

    Raises:
        RunError: there is no such run, it has other settings, it is damaged, or making it failed.
    """
    reference = str(experiment.parameters["upstream"])
    settings = experiment.settings(name)
    if reference == "latest":
        return latest_run(name, settings)
    if reference != "build":
        return find_run(name, reference, settings)
    try:
        return finished_run(name, settings)
    except RunError:
        # Pass ``upstream`` on only to a notebook that reads a run itself.
        parameters = {
            key: value
            for key, value in experiment.parameters.items()
            if key != "upstream" or upstream_of(name)
        }
        problem = _built(name, parameters)
        if problem:
            raise RunError(f"building {name}: {problem}") from None
    return finished_run(name, settings)


def _built(name: str, parameters: dict[str, Any]) -> str:
    """Execute a notebook in a process of its own, for a kernel cannot execute another notebook in
    its event loop; returns what went wrong, or nothing."""
    from delfjax.suite.running.workers import Call, local_workers  # noqa: PLC0415 - takes a second, seldom needed

    with local_workers(1) as workers:
        return workers.execute(Call(name, parameters))
