"""Damaged input for readers of files, and a runner that notices everything a reader must not do.

A *trial* is a function at the top of a test module. It gets a generator and an empty folder, writes
a damaged file into the folder, and reads it::

    def read_damaged_cards(rng: np.random.Generator, folder: Path) -> None:
        (folder / "card.json").write_bytes(damaged_json(CARD, rng))
        load_card(folder / "card.json")


    def test_a_damaged_card_is_read_or_refused_in_one_line() -> None:
        assert not failures(read_damaged_cards, count=100)


    @pytest.mark.slow
    def test_two_thousand_damaged_cards_are_read_or_refused_in_one_line() -> None:
        assert not failures(read_damaged_cards, count=2000)

The reader may return, or raise a ``DelfjaxError`` whose message is one line that names a file of
the folder. Everything else is reported: another exception, a crash of the process, a trial that
takes too long or too much memory, a file changed outside the folder, a started process or a
connection. Every trial depends only on its function, its number and the seed; run one alone with
``.venv/bin/python -m tests.fuzzing MODULE:FUNCTION NUMBER``, which shows the whole traceback.

:func:`damaged` changes bytes, :func:`damaged_text` changes words, :func:`damaged_value` changes the
structure and the values of nested dictionaries and lists, and :func:`damaged_json` does so in JSON.
Where a format has checksums or lengths, a trial recomputes them, so that the damage reaches the
parser. Trials of several readers may share one call of :func:`failures`, and with it the start of
one process.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from delfjax.errors import DelfjaxError

ROOT = Path(__file__).resolve().parents[1]

Trial = Callable[[np.random.Generator, Path], object]

# What one trial may take: seconds of the processor, and so many times that by the clock, because
# other tests may keep the processor busy.
SECONDS = 10.0
_WAITING = 10
MEMORY_BYTES = 1 << 30
# Address space is reserved in larger pieces than are used; beyond this multiple of the memory,
# allocations fail.
_ADDRESS_SPACE = 2
# Seconds for a process to start and to import the readers.
_START_SECONDS = 300.0
# Longest message that still reads as one clear line.
_LONGEST_MESSAGE = 1000

# Each failure costs the start of a process; with so many, the rest says nothing new.
_MOST_REPORTED = 20

# Events of ``sys.addaudithook`` that change a path, with the positions of the paths in its
# arguments.
_CHANGES = {
    "os.chmod": (0,),
    "os.link": (1,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
}
_NEVER = frozenset(
    {"os.exec", "os.fork", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"}
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """``data`` with one to four changes: bits, numbers, and pieces cut, repeated or inserted."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(changed) + 1))
        length = int(rng.integers(1, 17))
        match rng.integers(0, 7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                changed[at : at + length] = rng.bytes(length)
            case 2:
                # Lengths, offsets and counts are mostly numbers of four or eight bytes.
                width = int(rng.choice([1, 2, 4, 8]))
                extremes = (0, 1, (1 << 8 * width) - 1, (1 << 8 * width - 1) - 1)
                number = extremes[int(rng.integers(0, 4))]
                changed[at : at + width] = number.to_bytes(width, "little")
            case 3:
                del changed[at : at + length]
            case 4:
                piece = changed[at : at + int(rng.integers(1, 257))]
                changed[at:at] = piece * int(rng.integers(1, 9))
            case 5:
                changed[at:at] = rng.bytes(length)
            case 6 if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)


_ODD_WORDS = (
    *("", "0", "-1", "00", "+1", "1_0", "1e400", "-1e400", "nan", "inf", "0x1", "9" * 30, "٣", "½"),
    *(
        "None",
        "null",
        "é",
        "ü" * 50,
        "\u2028",
        "\x85",
        "\x0b",
        "\0",
        "\ufeff",
        "\x1b[2J",
        "\U0001f600",
    ),
    *('"', "'", '""', '"a', "a,b", '"a,b"', "\\", "/", "..", "../a", "/a/b", "C:/a", "a" * 100_000),
)
_ODD_GAPS = ("", " ", ",", "\n", "\r\n", "\r", "\t", "\n\n", ";", "\xa0", " \n ", ",,", "\x0c")


