"""Run every notebook without a browser and build the report: ``delfjax reproduce``.

Runs that this very commit has finished are kept, so that the same command resumes a reproduction
that was stopped. Where there is no accelerator, notebooks that have nothing to do with each other
run side by side: one alone leaves a third of two cores idle.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from delfjax.config import require_known
from delfjax.suite.reporting.report import build_report
from delfjax.suite.running.notebook_rules import Kind, notebooks, parameter_defaults, read_notebook
from delfjax.suite.running.runner import Job, prepare
from delfjax.suite.running.workers import Call, Workers, local_workers
from delfjax.suite.runs.folders import PRESETS, RunError, open_run
from delfjax.suite.runs.provenance import git_state

# Notebooks by how their names begin. Within a lane each finds what an earlier one has made: those
# that train share trainings, those that search share features. The first lane begins with the world
# that all of them read, the other with worlds of its own; 50 and 22 come last there, for they use
# trainings of the first.
_LANES = ("0", "10", "20", "21", "23", "51", "52", "6"), ("13", "1", "3", "4", "50", "22")
_AFTER = ("9",)


def reproduce(preset: str) -> Path:
    """Run every notebook at ``preset``; returns the report.

    Raises:
        ConfigError: an unknown preset.
        RunError: a notebook failed; its partly executed copy is kept.
    """
    require_known("preset", preset, PRESETS)
    names = notebooks()
    jobs = {path.stem: _job(path, preset) for path in names}
    kept = {name for name, job in jobs.items() if _is_current(job)}
    # Side by side where the processors are all there is.
    at_once = 1 if entry_points(group="jax_plugins") else len(_LANES)
    with tqdm(total=len(names), desc="reproduce", unit="notebook") as bar:
        for name in sorted(kept):
            tqdm.write(_line(jobs[name], "kept"))
            bar.update()
        with local_workers(at_once, shared=True) as workers:
            _execute(_calls(names, jobs, kept), jobs, workers, bar)
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


def _job(notebook: Path, preset: str) -> Job:
    known = parameter_defaults(read_notebook(notebook))
    return prepare(notebook, {"preset": preset} if "preset" in known else {})


def _calls(names: Sequence[Path], jobs: Mapping[str, Job], kept: Set[str]) -> dict[str, Call]:
    """What is to be executed: lanes side by side, then what is in none of them, then the last, each
    of which reads what the others have left and nothing of the rest of them."""
    *lanes, others, last = plan(names)
    calls: dict[str, Call] = {}
    for together in (lanes, [others], [[notebook] for notebook in last]):
        before = frozenset(calls)
        for lane in together:
            needs = before
            for name in [path.stem for path in lane if path.stem not in kept]:
                outdated = jobs[name].finished
                calls[name] = Call(
                    str(jobs[name].notebook), jobs[name].parameters, needs, fresh=outdated
                )
                needs = frozenset({name})
    return calls


def _execute(
    calls: Mapping[str, Call], jobs: Mapping[str, Job], workers: Workers, bar: Any
) -> None:
    started: dict[str, float] = {}

    def note(running: Sequence[str]) -> None:
        for name in running:
            started.setdefault(name, time.perf_counter())

    for name, outcome in workers.execute_all(calls, on_start=note):
        if outcome.problem:
            raise RunError(outcome.problem)
        tqdm.write(_line(jobs[name], f"{time.perf_counter() - started[name]:.1f} s"))
        bar.update()


def _line(job: Job, said: str) -> str:
    return f"{job.notebook.stem:28s} {said:>8s}  {job.path / 'notebook.ipynb'}"


def _is_current(job: Job) -> bool:
    """Whether the run is there and was made by what is checked out now, without changes."""
    if job.kind != Kind.EXPERIMENT or not job.finished:
        return False
    made_by, now = open_run(job.path).provenance.get("git"), git_state()
    return now is not None and not now["dirty"] and made_by == now
