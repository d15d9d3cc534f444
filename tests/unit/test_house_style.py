"""The rules of style a machine can check: size, names, docstrings, honest exceptions, nothing of
one machine.

One test a rule, which names every place that breaks it.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted((ROOT / "delfjax").rglob("*.py"))
PYTHON = LIBRARY + sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [
    path
    for pattern in ("*", ".ci/*", "delfjax/**/*", "tests/**/*", "notebooks/**/*", "data/*.md")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file()
    and path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", "", ".json"}
]

MAX_STATEMENTS = 40
MAX_ARGUMENTS = 7
# "module.py:function" → why it may take more than seven arguments.
MANY_ARGUMENTS: dict[str, str] = {}
NAMELESS_ROOMS = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(_tree(path)) if isinstance(node, Function))


def _statements(function: Function) -> int:
    """Statements of a function, those of blocks and inner functions included, its docstring not."""
    inside = sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1
    return inside - (ast.get_docstring(function) is not None)


def _arguments(function: Function) -> int:
    spec = function.args
    names = [a.arg for a in spec.posonlyargs + spec.args + spec.kwonlyargs]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def _comments(path: Path) -> Iterator[tuple[str, str]]:
    """Each comment with its place."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield f"{_name(path)}:{token.start[0]}", token.string


def test_every_function_fits_a_screen() -> None:
    functions = [(path, f) for path in PYTHON for f in _functions(path)]
    assert functions
    long = [
        f"{_name(path)}:{f.lineno} {f.name}"
        for path, f in functions
        if _statements(f) > MAX_STATEMENTS
    ]
    assert not long, f"more than {MAX_STATEMENTS} statements"


def test_no_function_takes_more_than_seven_arguments() -> None:
    """Every exception has its reason in the table, and none is left over."""
    functions = [(path, f) for path in LIBRARY for f in _functions(path)]
    assert functions
    many = {f"{path.name}:{f.name}" for path, f in functions if _arguments(f) > MAX_ARGUMENTS}
    assert many == MANY_ARGUMENTS.keys(), f"more than {MAX_ARGUMENTS} arguments"


def _silent(path: Path) -> Iterator[str]:
    """What is public and has no docstring: the module, its functions and classes, their methods."""
    tree = _tree(path)
    if not ast.get_docstring(tree):
        yield _name(path)
    outer = [node for node in tree.body if isinstance(node, Function | ast.ClassDef)]
    methods = [node for owner in outer if isinstance(owner, ast.ClassDef) for node in owner.body]
    named = [node for node in outer + methods if isinstance(node, Function | ast.ClassDef)]
    yield from (
        f"{_name(path)}:{node.name}"
        for node in named
        if not node.name.startswith("_") and not ast.get_docstring(node)
    )


def test_whatever_is_public_has_a_docstring() -> None:
    assert not [place for path in LIBRARY for place in _silent(path)]


def _evaluates_annotations(path: Path) -> bool:
    code = [node for node in _tree(path).body if not isinstance(node, ast.Expr)]
    defines = any(isinstance(node, Function | ast.ClassDef) for node in code)
    return defines and not (isinstance(code[0], ast.ImportFrom) and code[0].module == "__future__")


def test_annotations_are_never_evaluated_at_import() -> None:
    found = [_name(path) for path in PYTHON if _evaluates_annotations(path)]
    assert not found, "write `from __future__ import annotations` first"


def test_every_room_has_a_name() -> None:
    rooms = {part.removesuffix(".py") for path in PYTHON for part in path.relative_to(ROOT).parts}
    assert "delfjax" in rooms and not rooms & NAMELESS_ROOMS


def _fault(comment: str) -> str:
    """What is wrong with a comment, in words; empty if nothing is."""
    silenced = re.match(
        r"#\s*(?:type:\s*ignore|noqa)(\[[\w, -]+\]|:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?(.*)", comment
    )
    if silenced and not silenced[1]:
        return "silences every rule; name the one meant"
    if silenced and len(silenced[2].strip(" #-:")) < 10:
        return "gives no reason"
    return (
        "is left undone" if re.search(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", comment) else ""
    )


def test_whatever_is_silenced_says_why() -> None:
    """A silenced type or lint error is followed by a reason; nothing is left "to do"."""
    found = [
        f"{place}: {text} {_fault(text)}"
        for path in PYTHON
        for place, text in _comments(path)
        if _fault(text)
    ]
    assert not found


def _swallows(handler: ast.ExceptHandler) -> bool:
    """Catching any error without raising it again at the end, as what cleans up does."""
    caught = ast.unparse(handler.type) if handler.type else "everything"
    passed_on = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return caught in {"everything", "Exception", "BaseException"} and not passed_on


def test_no_error_is_caught_that_was_not_expected() -> None:
    handlers = [
        (path, node)
        for path in PYTHON
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ExceptHandler)
    ]
    assert handlers
    assert not [
        f"{_name(path)}:{handler.lineno}" for path, handler in handlers if _swallows(handler)
    ]


def test_nothing_is_tied_to_one_machine() -> None:
    """No absolute path of somebody's disk, no path that leaves the checkout, no address of a
    package index."""
    tied = re.compile(
        r"(?<![\w.~*:/-])/(?:home|root|work|tmp|Users|mnt|opt)/\w"
        r"|(?<![\w.])\.\./\w+/\w"
        r"|https?://[^\s\"']*/simple\b"
        r"|\bfiles\.[a-z]+hosted\b"
    )
    assert not [
        f"{_name(path)}: {found[0]!r}"
        for path in TEXTS
        for found in tied.finditer(path.read_text())
    ]


def test_the_readme_stays_short() -> None:
    """Long tables belong where their numbers are made."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
