"""Kernels that are forked: imported beforehand, with the surroundings asked for, and ended like any other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from delfjax.experiments import kernels

# In a process of its own, as a worker is: how kernels start is chosen once for a process.
_ASKED = """
import asyncio, json, os, sys
from jupyter_client.manager import start_new_async_kernel

TEXT = '''
import json, multiprocessing, os, sys
with multiprocessing.get_context("fork").Pool(1) as pool:
    of_a_child = pool.apply(abs, (-1,))
print(json.dumps([os.getpid(), os.getcwd(), os.environ["ASKED"], "flax" in sys.modules, of_a_child]))
'''

async def told():
    environment = {**os.environ, "ASKED": "yes"}
    manager, client = await start_new_async_kernel(cwd=sys.argv[1], env=environment, extra_arguments=["--log-level=ERROR"])
    said = []
    await client.execute_interactive(TEXT, output_hook=lambda message: said.append(message["content"].get("text", "")))
    client.stop_channels()
    print("".join(said).strip(), flush=True)
    return manager

async def main():
    first, second = await told(), await told()
    await first.shutdown_kernel(now=True)

asyncio.run(main())  # and one kernel is left to itself
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
def test_kernels_are_forked_where_and_with_what_was_asked_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.CHOICE, kernels.NAME)
    done = subprocess.run([sys.executable, "-c", _ASKED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120)
    found: list[list[Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    pids = {pid for pid, *_ in found}
    assert len(pids) == 2
    assert [rest for _, *rest in found] == [[str(tmp_path), "yes", True, 1]] * 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
