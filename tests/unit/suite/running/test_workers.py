"""Workers: one process for many notebooks, another after one that has ended, and the reason why it
has."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from delfjax.suite.running.workers import LocalWorkers, Worker


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with closing(Worker(tmp_path)) as one:
        yield one


def test_one_process_answers_for_one_notebook_after_another(worker: Worker) -> None:
    process = worker.start()
    assert "presett" in worker.execute("00", {"presett": "ci"})
    assert "unheard_of" in worker.execute("unheard_of", {})
    assert worker.start() is process and process.poll() is None


def test_a_killed_process_is_the_reason_and_the_next_notebook_gets_another(worker: Worker) -> None:
    process = worker.start()
    # Long before it has imported anything.
    threading.Timer(0.2, process.kill).start()
    assert worker.execute("00", {}) == "killed by SIGKILL"
    assert "unheard_of" in worker.execute("unheard_of", {})
    assert worker.start() is not process


def test_what_was_said_of_another_notebook_is_no_reason(worker: Worker) -> None:
    process = worker.start()
    assert process.stdin is not None
    # No JSON: the process ends with a traceback.
    process.stdin.write("nothing\n")
    assert "JSONDecodeError" in worker.execute("00", {})
    process = worker.start()
    threading.Timer(0.2, process.terminate).start()
    assert worker.execute("00", {}) == "killed by SIGTERM"


@pytest.mark.skipif(
    sys.platform != "linux", reason="what a process was started with is read in /proc"
)
def test_workers_that_share_the_processors_divide_the_threads_of_xla(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setattr("delfjax.suite.running.workers.processors", lambda: {0, 1, 2, 3})
    with closing(LocalWorkers(2, shared=True)) as sharing, closing(LocalWorkers(2)) as apart:
        told = [_environment(workers).get("NPROC") for workers in (sharing, apart)]
    assert told == ["2", None]


def _environment(workers: LocalWorkers) -> dict[str, str]:
    process = workers._all[0].start()
    # Empty for as long as the system is putting the program in the place of its parent's.
    while not (content := Path(f"/proc/{process.pid}/environ").read_text()):
        assert process.poll() is None
    return dict(line.split("=", 1) for line in content.split("\0") if line)


def test_workers_that_were_told_to_stop_start_nothing() -> None:
    with closing(LocalWorkers(2)) as workers:
        workers.interrupt()
        assert workers.execute("00", {}) == "interrupted"
