"""Kills a process at every step that it takes in the file system, to see what is left.

A test says what to do (``action``) after what (``setup``, usually imports), both as Python source.
A process of its own runs the setup once and is then forked for each kill, so that a kill takes
milliseconds. A command is an action as well::

    kill_at_every_step(
        tmp_path,
        setup="import sys; from delfjax.cli import main",
        action="sys.exit(main(['index', 'store', '--out', 'index']))",
        check=lambda: open_index(tmp_path / "index"),
    )

A step is a file opened for writing, renamed, linked, truncated, synced or deleted, or a folder made
or deleted. Kills in the middle of a write come from a limit on the size of a file, which ends the
process once it writes more.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# Events of Python's audit hooks that change the file system.
_CHANGES = frozenset(
    f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "link", "symlink", "truncate")
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def kill_at_every_step(
    place: Path,
    *,
    setup: str,
    action: str,
    check: Callable[[], object],
    size_limits: tuple[int, ...] = (0, 1, 100, 1000, 5000),
    every: int = 1,
    same_bytes: bool = False,
) -> int:
    """Kill an action at each of its steps and in the middle of its writes; repeat it after each
    kill.

    Args:
        place: the folder that the action works in; it starts each time with what is there now.
        setup: statements to run once.
        action: statements to run and kill, in ``place``.
        check: called after each kill and after each repetition; it fails if what is there is
            neither the old result nor the new one.
        size_limits: sizes in bytes; the action is killed when it writes a larger file.
        every: kill at the first of so many steps only.
        same_bytes: require that a repetition leaves files of the same content.

    Returns:
        The number of kills.

    Raises:
        AssertionError: the action fails, or a repetition leaves other files than an action that
            nobody killed.
    """
    before = _contents(place)
    with Victim.started(place, setup, action) as victim:
        assert victim.run() == 0, victim.trace()
        check()
        expected = _contents(place)
        kills = 0
        steps = ({"step": number} for number in itertools.count(1, every))
        for kill in itertools.chain(({"size": size} for size in size_limits), steps):
            _restore(place, before)
            code = victim.run(**kill)
            assert code in (0, -signal.SIGKILL, -signal.SIGXFSZ), f"{kill}: {victim.trace()}"
            check()
            if code == 0 and "step" in kill:
                print("KILLS", kills, kill, flush=True)
                return kills
            kills += code != 0
            assert victim.run() == 0, f"after {kill}: {victim.trace()}"
            check()
            left = _contents(place)
            assert left.keys() == expected.keys(), f"after {kill}: {left.keys() ^ expected.keys()}"
            if same_bytes:
                other = [name for name in expected if left[name] != expected[name]]
                assert not other, f"after {kill}: other content in {other}"
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class Victim:
    """A process that waits with its imports done, to be forked for each run of an action."""

    process: subprocess.Popen[str]
    log: Path

    @classmethod
    @contextmanager
    def started(cls, place: Path, setup: str, action: str) -> Iterator[Victim]:
        log = place.with_name(f"{place.name}.log")
        task = {"place": str(place), "setup": setup, "action": action, "log": str(log)}
        command = [sys.executable, "-m", "tests.kills", json.dumps(task)]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield cls(process, log)
            finally:
                process.kill()

    def run(self, *, step: int | None = None, size: int | None = None) -> int:
        """Run the action, killed before its ``step``-th step or when a file exceeds ``size``.

        Returns:
            The exit code, or a signal's number with a minus sign.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"step": step, "size": size}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def trace(self) -> str:
        """What the last run wrote."""
        return self.log.read_text(encoding="utf-8")


def _contents(place: Path) -> dict[str, bytes | None]:
    """Content of each file, and ``None`` for each folder, by relative path."""
    return {
        path.relative_to(place).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(place.rglob("*"))
    }


def _restore(place: Path, contents: dict[str, bytes | None]) -> None:
    shutil.rmtree(place)
    place.mkdir()
    for name, content in contents.items():
        if content is None:
            (place / name).mkdir()
        else:
            (place / name).write_bytes(content)


def _serve(task: dict[str, str]) -> None:
    """Run the setup, then fork and run the action for each line of standard input."""
    namespace: dict[str, Any] = {}
    exec(task["setup"], namespace)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(task, namespace, **json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, flush=True)


def _run(
    task: dict[str, str], namespace: dict[str, Any], step: int | None, size: int | None
) -> None:
    """Run the action in a forked process, and end the process."""
    code = 1
    # What was written survives a kill without having reached the disk.
    setattr(os, "fsync", lambda _descriptor: None)  # noqa: B010 - mypy refuses an assignment
    try:
        os.chdir(task["place"])
        with open(task["log"], "w", encoding="utf-8") as log:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(log.fileno(), stream.fileno())
        if size is not None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        if step is not None:
            _kill_before(step)
        exec(task["action"], namespace)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill_before(step: int) -> None:
    steps = itertools.count(1)

    def count() -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and (arguments[2] or 0) & _WRITES):
            count()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            count()
            return function(*arguments, **named)

        return run

    # These have no audit events.
    for name in ("fsync", "write", "ftruncate"):
        setattr(os, name, counted(getattr(os, name)))
    sys.addaudithook(audit)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
