"""What commands print reaches every terminal, and no name in it controls the terminal."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path

import pytest

import delfjax.cli
from delfjax.cli import output


def test_every_command_uses_this_print() -> None:
    for file in Path(delfjax.cli.__path__[0]).glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        called = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        imported = {
            name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "delfjax.cli.output"
            for name in node.names
        }
        # The package itself prints one constant line, when nothing else is imported yet.
        if "print" in called and file.name != "__init__.py":
            assert "print" in imported, file


def test_a_text_is_one_line_and_a_table_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    class Table:
        def __str__(self) -> str:
            return "head\nrow \x1b[2J"

    output.print("a\nb\x07", "c")
    output.print(Table())
    output.print("x\x9b", "y", sep="\n", file=sys.stderr)
    said = capsys.readouterr()
    assert said.out == "a\\nb\\x07 c\nhead\nrow \\x1b[2J\n" and said.err == "x\\x9b\ny\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_valid_in_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    values = {"query": "Zürich 東京 😀", "results": ["\udcff.jpg", "\x1b[2J\n", "\x9b", "\u202e"]}
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    output.print_json(values, indent=1)
    output.flush()
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == values
    assert not set(text) & set("\x1b\x9b\u202e\udcff")
    assert ("Zürich" in text) == (encoding != "ascii")


def test_an_encoding_without_a_character_shows_its_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.open_streams()
    output.print("café …")
    output.flush()
    assert raw.getvalue() == b"caf\\xe9 \\u2026\n"


def test_a_closed_stream_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    output.open_streams()
    output.print("goes nowhere")
    output.flush()
    sys.stdout.close()


def test_a_full_disk_behind_the_output_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="No space left on device: 'standard output'"):
        output.flush()
