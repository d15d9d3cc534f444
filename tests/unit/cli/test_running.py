"""Every expected failure of a command is one line; a fault of the library keeps its traceback."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from delfjax.cli import main
from delfjax.cli.commands import COMMANDS
from delfjax.cli.datasets import List
from delfjax.cli.groups import parse
from delfjax.cli.photos import Extract
from delfjax.errors import DelfjaxError

ROOT = Path(__file__).resolve().parents[3]


def ending_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Callable[[], int]:
    """A command that fails with ``error``."""

    def run(_: List) -> None:
        raise error

    monkeypatch.setattr(List, "run", run)
    return lambda: main(["datasets", "list"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DelfjaxError("a\x1b[2J\nb: bad"), r"a\x1b[2J\nb: bad"),
        (PermissionError(13, "Permission denied", "dir/\x07x"), r"dir/\x07x: Permission denied"),
        (OSError(5, "Input/output error"), "system: Input/output error"),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory: Unable to allocate 9 GiB"),
        (MemoryError(), "out of memory"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "text that cannot be decoded"),
    ],
)
def test_a_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    assert ending_with(monkeypatch, error)() == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"delfjax: {line}") and said.err.count("\n") == 1 and not said.out


def test_a_current_folder_that_was_deleted_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["search", "index", "query.jpg", "--figure", "found.png"]) == 1
    said = capsys.readouterr().err
    assert said == "delfjax: the current folder: No such file or directory\n"


def test_details_of_an_error_have_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = DelfjaxError("two things", details=["one\n", "other"])
    assert str(error) == "two things\none\n\nother"
    assert ending_with(monkeypatch, error)() == 1
    assert capsys.readouterr().err == "delfjax: two things\none\\n\nother\n"


def test_a_traceback_is_shown_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DELFJAX_DEBUG", "1")
    assert ending_with(monkeypatch, DelfjaxError("bad input"))() == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("\ndelfjax: bad input\n")


def test_a_fault_of_the_library_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError, match="slip"):
        ending_with(monkeypatch, KeyError("slip"))()


def test_an_interrupt_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending_with(monkeypatch, KeyboardInterrupt())() == 130
    assert capsys.readouterr().err == "delfjax: interrupted; the same command resumes\n"


def test_a_warning_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: List) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("mind\nthe gap", stacklevel=1)

    monkeypatch.setattr(List, "run", run)
    assert main(["datasets", "list"]) == 0
    assert capsys.readouterr().err == "delfjax: mind\\nthe gap\n"


@pytest.mark.parametrize("words", ["--help", "train --help"])
def test_a_reader_who_leaves_is_no_failure(words: str) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "delfjax.cli", *words.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert started.stdout is not None and started.stderr is not None
    started.stdout.close()
    assert started.stderr.read() == b"" and started.wait() == 141
    started.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_on_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "delfjax.cli", "--version"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"delfjax: standard output: No space left on device\n"


def extract(*words: str) -> Extract:
    command = parse(["extract", *words], COMMANDS, prog="delfjax")
    assert isinstance(command, Extract)
    return command


def test_the_home_folder_is_found_in_every_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    command = extract("~", "--store=~/s", "--set", "model=~/m", "--set=scorer.weights=~/w")
    assert (command.photos, command.store) == (tmp_path, tmp_path / "s")
    assert command.overrides == (f"model={tmp_path}/m", f"scorer.weights={tmp_path}/w")
    assert extract("a~/b", "--store", "~nobody-here/s").photos == Path("a~/b")
    assert extract("a", "--store", "~nobody-here/s").store == Path("~nobody-here/s")


@pytest.mark.parametrize(
    "words", [[""], ["a", "--store", ""], ["a", "--store="], ["a", "--set", ""]]
)
def test_an_empty_word_is_refused(words: list[str]) -> None:
    with pytest.raises(DelfjaxError, match="is empty"):
        extract(*words)
