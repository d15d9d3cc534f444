"""Where data lives. The only room that reads the environment.

``DELFJAX_DATA`` moves the data root; otherwise it is ``data/`` of the checkout, or ``delfjax-data``
in the current folder when the library was installed without its checkout.
"""

from __future__ import annotations

import os
from pathlib import Path


def repository_root() -> Path | None:
    """The checkout this library runs from, or ``None`` when it was installed as a plain package."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def data_root() -> Path:
    """Root of everything the suite reads and writes."""
    moved = os.environ.get("DELFJAX_DATA")
    if moved:
        return Path(moved).expanduser().resolve()
    root = repository_root()
    return root / "data" if root is not None else Path.cwd() / "delfjax-data"


def shipped_weights() -> Path:
    """Folder of the weights that come with the suite, wherever the data root was moved to."""
    return (repository_root() or Path.cwd()) / "data" / "weights"


def runs_root() -> Path:
    """Folder of the run folders: ``runs/<experiment>/<hash10>``."""
    return data_root() / "runs"


def cache_root() -> Path:
    """Folder of what can be computed again: stores of `evaluate`, compiled programs."""
    return data_root() / "cache"


def compilation_cache() -> Path:
    """Folder of the persistent cache of compiled programs."""
    return cache_root() / "xla"


def program_cache() -> Path:
    """Folder of programs that are traced but not yet compiled."""
    return cache_root() / "programs"


def replace_file(file: Path, content: bytes, *, suffix: str = ".partial") -> None:
    """Write a whole file or none: under another name first, in the same folder, which an error does
    not leave behind.

    Args:
        file: what is written, or replaced.
        content: all of it.
        suffix: of the other name; one of the process's own where several may write the file.

    Raises:
        OSError: it cannot be written, for instance to a full disk; a file that was there is as
            before.
    """
    partial = file.with_name(f".{file.name}{suffix}")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
