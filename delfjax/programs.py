"""Traced programs kept on disk: a second process finds them without running the Python that wrote
them.

JAX's persistent cache (:func:`delfjax.device.use_compilation_cache`) spares a second process the
compilation, but to look a program up there it has to be traced and lowered first: for one level of
the pyramid three quarters of a second, where loading what was lowered before takes a tenth of that.
A stored program is a ``jax.export`` of the function, and is found again only under the same
arguments' shapes, settings, devices, versions, and sources: those of the module that defines the
function and of all that it imports from this library (:mod:`delfjax.sources`).
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
from jax import export
from jaxtyping import PyTree

from delfjax import paths
from delfjax.files import replace_file
from delfjax.sources import source_digest

R = TypeVar("R")

# Programs that this process has loaded, by file: another extractor of the same backbone loads none
# of them again. They hold no weights, and there are few: what can be compiled is bounded.
_LOADED: dict[Path, Callable[..., Any]] = {}
# First bytes of a file: a digest of the rest.
_DIGEST = hashlib.sha256().digest_size


class StoredProgram(Generic[R]):
    """A pure function of arrays, compiled for the shapes it is called with, each program kept while
    the cache is in use."""

    def __init__(self, function: Callable[..., R], *, settings: dict[str, Any]) -> None:
        """Nothing is traced yet.

        Args:
            function: pure; takes pytrees of arrays by position and everything else from
                ``settings``, returns a pytree of arrays: of tuples, lists, dictionaries and classes
                that are :func:`~delfjax.types.storable`.
            settings: plain values that decide what the function does, its name among them.
        """
        self._function = function
        self._settings = json.dumps(settings, sort_keys=True)
        self._programs: dict[Any, Callable[..., R]] = {}
        self._lock = threading.Lock()

    @property
    def module(self) -> str:
        """Name of the module whose sources the programs depend on: the one that defines the
        function, whatever is wrapped around it."""
        function = inspect.unwrap(self._function)
        while isinstance(function, functools.partial):
            function = inspect.unwrap(function.func)
        return str(function.__module__)

    def __call__(self, *arguments: PyTree) -> R:
        """What the function returns for ``arguments``, arrays of JAX or NumPy."""
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple(_place(leaf) for leaf in leaves)
        if key not in self._programs:
            with self._lock:
                if key not in self._programs:
                    program = self._program(leaves, structure)
                    # The first call compiles: once, however many threads ask.
                    found = program(*leaves)
                    self._programs[key] = program
                    return found
        return self._programs[key](*leaves)

    def _program(self, leaves: list[Any], structure: Any) -> Callable[..., R]:
        def flat(*values: Any) -> R:
            return self._function(*jax.tree.unflatten(structure, values))

        if jax.config.values["jax_compilation_cache_dir"] is None:
            return jax.jit(flat)
        places = [str(_place(leaf)) for leaf in leaves]
        depends = [self._settings, str(structure), *places, *_surroundings()]
        identity = "\n".join([*depends, source_digest(self.module)])
        file = paths.program_cache() / f"{hashlib.sha256(identity.encode()).hexdigest()}.stablehlo"
        if file in _LOADED:
            return _LOADED[file]
        content = _read(file)
        if content is None:
            content = bytes(export.export(jax.jit(flat))(*leaves).serialize())
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, hashlib.sha256(content).digest() + content)
        return _LOADED.setdefault(file, jax.jit(export.deserialize(bytearray(content)).call))


def description(structure: object) -> str:
    """The text of an object without static arrays, such as the graph of a module: the same in every
    process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(structure))


def _place(leaf: Any) -> tuple[Any, ...]:
    """What a program depends on of an argument: its shape, its type, and where it lies."""
    return leaf.shape, leaf.dtype, leaf.sharding if isinstance(leaf, jax.Array) else None


def _read(file: Path) -> bytes | None:
    """The program in ``file``; ``None`` where there is none, or where it is damaged and has to be
    made again."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    whole = hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]
    return content[_DIGEST:] if whole else None


@functools.cache
def _surroundings() -> tuple[str, ...]:
    """What a trace depends on beside its arguments and sources: versions and devices."""
    devices = [f"{device.platform} {device.device_kind}" for device in jax.local_devices()]
    precision = [
        str(jax.config.values[name]) for name in ("jax_default_matmul_precision", "jax_enable_x64")
    ]
    return jax.__version__, version("jaxlib"), *precision, *devices
