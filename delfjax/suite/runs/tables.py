"""Tables of runs: built from plain values, shown in a terminal, written to a file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from delfjax.files import replacing
from delfjax.suite.runs.folders import RunError

# Longest list that a table shows in full, characters. A longer one is shown by length and digest.
_LONGEST = 40
# Columns worth showing even where all rows agree.
_ALWAYS_SHOWN = ("metric", "mean", "difference", "p")
_WRITERS: dict[str, Callable[[pd.DataFrame, BinaryIO], None]] = {
    ".csv": lambda table, out: table.to_csv(out, index=table.index.name is not None),
    ".parquet": lambda table, out: table.to_parquet(out, index=table.index.name is not None),
}


def table_of(
    rows: Sequence[Mapping[str, Any]],
    *,
    index: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """A table with one type per column, as Parquet requires.

    Args:
        rows: column → value of each row; a value that a row lacks is left empty.
        index: the run of each row; numbers by default.
        columns: names of the columns; by default every name, in order of first appearance.
    """
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    if index is None:
        labels = pd.RangeIndex(len(rows))
    else:
        labels = pd.Index(list(index), name="run", dtype="str")
    data = {name: _series([compact(row.get(name)) for row in rows], labels) for name in names}
    return pd.DataFrame(data, index=labels, columns=names)


def compact(value: Any) -> Any:
    """``value`` as a table shows it: a list becomes text, a long one its length and a digest."""
    if not isinstance(value, list | tuple):
        return value
    text = json.dumps(value)
    if len(text) <= _LONGEST:
        return text
    return f"{len(value)} values {hashlib.sha256(text.encode()).hexdigest()[:6]}"


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as ``.csv`` or ``.parquet``, completely or not at all.

    Raises:
        RunError: the suffix is neither, or the file cannot be written.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise RunError(f"table {path}: suffix {path.suffix!r} is not one of {', '.join(_WRITERS)}")
    try:
        with replacing(path) as stream:
            write(table, stream)
    except OSError as error:
        raise RunError(f"table {path}: cannot be written: {error.strerror or error}") from None


def as_text(table: pd.DataFrame, *, width: int | None = None) -> str:
    """A table for a terminal, aligned, followed by the notes in ``attrs["notes"]``.

    Columns whose value never changes are named once below the table. A table that is too wide is
    broken into blocks of columns.

    Args:
        table: made by :func:`table_of`.
        width: characters per line; by default those of the terminal.
    """
    several = len(table) > 1
    constant = [name for name in table if several and _is_constant(table, name)]
    kept = table.drop(columns=constant).astype(object).map(_cell_text)
    columns = width or shutil.get_terminal_size((130, 24)).columns
    lines = ["nothing to show"]
    if len(table):
        text = kept.to_string(index=table.index.name is not None, line_width=columns)
        lines = [line.rstrip() for line in text.splitlines()]
    if constant:
        named = [f"{name}={_cell_text(table[name].iloc[0]) or 'empty'}" for name in constant[:6]]
        more = f" and {len(constant) - 6} more" if len(constant) > 6 else ""
        lines.append(f"the same in every row: {', '.join(named)}{more}")
    return "\n".join([*lines, *table.attrs.get("notes", [])])


def number(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.4g}"


def _series(values: Sequence[Any], labels: pd.Index) -> pd.Series:
    """A column of one type; mixed types become text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        # An empty column is numeric too: the spread of a single seed, for instance.
        return pd.Series(values, index=labels, dtype="Int64" if kinds == {int} else "float64")
    if kinds == {bool}:
        return pd.Series(values, index=labels, dtype="boolean")
    text = [
        value if value is None or isinstance(value, str) else json.dumps(value) for value in values
    ]
    return pd.Series(text, index=labels, dtype="string")


def _is_constant(table: pd.DataFrame, name: str) -> bool:
    return name not in _ALWAYS_SHOWN and table[name].nunique(dropna=False) <= 1


def _cell_text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return number(value) if isinstance(value, float) else str(value)
