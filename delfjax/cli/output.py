"""What commands print: the only place that writes to the terminal.

Names of files may hold line breaks and control characters, which must not reach a terminal, and
characters that its encoding lacks. So all commands use the ``print`` of this module.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from delfjax.files import naming
from delfjax.text import printable

# Names of the streams in errors.
_OUTPUT, _ERRORS = Path("standard output"), Path("standard error")


def print(*values: object, sep: str = " ", file: Any = None) -> None:
    """Print values as Python does, a text on one line whatever it contains.

    The lines of any other value, such as a table, are kept; it escapes the names in it.
    """
    with naming(_OUTPUT if file is None else _ERRORS):
        builtins.print(*(_shown(value) for value in values), sep=sep, file=file)


def print_json(values: Any, *, indent: int | None = None) -> None:
    """Print plain values as JSON.

    Characters are escaped only where the terminal cannot show them or must not receive them.
    """
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    with naming(_OUTPUT):
        builtins.print("".join(map(_within_json, text)))


def flush() -> None:
    """Write out what was printed."""
    with naming(_OUTPUT):
        sys.stdout.flush()


def open_streams() -> None:
    """Make both streams exist and accept every character; what an encoding lacks is escaped."""
    for name in ("stdout", "stderr"):
        # Python sets a stream to None that its caller has closed.
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard() -> None:
    """Let what cannot be written go nowhere, since Python would try again when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
            with contextlib.suppress(OSError):
                stream.flush()
    os.close(nowhere)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return printable(value)
    return "\n".join(printable(line) for line in str(value).split("\n"))


def _within_json(character: str) -> str:
    """A character of JSON, escaped if it must be; only texts in quotes hold such characters."""
    if character.isascii() and (character.isprintable() or character == "\n"):
        return character
    try:
        character.encode(sys.stdout.encoding or "utf-8")
        safe = printable(character) == character
    except UnicodeEncodeError:
        safe = False
    return character if safe else json.dumps(character)[1:-1]
