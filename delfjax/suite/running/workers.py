"""Dask workers that execute notebooks: processes of this machine, or those of a scheduler that is
running already.

A worker executes one notebook after another in the same process, for what a runner imports takes
longer than many a notebook. Where workers are processes of this machine, one that dies costs the
run that it was executing, and another takes its place.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import (
    Client,
    Future,
    LocalCluster,
    Worker,
    WorkerPlugin,
    as_completed,
    get_worker,
)
from distributed.comm.addressing import parse_address
from distributed.comm.registry import get_backend
from distributed.scheduler import KilledWorker
from tqdm.auto import tqdm

from delfjax import paths
from delfjax.device import processors
from delfjax.errors import DelfjaxError
from delfjax.suite.running import kernels
from delfjax.suite.running.runner import find_notebook, prepare, run_notebook, say
from delfjax.suite.runs.folders import RunError

# A scheduler is waited for, seconds.
_CONNECT_S = 10
# So is a worker that takes the place of another: it imports for a few, where little else runs.
_REPLACED_S = 300
# Of several processes on the same cores: threads of OpenMP that wait for each other leave these to
# the others. Building an index beside another process takes a third of the time then, alone it
# takes the same. Their kernels import once what all import.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", kernels.CHOICE: kernels.NAME}
_DASK: dict[str, Any] = {
    # Kernels are children of their worker, and a daemon may have none.
    "distributed.worker.daemon": False,
    # A notebook that has taken its worker down would do so again.
    "distributed.scheduler.allowed-failures": 0,
    # A machine that slept or swapped for minutes has not lost its workers.
    "distributed.scheduler.worker-ttl": None,
    # By default Dask limits OpenMP and BLAS to one thread.
    "distributed.nanny.pre-spawn-environ": {},
    # Nothing is shown, and nobody is served.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
}


@dataclass(frozen=True)
class Call:
    """A notebook to execute.

    Attributes:
        notebook: its file, or the beginning of its name.
        parameters: by name; what is left out has its default.
        needs: names of the calls that go first.
        fresh: execute it even if its run is finished.
    """

    notebook: str
    parameters: Mapping[str, Any]
    needs: frozenset[str] = frozenset()
    fresh: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        problem: what went wrong, or nothing.
        executed: whether the notebook was executed; it is not if its run was finished, for
            instance by another process meanwhile.
    """

    problem: str = ""
    executed: bool = True


@dataclass(frozen=True)
class Workers:
    """Workers that are ready to execute notebooks.

    Attributes:
        client: connected to their scheduler.
        count: how many there are, each for one notebook at a time; ``None`` where the scheduler
            decides.
    """

    client: Client
    count: int | None = None

    def execute(self, call: Call) -> str:
        """Execute one notebook; returns what went wrong, or nothing."""
        ((_, outcome),) = self.execute_all({"": call})
        return outcome.problem

    def execute_all(
        self,
        calls: Mapping[str, Call],
        *,
        on_start: Callable[[Sequence[str]], None] = lambda names: None,
    ) -> Iterator[tuple[str, Outcome]]:
        """Execute notebooks, each after those it needs, and as many at once as there are workers.

        Args:
            calls: name → call, each after those it needs; of those that can start, the first do.
            on_start: is called with the names of all that run, before each wait for one to end.

        A line on standard error says for which process a call waits that makes the same run.

        Yields:
            The name of each call as it ends, and how it ended. A call that needs one that failed is
            not executed, and says so.

        Raises:
            RunError: the scheduler is no longer there, or a worker that died cannot be replaced.
        """
        self.client.subscribe_topic(_topic(self.client), lambda event: say(event[1]))
        waiting = dict(calls)
        running: dict[Future[Outcome], str] = {}
        ended = as_completed(loop=self.client.loop)
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            ready = [name for name, call in waiting.items() if not call.needs & unfinished]
            for name in ready[: self._idle(len(running))]:
                future = self._submit(waiting.pop(name))
                running[future] = name
                ended.add(future)
            on_start(list(running.values()))
            future = next(ended)
            name = running.pop(future)
            outcome = _outcome(future)
            yield name, outcome
            for other in _dependents(name, waiting) if outcome.problem else ():
                del waiting[other]
                yield other, Outcome(f"not run, because {name} failed", executed=False)

    def _submit(self, call: Call) -> Future[Outcome]:
        arguments = (call, str(paths.data_root()), _topic(self.client))
        return self.client.submit(_execute, *arguments, pure=False)

    def _idle(self, busy: int) -> int | None:
        """How many more notebooks the workers can take now; ``None`` is any number.

        Dask would hand out all that is ready at once, and with a worker that dies lose what still
        waits for it.
        """
        if self.count is None:
            return None
        # Another takes the place of one that has died.
        try:
            self.client.wait_for_workers(self.count, timeout=_REPLACED_S)
        except TimeoutError:
            raise RunError(
                f"no worker has taken the place of one that died {_REPLACED_S} s ago"
            ) from None
        return self.count - busy