def damaged_text(text: str, rng: np.random.Generator) -> bytes:
    """``text`` with one to three changes of its words and of what separates them, in UTF-8.

    A word or a gap is removed, repeated, exchanged with another one, or replaced by an odd one. One
    input in ten has damaged bytes in addition.
    """
    pieces = re.split(r"([\s,]+)", text)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(pieces)))
        # Words and gaps alternate.
        odd = _ODD_GAPS if at % 2 else _ODD_WORDS
        match rng.integers(0, 4):
            case 0:
                del pieces[at : at + int(rng.integers(1, 3))]
            case 1:
                pieces[at:at] = pieces[max(at - int(rng.integers(1, 8)), 0) : at + 1]
            case 2:
                pieces[at] = pieces[int(rng.integers(0, len(pieces)))]
            case 3:
                pieces[at] = odd[int(rng.integers(0, len(odd)))]
        pieces = pieces or [""]
    data = "".join(pieces).encode()
    return damaged(data, rng) if rng.random() < 0.1 else data


# Stands for nested brackets, which ``json.dumps`` cannot write when there are very many.
_NESTED = "nested brackets of depth "
_WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400),
    *(0.5, -0.0, 1e-320, 1.7e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "a\nb", "\0", "\ud800", "é", "../outside", "/", "x" * 100_000, "\x1b[2J"),
    *([], {}, [[]], [None], {"": None}, {"a": {}}, [0] * 10_000, ["a", 1, None]),
    *(f"{_NESTED}{depth}" for depth in (90, 990, 100_000)),
)


def damaged_json(value: Any, rng: np.random.Generator) -> bytes:
    """JSON of :func:`damaged_value`; one input in ten has damaged bytes in addition."""
    text = json.dumps(damaged_value(value, rng))
    for depth in (90, 990, 100_000):
        text = text.replace(f'"{_NESTED}{depth}"', "[" * depth + "]" * depth)
    data = text.encode()
    return damaged(data, rng) if rng.random() < 0.1 else data


def damaged_value(value: Any, rng: np.random.Generator) -> Any:
    """``value``, made of dictionaries and lists, with one to three changes.

    A part of the value is removed, renamed, repeated, put into a list or an object, exchanged with
    another part, or replaced: by a value of another type, an extreme number, NaN, a lone surrogate,
    a very long text, or (in JSON) deeply nested lists.
    """
    for _ in range(rng.integers(1, 4)):
        value = _changed(value, rng)
    return value


def _changed(value: Any, rng: np.random.Generator) -> Any:
    places = list(_places(value))
    place = places[int(rng.integers(0, len(places)))]
    kind = int(rng.integers(0, 10))
    if kind == 0 and place:
        return _without(value, place)
    if kind == 1 and place and isinstance(place[-1], str):
        renamed = (place[-1] * 2, place[-1].upper(), "\ud800", "")[int(rng.integers(0, 4))]
        kept = _at(value, place)
        return _with(_without(value, place), (*place[:-1], renamed), kept)
    if kind == 2:
        return _with(value, place, [_at(value, place)] * int(rng.integers(1, 4)))
    if kind == 3:
        return _with(value, place, {"x": _at(value, place)})
    if kind == 4:
        other = places[int(rng.integers(0, len(places)))]
        return _with(value, place, _at(value, other))
    return _with(value, place, _WRONG[int(rng.integers(0, len(_WRONG)))])


