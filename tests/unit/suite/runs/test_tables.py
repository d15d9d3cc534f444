"""Tables of runs: a written one reads back the same, a shown one leaves out what never changes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from delfjax.suite.runs import tables
from delfjax.suite.runs.folders import RunError


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_written_table_reads_back_the_same_even_where_columns_mix_types(
    tmp_path: Path, suffix: str
) -> None:
    rows = [
        {"whiten": "auto", "map": 0.5, "note": "fast"},
        {"whiten": 1, "map": 0.25, "count": 3},
    ]
    table = tables.table_of(rows, index=["0123456789", "abcdefabcd"])
    path = tmp_path / f"table{suffix}"
    tables.write_table(table, path)
    back = (
        pd.read_csv(path, index_col="run", dtype={"run": str})
        if suffix == ".csv"
        else pd.read_parquet(path)
    )
    assert list(back.columns) == list(table.columns) and list(back.index) == list(table.index)
    assert list(back["map"]) == [0.5, 0.25] and list(back["whiten"]) == ["auto", "1"]
    assert list(back["count"].isna()) == [True, False]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_table_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    table = tables.table_of([{"map": 0.5}])
    with pytest.raises(RunError, match=r"suffix '.xlsx' is not one of .csv, .parquet"):
        tables.write_table(table, tmp_path / "table.xlsx")
    with pytest.raises(RunError, match="cannot be written: "):
        tables.write_table(table, tmp_path / "missing" / "table.csv")


def test_text_leaves_out_what_never_changes_and_says_so() -> None:
    rows = [
        {"search.neighbours": 5, "seed": 0, "map": 0.5, "pairs": 3},
        {"search.neighbours": 10, "seed": 0, "map": 0.123456},
    ]
    text = tables.as_text(tables.table_of(rows, index=["first", "second"]), width=100)
    heading = text.splitlines()[0]
    assert "search.neighbours" in heading and "map" in heading and "seed" not in heading
    assert "the same in every row: seed=0" in text
    assert "0.1235" in text and "<NA>" not in text and "NaN" not in text and "None" not in text


def test_text_keeps_the_columns_that_a_reader_looks_for() -> None:
    rows = [{"search.neighbours": n, "mean": 0.5, "seeds": 1} for n in (5, 10)]
    text = tables.as_text(tables.table_of(rows), width=100)
    assert "mean" in text.splitlines()[0]
    assert "the same in every row: seeds=1" in text


def test_text_of_an_empty_table_says_that_there_is_nothing() -> None:
    assert tables.as_text(tables.table_of([], columns=["mean"])) == "nothing to show"
