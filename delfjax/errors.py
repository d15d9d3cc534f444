"""The base classes of the library's errors and warnings.

It imports nothing, so that the command line can report an error without waiting for JAX.
"""

from __future__ import annotations

from collections.abc import Iterable


class DelfjaxError(Exception):
    """Base of every error this library raises for bad input: one line that names the thing, the
    value seen and what would be accepted.

    Attributes:
        message: that line.
        details: further lines, such as a list of everything that is wrong.
    """

    def __init__(self, message: str = "", *, details: Iterable[str] = ()) -> None:
        self.message = message
        self.details = tuple(details)
        super().__init__("\n".join([message, *self.details]))


class DelfjaxWarning(UserWarning):
    """Something that the user should know of a result: one line, which the command line prints."""


# A list of so many values is described by them, a longer one by its length.
_FEW = 8
_SHOWN_CHARACTERS = 60
_SHOWN_BITS = 128
_QUOTED_CHARACTERS = 200


def shown(value: object) -> str:
    """A short description, in one line, of a value for an error's message.

    Of a nested value, one level is shown: the whole of it could be huge, and that of a tuple nested
    in itself takes exponential time.
    """
    # A named tuple stands for one thing.
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        if len(value) > _FEW:
            return f"a {type(value).__name__} of {len(value):,} values"
        items = ", ".join(_shown_alone(item) for item in value)
        return f"[{items}]" if isinstance(value, list) else f"({items})"
    return _shown_alone(value)


def _shown_alone(value: object) -> str:
    if isinstance(value, str | bytes):
        more = "…" if len(value) > _SHOWN_CHARACTERS else ""
        return repr(value[:_SHOWN_CHARACTERS]) + more
    if value is None or type(value) in (bool, float):
        return repr(value)
    if type(value) is int:
        return repr(value) if value.bit_length() <= _SHOWN_BITS else "a very large integer"
    return f"a {type(value).__name__.lstrip('_').lower()}"


def quoted(failure: object) -> str:
    """The message of another library's error as a part of a line; it may quote a file."""
    text = " ".join(str(failure).split())[:_QUOTED_CHARACTERS]
    return text if text.isprintable() else repr(text)[1:-1]
