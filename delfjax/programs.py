"""Traced programs stored on disk, which another process can run without tracing them again.

JAX's persistent cache (:func:`delfjax.device.use_compilation_cache`) spares a second process the
compilation, but a program must still be traced and lowered before it can be looked up there. That
takes three quarters of a second for one level of the pyramid; loading the stored lowered program
takes a tenth of that.

A stored program is the ``jax.export`` of a function. It is reused only if the shapes of the
arguments, the settings, the devices, the versions and the sources are the same. The sources are
those of the module that defines the function and of everything it imports from this library
(:mod:`delfjax.sources`).
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
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

# Programs that this process has loaded, by file, so another extractor of the same backbone need not
# load them again. They hold no weights, and their number is bounded.
_LOADED: dict[Path, Callable[..., Any]] = {}
# A file begins with a digest of the rest, of this many bytes.
_DIGEST = hashlib.sha256().digest_size


# Cache roots that cannot be written, about which the user has been told.
_UNWRITABLE: set[Path] = set()


def read_kept(file: Path) -> bytes | None:
    """The content of a file that :func:`keep` wrote; ``None`` if there is none that can be read.

    A damaged file is deleted.
    """
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
        return content[_DIGEST:]
    with suppress(OSError):
        file.unlink()
    return None


def keep(file: Path, content: bytes) -> None:
    """Keep ``content``, which can be made again, in a file of the cache.

    Where nothing can be written, for instance on a full disk, one warning per process says so and
    nothing more is kept.
    """
    root = paths.cache_root()
    if root in _UNWRITABLE:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, hashlib.sha256(content).digest() + content)
    except OSError as error:
        _UNWRITABLE.add(root)
        warnings.warn(
            f"{root}: {error.strerror}, so every process compiles again; set DELFJAX_DATA to a"
            " folder that can be written",
            stacklevel=2,
        )


class StoredProgram(Generic[R]):
    """A pure function of arrays, compiled for the shapes that it is called with; the programs are
    stored on disk if JAX's persistent cache is in use."""

    def __init__(self, function: Callable[..., R], *, settings: dict[str, Any]) -> None:
        """Set up the function; nothing is traced before the first call.

        Args:
            function: a pure function whose positional arguments are pytrees of arrays and whose
                behaviour is otherwise determined by ``settings``. It returns a pytree of arrays
                made of tuples, lists, dictionaries and :func:`~delfjax.types.storable` classes.
            settings: plain values that determine what the function computes, including a name.
        """
        self._function = function
        self._settings = json.dumps(settings, sort_keys=True)
        self._programs: dict[Any, Callable[..., R]] = {}
        self._lock = threading.Lock()

    @property
    def module(self) -> str:
        """Name of the module whose sources the programs depend on: the one that defines the
        innermost function, inside all wrappers and partials."""
        function = inspect.unwrap(self._function)
        while isinstance(function, functools.partial):
            function = inspect.unwrap(function.func)
        return str(function.__module__)

    def __call__(self, *arguments: PyTree) -> R:
        """Call the function with ``arguments``, pytrees of JAX or NumPy arrays."""
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple(_place(leaf) for leaf in leaves)
        if key not in self._programs:
            with self._lock:
                if key not in self._programs:
                    program = self._program(leaves, structure)
                    # The first call compiles. Under the lock, it does so once for all threads.
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
        content = read_kept(file)
        if content is None:
            content = bytes(export.export(jax.jit(flat))(*leaves).serialize())
            keep(file, content)
        return _LOADED.setdefault(file, jax.jit(export.deserialize(bytearray(content)).call))


def description(structure: object) -> str:
    """The ``repr`` of an object without memory addresses, which is the same in every process.

    Args:
        structure: an object without static arrays, such as the graph of a module.
    """
    return re.sub(r" at 0x[0-9a-f]+", "", repr(structure))


def _place(leaf: Any) -> tuple[Any, ...]:
    """The properties of an argument that a program depends on: shape, type and placement."""
    return leaf.shape, leaf.dtype, leaf.sharding if isinstance(leaf, jax.Array) else None


@functools.cache
def _surroundings() -> tuple[str, ...]:
    """The versions, options and devices that a trace depends on besides arguments and sources."""
    devices = [f"{device.platform} {device.device_kind}" for device in jax.local_devices()]
    precision = [
        str(jax.config.values[name]) for name in ("jax_default_matmul_precision", "jax_enable_x64")
    ]
    return jax.__version__, version("jaxlib"), *precision, *devices
