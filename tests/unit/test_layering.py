"""Nothing imports upwards, third-party packages stay in their rooms, and importing the library does
no work."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "delfjax"

# A room may import rooms of its own layer and of those with a smaller number.
LAYERS = {
    "errors": 0,
    "types": 0,
    "config": 0,
    "paths": 0,
    "files": 0,
    "filesets": 0,
    "pickles": 0,
    "records": 0,
    "rng": 0,
    "device": 0,
    "programs": 0,
    "sources": 0,
    "text": 0,
    "ops": 1,
    "models": 2,
    "world": 2,
    "datasets": 2,
    "features": 3,
    "training": 3,
    "retrieval": 4,
    "mining": 4,
    "evaluation": 5,
    "plots": 5,
    "pipeline": 5,
    "suite": 6,
    "cli": 7,
    "__main__": 7,
    # The public names of ``import delfjax``, for those outside.
    "__init__": 8,
}

# The inner rooms of a room, the lowest first; "." stands for its own modules. Imports go down too.
INNER_ROOMS = {
    "ops": ("cpu", "."),
    "features": ("store", "."),
    "suite": ("runs", ".", "running", "reporting"),
}
# Neighbours that know nothing of each other: the first never imports the second.
STRANGERS = (
    ("world/", "datasets/"),
    ("world/", "models/"),
    ("datasets/published/", "datasets/fetch/"),
    ("datasets/fetch/", "datasets/published/"),
    ("world/architecture/", "world/rendering"),
    ("models/", "world/"),
)

# The only places that may import each of these; () is nowhere: such a package is for tests and
# benchmarks alone.
FENCES: dict[str, tuple[str, ...]] = {
    "PIL": ("datasets/", "world/"),
    "faiss": ("retrieval/",),
    "pyarrow": ("features/store/", "datasets/", "world/"),
    "pandas": ("datasets/", "evaluation/", "suite/"),
    "papermill": ("suite/",),
    "nbformat": ("suite/",),
    "nbclient": ("suite/",),
    "jupyter_client": ("suite/",),
    "ipykernel": ("suite/",),
    "ipywidgets": ("suite/",),
    "matplotlib": ("plots/",),
    "tyro": ("cli/",),
    "pydantic": ("config/", "records.py"),
    "optax": ("training/",),
    "tensorstore": ("training/",),
    "orbax": (),
    "dask": ("suite/running/",),
    "distributed": ("suite/running/",),
    "torch": (),
    "cv2": (),
    "poselib": (),
    "beartype": (),
    "pytest": (),
    "hypothesis": (),
    "yaml": ("suite/",),
    "jinja2": ("suite/reporting/",),
    # Nothing else may read a pickle.
    "pickle": ("pickles.py",),
    "pickletools": ("pickles.py",),
    # Only some systems have these; filelock knows which.
    "fcntl": (),
    "msvcrt": (),
    "filelock": ("files.py",),
}

# Stubs count: lazily loaded packages import whatever theirs name.
MODULES = sorted(
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py*")
    if path.suffix in (".py", ".pyi")
)


def _room(module: str) -> str:
    """``ops`` of ``ops/pyramid.py``, ``cli`` of ``cli.py``."""
    return module.partition("/")[0].partition(".")[0]


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """Dotted names of everything a file imports, inside functions and type-checking blocks
    included."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # The stub of a lazily loaded package names its own modules, and these alone.
            expected = int(path.suffix == ".pyi")
            assert node.level == expected, (
                f"{path.name}: write imports from the top, `from delfjax.…`, in modules, and"
                " `from .module` in stubs"
            )
            package = ["delfjax", *path.parent.relative_to(PACKAGE).parts] if expected else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    return frozenset(names)


def _rooms_imported(path: Path) -> set[str]:
    parts = [name.split(".") for name in _imports(path)]
    return {part[1] for part in parts if part[0] == "delfjax" and len(part) > 1} - {"__version__"}


def _packages_imported(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in _imports(path)}


