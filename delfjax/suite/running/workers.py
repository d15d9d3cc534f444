"""Processes that execute notebooks: each one after another, for what a runner imports takes longer
than many a notebook."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from delfjax import paths
from delfjax.device import processors
from delfjax.suite.running import kernels

# Of several processes on the same cores: threads of OpenMP that wait for each other leave these to
# the others. Building an index beside another process takes a third of the time then, alone it
# takes the same. Their kernels import once what all import.
_SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", kernels.CHOICE: kernels.NAME}


class Worker:
    """A process of its own for notebooks; it starts with the first, and again after one that it did
    not survive."""

    def __init__(
        self, data_root: Path, *, processors: Iterable[int] = (), threads: int = 0
    ) -> None:
        """Nothing is started yet.

        Args:
            data_root: where runs lie.
            processors: those that the process may use; all of them when there is none.
            threads: of XLA, as many as processors when 0.
        """
        self._data_root, self._processors, self._threads = data_root, sorted(processors), threads
        self._process: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker

    def start(self) -> subprocess.Popen[str]:
        """The process, started where it does not run."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            words = [
                sys.executable,
                "-m",
                "delfjax.suite.running.runner",
                *map(str, self._processors),
            ]
            environment = {
                **_SETTINGS,
                **self._shares(),
                **os.environ,
                "DELFJAX_DATA": str(self._data_root),
            }
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                words, env=environment, stdin=pipe, stdout=pipe, stderr=self._said, text=True
            )
        return self._process

    def execute(self, notebook: str, parameters: Mapping[str, Any]) -> str:
        """Execute one notebook, a file or the beginning of its name; returns what went wrong, or
        nothing."""
        process = self.start()
        # The process writes where this file ends: what it said of the notebooks before is no reason
        # for how this one goes.
        self._said.seek(0)
        self._said.truncate()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps([notebook, dict(parameters)]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return str(json.loads(answer)) if answer else self._last_word()

    def interrupt(self) -> None:
        """Tell the process to stop what it does."""
        # Another thread may be waiting for its end.
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End the process once it has nothing to do."""
        self._end()
        self._said.close()

    def _shares(self) -> dict[str, str]:
        # XLA divides even the small arrays of a renderer among its threads, which costs more than
        # it gains while every processor has work: 0.16 s of a processor for a photograph in place
        # of 0.08.
        return {"NPROC": str(self._threads)} if self._threads else {}

    def _end(self) -> int:
        """Wait for the end of the process, which gets no more notebooks; returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.communicate()
        return process.returncode

    def _last_word(self) -> str:
        """Why the process has ended."""
        code = self._end()
        self._said.seek(0)
        lines = [line for line in self._said.read().splitlines() if line.strip()]
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return lines[-1] if lines else "ended without a word"


class LocalWorkers:
    """The processes of this machine, which can all be told to stop."""

    def __init__(self, workers: int, *, shared: bool = False) -> None:
        """Divide the processors among ``workers``, or, when they are ``shared``, only the threads
        of XLA."""
        everything = sorted(processors())
        shares = [
            () if shared else everything[number::workers] or everything for number in range(workers)
        ]
        threads = max(1, len(everything) // workers) if shared else 0
        self._all = [
            Worker(paths.data_root(), processors=share, threads=threads) for share in shares
        ]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)
        self._lock, self._stopped = threading.Lock(), False

    def execute(self, notebook: str, parameters: Mapping[str, Any]) -> str:
        """Like :meth:`Worker.execute`, when and where one of the workers is free."""
        worker = self._idle.get()
        try:
            with self._lock:
                if self._stopped:
                    return "interrupted"
                worker.start()
            return worker.execute(notebook, parameters)
        finally:
            self._idle.put(worker)

    def interrupt(self) -> None:
        """Tell every process to stop, and start no other."""
        with self._lock:
            self._stopped = True
        for worker in self._all:
            worker.interrupt()

    def close(self) -> None:
        """End all processes."""
        for worker in self._all:
            worker.close()


def execute_in_process(notebook: str, parameters: Mapping[str, Any], *, data_root: Path) -> str:
    """Like :meth:`Worker.execute`, in a process that ends with the notebook."""
    with closing(Worker(data_root)) as worker:
        return worker.execute(notebook, parameters)
