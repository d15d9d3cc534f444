"""The provenance of a run: commit, versions, device, command, time and memory."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import jax

from delfjax import __version__, paths
from delfjax.config import assignments_of

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "faiss-cpu", "pillow", "scikit-image")
_GIT_SECONDS = 20


def provenance(
    experiment: str, *, parameters: Mapping[str, Any], seconds: float, timings: Mapping[str, float]
) -> dict[str, Any]:
    """Everything about a run except its settings and results, as plain values.

    Args:
        experiment: name of the notebook.
        parameters: the notebook's parameters, as given.
        seconds: wall time of the run.
        timings: stage → seconds, or rate → value.
    """
    device = jax.local_devices()[0]
    return {
        "delfjax": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "device": f"{device.platform} {device.device_kind}",
        "devices": jax.device_count(),
        "git": git_state(),
        "parameters": dict(parameters),
        "command": command(experiment, parameters),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "timings": {name: round(value, 4) for name, value in timings.items()},
        "peak_memory_mb": peak_memory_mb(),
    }


def command(experiment: str, parameters: Mapping[str, Any]) -> str:
    """The command that repeats the run."""
    words = ["delfjax", "run", experiment]
    for name, value in parameters.items():
        if name == "overrides":
            for assignment in assignments_of(str(value)):
                words += ["--set", assignment]
        elif name in ("preset", "dataset", "seed"):
            words += [f"--{name}", str(value)]
        elif value != "latest":
            words += ["--set", f"{name}={value}"]
    return shlex.join(words)


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout and whether it has uncommitted changes; ``None`` without a checkout or
    without git."""
    root = paths.repository_root()
    if root is None:
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=_GIT_SECONDS,
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, MiB, or that of the first device if larger.

    A system or device that does not report its memory counts as 0.
    """
    memory = jax.local_devices()[0].memory_stats() or {}
    on_device = float(memory.get("peak_bytes_in_use", 0)) / 1024**2
    return round(max(_resident_mb(), on_device), 1)


def _resident_mb() -> float:
    try:
        import resource  # noqa: PLC0415 - Windows has no such module
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)
