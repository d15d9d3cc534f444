"""Run every notebook headlessly and build the report: ``python -m delfjax.experiments.reproduce [--preset quick]``.

Runs that this very commit has finished are kept, so that a reproduction which was stopped goes on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tqdm.auto import tqdm

from delfjax.config import require_known
from delfjax.experiments.notebooks import Kind, notebooks, parameter_defaults, read_notebook
from delfjax.experiments.photo_suite import PRESETS
from delfjax.experiments.provenance import git_state
from delfjax.experiments.report import build_report
from delfjax.experiments.runner import Job, prepare, run_notebook
from delfjax.experiments.runs import open_run
from delfjax.types import DelfjaxError


def reproduce(preset: str) -> Path:
    """Run every notebook at ``preset``; returns the report.

    Raises:
        ConfigError: an unknown preset.
        RunError: a notebook failed; its partly executed copy is kept.
    """
    require_known("preset", preset, PRESETS)
    for notebook in notebooks():
        started = time.perf_counter()
        given = {"preset": preset} if "preset" in parameter_defaults(read_notebook(notebook)) else {}
        job = prepare(notebook, given)
        kept = _is_current(job)
        executed = job.path / "notebook.ipynb" if kept else run_notebook(job)
        said = "kept" if kept else f"{time.perf_counter() - started:.1f} s"
        tqdm.write(f"{notebook.stem:28s} {said:>8s}  {executed}")
    return build_report()


def _is_current(job: Job) -> bool:
    """Whether the run is there and was made by what is checked out now, without changes."""
    if job.kind != Kind.EXPERIMENT or not job.finished:
        return False
    made_by, now = open_run(job.path).provenance["git"], git_state()
    return now is not None and not now["dirty"] and made_by == now


def main(arguments: list[str]) -> int:
    """Run the suite; the exit code is 0, or 1 with one line on standard error."""
    preset = arguments[1] if arguments[:1] == ["--preset"] and len(arguments) == 2 else "quick" if not arguments else ""
    try:
        report = reproduce(preset)
    except DelfjaxError as error:
        print(f"delfjax: {error}", file=sys.stderr)
        return 1
    print(f"report: {report}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
