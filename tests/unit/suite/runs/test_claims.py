"""Several processes and one run: one makes it, the others take it, and whoever is killed or fails,
the earlier run or the new one is there and whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from delfjax.suite.runs import claims, folders
from delfjax.suite.runs.folders import (
    FinishedRun,
    RunError,
    finished_run,
    finished_runs,
    is_settled,
    making,
    run_path,
    start_run,
)
from tests.kills import ROOT, kill_at_every_step

CONFIG: dict[str, Any] = {"seed": 3, "search": {"neighbours": 7}}
# What another process does before the rest of its script; its imports take most of a second.
PRELUDE = f"""
import os, sys, time
from pathlib import Path
from delfjax.suite.runs import claims, folders
from delfjax.suite.runs.folders import making, run_path, start_run
folders.provenance = lambda *parts, **more: {{}}
CONFIG = {CONFIG!r}

class Figure:
    def savefig(self, stream, /, *, format):
        stream.write(b"a picture" * 100)

def make(value, **options):
    run = start_run("20_example", CONFIG, **options)
    run.save_query_scores("AP", {{"a.jpg": float(value)}})
    (run.path / "store").mkdir(exist_ok=True)
    (run.path / "store" / "shard").write_bytes(b"content")
    run.save_figure("scores", Figure())
    run.finish({{"value": value}})

def make_alone(value, *, fresh=False):
    with making(run_path("20_example", CONFIG), fresh=fresh, on_wait=len) as needed:
        if needed:
            make(value)
    return needed
"""


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The data root, a folder of its own within the folder of the test."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("DELFJAX_DATA", str(place))
    monkeypatch.setattr(folders, "provenance", lambda *parts, **more: {})
    return place


@pytest.fixture
def path(place: Path) -> Path:
    assert place.is_dir()
    return run_path("20_example", CONFIG)


@contextmanager
def process(script: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, which answers on its standard output."""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        try:
            yield other
        finally:
            other.kill()


def heard(other: subprocess.Popen[str]) -> str:
    assert other.stdout is not None
    return other.stdout.readline().strip()


def resume(other: subprocess.Popen[str]) -> None:
    assert other.stdin is not None
    other.stdin.write("\n")
    other.stdin.flush()


def make(value: int) -> FinishedRun:
    return start_run("20_example", CONFIG).finish({"value": value})


def value() -> object:
    return finished_run("20_example", CONFIG).results["value"]


@pytest.mark.parametrize("fresh", [False, True])
def test_the_second_waits_says_for_whom_and_takes_the_result_unless_it_is_to_be_fresh(
    path: Path, fresh: bool
) -> None:
    first = """
with making(run_path("20_example", CONFIG), fresh=False, on_wait=print):
    print("started", flush=True)
    sys.stdin.readline()
    make(1)
"""
    holders: list[str] = []
    with process(first) as other:
        assert heard(other) == "started"

        def on_wait(holder: str) -> None:
            holders.append(holder)
            resume(other)

        with making(path, fresh=fresh, on_wait=on_wait) as needed:
            assert needed == fresh and value() == 1
            if needed:
                make(2)
        assert other.wait() == 0
    assert len(holders) == 1 and holders[0].startswith(f"process {other.pid} on ")
    assert value() == (2 if fresh else 1) and is_settled(path)


def test_a_notebook_that_still_writes_after_its_runner_was_killed_is_waited_for(
    path: Path,
) -> None:
    orphan = """
run = start_run("20_example", CONFIG)
print("started", flush=True)
sys.stdin.readline()
run.finish({"value": 1})
"""
    with process(orphan) as other:
        assert heard(other) == "started"
        with making(path, fresh=False, on_wait=lambda holder: resume(other)) as needed:
            assert not needed
    assert value() == 1


