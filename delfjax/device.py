"""Processors, the persistent cache of compiled programs, and a count of compilations."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax

from delfjax import paths


@dataclass
class CompilationCount:
    """How much was compiled.

    Attributes:
        programs: programs that were requested.
        compiled: programs among them that had to be compiled, because no cache held them.
    """

    programs: int = 0
    compiled: int = 0


def use_compilation_cache() -> None:
    """Keep all compiled programs on disk, so that a second process compiles none of them.

    The cache stays valid when its folder is moved. Where the folder cannot be created, a warning
    says so and nothing is kept.
    """
    folder = paths.compilation_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warnings.warn(
            f"{folder}: {error.strerror}, so every process compiles again; set DELFJAX_DATA to a"
            " folder that can be written",
            stacklevel=2,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The paths of XLA's own caches would be part of every program's key, so a move of the folder
    # would invalidate the cache.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def processors() -> set[int]:
    """Numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


@contextmanager
def count_compilations() -> Iterator[CompilationCount]:
    """Count the programs that JAX compiles inside the block, in any thread.

    The count is complete once the block has ended.
    """
    count = CompilationCount()
    hits = 0
    # Several threads may compile at the same time.
    lock = threading.Lock()

    def on_event(event: str, **_: object) -> None:
        nonlocal hits
        with lock:
            hits += event == "/jax/compilation_cache/cache_hits"

    def on_duration(event: str, duration_secs: float, **_: object) -> None:
        with lock:
            count.programs += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_listener(on_event)
        jax.monitoring.unregister_event_duration_listener(on_duration)
        count.compiled = count.programs - hits
