"""Where data lives, and whether to show tracebacks. The only module that reads the environment.

``DELFJAX_DATA`` sets the data root; by default it is ``data/`` of the checkout. If the library is
installed without its checkout, datasets and runs go to ``delfjax-data`` in the current folder,
where the user sees them. The cache goes to the system's cache folder, because compiled programs
serve every folder of photos and ``delfjax match`` should leave nothing in the folder it is called
from.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import platformdirs


def repository_root() -> Path | None:
    """The checkout this library runs from; ``None`` if it was installed as a plain package."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def data_root() -> Path:
    """Root of the datasets and runs and, unless the library was installed without its checkout, of
    the cache."""
    return _chosen_root() or Path.cwd() / "delfjax-data"


def shipped_weights() -> Path:
    """Folder of the weights that are part of the package, independent of the data root."""
    return Path(__file__).resolve().parent / "models" / "shipped"


def runs_root() -> Path:
    """Parent of all run folders, ``<experiment>/<hash10>``."""
    return data_root() / "runs"


def cache_root() -> Path:
    """Folder of everything that can be recomputed, such as feature stores and compiled programs."""
    root = _chosen_root()
    return root / "cache" if root is not None else platformdirs.user_cache_path("delfjax")


def compilation_cache() -> Path:
    """Folder of the persistent cache of compiled programs, which no other jaxlib can use."""
    return cache_root() / "xla" / version("jaxlib")


def program_cache() -> Path:
    """Folder of traced programs that are not yet compiled, which no other jaxlib can use."""
    return cache_root() / "programs" / version("jaxlib")


def debugging() -> bool:
    """Whether commands show the traceback of an error before its line (``DELFJAX_DEBUG=1``)."""
    return os.environ.get("DELFJAX_DEBUG", "") not in ("", "0")


def _chosen_root() -> Path | None:
    """The data root set by the environment or else by the checkout, if there is either."""
    moved = os.environ.get("DELFJAX_DATA")
    if moved:
        # Unlike Path.expanduser, this accepts a user who does not exist.
        return Path(os.path.expanduser(moved)).resolve()
    root = repository_root()
    return root / "data" if root is not None else None
