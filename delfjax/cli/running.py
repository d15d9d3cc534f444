"""From the words of a command line to an exit code: every expected failure is one line."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator

from delfjax import __version__, paths
from delfjax.cli.commands import COMMANDS
from delfjax.cli.groups import parse
from delfjax.cli.output import discard, flush, open_streams, print
from delfjax.errors import DelfjaxError, DelfjaxWarning

# The exit code of a program whose reader has gone, as shells report it.
_UNREAD = 141


def run(words: list[str]) -> int:
    """Run the command that the words name; return the exit code.

    With ``DELFJAX_DEBUG`` set, the traceback of a failure precedes its line.

    Raises:
        Exception: a fault of this library, which deserves a traceback.
    """
    open_streams()
    try:
        with _short_warnings():
            code = _run(words)
            # What cannot be written is noticed here and not when Python exits.
            flush()
    except BrokenPipeError:
        discard()
        return _UNREAD
    except Exception as error:
        if lines := _explained(error):
            if paths.debugging():
                traceback.print_exc()
            _report(*lines)
            return 1
        raise
    return code


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        print(f"delfjax {__version__}")
        return 0
    try:
        command = parse(words, COMMANDS, prog="delfjax")
    except SystemExit:
        # Help was printed.
        return 0
    # JAX takes a second to import, which neither help nor a misspelt option should cost.
    from delfjax import device

    device.use_compilation_cache()
    command.run()
    return 0


def _explained(error: Exception) -> list[str]:
    """What the user can do something about: one line, and the details of some errors; nothing for a
    fault of this library."""
    if isinstance(error, DelfjaxError):
        return [error.message, *error.details]
    if isinstance(error, OSError):
        # A full disk, a missing permission: the system's own words, with the file they are about.
        return [f"{error.filename or _unnamed()}: {error.strerror or error}"]
    if isinstance(error, MemoryError):
        return [f"out of memory{f': {error}' if str(error) else ''}"]
    if isinstance(error, UnicodeError):
        return [f"text that cannot be decoded or encoded: {error}"]
    if "jax" not in sys.modules:
        return []
    from delfjax import device

    problem = device.explain(error)
    return [problem] if problem else []


def _unnamed() -> str:
    """What an error of the system is about that names no file."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the current folder"
    return "system"


def _report(line: str, *details: str) -> None:
    """Print the last line of a command and its details, unless nobody reads that either."""
    try:
        print(f"delfjax: {line}", *details, sep="\n", file=sys.stderr)
        flush()
    except OSError:
        discard()


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Show each warning as one line, without the place in the code that gave it."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"delfjax: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("always", DelfjaxWarning)
        yield
