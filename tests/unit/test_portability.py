"""The library imports and runs where the operating system lacks what only some have: Windows has
none of what is taken away here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Dask and psutil choose their parts by the system they are installed on, so they come first.
_LESS = """
import os, signal, sys
import distributed
for module in ("fcntl", "resource", "grp", "pwd", "termios"):
    sys.modules[module] = None
for name in ("fork", "forkpty", "killpg", "setsid", "sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGQUIT"):
    delattr(signal, name)
"""

_IMPORT = """
import importlib, pathlib
modules = sorted(path.with_suffix("").parts for path in pathlib.Path("delfjax").rglob("*.py"))
names = [".".join(parts).removesuffix(".__init__") for parts in modules if parts[-1] != "__main__"]
for name in names:
    importlib.import_module(name)
print(len(names), "modules")
"""

_USE = """
import multiprocessing, os
from pathlib import Path
import numpy as np
from delfjax import device
from delfjax.features.store import FeatureStore, StoreError, StoreWriter
from delfjax.files import Lock, LockHeldError
from delfjax.suite.runs.folders import finished_run, run_path, start_run
from delfjax.types import ImageFeatures, LocalFeatures

assert device.processors() == set(range(os.cpu_count()))

store, config = Path(os.environ["DELFJAX_DATA"], "store"), {"features": {"max_side": 64}}
store.mkdir(parents=True)
# As a system with locks leaves it.
(store / "writer.lock").write_bytes(b"")
local = LocalFeatures(
    keypoints_yx=np.ones((1, 2), np.float32), scales=np.ones(1, np.float32),
    scores=np.ones(1, np.float32), descriptors=np.ones((1, 4), np.float16), valid=np.ones(1, bool),
)
for name in ("a.jpg", "b.jpg"):
    with StoreWriter(store, config) as writer:
        try:
            StoreWriter(store, config).__enter__()
            raise AssertionError("written twice at a time")
        except StoreError as error:
            assert f"is being written by process {os.getpid()} on " in str(error), error
        (group,) = writer.plan([name])
        writer.commit(group, {name: ImageFeatures(local, None, (64, 64), name)}, {})
assert FeatureStore.open(store).get("b.jpg").content_hash == "b.jpg"
assert sorted(file.suffix for file in store.iterdir()) == [".arrow"] * 2 + [".json"] * 3 + [".lock"]

run = start_run("10_example", {"seed": 0})
lock = run.path.parent / f".{run.path.name}.lock"
try:
    Lock(lock).acquire()
    raise AssertionError("written twice at a time")
except LockHeldError:
    pass
run.finish({"map": 0.5})
found = finished_run("10_example", {"seed": 0})
assert found.results == {"map": 0.5} and found.provenance["peak_memory_mb"] == 0.0
with Lock(lock):
    print("written and read")
"""


def _run(script: str, data: Path) -> str:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(data),
        "DELFJAX_DATA": str(data),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", _LESS + script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_without_what_only_some_systems_have(tmp_path: Path) -> None:
    modules = len([path for path in (ROOT / "delfjax").rglob("*.py") if path.stem != "__main__"])
    assert _run(_IMPORT, tmp_path) == f"{modules} modules\n"


def test_a_store_and_a_run_are_locked_written_and_read_without_it(tmp_path: Path) -> None:
    assert _run(_USE, tmp_path) == "written and read\n"
