"""Run every notebook without a browser and build the report: ``delfjax reproduce``.

Runs that this very commit has finished are kept, so that the same command resumes a reproduction
that was stopped. Where there is no accelerator, notebooks that have nothing to do with each other
run side by side: one alone leaves a third of two cores idle.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path

from tqdm.auto import tqdm

from delfjax.config import require_known
from delfjax.suite.reporting.report import build_report
from delfjax.suite.running.notebook_rules import Kind, notebooks, parameter_defaults, read_notebook
from delfjax.suite.running.runner import Job, prepare
from delfjax.suite.running.workers import LocalWorkers
from delfjax.suite.runs.folders import PRESETS, RunError, open_run
from delfjax.suite.runs.provenance import git_state

# Notebooks by how their names begin. Within a lane each finds what an earlier one has made: those
# that train share trainings, those that search share features. The first lane begins with the world
# that all of them read, the other with worlds of its own; 22 comes last there, for it compares with
# trainings of the first.
_LANES, _AFTER = (("0", "10", "20", "21", "5"), ("13", "1", "3", "4", "22")), ("9",)


def reproduce(preset: str) -> Path:
    """Run every notebook at ``preset``; returns the report.

    Raises:
        ConfigError: an unknown preset.
        RunError: a notebook failed; its partly executed copy is kept.
    """
    require_known("preset", preset, PRESETS)
    names = notebooks()
    *lanes, others, last = plan(names)
    # Side by side where the processors are all there is.
    at_once = 1 if entry_points(group="jax_plugins") else len(lanes)
    with (
        closing(LocalWorkers(at_once, shared=True)) as workers,
        ThreadPoolExecutor(at_once) as pool,
        tqdm(total=len(names), desc="reproduce", unit="notebook") as bar,
    ):

        def run(lane: Sequence[Path]) -> None:
            for notebook in lane:
                tqdm.write(_made(notebook, preset, workers))
                bar.update()

        try:
            # Of the last, each reads what the others have left, and nothing of the rest of them.
            for together in (lanes, [others], [[notebook] for notebook in last]):
                for future in as_completed([pool.submit(run, lane) for lane in together]):
                    future.result()
        except BaseException:
            # Failed or stopped: nothing new is started, and what runs is told to stop as well.
            pool.shutdown(wait=False, cancel_futures=True)
            workers.interrupt()
            raise
    return build_report()


def plan(names: Sequence[Path]) -> list[list[Path]]:
    """Notebooks in their order: each lane, those that are in none, and what comes after."""
    left = list(names)
    planned = []
    for beginnings in (_AFTER, *_LANES):
        taken = list(
            dict.fromkeys(
                path for beginning in beginnings for path in left if path.stem.startswith(beginning)
            )
        )
        left = [path for path in left if path not in taken]
        planned.append(taken)
    after, *lanes = planned
    return [*lanes, left, after]


def _made(notebook: Path, preset: str, workers: LocalWorkers) -> str:
    """Run a notebook, unless this very commit has; returns the line that says so."""
    started = time.perf_counter()
    job = prepare(
        notebook,
        {"preset": preset} if "preset" in parameter_defaults(read_notebook(notebook)) else {},
    )
    kept = _is_current(job)
    problem = "" if kept else workers.execute(str(notebook), job.parameters)
    if problem:
        raise RunError(problem)
    said = "kept" if kept else f"{time.perf_counter() - started:.1f} s"
    return f"{notebook.stem:28s} {said:>8s}  {job.path / 'notebook.ipynb'}"


def _is_current(job: Job) -> bool:
    """Whether the run is there and was made by what is checked out now, without changes."""
    if job.kind != Kind.EXPERIMENT or not job.finished:
        return False
    made_by, now = open_run(job.path).provenance["git"], git_state()
    return now is not None and not now["dirty"] and made_by == now
