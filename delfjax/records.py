"""JSON files that must have certain fields: one check for all readers.

A reader declares a dataclass derived from :class:`Record`, whose annotations say which fields it
uses and of what types. :data:`Whole`, :data:`Size`, :data:`Number` and :data:`Flag` accept no text
in place of a number. Other fields are admitted and kept, so that files of later versions can be
read. A field with a default may be absent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    TypeAdapter,
    ValidationError,
)

from delfjax.errors import shown
from delfjax.files import read_json_object

Whole = StrictInt
# A number of channels or of items in a list.
Size = Annotated[int, Field(strict=True, gt=0, le=1 << 16)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = StrictBool


class Record:
    """Base of the declarations; numbers must be finite."""

    __pydantic_config__ = ConfigDict(extra="ignore", allow_inf_nan=False)


def read_record(file: Path, kind: Any, *, error: Callable[[str], Exception]) -> dict[str, Any]:
    """The JSON object in a file, which has the fields that ``kind`` declares.

    Args:
        file: the file.
        kind: a dataclass derived from :class:`Record`, or another type, such as
            ``dict[str, Number]``.
        error: makes an exception from a message that names the file; usually an error class.

    Raises:
        Exception: made by ``error``: the file cannot be read, is not a JSON object, or lacks a
            field, or a field has a value of another type.
    """
    values = read_json_object(file, error=error)
    require_record(values, kind, where=str(file), error=error)
    return values


def require_record(
    values: object, kind: Any, *, where: str, error: Callable[[str], Exception]
) -> None:
    """Check that plain values have the fields that ``kind`` declares.

    Args:
        values: plain values as JSON has them.
        kind: see :func:`read_record`.
        where: the file, and the part of it that ``values`` are, for the error.
        error: makes an exception from a message; usually an error class.

    Raises:
        Exception: made by ``error``: a field is missing, or has a value of another type.
    """
    try:
        _validator(kind)(values)
    except ValidationError as failure:
        first = failure.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        found = "" if first["type"] == "missing" else f", found {shown(first['input'])}"
        raise error(f"{where}: damaged: {shown(field)}: {first['msg']}{found}") from None


@functools.cache
def _validator(kind: Any) -> Callable[[object], object]:
    # Cached, because building a validator takes much longer than using it.
    return TypeAdapter(kind).validate_python
