"""What all configs share: validated fields, plain values, and a canonical hash."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from delfjax.config.identities import identity
from delfjax.errors import DelfjaxError, shown

C = TypeVar("C")

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
UnitFloat = Annotated[float, Field(ge=0, le=1)]
# The keys of JAX tell apart as many seeds as these.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ConfigError(DelfjaxError):
    """A config field does not exist or does not accept the value."""


class Strict:
    """Base of all configs: refuses unknown fields and validates values by their annotations."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(kind: type[C], values: dict[str, Any]) -> C:
    """Make and validate a config of type ``kind`` from plain JSON values.

    Raises:
        ConfigError: a field does not exist or does not accept its value.
    """
    try:
        validate = _validator(kind)  # type: ignore[arg-type]  # every class is hashable
        validated: C = validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"config field {shown(where)}: {first['msg']}, got {shown(first['input'])}"
        ) from None
    return validated


@functools.cache
def _validator(kind: type[Any]) -> Callable[[Any], Any]:
    # Cached, because building a validator takes much longer than using it.
    return TypeAdapter(kind).validate_python


def config_hash(config: Any) -> str:
    """Ten hexadecimal digits that identify a config (or a plain dictionary of one), seed included.

    See :func:`~delfjax.config.identities.identity` for what counts.
    """
    return values_hash(identity(config if isinstance(config, dict) else to_dict(config)))


def values_hash(values: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that change with any of the plain ``values``, paths included."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse a ``name`` that is not one of ``known``.

    Raises:
        ConfigError: ``name`` is unknown; the message names the nearest and lists all.
    """
    names = list(known)
    if name not in names:
        raise ConfigError(
            f"{kind} {shown(name)} is unknown{nearest(name, names) or ';'} there are:"
            f" {', '.join(names) or 'none'}"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause of an error that suggests the nearest of ``known``; empty if none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
