"""Who makes a run, and where the run that was finished before stays meanwhile.

Two locks lie beside a run folder. The process that writes the folder holds the first one from
:func:`~delfjax.suite.runs.folders.start_run` to the end of the run. A process that executes the
notebook of the run, and so starts the process that writes, holds the second one: from before it
looks whether the run is finished until it knows how the notebook ended.

While a notebook is executed that way, its run folder holds :data:`EXECUTING`. A notebook may draw
figures after it has finished its run, so a finished run that still holds this file although nobody
executes its notebook was left by a killed process, and is made again.

A finished run that is made again is moved to ``runs/.earlier/<experiment>/<hash10>/``. It is read
there until the new run is finished, and deleted then. So whenever a process is killed, the earlier
run or the new one is there and whole.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from delfjax import paths
from delfjax.files import Lock, LockHeldError, replace_file

# The file that a run folder holds once the run is finished.
DONE = "DONE"
# The file that a run folder holds while another process than the one that writes it executes the
# notebook.
EXECUTING = "EXECUTING"
_EARLIER = ".earlier"
# Folders that this process is writing, with their locks. A notebook cell that is executed twice
# starts its run twice, and must not wait for its own lock.
_written: dict[Path, Lock] = {}

# Is told for whom a process waits, for instance ``process 123 on laptop``.
OnWait = Callable[[str], object]


def current(path: Path) -> Path:
    """The folder that holds the finished run of ``path``: the earlier one while the run is made
    again, and otherwise ``path`` itself."""
    earlier = earlier_folder(path)
    return earlier if not (path / DONE).is_file() and (earlier / DONE).is_file() else path


def finished_folders(experiment: str = "*") -> list[Path]:
    """The folders that hold finished runs, damaged or not, sorted by experiment and hash.

    Args:
        experiment: its name; by default, the runs of all experiments are listed.
    """
    found: dict[tuple[str, str], Path] = {}
    for root in (paths.runs_root() / _EARLIER, paths.runs_root()):
        for folder in root.glob("*") if experiment == "*" else [root / experiment]:
            for done in folder.glob(f"*/{DONE}"):
                found[folder.name, done.parent.name] = done.parent
    return [path for _, path in sorted(found.items())]


def start_writing(path: Path, *, on_wait: OnWait) -> None:
    """Lock a run folder until :func:`stop_writing` or the end of the process; any other process
    that writes it is waited for.

    Args:
        path: the run folder.
        on_wait: see :data:`OnWait`.

    Raises:
        OSError: the lock cannot be created.
    """
    if path not in _written:
        lock = _writer(path, wait_s=math.inf, on_wait=on_wait)
        lock.acquire()
        _written[path] = lock


def stop_writing(path: Path) -> None:
    """Unlock a run folder. The earlier run is deleted if the new one is finished and no other
    process executes its notebook, which may still fail."""
    lock = _written.pop(path, None)
    if lock is not None:
        try:
            with suppress(LockHeldError), _executor(path):
                _discard_if_done(path)
        finally:
            lock.release()


@contextmanager
def executing(path: Path, *, on_wait: OnWait) -> Iterator[None]:
    """Let only this process execute the notebook of a run; any other process is waited for.

    If the run is finished when the block ends, the earlier run is deleted.

    Args:
        path: the run folder.
        on_wait: see :data:`OnWait`.

    Raises:
        OSError: the lock cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _executor(path, wait_s=math.inf, on_wait=on_wait):
        yield
        # A notebook that an editor has started since will delete the earlier run itself.
        with suppress(LockHeldError), _writer(path):
            _discard_if_done(path)


@contextmanager
def undisturbed(path: Path, *, on_wait: OnWait) -> Iterator[None]:
    """Let no notebook write a run folder; one that does is waited for.

    Args:
        path: the run folder.
        on_wait: see :data:`OnWait`.

    Raises:
        OSError: the lock cannot be created.
    """
    with _writer(path, wait_s=math.inf, on_wait=on_wait):
        yield


def retract(path: Path) -> None:
    """Let a run whose notebook failed count as unfinished, unless another process, for instance a
    notebook in an editor, is making it.

    Raises:
        OSError: the folder cannot be changed.
    """
    with suppress(LockHeldError), _writer(path):
        (path / DONE).unlink(missing_ok=True)


def begin_executing(path: Path) -> None:
    """Mark a run folder, which is created if missing, until :func:`end_executing`.

    Raises:
        OSError: the folder cannot be written.
    """
    path.mkdir(exist_ok=True)
    replace_file(path / EXECUTING, b"")


def end_executing(path: Path) -> None:
    """Remove the mark of :func:`begin_executing`, if there is one.

    Raises:
        OSError: it cannot be deleted.
    """
    (path / EXECUTING).unlink(missing_ok=True)


def forget_killed(path: Path) -> None:
    """Remove the mark that a killed process left, unless another one executes the notebook now.

    Raises:
        OSError: it cannot be deleted.
    """
    if is_executing(path):
        with suppress(LockHeldError), _executor(path):
            end_executing(path)


def is_executing(path: Path) -> bool:
    """Whether a run folder is marked as one whose notebook is being executed."""
    return (path / EXECUTING).exists()


def stamp(path: Path) -> tuple[int, ...] | None:
    """What identifies the finished run of a run folder, wherever it is; ``None`` without one.

    It changes when a run is finished again, and not when it is moved.
    """
    with suppress(OSError):
        found = (current(path) / DONE).stat()
        return found.st_ino, found.st_mtime_ns
    return None


def has_earlier(path: Path) -> bool:
    """Whether anything is left of an earlier run."""
    return earlier_folder(path).exists()


def set_aside(path: Path) -> None:
    """Move a finished run to where it is read until the new one is finished.

    Raises:
        OSError: it cannot be moved.
    """
    discard_earlier(path)
    earlier = earlier_folder(path)
    earlier.parent.mkdir(parents=True, exist_ok=True)
    os.rename(path, earlier)


def restore_earlier(path: Path) -> None:
    """Put the earlier run in the place of one that did not finish.

    Raises:
        OSError: a file cannot be deleted or moved.
    """
    if path.exists():
        # Without this file, a folder that is half deleted is never read.
        (path / DONE).unlink(missing_ok=True)
        shutil.rmtree(path)
    os.rename(earlier_folder(path), path)


def discard_earlier(path: Path) -> None:
    """Delete the earlier run, if there is one.

    Raises:
        OSError: a file cannot be deleted.
    """
    earlier = earlier_folder(path)
    # Without this file, a folder that is half deleted is never read.
    (earlier / DONE).unlink(missing_ok=True)
    if earlier.exists():
        shutil.rmtree(earlier)


def _discard_if_done(path: Path) -> None:
    if (path / DONE).is_file():
        discard_earlier(path)


def earlier_folder(path: Path) -> Path:
    """Where the earlier run of ``path`` is, if there is one."""
    return path.parent.parent / _EARLIER / path.parent.name / path.name


def _writer(path: Path, *, wait_s: float = 0.0, on_wait: OnWait = lambda holder: None) -> Lock:
    return Lock(path.parent / f".{path.name}.lock", wait_s=wait_s, on_wait=on_wait)


def _executor(path: Path, *, wait_s: float = 0.0, on_wait: OnWait = lambda holder: None) -> Lock:
    return Lock(path.parent / f".{path.name}.notebook.lock", wait_s=wait_s, on_wait=on_wait)
