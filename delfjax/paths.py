"""Where data lives. The only room that reads the environment.

``DELFJAX_DATA`` moves the data root; otherwise it is ``data/`` of the checkout. Where the library
was installed without its checkout, datasets and runs go into ``delfjax-data`` of the current
folder, where their owner sees them, and the cache goes where the system keeps caches: compiled
programs serve every folder of photos, and ``delfjax match`` leaves nothing behind where it was
called.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def repository_root() -> Path | None:
    """The checkout this library runs from, or ``None`` when it was installed as a plain package."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def data_root() -> Path:
    """Root of the datasets, the runs and, unless the library was installed without its checkout,
    the cache."""
    return _chosen_root() or Path.cwd() / "delfjax-data"


def shipped_weights() -> Path:
    """Folder of the weights that come with the library, wherever the data root was moved to."""
    return Path(__file__).resolve().parent / "models" / "shipped"


def runs_root() -> Path:
    """Folder of the run folders: ``runs/<experiment>/<hash10>``."""
    return data_root() / "runs"


def cache_root() -> Path:
    """Folder of what can be computed again: stores of `evaluate`, compiled programs."""
    root = _chosen_root()
    return root / "cache" if root is not None else platformdirs.user_cache_path("delfjax")


def compilation_cache() -> Path:
    """Folder of the persistent cache of compiled programs."""
    return cache_root() / "xla"


def program_cache() -> Path:
    """Folder of programs that are traced but not yet compiled."""
    return cache_root() / "programs"


def _chosen_root() -> Path | None:
    """The data root that the environment or the checkout decides, if either does."""
    moved = os.environ.get("DELFJAX_DATA")
    if moved:
        return Path(moved).expanduser().resolve()
    root = repository_root()
    return root / "data" if root is not None else None
