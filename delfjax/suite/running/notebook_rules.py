"""The rules for notebooks of the suite, applied by ``delfjax notebooks check | fix``.

``fix`` removes the traces of execution (outputs, execution counts, editor metadata) and numbers the
cells; ``check`` lists every rule that a notebook breaks. There are three kinds of notebooks. A
*tour* has no parameters and writes nothing. An *experiment* has one cell of parameters and one or
several consecutive cells of checks, and its last code cell finishes a run. A *report* has
parameters and checks and reads finished runs. Code style is left to ruff, which formats notebooks
as well as modules.
"""

from __future__ import annotations

import ast
import math
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from delfjax.suite.running.notebook_schema import nbformat

# isort: split
from nbformat import NotebookNode
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_raw_cell,
    to_notebook_json,
)

from delfjax import paths
from delfjax.errors import quoted, shown
from delfjax.files import replace_file
from delfjax.records import Record, Whole, read_record
from delfjax.suite.runs.folders import RunError

LONGEST_CELL = 15
# Most import statements of this library in a notebook. More would show where names are defined
# rather than what is used.
MOST_IMPORTS = 8
# Fewest words of a text cell without a heading: fewer only name the code below.
FEWEST_WORDS = 8
# Sentences that would fit any notebook and say nothing, in lower case.
_EMPTY_SENTENCES = frozenset(
    {
        "all are extracted",
        "everything that is used here",
        "everything that is used here, in one cell",
        "some of them",
        "the run is finished",
        "the same as a picture",
        "what must hold",
        "what must hold of any comparison",
        "what must hold of both",
        "what must hold of them",
    }
)
# Most characters of a cell's title in a progress bar.
_TITLE = 60
# A call in the last code cell of an experiment.
_FINISH = "run.finish("
# Headings of the first cell, in this order.
HEADINGS = ("Question", "Reads", "Writes", "Paper section", "Time", "Expect")
_LIBRARY = "delfjax"
_PRESET = "preset"
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_LANGUAGE = {"name": "python"}
_NEW: dict[str, Callable[..., NotebookNode]] = {
    "code": new_code_cell,
    "markdown": new_markdown_cell,
    "raw": new_raw_cell,
}
_SHELL = re.compile(r"^[ \t]*[!%?]|\?[ \t]*$", re.MULTILINE)
_SUFFIX = re.compile(
    r"\.(?:jpe?g|png|json|ipynb|npy|arrow|csv|txt|faiss|safetensors|pth)$", re.IGNORECASE
)


# Largest notebook that is read, bytes; executed ones hold figures of some hundred kilobytes.
MAX_BYTES = 64 << 20
# Most syntax nested in a cell: whatever walks a deeper tree exhausts its stack.
MAX_CODE_DEPTH = 100


@dataclass
class _Cell(Record):
    cell_type: Literal["code", "markdown", "raw"]
    source: str | list[str]
    metadata: dict[str, Any]
    outputs: list[dict[str, Any]] = field(default_factory=list)
    id: str = ""


@dataclass
class _Notebook(Record):
    nbformat: Literal[4]
    nbformat_minor: Whole
    metadata: dict[str, Any]
    cells: list[_Cell]


def tags(cell: NotebookNode) -> list[str]:
    """Tags of a cell."""
    return list(cell.metadata.get("tags", []))


class Kind(Enum):
    """The kind of a notebook; see the module docstring."""

    TOUR = "tour"
    EXPERIMENT = "experiment"
    REPORT = "report"


def kind_of(notebook: NotebookNode) -> Kind:
    """The kind of a notebook, by whether it has parameters and whether it finishes a run."""
    if not any("parameters" in tags(cell) for cell in notebook.cells):
        return Kind.TOUR
    finishes = any(_FINISH in cell.source for cell in notebook.cells if cell.cell_type == "code")
    return Kind.EXPERIMENT if finishes else Kind.REPORT


