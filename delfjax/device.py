"""Processors and threads, the persistent cache of compiled programs, and a count of
compilations."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
from jax._src import compilation_cache
from threadpoolctl import ThreadpoolController

from delfjax import paths, programs


@dataclass
class CompilationCount:
    """How much was compiled.

    Attributes:
        programs: programs that were requested.
        compiled: programs among them that had to be compiled, because no cache held them.
    """

    programs: int = 0
    compiled: int = 0


class _CheckedCache:
    """The persistent cache as JAX uses it. JAX's own never replaces a damaged entry, which then
    costs a warning and a compilation in every process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """The program of this key; ``None`` if there is none that is whole."""
        return programs.read_kept(self._folder / key)

    def put(self, key: str, value: bytes) -> None:
        """Keep a program, if the folder can be written."""
        programs.keep(self._folder / key, value)


def _checked_cache(path: str) -> tuple[_CheckedCache, str]:
    return _CheckedCache(Path(path)), path


def use_compilation_cache() -> None:
    """Keep all compiled programs on disk, so that a second process compiles none of them.

    The cache stays valid when its folder is moved. A damaged program is compiled again; where the
    folder cannot be written, a warning says so and nothing is kept.
    """
    # JAX has no public way to provide a cache of one's own.
    compilation_cache.get_file_cache = _checked_cache  # type: ignore[assignment]  # of like methods
    jax.config.update("jax_compilation_cache_dir", str(paths.compilation_cache()))
    # The paths of XLA's own caches would be part of every program's key, so a move of the folder
    # would invalidate the cache.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def explain(error: Exception) -> str | None:
    """Why no device could compute, in one line; ``None`` if the error is about something else."""
    if isinstance(error, RuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED"):
        return f"out of memory: {error}"
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as problem:
        return (
            f"JAX_PLATFORMS={jax.config.values['jax_platforms']}: no such device"
            f"{f' ({problem})' if str(problem) else ''}; unset JAX_PLATFORMS to use what there is"
        )
    return None


def processors() -> set[int]:
    """Numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run NumPy's matrix products inside the block on a single thread.

    With several threads, the order of summation depends on their number, and the last bit of a
    projection can decide which of two neighbours is nearer. One thread gives the same result on any
    number of cores.
    """
    with _blas().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _blas() -> ThreadpoolController:
    # Made once: finding the libraries takes longer than the product of one query.
    return ThreadpoolController()


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
