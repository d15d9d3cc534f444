"""Overrides: ``path.to.field=value``, the only way to change a config from text."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from delfjax.config.root import SECTIONS, Config
from delfjax.config.values import ConfigError, from_dict, nearest, to_dict
from delfjax.files import flatten

C = TypeVar("C")

# Two names that are not fields: ``model=FILE`` stands for all fields that a model file sets, and
# ``system=NAME`` for all that make a system. :func:`delfjax.models.model_files.expand` replaces
# them.
MODEL = "model"
SYSTEM = "system"


@dataclass(frozen=True)
class Assignment:
    """One override.

    Attributes:
        path: dotted path of the field.
        value: new value, as JSON or bare text.
    """

    path: str
    value: str

    @property
    def section(self) -> str:
        """The section of the config that the field belongs to."""
        return self.path.partition(".")[0]

    def __str__(self) -> str:
        """The override as written on a command line."""
        return f"{self.path}={self.value}"


def parse_assignment(text: str) -> Assignment:
    """Split ``path.to.field=value``, without checking that any config has the field.

    Raises:
        ConfigError: ``text`` has no ``=``.
    """
    path, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text!r} is not of the form path.to.field=value")
    return Assignment(path.strip(), value.strip())


def assignments_of(text: str) -> list[str]:
    """The assignments in a notebook's parameter ``overrides``, such as ``"a.b=1; c.d=2"``.

    A value that holds a semicolon is written in double quotes, as JSON: ``a.b="x;y"``.

    Raises:
        ConfigError: a part between semicolons has no ``=``.
    """
    found: list[str] = []
    rest = text.strip()
    while rest:
        end = _end_of_assignment(rest)
        part, rest = rest[:end].strip(), rest[end + 1 :].strip()
        if part and "=" not in part:
            raise ConfigError(
                f"overrides: {part!r} is not of the form path.to.field=value; a value that holds a"
                ' semicolon is written in double quotes: path.to.field="a;b"'
            )
        found += [part] if part else []
    return found


def joined_assignments(assignments: Iterable[str | Assignment]) -> str:
    """The text that :func:`assignments_of` takes apart again; values are quoted where needed.

    Raises:
        ConfigError: an assignment has no ``=``.
    """
    parsed = [parse_assignment(each) if isinstance(each, str) else each for each in assignments]
    return "; ".join(f"{each.path}={_quoted(each.value)}" for each in parsed)


def parse_overrides(
    assignments: Iterable[str], *, sections: Iterable[str] = SECTIONS, within: str = ""
) -> list[Assignment]:
    """Parse the overrides of a command, in order, completing each path with its section.

    Args:
        assignments: ``section.field=value``.
        sections: the sections of :class:`~delfjax.config.Config` that the command depends on;
            :data:`MODEL` and :data:`SYSTEM` among them admit ``model=FILE`` and ``system=NAME``.
        within: a section whose fields may be named without it, as in ``steps=100``.

    Raises:
        ConfigError: an assignment has no ``=``, or names a field that is in none of ``sections``;
            the message names the nearest field.
    """
    used = tuple(sections)
    known = {path: path for section in used for path in _fields()[section]}
    # A field named without its section takes precedence over a section of the same name: within the
    # stage "delg", "delg.code_dim" means the field "delg.delg.code_dim".
    known |= {path.removeprefix(f"{within}."): path for path in _fields().get(within, ())}
    parsed = [parse_assignment(text) for text in assignments]
    for assignment in parsed:
        if assignment.path not in known:
            problem = (
                f"is not used here; sections that are: {', '.join(used)}"
                if assignment.path in _fields().get(assignment.section, ())
                else f"does not exist{nearest(assignment.path, known)}"
            )
            raise ConfigError(f"config field {assignment.path!r} {problem}")
    return [Assignment(known[each.path], each.value) for each in parsed]


def override(config: C, assignments: Iterable[str | Assignment]) -> C:
    """Apply each ``path.to.field=value`` to a copy of ``config``; values are JSON or bare text.

    Raises:
        ConfigError: an assignment has no ``=``, names an unknown field (the message names the
            nearest), or has a value of the wrong type.
    """
    values = to_dict(config)
    known = list(flatten(values))
    for each in assignments:
        assignment = parse_assignment(each) if isinstance(each, str) else each
        path = assignment.path
        if path not in known:
            raise ConfigError(f"config field {path!r} does not exist{nearest(path, known)}")
        *sections, field = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[field] = _parsed(assignment.value)
    return from_dict(type(config), values)


@functools.cache
def _fields() -> dict[str, list[str]]:
    """Section → paths of its fields; :data:`MODEL` and :data:`SYSTEM` count as sections with one
    field."""
    plain = to_dict(Config())
    fields = {name: list(flatten({name: plain[name]})) for name in SECTIONS}
    return {**fields, MODEL: [MODEL], SYSTEM: [SYSTEM]}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _end_of_assignment(text: str) -> int:
    """Where the first assignment of ``text`` ends: at the semicolon after its value."""
    equals, bare_end = text.find("="), text.find(";")
    if bare_end < 0:
        bare_end = len(text)
    if not 0 <= equals < bare_end:
        return bare_end
    try:
        _, end = json.JSONDecoder().raw_decode(text, _after_blanks(text, equals + 1))
    except (ValueError, RecursionError):
        return bare_end
    end = _after_blanks(text, end)
    return end if text[end : end + 1] in ("", ";") else bare_end


def _after_blanks(text: str, start: int) -> int:
    return start + len(text[start:]) - len(text[start:].lstrip())


def _quoted(value: str) -> str:
    """A value that ends where it should among other assignments."""
    if not {";", '"'} & set(value):
        return value
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return json.dumps(value, ensure_ascii=False)
    return value