def test_every_module_stands_in_the_table_of_layers() -> None:
    assert {_room(module) for module in MODULES} <= LAYERS.keys()


def test_no_module_imports_upwards() -> None:
    imported = [(module, room) for module in MODULES for room in _rooms_imported(PACKAGE / module)]
    assert imported
    assert not [
        f"{module} imports {room}"
        for module, room in imported
        if LAYERS[room] > LAYERS[_room(module)]
    ]


def _modules_imported(module: str) -> set[str]:
    """Files of the library that a module imports, such as ``ops/pyramid.py``."""
    found = set()
    for name in _imports(PACKAGE / module):
        parts = name.split(".")[1:] if name.startswith("delfjax.") else []
        for length in (len(parts), len(parts) - 1):
            path = "/".join(parts[:length])
            found |= {f"{path}{end}" for end in (".py", "/__init__.py")} & set(MODULES)
    return found


def _floor(module: str) -> int | None:
    """How high a module stands within its room; ``None`` in a room without inner ones."""
    room, _, rest = module.partition("/")
    inner = rest.partition("/")[0] if "/" in rest else "."
    floors = INNER_ROOMS.get(room)
    return None if floors is None else floors.index(inner)


def test_imports_go_down_within_a_room_too() -> None:
    """A package's lazy stub stands above its modules: it names those that notebooks import."""
    pairs = [
        (module, other)
        for module in MODULES
        if not module.endswith(".pyi")
        for other in _modules_imported(module)
        if _room(other) == _room(module) and _floor(module) is not None
    ]
    assert len(pairs) > 50
    assert not [pair for pair in pairs if (_floor(pair[1]) or 0) > (_floor(pair[0]) or 0)]


def test_strangers_do_not_import_each_other() -> None:
    pairs = [(module, other) for module in MODULES for other in _modules_imported(module)]
    known = [
        (module, other)
        for module, other in pairs
        for first, second in STRANGERS
        if module.startswith(first) and other.startswith(second)
    ]
    assert pairs and not known


def test_the_library_does_not_use_its_own_public_names() -> None:
    """They stand above everything, so a module would import upwards unseen."""
    assert not [module for module in MODULES if "delfjax" in _imports(PACKAGE / module)]
    taken = {room for module in MODULES for room in _rooms_imported(PACKAGE / module)}
    assert taken <= LAYERS.keys() - {"__init__", "__main__"}


def test_third_party_packages_stay_behind_their_fences() -> None:
    imported = [
        (module, package)
        for module in MODULES
        for package in _packages_imported(PACKAGE / module) & FENCES.keys()
    ]
    assert imported
    outside = [
        f"{module} imports {package}"
        for module, package in imported
        if not module.startswith(FENCES[package])
    ]
    assert not outside


def test_an_upward_import_would_be_seen(tmp_path: Path) -> None:
    """The parser finds the three ways to write one."""
    (tmp_path / "rng.py").write_text(
        "import delfjax.cli\nfrom delfjax import plots\ndef f():\n    from delfjax.features.store"
        " import Store\n"
    )
    assert _rooms_imported(tmp_path / "rng.py") == {"cli", "plots", "features"}


def test_importing_the_library_compiles_nothing_starts_no_device_and_writes_no_file(
    tmp_path: Path,
) -> None:
    dotted = [
        module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for module in MODULES
        if module.endswith(".py")
    ]
    names = [f"delfjax.{name}" for name in dotted if name not in ("__init__", "__main__")]
    script = f"""
import importlib, jax
events = []
listen = lambda event, seconds, **_: events.append(event)
jax.monitoring.register_event_duration_secs_listener(listen)
for name in {names!r}:
    importlib.import_module(name)
assert not events, events
# A platform that does not exist can still be chosen as long as no device was started.
jax.config.update("jax_platforms", "none-such")
try:
    jax.devices()
except RuntimeError:
    print("idle")
"""
    data = tmp_path / "data"
    environment = {
        "PATH": "/usr/bin:/bin",
        "DELFJAX_DATA": str(data),
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "idle\n", done.stderr
    assert not data.exists()
