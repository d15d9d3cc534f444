"""Run every notebook headlessly and leave the executed copies: ``python -m delfjax.experiments.reproduce [--preset quick]``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from delfjax import paths
from delfjax.experiments.runs import RunError
from delfjax.types import DelfjaxError

_PRESETS = ("ci", "quick", "full")


def notebooks() -> list[Path]:
    """The notebooks of the suite, in reading order.

    Raises:
        RunError: the library was installed without them.
    """
    root = paths.repository_root()
    if root is None:
        raise RunError("the notebooks are not here: delfjax runs from an installed package, not from its checkout")
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def reproduce(preset: str) -> Path:
    """Run every notebook at ``preset``; returns the folder of the executed copies.

    Raises:
        RunError: an unknown preset, or a notebook failed; its partly executed copy is kept.
    """
    if preset not in _PRESETS:
        raise RunError(f"preset {preset!r} is unknown; there are: {', '.join(_PRESETS)}")
    out = paths.runs_root() / "reproduce" / preset
    out.mkdir(parents=True, exist_ok=True)
    for notebook in notebooks():
        started = time.perf_counter()
        executed = out / notebook.name
        # Only an experiment has parameters; papermill would add a stray cell to a tour.
        tagged = any("parameters" in cell.metadata.get("tags", []) for cell in nbformat.read(notebook, 4).cells)
        try:
            papermill.execute_notebook(
                notebook, executed, parameters={"preset": preset} if tagged else {}, cwd=notebook.parent, progress_bar=False
            )
        except PapermillExecutionError as error:
            raise RunError(f"{notebook.name}: {error.ename}: {error.evalue}; partly executed copy: {executed}") from None
        tqdm.write(f"{notebook.name:32s} {time.perf_counter() - started:6.1f} s  {executed}")
    return out


def main(arguments: list[str]) -> int:
    """Run the suite; the exit code is 0, or 1 with one line on standard error."""
    preset = arguments[1] if arguments[:1] == ["--preset"] and len(arguments) == 2 else "quick" if not arguments else ""
    try:
        out = reproduce(preset)
    except DelfjaxError as error:
        print(f"delfjax: {error}", file=sys.stderr)
        return 1
    print(f"executed notebooks: {out}\nfigures and results: {paths.runs_root()}/<experiment>/<hash>/")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
