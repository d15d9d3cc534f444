"""Declared fields of JSON files: what is missing or of another type is named in one line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from delfjax.records import Flag, Number, Record, Size, Whole, read_record, require_record


class OwnError(Exception):
    """The error of a module that reads JSON."""


@dataclass
class Part(Record):
    width: Size
    ready: Flag = False


@dataclass
class Card(Record):
    name: str
    steps: Whole
    share: Number
    parts: dict[str, Part] = field(default_factory=dict)


GOOD: dict[str, Any] = {"name": "a", "steps": 3, "share": 1, "parts": {"x": {"width": 8}}}


def test_what_is_declared_is_read_and_all_other_fields_are_kept(tmp_path: Path) -> None:
    values = {**GOOD, "later": [1, {"b": None}]}
    (tmp_path / "card.json").write_text(json.dumps(values))
    assert read_record(tmp_path / "card.json", Card, error=OwnError) == values


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"name": 3}, "'name': .* valid string, found 3"),
        ({"steps": "3"}, "'steps': .* valid integer, found '3'"),
        ({"steps": True}, "'steps': .* valid integer, found True"),
        ({"steps": 2.5}, "'steps': .* valid integer, found 2.5"),
        ({"share": "1"}, "'share': .* valid number, found '1'"),
        ({"share": float("nan")}, "'share': .* finite number, found nan"),
        ({"parts": [1]}, "'parts': .* dictionary, found \\[1\\]"),
        ({"parts": {"x": None}}, "'parts.x': .*, found None"),
        ({"parts": {"x": {}}}, "'parts.x.width': Field required"),
        ({"parts": {"x": {"width": 0}}}, "'parts.x.width': .* greater than 0, found 0"),
        ({"parts": {"x": {"width": 8, "ready": 1}}}, "'parts.x.ready': .* boolean, found 1"),
        ({"parts": {"x\n" * 1000: 1}}, "found 1"),
    ],
)
def test_a_field_of_another_type_is_named_with_what_was_found(
    changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OwnError, match=f"^card.json: damaged: .*{reason}") as refused:
        require_record({**GOOD, **changed}, Card, where="card.json", error=OwnError)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 300


def test_a_missing_field_and_a_value_of_another_kind_are_named() -> None:
    without = {name: value for name, value in GOOD.items() if name != "steps"}
    with pytest.raises(OwnError, match="card.json: damaged: 'steps': Field required$"):
        require_record(without, Card, where="card.json", error=OwnError)
    with pytest.raises(OwnError, match="'the whole': .*, found \\[1, 2\\]"):
        require_record([1, 2], Card, where="card.json", error=OwnError)
    with pytest.raises(OwnError, match="'b': .* valid number, found 'x'"):
        require_record({"a": 1, "b": "x"}, dict[str, Number], where="f", error=OwnError)
