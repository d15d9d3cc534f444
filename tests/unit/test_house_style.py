"""The rules of style a machine can check: size, names, docstrings, honest exceptions, nothing of one machine."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted((ROOT / "delfjax").rglob("*.py"))
PYTHON = LIBRARY + sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [
    path
    for pattern in ("*", ".ci/*", "delfjax/**/*", "tests/**/*", "notebooks/**/*", "data/*.md")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file() and path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", "", ".json"}
]

MAX_STATEMENTS = 40
MAX_ARGUMENTS = 7
# "module.py:function" → why it may take more than seven arguments.
MANY_ARGUMENTS: dict[str, str] = {}
NAMELESS_ROOMS = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def _statements(function: Function) -> int:
    """Statements of a function, those of blocks and inner functions included, its docstring not."""
    inside = sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1
    return inside - (ast.get_docstring(function) is not None)


def _arguments(function: Function) -> int:
    spec = function.args
    names = [a.arg for a in spec.posonlyargs + spec.args + spec.kwonlyargs]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_every_function_fits_a_screen(path: Path) -> None:
    long = {f.name: _statements(f) for f in _functions(path) if _statements(f) > MAX_STATEMENTS}
    assert not long, f"{_name(path)}: more than {MAX_STATEMENTS} statements in {long}"


@pytest.mark.parametrize("path", LIBRARY, ids=_name)
def test_no_function_takes_more_than_seven_arguments(path: Path) -> None:
    many = {f.name: _arguments(f) for f in _functions(path) if _arguments(f) > MAX_ARGUMENTS}
    unexplained = {name: count for name, count in many.items() if f"{path.name}:{name}" not in MANY_ARGUMENTS}
    assert not unexplained, f"{_name(path)}: more than {MAX_ARGUMENTS} arguments in {unexplained}"


def test_no_exception_to_the_argument_rule_is_left_over() -> None:
    taken = {f"{p.name}:{f.name}" for p in LIBRARY for f in _functions(p) if _arguments(f) > MAX_ARGUMENTS}
    assert MANY_ARGUMENTS.keys() <= taken


@pytest.mark.parametrize("path", LIBRARY, ids=_name)
def test_whatever_is_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{_name(path)} does not say what it holds"
    outer = [node for node in tree.body if isinstance(node, Function | ast.ClassDef)]
    methods = [node for owner in outer if isinstance(owner, ast.ClassDef) for node in owner.body]
    named = [node for node in outer + methods if isinstance(node, Function | ast.ClassDef)]
    silent = [node.name for node in named if not node.name.startswith("_") and not ast.get_docstring(node)]
    assert not silent, f"{_name(path)}: no docstring on {silent}"


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_annotations_are_never_evaluated_at_import(path: Path) -> None:
    tree = ast.parse(path.read_text())
    code = [node for node in tree.body if not isinstance(node, ast.Expr)]
    if any(isinstance(node, Function | ast.ClassDef) for node in code):
        first = code[0]
        assert isinstance(first, ast.ImportFrom) and first.module == "__future__", (
            f"{_name(path)} does not begin with `from __future__ import annotations`"
        )


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_every_room_has_a_name(path: Path) -> None:
    assert not {part.removesuffix(".py") for part in path.relative_to(ROOT).parts} & NAMELESS_ROOMS


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_whatever_is_silenced_says_why(path: Path) -> None:
    """A silenced type or lint error is followed by a reason; nothing is left "to do"."""
    for line, comment in _comments(path):
        where = f"{_name(path)}:{line}: {comment}"
        silenced = re.match(r"#\s*(?:type:\s*ignore|noqa)(\[[\w, -]+\]|:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?(.*)", comment)
        if silenced:
            assert silenced[1], f"{where} silences every rule; name the one meant"
            assert len(silenced[2].strip(" #-:")) >= 10, f"{where} gives no reason"
        assert not re.search(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", comment), f"{where} is left undone"


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_no_error_is_caught_that_was_not_expected(path: Path) -> None:
    """Cleaning up after any error is no catching: such a handler ends by raising what it was given."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            passed_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            broad = caught in {"everything", "Exception", "BaseException"}
            assert passed_on or not broad, f"{_name(path)}:{node.lineno} swallows {caught}"


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_nothing_is_tied_to_one_machine(path: Path) -> None:
    """No absolute path of somebody's disk, no path that leaves the checkout, no address of a package index."""
    text = path.read_text()
    for pattern in (
        r"(?<![\w.~*:/-])/(?:home|root|work|tmp|Users|mnt|opt)/\w",
        r"(?<![\w.])\.\./\w+/\w",
        r"https?://[^\s\"']*/simple\b",
        r"\bfiles\.[a-z]+hosted\b",
    ):
        found = re.search(pattern, text)
        assert found is None, f"{_name(path)}: {found[0]!r} at character {found.start()}"
