"""Kernels that are forked: imported beforehand, with the surroundings asked for, and ended like any
other."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from delfjax.suite.running import kernels

# In a process of its own, as a worker is: how kernels start is chosen once for a process.
_ASKED = """
import asyncio, json, os, sys
from jupyter_client.manager import start_new_async_kernel

TEXT = '''
import json, multiprocessing, os, sys
with multiprocessing.get_context("fork").Pool(1) as pool:
    of_a_child = pool.apply(abs, (-1,))
identity = [os.getpid(), os.getppid()]
print(json.dumps([identity, os.getcwd(), os.environ["ASKED"], "flax" in sys.modules, of_a_child]))
'''

async def told():
    environment = {**os.environ, "ASKED": "yes"}
    manager, client = await start_new_async_kernel(
        cwd=sys.argv[1], env=environment, extra_arguments=["--log-level=ERROR"]
    )
    said = []
    keep = lambda message: said.append(message["content"].get("text", ""))
    await client.execute_interactive(TEXT, output_hook=keep)
    client.stop_channels()
    print("".join(said).strip(), flush=True)
    return manager

async def main():
    first, second = await told(), await told()
    await first.shutdown_kernel(now=True)

asyncio.run(main())  # and one kernel is left to itself
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""
# Seconds that processes may take to notice that the one is gone which asked for them.
_NOTICED = 10.0


def _running(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and was not asked for its exit
    code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
@pytest.mark.parametrize("how", ["returned", "killed"])
def test_kernels_are_forked_where_and_with_what_was_asked_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv(kernels.CHOICE, kernels.NAME)
    command = [sys.executable, "-c", _ASKED, str(tmp_path), how]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == {"returned": 0, "killed": -9}[how]
    found: list[list[Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    pids = {pid for both, *_ in found for pid in both}
    assert len(pids) == 3  # two kernels, and the process that both are forked from
    assert [rest for _, *rest in found] == [[str(tmp_path), "yes", True, 1]] * 2
    until = time.monotonic() + _NOTICED
    while any(map(_running, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in pids if _running(pid)]


def test_where_no_server_forks_a_kernel_starts_as_jupyter_starts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    async def launch(_self: LocalProvisioner, cmd: list[str], **_: Any) -> dict[str, Any]:
        asked.append(cmd)
        return {}

    monkeypatch.setattr(LocalProvisioner, "launch_kernel", launch)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "connection.json"]
    asyncio.run(kernels.ForkedKernel().launch_kernel(command))
    assert asked == [command]