def test_of_many_processes_at_once_one_makes_the_run_and_none_fails(path: Path) -> None:
    crowd = """
for _ in range(6):
    if os.fork() == 0:
        for _ in range(5):
            time.sleep(0.01 * (os.getpid() % 7))
            os.write(1, b"made\\n" if make_alone(1) else b"taken\\n")
        os._exit(0)
codes = [os.wait()[1] for _ in range(6)]
print(codes)
"""
    with process(crowd) as other:
        said = other.communicate()[0].splitlines()
    assert said[-1] == str([0] * 6)
    assert said.count("made") == 1 and said.count("taken") == 29
    assert value() == 1 and is_settled(path)


def test_a_failure_leaves_the_run_of_another_process_finished(path: Path) -> None:
    by_hand = """
run = start_run("20_example", CONFIG)
print("started", flush=True)
sys.stdin.readline()
run.finish({"value": 1})
print("finished", flush=True)
"""
    with process(by_hand) as other:
        with (
            pytest.raises(RunError, match="no more"),
            making(path, fresh=False, on_wait=lambda holder: None),
        ):
            assert heard(other) == "started"
            raise RunError("no more")
        resume(other)
        assert heard(other) == "finished"
    assert value() == 1


def test_a_finished_run_that_is_started_again_by_hand_at_once_was_finished(path: Path) -> None:
    make(1)
    with making(path, fresh=True, on_wait=lambda holder: None):
        before = claims.stamp(path)
        make(2)
        # As in an editor, while the cells after the last one of the run are executed.
        again = start_run("20_example", CONFIG)
        assert claims.stamp(path) not in (None, before)
    assert value() == 2 and not is_settled(path)
    again.finish({"value": 3})
    assert value() == 3 and is_settled(path)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fresh_run_that_fails_before_or_after_its_end_leaves_the_earlier_one(
    path: Path, when: str
) -> None:
    make(1)
    with (
        pytest.raises(KeyError),
        making(path, fresh=True, on_wait=lambda holder: None) as needed,
    ):
        assert needed
        run = start_run("20_example", CONFIG)
        if when == "after":
            run.finish({"value": 2})
        else:
            # The kernel of a notebook ends when a cell has failed.
            claims.stop_writing(path)
        raise KeyError("a figure")
    assert value() == 1 and len(finished_runs("20_example")[0]) == 1
    with making(path, fresh=False, on_wait=lambda holder: None) as needed:
        assert not needed
    assert value() == 1 and is_settled(path)
    assert finished_run("20_example", CONFIG).path == path


def test_a_damaged_run_is_made_again_and_never_kept_as_the_earlier_one(path: Path) -> None:
    (make(1).path / "results.json").write_text("{}")
    with (
        pytest.raises(KeyError),
        making(path, fresh=False, on_wait=lambda holder: None) as needed,
    ):
        assert needed
        raise KeyError("before the start")
    with pytest.raises(RunError, match="no finished run"):
        value()
    with making(path, fresh=False, on_wait=lambda holder: None) as needed:
        assert needed
        make(2)
    assert value() == 2


