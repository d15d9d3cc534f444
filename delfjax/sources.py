"""The sources that a module stands on: its own, and those of all modules of this library that it
imports, directly or through others.

What is computed from them is still good after an edit elsewhere in the library.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# An import from this library, wherever in a file it stands, with the names in parentheses and
# comments among them. To search for these takes a twentieth of the time that parsing does, and
# every search of photos waits for it. What a docstring shows of imports counts too: a module more
# than needed does no harm.
_IMPORT = re.compile(
    r"^[ \t]*(?:from|import) (delfjax\b[\w.]*)(?: import (\((?:[^)#]|#[^\n]*)*\)|[^\n#]*))?",
    re.MULTILINE,
)
_COMMENT = re.compile(r"#[^\n]*")
_IMPORTED_NAME = re.compile(r"(\w+)(?: as \w+)?")


@functools.cache
def source_digest(module: str, *, package: Path = PACKAGE) -> str:
    """Digest of the sources that a module of this library stands on; of any other module, which may
    import anything, of the whole library.

    Args:
        module: its dotted name.
        package: folder of the library.
    """
    own = module.partition(".")[0] == package.name
    files = source_files(module, package=package) if own else package.rglob("*.py")
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(package).as_posix()}\0{_read(file)[0]}\0".encode())
    return digest.hexdigest()


def source_files(module: str, *, package: Path = PACKAGE) -> frozenset[Path]:
    """The files that a module of this library stands on; arguments as of :func:`source_digest`."""
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
    """The file of the module ``name``, or of the one that defines what goes by this name."""
    rooms = name.split(".")[1:]
    # What the library as a whole exports is defined in its modules, which never import it from
    # there: its own file is nobody's.
    for depth in range(len(rooms), max(len(rooms) - 2, 0), -1):
        place = os.path.join(package, *rooms[:depth])
        for file in (f"{place}.py", os.path.join(place, "__init__.py")):
            if os.path.isfile(file):
                return Path(file)
    return None


@functools.cache
def _read(file: Path) -> tuple[str, frozenset[str]]:
    """Digest of a file, and the dotted names of what it imports from this library."""
    content = file.read_bytes()
    return hashlib.sha256(content).hexdigest(), frozenset(_imported(content.decode()))


def _imported(source: str) -> Iterator[str]:
    for module, names in _IMPORT.findall(source):
        if names:
            parts = _IMPORTED_NAME.findall(_COMMENT.sub("", names))
            yield from (f"{module}.{part}" for part in parts)
        else:
            yield module