def _places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every part of a value, the whole included."""
    yield here
    if isinstance(value, dict | list) and len(value) < 1000:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(part, (*here, key))


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _with(value: Any, place: tuple[Any, ...], part: Any) -> Any:
    """A copy of ``value`` with ``part`` at ``place``."""
    if not place:
        return part
    copy = dict(value) if isinstance(value, dict) else list(value)
    inner = copy.get(place[0]) if isinstance(copy, dict) else copy[place[0]]
    copy[place[0]] = _with(inner, place[1:], part)
    return copy


def _without(value: Any, place: tuple[Any, ...]) -> Any:
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(place) == 1:
        del copy[place[0]]
    else:
        copy[place[0]] = _without(copy[place[0]], place[1:])
    return copy


def failures(
    *trials: Trial,
    count: int,
    seed: int = 0,
    seconds: float = SECONDS,
    memory_bytes: int = MEMORY_BYTES,
) -> list[str]:
    """What readers did with damaged input that they must not do, one line each.

    After twenty failures, the remaining inputs are not tried.

    Args:
        trials: functions at the top of an importable module.
        count: damaged inputs for each of them.
        seed: another seed damages in other ways.
        seconds: longest time of the processor that one trial may take.
        memory_bytes: memory that the trials may take beyond that of the imported readers.
    """
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is measured in Linux's /proc")
    tasks = [
        f"{trial.__module__}:{trial.__qualname__} {number} {seed}"
        for trial in trials
        for number in range(count)
    ]
    found: list[str] = []
    while tasks and len(found) < _MOST_REPORTED:
        done, problem = _worked(tasks, seconds, memory_bytes)
        if done < 0:
            return [*found, problem]
        if problem:
            found.append(f"{tasks[done]}: {problem}")
        tasks = tasks[done + 1 :] if problem else tasks[done:]
    return found


def _worked(tasks: list[str], seconds: float, memory_bytes: int) -> tuple[int, str]:
    """How many tasks a new process did before the first problem, and the problem; −1 if the process
    could not start."""
    with (
        tempfile.TemporaryDirectory(prefix="fuzzing-") as base,
        (Path(base) / "stderr").open("w+") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzzing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            env={**os.environ, "DELFJAX_DATA": base, "TMPDIR": base, "JAX_PLATFORMS": "cpu"},
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        given = {
            "tasks": tasks,
            "base": base,
            "seconds": seconds,
            "memory_bytes": memory_bytes,
        }
        worker.stdin.write(json.dumps(given).encode() + b"\n")
        worker.stdin.flush()
        lines = _Lines(worker.stdout)
        # The worker says so once before the first task, and after each task.
        done, limit, problem = -1, _START_SECONDS, ""
        while done < len(tasks) and not problem:
            line = lines.next(limit)
            limit = _WAITING * seconds
            if done < 0 and line != "ok":
                problem = f"the process cannot start: {_end(stderr)}"
            elif line is None or (not line and worker.wait() == -signal.SIGPROF):
                problem = f"takes longer than {seconds:g} s"
            elif line != "ok":
                problem = line or f"ends the process with {worker.wait()}: {_end(stderr)}"
            else:
                done += 1
        worker.kill()
    return done, problem


def _end(stderr: IO[str]) -> str:
    """The last frame of a traceback and its error, in one line."""
    stderr.seek(0)
    frames = stderr.read().rpartition("  File ")[2]
    return ascii(frames[:500])


class _Lines:
    """Lines of a pipe, each awaited for a limited time."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._held = b""

    def next(self, seconds: float) -> str | None:
        """The next line; empty if the pipe was closed, None if the time is over."""
        while b"\n" not in self._held:
            if not select.select([self._stream], [], [], seconds)[0]:
                return None
            piece = os.read(self._stream.fileno(), 65536)
            if not piece:
                return ""
            self._held += piece
        line, _, self._held = self._held.partition(b"\n")
        return line.decode()


