"""A run is found again by the weights in the files that it names, from every folder; it is executed
if it is not finished or is to be fresh, and an accident costs no other run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import papermill
import pytest

from delfjax.models.weights import save_weights
from delfjax.suite.running.runner import Job, find_notebook, prepare, run_notebook
from delfjax.suite.runs.folders import RunError, open_run
from delfjax.suite.settings import photo_experiment

# Executes a notebook in the place of papermill.
Kernel = Callable[..., None]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A run of a notebook that reads no other run."""
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    return prepare(find_notebook("51"), {"preset": "ci", "seed": "2"})


def execute(monkeypatch: pytest.MonkeyPatch, job: Job, kernel: Kernel, **options: Any) -> bool:
    """Run a job with a kernel that is a function."""
    monkeypatch.setattr(papermill, "execute_notebook", kernel)
    return run_notebook(job, progress=False, **options)


def finishing(value: int) -> Kernel:
    def kernel(_notebook: Path, executed: Path, **_options: object) -> None:
        run = photo_experiment("ci", 2).start("51_visualise_attention")
        executed.write_text(str(value))
        run.finish({"value": value})

    return kernel


def full_disk(_notebook: Path, _executed: Path, **_options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_finished_run_is_executed_only_if_it_is_to_be_fresh(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert execute(monkeypatch, job, finishing(1))
    assert not execute(monkeypatch, job, finishing(2))
    assert open_run(job.path).results == {"value": 1} and job.executed.read_text() == "1"
    assert execute(monkeypatch, job, finishing(3), fresh=True)
    assert open_run(job.path).results == {"value": 3} and job.executed.read_text() == "3"


def test_a_kernel_that_ends_before_the_run_starts_leaves_the_earlier_run(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(monkeypatch, job, finishing(1))
    with pytest.raises(RunError, match="51_visualise_attention: ended without finishing its run"):
        execute(monkeypatch, job, lambda *_notebooks, **_options: None, fresh=True)
    assert job.finished and open_run(job.path).results == {"value": 1}


def test_a_full_disk_names_the_executed_copy_and_leaves_the_earlier_run(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(monkeypatch, job, finishing(1))
    with pytest.raises(RunError, match=rf"{job.executed}: No space left on device"):
        execute(monkeypatch, job, full_disk, fresh=True)
    assert not execute(monkeypatch, job, finishing(2))
    assert open_run(job.path).path == job.path and job.executed.read_text() == "1"


def test_another_training_in_the_same_file_makes_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(value: float) -> None:
        save_weights(tmp_path / "a b.safetensors", {"w": np.full(2, value)}, {"name": "attention"})

    def job(path: str) -> Job:
        return prepare(find_notebook("41"), {"overrides": f"scorer.weights={path}", "seed": "3"})

    saved(1)
    monkeypatch.chdir(tmp_path)
    first = job("a b.safetensors")
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert job("../a b.safetensors") == first
    # Its kernel works in the folder of the notebook.
    assert first.parameters["overrides"].startswith(
        f"scorer.weights={tmp_path / 'a b.safetensors'}"
    )
    saved(2)
    assert job("../a b.safetensors").path != first.path
    # Repeating the command of the first run is repeating that run.
    again = prepare(first.notebook, first.parameters)
    assert again == first