def notebooks() -> list[Path]:
    """The notebooks of the suite, in reading order.

    Raises:
        RunError: the library was installed without its checkout.
    """
    root = paths.repository_root()
    if root is None:
        raise RunError(
            "the notebooks are missing, because delfjax is installed without its checkout; name the"
            " file of a notebook, or run delfjax from a checkout"
        )
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def read_notebook(path: Path) -> NotebookNode:
    """Read the notebook in a file.

    Raises:
        RunError: the file is missing or not a notebook of format 4.
    """

    def refused(reason: str) -> RunError:
        return RunError(f"{path}: not a notebook ({reason.removeprefix(f'{path}: ')})")

    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise refused(f"has {path.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}")
    values = read_record(path, _Notebook, error=refused)
    content: NotebookNode = to_notebook_json(values)
    try:
        with warnings.catch_warnings():
            # Missing and repeated identifiers of cells are repaired; `fix` numbers them anyway.
            warnings.simplefilter("ignore")
            nbformat.validate(content)
    except nbformat.ValidationError as error:
        raise refused(quoted(error)) from None
    return content


def parameter_defaults(notebook: NotebookNode) -> dict[str, Any]:
    """Parameter → default value; empty for a tour.

    Raises:
        RunError: the cell of parameters is not Python, or a default is neither a finite number,
            text, true, false nor None.
    """
    cell = next((cell for cell in notebook.cells if "parameters" in tags(cell)), None)
    body = syntax(cell).body if cell is not None else []
    defaults = {
        target.id: node.value.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for name, value in defaults.items():
        plain = value is None or isinstance(value, bool | int | str)
        if not plain and not (isinstance(value, float) and math.isfinite(value)):
            raise RunError(
                f"the default of parameter {shown(name)} is {shown(value)}, expected a finite"
                " number, text, True, False or None"
            )
    return defaults


def syntax(cell: NotebookNode) -> ast.Module:
    """The syntax tree of a code cell.

    Raises:
        RunError: the cell is not Python, or is nested too deeply.
    """
    try:
        tree: ast.Module = ast.parse(cell.source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise RunError(f"a cell is not Python: {quoted(error)}") from None
    level: list[ast.AST] = [tree]
    for _ in range(MAX_CODE_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
    raise RunError(f"a cell nests code deeper than {MAX_CODE_DEPTH} levels")


def cell_titles(notebook: NotebookNode) -> dict[str, str]:
    """Identifier of each code cell → its title: the first sentence of the text before it."""
    titles: dict[str, str] = {}
    title = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = cell.source.lstrip("# ").replace("\n\n", ". ")
            title = re.split(r"(?<=[.:;?])\s", prose)[0].rstrip(".:;")
        elif cell.cell_type == "code":
            titles[cell.get("id", "")] = (
                title if len(title) <= _TITLE else title[: _TITLE - 1] + "…"
            )
    return titles


def normalised(notebook: NotebookNode) -> NotebookNode:
    """A copy to commit: without outputs, with stable cell identifiers and minimal metadata."""
    clean: NotebookNode = new_notebook(
        metadata={"kernelspec": dict(_KERNEL), "language_info": dict(_LANGUAGE)}
    )
    for number, cell in enumerate(notebook.cells):
        kept = {"tags": sorted(tags(cell))} if tags(cell) else {}
        clean.cells.append(
            _NEW[cell.cell_type](cell.source.strip("\n"), id=f"cell-{number:02d}", metadata=kept)
        )
    return clean


def text(notebook: NotebookNode) -> str:
    """The text of a notebook's file."""
    written: str = nbformat.writes(notebook, version=4)
    return written.rstrip("\n") + "\n"


def violations(notebook: NotebookNode) -> list[str]:
    """The rules that the notebook breaks, one line each."""
    found = [] if text(normalised(notebook)) == text(notebook) else ["is not normalised; run fix"]
    unreadable = list(_unreadable(notebook))
    if unreadable:
        return [*found, *unreadable]
    return [
        *found,
        *_title(notebook),
        *_order(notebook),
        *_cells(notebook),
        *_captions(notebook),
        *_library_imports(notebook),
        *_optional_asserts(notebook),
    ]


def fix(path: Path) -> bool:
    """Normalise the notebook in a file; return whether anything changed.

    Raises:
        RunError: the file is missing or not a notebook.
    """
    after = text(normalised(read_notebook(path)))
    changed = after != path.read_text(encoding="utf-8")
    if changed:
        replace_file(path, after.encode())
    return changed


def check(path: Path) -> list[str]:
    """The rules that the notebook in a file breaks, one line each.

    Raises:
        RunError: the file is missing or not a notebook.
    """
    notebook = read_notebook(path)
    found = violations(notebook)
    # Compare key order and indentation too; otherwise the next `fix` would change the file.
    written = path.read_text(encoding="utf-8")
    return found if found or written == text(notebook) else ["is not normalised; run fix"]


def select(names: Sequence[str]) -> list[Path]:
    """Select notebooks.

    Args:
        names: prefixes of notebooks of the suite, or notebook files; the whole suite when empty.

    Returns:
        The selected notebooks of the suite in reading order, then the files.

    Raises:
        RunError: a name fits no notebook.
    """
    known = notebooks()
    # Unlike pathlib, this also answers for what cannot be a path, such as a very long name.
    files = [Path(name) for name in names if os.path.isfile(name)]
    beginnings = tuple(name for name in names if Path(name) not in files)
    for name in beginnings:
        if not any(path.name.startswith(name) for path in known):
            raise RunError(
                f"no notebook is called {shown(name)}; there are:"
                f" {', '.join(path.name for path in known)}"
            )
    return [path for path in known if not names or path.name.startswith(beginnings)] + files


def _unreadable(notebook: NotebookNode) -> Iterator[str]:
    """Complaints about code that cannot be parsed; the other rules need its syntax."""
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and not _SHELL.search(cell.source):
            try:
                syntax(cell)
            except RunError as error:
                yield f"cell {number}: {error}"


def _title(notebook: NotebookNode) -> Iterator[str]:
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "does not start with a title"
        return
    places = [first.source.find(f"**{heading}") for heading in HEADINGS]
    if -1 in places or places != sorted(places):
        yield f"the first cell does not have, in this order: {', '.join(HEADINGS)}"


def _order(notebook: NotebookNode) -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kind = kind_of(notebook)
    if kind == Kind.TOUR:
        if not code or not _only_imports(code[0]):
            yield "the first code cell does not hold the imports"
        return
    if [cell for cell in code if "parameters" in tags(cell)] != code[:1]:
        yield "the parameters are not in one cell, the first code cell"
    elif not _only_literals(code[0]):
        yield "the parameters are not all of the form name = literal"
    if len(code) < 2 or not _only_imports(code[1]):
        yield "the imports do not follow the parameters"
    checks = [number for number, cell in enumerate(code) if "checks" in tags(cell)]
    finish = [number for number, cell in enumerate(code) if _FINISH in cell.source]
    if not checks:
        yield "has no cell tagged 'checks'; at least one is needed"
    elif checks != list(range(checks[0], checks[-1] + 1)):
        yield "the cells tagged 'checks' are not consecutive"
    elif kind == Kind.EXPERIMENT and not finish == [checks[-1] + 1] == [len(code) - 1]:
        yield "the last code cell, right after the checks, must be the only one to finish the run"
    else:
        for number in checks:
            yield from _plain_asserts(code[number])


def _cells(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            before = notebook.cells[number - 1] if number else None
            if before is None or before.cell_type != "markdown" or not before.source.strip():
                yield f"cell {number} has no sentence before it"
            yield from (f"cell {number} {line}" for line in _code(cell))


def _captions(notebook: NotebookNode) -> Iterator[str]:
    """Complaints about text cells that tell a reader nothing.

    A heading alone may name a step. The text before the parameters may be short, because the
    parameters are explained once for all notebooks.
    """
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown":
            continue
        lines = cell.source.splitlines()
        prose = "\n".join(line for line in lines if not line.startswith("#"))
        sentences = [part.strip(" \n.:;") for part in re.split(r"[.:;]\s+|\n\n", prose)]
        empty = [part for part in sentences if part.lower() in _EMPTY_SENTENCES]
        following = notebook.cells[number + 1 : number + 2]
        short = len(re.findall(r"\w+", prose)) < FEWEST_WORDS
        headed = any(line.startswith("#") for line in lines)
        if empty:
            yield f"cell {number} says {empty[0]!r}, which tells a reader nothing"
        elif short and not headed and not any("parameters" in tags(after) for after in following):
            yield (
                f"cell {number} says only {prose.strip()!r}; explain the code below in at least"
                f" {FEWEST_WORDS} words, or name the step in a heading"
            )


def _code(cell: NotebookNode) -> Iterator[str]:
    if cell.source.count("\n") + 1 > LONGEST_CELL and not _only_imports(cell):
        yield f"is longer than {LONGEST_CELL} lines"
    if _SHELL.search(cell.source):
        yield "contains a shell or IPython command"
        return
    for node in ast.walk(syntax(cell)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield (
                f"defines {getattr(node, 'name', 'a lambda')!r}; named code belongs in the library"
            )
        elif isinstance(node, ast.Import | ast.ImportFrom) and not _only_imports(cell):
            yield "imports something; all imports belong in one cell"
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_path(node.value)
        ):
            yield f"contains the path {node.value!r}; paths are resolved in the library"


def _library_imports(notebook: NotebookNode) -> Iterator[str]:
    """A complaint about too many import statements, whatever number of names each imports."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    statements = [
        node for cell in code if not _SHELL.search(cell.source) for node in syntax(cell).body
    ]
    modules = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in statements
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    count = sum(str(module).partition(".")[0] == _LIBRARY for module in modules)
    if count > MOST_IMPORTS:
        yield (
            f"has {count} import statements of {_LIBRARY}, at most {MOST_IMPORTS} are allowed; "
            f"import from {_LIBRARY}, {_LIBRARY}.suite and the other packages that export names"
        )


def _optional_asserts(notebook: NotebookNode) -> Iterator[str]:
    """Complaints about asserts that hold at some preset whatever was measured.

    Such an assert reads ``preset == "ci" or claim``, or has a flag derived from the preset in the
    place of ``preset == "ci"``.
    """
    flags: set[str] = set()
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or _SHELL.search(cell.source):
            continue
        for node in ast.walk(syntax(cell)):
            if isinstance(node, ast.Assign) and _compares_preset(node.value, flags):
                flags.update(target.id for target in node.targets if isinstance(target, ast.Name))
            elif isinstance(node, ast.Assert) and any(
                isinstance(part, ast.BoolOp)
                and isinstance(part.op, ast.Or)
                and _compares_preset(part, flags)
                for part in ast.walk(node.test)
            ):
                yield (
                    f"cell {number} asserts nothing at some preset:"
                    f" {ast.unparse(node.test)[:60]!r}; give each preset a bound,"
                    " bound = {'ci': …, 'quick': …, 'full': …}[preset]"
                )


def _compares_preset(node: ast.expr, flags: Collection[str]) -> bool:
    """Whether the preset decides a condition, alone or with other conditions.

    A choice of values, ``0.2 if preset == "ci" else 0.3``, is not such a condition.
    """
    if isinstance(node, ast.BoolOp):
        return any(_compares_preset(part, flags) for part in node.values)
    if isinstance(node, ast.UnaryOp):
        return _compares_preset(node.operand, flags)
    if isinstance(node, ast.Compare):
        sides = (node.left, *node.comparators)
        return any(isinstance(side, ast.Name) and side.id == _PRESET for side in sides)
    return isinstance(node, ast.Name) and node.id in flags


def _is_path(value: str) -> bool:
    return "/" in value or "\\" in value or _SUFFIX.search(value) is not None


def _only_imports(cell: NotebookNode) -> bool:
    if _SHELL.search(cell.source):
        return False
    body = syntax(cell).body
    return bool(body) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def _only_literals(cell: NotebookNode) -> bool:
    """Whether a cell only assigns constants to single names.

    papermill recognises no other parameters, and a derived value would not follow an injected one.
    """
    if _SHELL.search(cell.source):
        return False
    body = syntax(cell).body
    return bool(body) and all(
        isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        for node in body
    )


def _plain_asserts(cell: NotebookNode) -> Iterator[str]:
    if _SHELL.search(cell.source):
        return
    for node in syntax(cell).body:
        if not isinstance(node, ast.Assert) or node.msg is None:
            code = ast.unparse(node)[:60]
            yield f"the checks contain {code!r}, which is not an assert with a message"