KILLED_LATE = """
import signal
with making(run_path("20_example", CONFIG), fresh={fresh}, on_wait=len) as needed:
    assert needed
    make({value})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_late(value: int, *, fresh: bool = False) -> None:
    """Kill a process that executes a notebook which has finished its run, but not yet ended."""
    with process(KILLED_LATE.format(fresh=fresh, value=value)) as other:
        assert other.wait() == -signal.SIGKILL


def test_a_run_whose_notebook_was_killed_after_the_finish_is_read_until_it_is_made_again(
    path: Path,
) -> None:
    kill_late(1)
    assert value() == 1 and not is_settled(path)
    with (
        pytest.raises(KeyError),
        making(path, fresh=False, on_wait=lambda holder: None) as needed,
    ):
        assert needed and value() == 1
        make(2)
        raise KeyError("a figure")
    assert value() == 1 and not is_settled(path)
    with making(path, fresh=False, on_wait=lambda holder: None) as needed:
        assert needed
        make(3)
    assert value() == 3 and is_settled(path)
    assert not (path / claims.EXECUTING).exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_an_earlier_run_is_preferred_to_one_that_was_killed_after_the_finish(
    path: Path, fresh: bool
) -> None:
    with making(path, fresh=False, on_wait=lambda holder: None):
        make(1)
    kill_late(2, fresh=True)
    with (
        pytest.raises(KeyError) if fresh else nullcontext(),
        making(path, fresh=fresh, on_wait=lambda holder: None) as needed,
    ):
        assert needed == fresh and value() == 1
        if needed:
            raise KeyError("a figure")
    assert value() == 1 and is_settled(path) != fresh


def test_a_run_made_by_hand_after_a_killed_one_counts_as_made(path: Path) -> None:
    kill_late(1)
    make(2)
    assert value() == 2 and is_settled(path)


def check_either() -> None:
    """The earlier run or the new one is read, and so are its scores."""
    (run,), problems = finished_runs("20_example")
    assert not problems and run.results == finished_run("20_example", CONFIG).results
    assert run.query_scores()["AP"]["a.jpg"] == run.results["value"] in (1, 2)
    assert (run.path / "store" / "shard").read_bytes() == b"content"


def check_nothing_or_new() -> None:
    assert [run.results for run in finished_runs("20_example")[0]] in ([], [{"value": 2}])


def make_the_first() -> None:
    with process("make(1)") as other:
        assert other.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "action", ["make_alone(2, fresh=True)", "make(2)"], ids=["runner", "by hand"]
)
def test_killed_at_any_step_a_run_made_again_leaves_the_earlier_one_or_the_new_one(
    place: Path, action: str
) -> None:
    make_the_first()
    assert kill_at_every_step(
        place, setup=PRELUDE, action=action, check=check_either, size_limits=(0, 1, 100)
    )


@pytest.mark.slow
@pytest.mark.parametrize("action", ["make_alone(2)", "make(2, resume=True)"])
def test_killed_at_any_step_a_new_run_is_absent_or_whole(place: Path, action: str) -> None:
    # Once a run was made again, this folder stays.
    (place / "runs" / ".earlier" / "20_example").mkdir(parents=True)
    assert kill_at_every_step(
        place, setup=PRELUDE, action=action, check=check_nothing_or_new, size_limits=(0, 1, 100)
    )


@pytest.mark.slow
def test_the_next_run_clears_away_what_a_killed_fresh_one_left(place: Path, path: Path) -> None:
    make_the_first()
    whole = {file.relative_to(path) for file in path.rglob("*")}

    def settle() -> None:
        with making(path, fresh=False, on_wait=lambda holder: None) as needed:
            assert not needed
        check_either()
        assert {file.relative_to(path) for file in path.rglob("*")} == whole
        assert finished_run("20_example", CONFIG).path == path and is_settled(path)
        assert not list((place / "runs" / ".earlier" / "20_example").glob("*"))

    assert kill_at_every_step(
        place,
        setup=PRELUDE,
        action="make_alone(2, fresh=True)",
        check=settle,
        size_limits=(0, 1, 100),
    )


def test_a_figure_on_a_full_disk_is_named_and_leaves_no_temporary_file(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    class Large:
        def savefig(self, stream: BinaryIO, /, *, format: str) -> None:
            assert format == "png"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = start_run("20_example", CONFIG)
    with pytest.raises(OSError, match=r"No space left .*figures/map\.png'"):
        run.save_figure("map", Large())
    assert not list((path / "figures").iterdir())


def test_a_start_that_fails_leaves_the_folder_to_others(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"config.json cannot be written: No space left"):
            start_run("20_example", CONFIG)
    holders: list[str] = []
    with making(path, fresh=False, on_wait=holders.append) as needed:
        assert needed and not holders
        make(4)
    assert value() == 4
