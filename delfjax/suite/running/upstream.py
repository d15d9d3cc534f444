"""The run that a notebook reads: the latest with its settings, one identified by its hash, or one
made on demand."""

from __future__ import annotations

from delfjax import paths
from delfjax.suite.running.workers import execute_in_process
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
        # A kernel cannot execute another notebook in its own event loop.
        problem = execute_in_process(name, parameters, data_root=paths.data_root())
        if problem:
            raise RunError(f"building {name}: {problem}") from None
    return finished_run(name, settings)
