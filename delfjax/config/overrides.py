"""Overrides: ``path.to.field=value``, the one way to change a config from text."""

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

# The one name that is no field: ``model=FILE`` stands for all fields that a model file sets
# (:func:`delfjax.models.model_files.expand` writes them out).
MODEL = "model"


@dataclass(frozen=True)
class Assignment:
    """One override.

    Attributes:
        path: dotted path of the field.
        value: its new value: JSON, or bare text.
    """

    path: str
    value: str

    @property
    def section(self) -> str:
        """The section of the config that the field belongs to."""
        return self.path.partition(".")[0]

    def __str__(self) -> str:
        """As it is written on a command line."""
        return f"{self.path}={self.value}"


def parse_assignment(text: str) -> Assignment:
    """The override that ``text`` says, of whichever config.

    Raises:
        ConfigError: there is no ``=``.
    """
    path, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text!r} is not of the form path.to.field=value")
    return Assignment(path.strip(), value.strip())


def assignments_of(text: str) -> list[str]:
    """The assignments of a notebook's ``overrides``: ``"a.b=1; c.d=2"``."""
    return [part.strip() for part in text.split(";") if part.strip()]


def parse_overrides(
    assignments: Iterable[str], *, sections: Iterable[str] = SECTIONS, within: str = ""
) -> list[Assignment]:
    """The overrides of a command, in their order, each with the section it belongs to.

    Args:
        assignments: ``section.field=value``.
        sections: the sections of :class:`~delfjax.config.Config` that the command depends on;
            :data:`MODEL` among them admits ``model=FILE``.
        within: a section whose fields may be named without it, ``steps=100``.

    Raises:
        ConfigError: no ``=``, or a field that no such section has; the nearest of all sections is
            named.
    """
    taken = tuple(sections)
    known = {path: path for section in taken for path in _fields()[section]}
    # Without its section, a field hides a section of the same name: within the stage "delg",
    # "delg.code_dim" is its field "delg.delg.code_dim".
    known |= {path.removeprefix(f"{within}."): path for path in _fields().get(within, ())}
    parsed = [parse_assignment(text) for text in assignments]
    for path, section in ((each.path, each.section) for each in parsed if each.path not in known):
        problem = (
            f"is not used here; sections that are: {', '.join(taken)}"
            if path in _fields().get(section, ())
            else f"does not exist{nearest(path, known)}"
        )
        raise ConfigError(f"config field {path!r} {problem}")
    return [Assignment(known[each.path], each.value) for each in parsed]


def override(config: C, assignments: Iterable[str | Assignment]) -> C:
    """``config`` with each ``path.to.field=value`` applied in turn; values are JSON, or bare text.

    Raises:
        ConfigError: no ``=``, an unknown field (the nearest is named), or a value of the wrong
            type.
    """
    values = to_dict(config)
    known = list(flatten(values))
    for each in assignments:
        assignment = parse_assignment(each) if isinstance(each, str) else each
        path = assignment.path
        if path not in known:
            raise ConfigError(f"config field {path!r} does not exist{nearest(path, known)}")
        *rooms, leaf = path.split(".")
        place = values
        for room in rooms:
            place = place[room]
        place[leaf] = _parsed(assignment.value)
    return from_dict(type(config), values)


@functools.cache
def _fields() -> dict[str, list[str]]:
    """Section → paths of its fields; :data:`MODEL` stands among them as a section of one."""
    plain = to_dict(Config())
    return {**{name: list(flatten({name: plain[name]})) for name in SECTIONS}, MODEL: [MODEL]}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
