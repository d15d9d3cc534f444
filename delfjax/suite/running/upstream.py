"""The run that a notebook reads: the latest with its settings, one named by its hash, or one built
on demand."""

from __future__ import annotations

from delfjax import paths
from delfjax.suite.running.workers import execute_in_process
from delfjax.suite.runs.folders import FinishedRun, RunError, find_run, finished_run, latest_run
from delfjax.suite.settings import PhotoExperiment, upstream_of


def upstream_run(experiment: PhotoExperiment, name: str) -> FinishedRun:
    """The finished run of experiment ``name`` that a notebook reads, as its parameter ``upstream``
    says.

    ``"latest"`` is the latest finished run with these settings, ``"build"`` makes it first where
    there is none, and anything else is the beginning of a run's hash.

    Raises:
        RunError: there is none, it was made with other settings, it is damaged, or building it
            failed.
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
        told = {
            key: value
            for key, value in experiment.parameters.items()
            if key != "upstream" or upstream_of(name)
        }
        # A kernel cannot execute another notebook in its own event loop.
        problem = execute_in_process(name, told, data_root=paths.data_root())
        if problem:
            raise RunError(f"building {name}: {problem}") from None
    return finished_run(name, settings)
