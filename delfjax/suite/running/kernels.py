"""Kernels that are forked from a process which has imported already what the notebooks of the suite
import.

A notebook's imports and the start of its kernel take six seconds where another runs beside it, more
than many of the notebooks take themselves. Jupyter finds :class:`ForkedKernel` by its entry point,
under :data:`NAME`; the environment variable :data:`CHOICE` chooses it for every kernel that a
process starts. No device is started before the fork; what a module reads from the environment when
it is imported, as JAX does, is what the first kernel of the process was started with.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

NAME, CHOICE = "delfjax-forked", "JUPYTER_DEFAULT_PROVISIONER_NAME"
# What follows from these modules is nearly everything that a notebook imports. The runner is what
# many a parent began with, and a child looks at that once more.
_IMPORTED = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "delfjax.plots.charts",
    "delfjax.plots.photographs",
    "delfjax.pipeline.many_systems",
    "delfjax.pipeline.photos",
    "delfjax.suite.running.runner",
    "delfjax.suite.data",
    "delfjax.suite.trained_stages",
)
_LAUNCHER = ("-m", "ipykernel_launcher")


class ForkedKernel(LocalProvisioner):
    """Starts Python kernels of this interpreter by a fork, and any other as Jupyter does."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel; its process group is its own."""
        python, *words = cmd
        known = (
            os.path.realpath(python) == os.path.realpath(sys.executable)
            and tuple(words[:2]) == _LAUNCHER
        )
        # A daemon, as Dask's workers are by default, may have no such children.
        may_fork = (
            "forkserver" in multiprocessing.get_all_start_methods()
            and not multiprocessing.current_process().daemon
        )
        if not known or not may_fork:
            return await super().launch_kernel(cmd, **kwargs)
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(list(_IMPORTED))
        place = os.fspath(kwargs.get("cwd") or os.getcwd())
        environment = dict(kwargs.get("env") or os.environ)
        # A daemon is what is ended, not waited for, when this process ends before it.
        process = server.Process(target=_serve, args=(words[2:], place, environment), daemon=True)
        process.start()
        self.process = _Started(process)  # type: ignore[assignment]  # all that Jupyter asks of one
        self.pid = self.pgid = process.pid
        self.cwd = place
        return self.connection_info


class _Started:
    """A process as Jupyter wants it: as if it were :class:`subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process

    def poll(self) -> int | None:
        """Exit code, ``None`` while it runs."""
        return self._process.exitcode

    def wait(self) -> int | None:
        """Exit code, once there is one."""
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        if self._process.pid is not None and self._process.exitcode is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def terminate(self) -> None:
        """Ask the process to end."""
        self._process.terminate()


def _serve(words: Sequence[str], place: str, environment: dict[str, str]) -> None:
    """Be the kernel, in the child."""
    os.setsid()
    multiprocessing.current_process().daemon = False  # a notebook may have processes of its own
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    from ipykernel.kernelapp import launch_new_instance  # noqa: PLC0415 - its import is what the parent has done

    # The kernel ends with the process that all are forked from, and with the one that asked for it:
    # the first may outlive that one, for it stays as long as it has kernels.
    threading.Thread(
        target=_end_with, args=(multiprocessing.parent_process(),), daemon=True
    ).start()
    launch_new_instance([*words, f"--IPKernelApp.parent_handle={os.getppid()}"])


def _end_with(parent: multiprocessing.process.BaseProcess | None) -> None:
    """End this process as soon as ``parent`` has ended, however it did."""
    if parent is not None:
        parent.join()
        os._exit(1)