def _work() -> None:
    """Run the tasks named on the standard input until one fails, and report each."""
    given = json.loads(sys.stdin.readline())
    base = Path(given["base"]).resolve()
    # Readers may print; the reports have a pipe of their own.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    trials = {task.split()[0]: _trial(task.split()[0]) for task in given["tasks"]}
    watch = _Watch(base)
    sys.dont_write_bytecode = True
    # No trial stops the machine; waiting for the disk would take most of the time.
    os.fsync = lambda _descriptor: None
    sys.addaudithook(watch)
    _limit_address_space(given["memory_bytes"])
    _forget_peak()
    memory = _peak_bytes()
    reports.write("ok\n")
    for task in given["tasks"]:
        name, number, seed = task.split()
        # The signal at the end of this time ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, given["seconds"])
        problem = _tried(trials[name], int(number), int(seed), watch) or watch.problem
        taken = _peak_bytes() - memory
        _forget_peak()
        if not problem and taken > given["memory_bytes"]:
            problem = f"takes {taken >> 20} MB of memory"
        reports.write(f"{problem or 'ok'}\n")
        if problem:
            break


def _tried(trial: Trial, number: int, seed: int, watch: _Watch) -> str:
    """Why one trial failed; empty if it did not."""
    folder = watch.base / "trial"
    folder.mkdir()
    rng = np.random.default_rng([seed, number])
    try:
        watch.awake = True
        trial(rng, folder)
    except DelfjaxError as error:
        return _unclear(error, folder)
    finally:
        watch.awake = False
        shutil.rmtree(folder)
    return ""


def _unclear(error: DelfjaxError, folder: Path) -> str:
    """What is wrong with an error's message; empty if it is one clear line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return "runs out of memory"
        cause = cause.__cause__ or cause.__context__
    message = str(error)
    shown = ascii(message[:200])
    names = [str(folder), *(file.name for file in folder.rglob("*"))]
    if not any(name in message for name in names):
        return f"the error names none of the files: {shown}"
    if not message.isprintable():
        return f"the error is not one line of printable text: {shown}"
    if len(message) > _LONGEST_MESSAGE:
        return f"the error has {len(message)} characters: {shown}"
    return ""


class _Watch:
    """A hook of ``sys.addaudithook`` that notes the first event that no reader may cause."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.awake = False
        self.problem = ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.awake or self.problem:
            return
        if event in _NEVER:
            self.problem = ascii(f"causes {event} {arguments!r:.200}")
        elif event == "open" and arguments[2] & _WRITING:
            self._require_inside(arguments[0], None)
        else:
            for position in _CHANGES.get(event, ()):
                self._require_inside(arguments[position], arguments[-1])

    def _require_inside(self, path: Any, folder: Any) -> None:
        """Note a changed path outside the base; ``folder`` is the descriptor that a relative path
        refers to, if it is not negative."""
        if isinstance(path, int) or os.fspath(path) in (os.devnull, os.devnull.encode()):
            return
        here = Path.cwd()
        if isinstance(folder, int) and folder >= 0:
            here = Path(f"/proc/self/fd/{folder}").readlink()
        if not (here / os.fsdecode(path)).is_relative_to(self.base):
            self.problem = ascii(f"changes {os.fsdecode(path)} outside its folder")


def _limit_address_space(memory_bytes: int) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = taken + _ADDRESS_SPACE * memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _peak_bytes() -> int:
    """Most memory that this process has held at once since :func:`_forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _forget_peak() -> None:
    # Linux: 5 sets the peak to what is held now.
    Path("/proc/self/clear_refs").write_text("5")


def _trial(name: str) -> Trial:
    module, _, function = name.partition(":")
    found: Trial = getattr(importlib.import_module(module), function)
    return found


def _run_one(name: str, number: int, seed: int) -> None:
    """Run one trial in this process, and keep what it wrote."""
    folder = Path(tempfile.mkdtemp(prefix="fuzzing-"))
    print(f"the damaged file is in {folder}")
    print("read:", repr(_trial(name)(np.random.default_rng([seed, number]), folder))[:1000])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _run_one(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    else:
        _work()