@contextmanager
def local_workers(count: int, *, shared: bool = False) -> Iterator[Workers]:
    """Workers that are processes of this machine, for as long as the block lasts.

    Each is a fresh interpreter: a script that calls this needs the usual ``if __name__ ==
    "__main__":``.

    Args:
        count: how many.
        shared: every worker may use every processor, and only the threads of XLA are divided among
            them; by default the processors are.
    """
    with ExitStack() as stack:
        with _undisturbed():
            stack.enter_context(_silence())
            stack.enter_context(dask.config.set(_DASK))
            cluster = stack.enter_context(_cluster(count))
            client = stack.enter_context(Client(cluster, set_as_default=False))
            # Where this was stopped, a notebook that still runs may have hours to go.
            stack.callback(cluster.sync, _stop, cluster)
            client.register_plugin(_Share(count, shared=shared))
        try:
            yield Workers(client, count)
        finally:
            with _undisturbed():
                stack.close()


@contextmanager
def workers_of(scheduler: str) -> Iterator[Workers]:
    """The workers of a Dask scheduler that is running already; they must share the data root.

    Args:
        scheduler: its address, ``"tcp://host:8786"``.

    Raises:
        RunError: it cannot be reached.
    """
    with _silence():
        try:
            # A client of an unknown kind of address cannot be closed: Python would say so at exit.
            get_backend(parse_address(scheduler)[0])
            client = Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise RunError(f"scheduler {scheduler!r} cannot be reached: {error}") from None
        with client:
            yield Workers(client)


def _cluster(workers: int) -> LocalCluster:
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        # No port that another program may want.
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        memory_limit=None,
        silence_logs=logging.CRITICAL,
    )


class _Share(WorkerPlugin):
    """What each worker of this machine starts with, and whichever takes its place: its processors
    and its environment."""

    name = "delfjax"

    def __init__(self, workers: int, *, shared: bool) -> None:
        everything = sorted(processors())
        self.environment = dict(_ENVIRONMENT)
        self.processors = [everything] * workers
        if shared:
            # XLA divides even the small arrays of a renderer among its threads, which costs more
            # than it gains while every processor has work: 0.16 s of a processor for a photograph
            # in place of 0.08.
            self.environment["NPROC"] = str(max(1, len(everything) // workers))
        else:
            self.processors = [everything[place::workers] or everything for place in range(workers)]

    def setup(self, worker: Worker) -> None:
        """Called in a worker before its first notebook."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        if sys.platform == "linux":
            # Kernels inherit it, and every pool of threads is made as large as this.
            os.sched_setaffinity(0, self.processors[worker.name])
        # tqdm's own lock is a semaphore of the system, which would outlive a worker that is killed.
        tqdm.set_lock(threading.RLock())


def _topic(client: Client) -> str:
    """Name of the events that carry lines of workers to the client that they work for."""
    return f"delfjax-{client.id}"


def _execute(call: Call, data_root: str, topic: str) -> Outcome:
    """Execute a notebook in this worker."""
    # Its kernel inherits it.
    os.environ["DELFJAX_DATA"] = data_root
    announce = partial(get_worker().log_event, topic)
    try:
        job = prepare(find_notebook(call.notebook), call.parameters)
        executed = run_notebook(job, fresh=call.fresh, progress=False, announce=announce)
    except DelfjaxError as error:
        return Outcome(str(error))
    return Outcome(executed=executed)


def _outcome(future: Future[Outcome]) -> Outcome:
    if future.cancelled():
        raise RunError("the scheduler is no longer there; runs that were finished are kept")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        return Outcome("the worker that executed it died: out of memory, or killed")
    return Outcome(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def _dependents(name: str, calls: Mapping[str, Call]) -> list[str]:
    """Names of the calls that need ``name``, directly or by way of others, in their order."""
    lost = {name}
    for other, call in calls.items():
        if call.needs & lost:
            lost.add(other)
    return [other for other in calls if other in lost]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait until the block is over, and keep it from the processes started within.

    It reaches every process of a terminal, but only this one knows what to do about it.
    """
    # Started within, it would have the signal come through again.
    resource_tracker.ensure_running()
    received: list[int] = []
    heard = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    )
    # Threads and processes inherit which signals they are spared.
    spared = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # Threads that were there before are not spared; Python tells the main one.
    before = signal.signal(signal.SIGINT, lambda *_: received.append(1)) if heard else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, spared)
        if heard:
            signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what Dask logs off the terminal: each run says itself how it ended.

    ``silence_logs`` of a cluster does not, where the root logger has handlers, as in many a kernel.
    """
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


async def _stop(cluster: LocalCluster) -> None:
    """End all workers without waiting for their notebooks; their kernels end with them."""
    for nanny in cluster.workers.values():
        # No other shall take its place.
        nanny.close_gracefully()
        if nanny.pid is not None:
            os.kill(nanny.pid, signal.SIGKILL)
