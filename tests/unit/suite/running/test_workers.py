"""Workers: one process for many notebooks, another after one that has died, and all of them at an
end when they are told to stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from delfjax.suite.running import kernels, workers
from delfjax.suite.running.runner import find_notebook, prepare
from delfjax.suite.running.workers import Call, Outcome, Workers, _outcome, _Share, local_workers
from delfjax.suite.runs import claims
from delfjax.suite.settings import photo_experiment

UNKNOWN = Call("unheard_of", {})


@pytest.fixture(autouse=True)
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))


@pytest.fixture
def worker() -> Iterator[Workers]:
    with local_workers(1) as workers:
        yield workers


def processes(workers: Workers) -> list[int]:
    return list(workers.client.run(os.getpid).values())


def problems_of(ended: Iterator[tuple[str, Outcome]]) -> dict[str, str]:
    return {name: outcome.problem for name, outcome in ended}


def listening() -> set[str]:
    """Where this process waits for others: addresses and ports as Linux lists them."""
    links = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    return {line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in links}


def runs(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_process_answers_for_one_notebook_after_another(worker: Workers) -> None:
    before = processes(worker)
    assert "presett" in worker.execute(Call("00", {"presett": "ci"}))
    assert "unheard_of" in worker.execute(UNKNOWN)
    assert processes(worker) == before


def test_a_worker_that_is_killed_costs_its_own_run_and_is_replaced(worker: Workers) -> None:
    (killed,) = processes(worker)

    def kill(names: Sequence[str]) -> None:
        """While the worker still imports what a notebook needs."""
        if names == ["killed"]:
            while not any(worker.client.processing().values()):
                time.sleep(0.05)
            os.kill(killed, signal.SIGKILL)

    calls = {"killed": Call("00", {}), "next": UNKNOWN}
    problems = problems_of(worker.execute_all(calls, on_start=kill))
    assert problems["killed"] == "the worker that executed it died: out of memory, or killed"
    assert "unheard_of" in problems["next"]
    assert processes(worker) != [killed]


def test_an_error_that_nobody_foresaw_is_the_reason(worker: Workers) -> None:
    future = worker.client.submit(int, "many\nlines", pure=False)
    problem = r"ValueError: invalid literal for int() with base 10: 'many\nlines'"
    assert _outcome(future) == Outcome(problem)


def test_what_reads_a_run_that_failed_is_not_run_and_the_others_are(worker: Workers) -> None:
    calls = {
        "first": UNKNOWN,
        "other": UNKNOWN,
        "second": Call("unheard_of", {}, frozenset({"first"})),
        "third": Call("unheard_of", {}, frozenset({"second"})),
    }
    seen: list[list[str]] = []
    problems = problems_of(
        worker.execute_all(calls, on_start=lambda names: seen.append(list(names)))
    )
    assert "no notebook is called 'unheard_of'" in problems["first"]
    assert "no notebook is called 'unheard_of'" in problems["other"]
    reason = "not run, because first failed"
    assert problems["second"] == problems["third"] == reason
    assert seen == [["first"], ["other"]]


def test_a_run_that_another_process_makes_is_waited_for_and_taken(
    worker: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(find_notebook("41"), {"seed": 5})
    lines: list[str] = []
    with ExitStack() as held:
        held.enter_context(claims.executing(job.path, on_wait=lines.append))

        def finish(line: str) -> None:
            lines.append(line)
            photo_experiment("ci", 5).start("41_search_and_verify").finish({"value": 1})
            held.close()

        monkeypatch.setattr(workers, "say", finish)
        ((_, outcome),) = worker.execute_all({"": Call("41", {"seed": 5})})
    assert outcome == Outcome(executed=False) and job.finished
    me = f"process {os.getpid()} on {socket.gethostname()}"
    assert lines == [f"41_search_and_verify: {me} is making {job.path}; waiting for it"]


@pytest.mark.skipif(sys.platform != "linux", reason="processors are assigned on Linux alone")
def test_workers_divide_the_processors_and_listen_on_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = listening()
    with local_workers(2) as workers:
        shares = list(workers.client.run(os.sched_getaffinity, 0).values())
        (told, _) = workers.client.run(lambda: dict(os.environ)).values()
        ports = [listening() - before, *workers.client.run(listening).values()]
    everything = os.sched_getaffinity(0)
    assert set.union(*shares) == everything
    assert len(everything) < 2 or not set.intersection(*shares)
    assert told["OMP_WAIT_POLICY"] == "PASSIVE" and told[kernels.CHOICE] == kernels.NAME
    assert "OMP_NUM_THREADS" not in told and "NPROC" not in told
    # 127.0.0.1, its bytes in reverse.
    assert all(ports) and all(one.startswith("0100007F:") for found in ports for one in found)


def test_workers_that_share_the_processors_divide_the_threads_of_xla(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("delfjax.suite.running.workers.processors", lambda: {0, 1, 2, 3})
    sharing, apart = _Share(2, shared=True), _Share(2, shared=False)
    assert sharing.environment["NPROC"] == "2" and "NPROC" not in apart.environment
    assert sharing.processors == [[0, 1, 2, 3]] * 2 and apart.processors == [[0, 2], [1, 3]]


def test_workers_that_are_told_to_stop_do_not_finish_what_they_execute() -> None:
    with pytest.raises(KeyboardInterrupt), local_workers(2) as workers:
        pids = processes(workers)
        running = [workers.client.submit(time.sleep, 600, pure=False) for _ in pids]
        while sum(map(len, workers.client.processing().values())) < len(running):
            time.sleep(0.1)
        raise KeyboardInterrupt
    assert not [pid for pid in pids if runs(pid)]
