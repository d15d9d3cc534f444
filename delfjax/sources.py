"""The sources that a module depends on: its own, and those of all modules of this library that it
imports, directly or indirectly.

A result that was computed by a module stays valid when other parts of the library are edited.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# An import from this library, anywhere in a file; the names may be in parentheses, with comments
# among them. This search takes a twentieth of the time of parsing, and every photo search waits for
# it. It also finds imports shown in docstrings, but a superfluous dependency does no harm.
_IMPORT = re.compile(
    r"^[ \t]*(?:from|import) (delfjax\b[\w.]*)(?: import (\((?:[^)#]|#[^\n]*)*\)|[^\n#]*))?",
    re.MULTILINE,
)
_COMMENT = re.compile(r"#[^\n]*")
_IMPORTED_NAME = re.compile(r"(\w+)(?: as \w+)?")


@functools.cache
def source_digest(module: str, *, package: Path = PACKAGE) -> str:
    """Digest of the sources that a module depends on.

    A module outside the library may import anything from it, so its digest covers the whole
    library.

    Args:
        module: dotted name of the module.
        package: folder of the library.
    """
    own = module.partition(".")[0] == package.name
    files = source_files(module, package=package) if own else package.rglob("*.py")
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(package).as_posix()}\0{_read(file)[0]}\0".encode())
    return digest.hexdigest()


def source_files(module: str, *, package: Path = PACKAGE) -> frozenset[Path]:
    """The files that a module of this library depends on.

    Args:
        module: dotted name of the module.
        package: folder of the library.
    """
    found: set[Path] = set()
    waiting = {module}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        file = _file(name, package)
        if file is not None:
            found.add(file)
            waiting |= _read(file)[1] - seen
    return frozenset(found)


@functools.cache
def _file(name: str, package: Path) -> Path | None:
    """The file of the module ``name``, or of the module that contains the object ``name``."""
    parts = name.split(".")[1:]
    # Modules never import from the top-level package, so its `__init__.py` is not a dependency.
    for depth in range(len(parts), max(len(parts) - 2, 0), -1):
        place = os.path.join(package, *parts[:depth])
        for file in (f"{place}.py", os.path.join(place, "__init__.py")):
            if os.path.isfile(file):
                return Path(file)
    return None


@functools.cache
def _read(file: Path) -> tuple[str, frozenset[str]]:
    """Digest of a file, and the dotted names that it imports from this library."""
    content = file.read_bytes()
    return hashlib.sha256(content).hexdigest(), frozenset(_imported(content.decode()))


def _imported(source: str) -> Iterator[str]:
    for module, names in _IMPORT.findall(source):
        if names:
            parts = _IMPORTED_NAME.findall(_COMMENT.sub("", names))
            yield from (f"{module}.{part}" for part in parts)
        else:
            yield module
