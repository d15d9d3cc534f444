"""The strict notebook runner: parameters are checked before a kernel starts, failures end in one
line, finished runs are kept.

papermill only warns of an unknown parameter and takes a value of any type; here both are errors.
The executed copy lies in the run folder from the first cell on, so that a failing cell can be
looked at where it failed.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before papermill, which imports it as well.
from delfjax.suite.running.notebook_schema import nbformat

# isort: split
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from delfjax import paths
from delfjax.config import config_hash, require_known
from delfjax.errors import shown
from delfjax.files import naming, replace_file
from delfjax.suite.running.notebook_rules import (
    Kind,
    cell_titles,
    kind_of,
    parameter_defaults,
    read_notebook,
    select,
)
from delfjax.suite.running.upstream import upstream_run
from delfjax.suite.runs import claims
from delfjax.suite.runs.folders import RunError, is_settled, making, open_run
from delfjax.suite.settings import photo_experiment, upstream_of
from delfjax.text import printable

_NOTEBOOK, _TRACEBACK = "notebook.ipynb", "traceback.txt"
# Kernels listen on this machine alone; that they do so without encryption is nothing to warn of in
# the midst of a progress bar.
_KERNEL_ARGUMENTS = ["--log-level=ERROR"]
# Parameters of the suite's notebooks, with their types.
_KNOWN_TYPES = {
    **dict.fromkeys(("preset", "dataset", "overrides", "upstream", "recipe"), str),
    "seed": int,
}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Job:
    """A notebook with all of its parameters, and where its run lies.

    Attributes:
        notebook: the file.
        kind: what sort of notebook it is.
        parameters: every parameter with its value.
        path: its run folder.
    """

    notebook: Path
    kind: Kind
    parameters: dict[str, Any]
    path: Path

    @property
    def finished(self) -> bool:
        """Whether the run is there, whole; only experiments leave one."""
        try:
            open_run(self.path)
        except RunError:
            return False
        return True

    @property
    def executed(self) -> Path:
        """The executed copy of the notebook."""
        return self.path / _NOTEBOOK


def say(line: str) -> None:
    """Print a line on standard error, above the progress bars."""
    tqdm.write(printable(line), file=sys.stderr)


def find_notebook(name: str) -> Path:
    """The notebook of the suite whose name begins with ``name``, or the file of that path.

    Raises:
        RunError: there is none, or more than one.
    """
    path = Path(name)
    if path.suffix == ".ipynb" and os.path.isfile(path):
        return path.resolve()
    found = select([path.name.removesuffix(".ipynb")])
    if len(found) != 1:
        raise RunError(
            f"{shown(name)} begins the names of several notebooks:"
            f" {', '.join(path.stem for path in found)}"
        )
    return found[0]


def prepare(notebook: Path, given: Mapping[str, Any]) -> Job:
    """Check the parameters of a notebook and find its run folder; nothing is executed.

    Args:
        notebook: the file.
        given: parameters by name; text is read as the type of the parameter's default.

    Raises:
        RunError: the notebook cannot be read, or a value is of another type than the default of its
            parameter.
        ConfigError: a parameter, preset, dataset or config field that does not exist; the nearest
            is named.
    """
    content = read_notebook(notebook)
    try:
        defaults = parameter_defaults(content)
    except RunError as error:
        raise RunError(f"{notebook}: {error}") from None
    for name, expected in _KNOWN_TYPES.items():
        if name in defaults and type(defaults[name]) is not expected:
            raise RunError(
                f"{notebook}: the default of parameter {name!r} is {shown(defaults[name])},"
                f" expected a value of type {expected.__name__}"
            )
    parameters = dict(defaults)
    for name, value in given.items():
        require_known(f"{notebook.stem}: parameter", name, defaults)
        parameters[name] = _typed(f"{notebook.stem}: parameter {name!r}", value, defaults[name])
    kind = kind_of(content)
    settings: Mapping[str, Any] = parameters
    if {"preset", "seed"} <= parameters.keys():
        known = {name: parameters[name] for name in _KNOWN_TYPES if name in parameters}
        experiment = photo_experiment(**known)
        parameters |= {name: experiment.parameters[name] for name in known}
        settings = experiment.settings(notebook.stem) if kind == Kind.EXPERIMENT else parameters
    return Job(
        notebook, kind, parameters, paths.runs_root() / notebook.stem / config_hash(dict(settings))
    )


def run_notebook(
    job: Job,
    *,
    fresh: bool = False,
    progress: bool = True,
    announce: Callable[[str], object] = say,
) -> bool:
    """Execute the notebook, unless its run is finished.

    If another process is making the run, this one waits for it and takes its result.

    Args:
        job: the notebook and its run folder.
        fresh: execute it even if the run is finished; the earlier run is read until the new one is
            finished.
        progress: show a progress bar.
        announce: is given one line about the process that this one waits for.

    Returns:
        Whether it was executed; ``False`` if the run was finished.

    Raises:
        RunError: the run it reads is missing, a cell failed, the kernel died or the disk is full.
            The partly executed copy and the traceback are in the run folder, which holds no
            finished run then.
    """
    name = job.notebook.stem

    def on_wait(holder: str) -> None:
        announce(f"{name}: {holder} is making {job.path}; waiting for it")

    if not fresh and is_settled(job.path):
        return False
    try:
        with making(job.path, fresh=fresh, on_wait=on_wait) as needed:
            if needed:
                _require_upstream(job)
                _make(job, progress)
    except OSError as error:
        raise _failure(job, f"{error.filename or job.path}: {error.strerror or error}") from None
    return needed


def _make(job: Job, progress: bool) -> None:
    """Execute the notebook in its run folder, which no other runner uses."""
    before = claims.stamp(job.path)
    try:
        job.path.mkdir(exist_ok=True)
        (job.path / _TRACEBACK).unlink(missing_ok=True)
        _execute(job, progress)
    except PapermillExecutionError as error:
        # The line says what happened even if the disk is full.
        with suppress(OSError):
            trace = _ANSI.sub("", "\n".join(error.traceback))
            replace_file(job.path / _TRACEBACK, trace.encode(errors="backslashreplace"))
        reason = f"{error.ename}: {_first_line(error.evalue)} (at “{_failed_cell(job)}”)"
        raise _failure(job, reason) from None
    except DeadKernelError:
        raise _failure(job, "the kernel died; out of memory, or killed") from None
    except RuntimeError as error:
        # nbclient's word for a kernel that does not answer.
        raise _failure(job, str(error)) from None
    if job.kind == Kind.EXPERIMENT and claims.stamp(job.path) in (None, before):
        raise _failure(job, "ended without finishing its run")


def _execute(job: Job, progress: bool) -> None:
    content = read_notebook(job.notebook)
    titles = cell_titles(content)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    total = sum(cell.cell_type == "code" for cell in content.cells)
    with (
        naming(job.executed),
        tqdm(
            total=total, desc=printable(job.notebook.stem), unit="cell", disable=not progress
        ) as bar,
    ):
        papermill.execute_notebook(
            job.notebook,
            job.executed,
            # A notebook without parameters would get a stray cell of them.
            parameters={
                name: value
                for name, value in job.parameters.items()
                if value != parameter_defaults(content)[name]
            },
            cwd=job.notebook.parent,
            # The interpreter that this library runs in, whatever an editor has left in the file.
            kernel_name="python3",
            language="python",
            extra_arguments=_KERNEL_ARGUMENTS,
            progress_bar=False,
            on_cell_start=_shows_title(bar, titles),
            on_cell_executed=_counts(bar, titles),
        )


def _shows_title(bar: Any, titles: Mapping[str, str]) -> Callable[..., None]:
    def started(cell: nbformat.NotebookNode, **_: Any) -> None:
        if cell.get("id", "") in titles:
            bar.set_postfix_str(printable(titles[cell["id"]]))

    return started


def _counts(bar: Any, titles: Mapping[str, str]) -> Callable[..., None]:
    def executed(cell: nbformat.NotebookNode, **_: Any) -> None:
        bar.update(cell.get("id", "") in titles)

    return executed


def _require_upstream(job: Job) -> None:
    """Say that the run to be read is missing before a kernel starts."""
    read = upstream_of(job.notebook.stem)
    if read is None or job.parameters.get("upstream", "build") == "build":
        return
    upstream_run(photo_experiment(**job.parameters), read[1])


def _failure(job: Job, reason: str) -> RunError:
    copy = f"; partly executed copy: {job.executed}" if job.executed.is_file() else ""
    return RunError(f"{job.notebook.stem}: {reason}{copy}")


def _failed_cell(job: Job) -> str:
    """Title of the cell that failed."""
    cells = []
    # The copy is incomplete if the disk is full.
    with suppress(RunError):
        cells = read_notebook(job.executed).cells
    failed = (
        cell.get("id", "") for cell in cells if cell.metadata.get("papermill", {}).get("exception")
    )
    return cell_titles(read_notebook(job.notebook)).get(next(failed, ""), "a cell")


def _first_line(text: str) -> str:
    return _ANSI.sub("", text.strip().partition("\n")[0])


def _typed(what: str, value: Any, default: Any) -> Any:
    """``value`` as the type of ``default``; text is read as a literal unless text is wanted."""
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
        except (ValueError, SyntaxError):
            raise RunError(
                f"{what} is {type(default).__name__}, for instance {default!r}; got {value!r}"
            ) from None
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise RunError(
            f"{what} is {type(default).__name__}, for instance {default!r}; got {value!r}"
        )
    return value
