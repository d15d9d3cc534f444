"""The base classes of the library's errors and warnings.

It imports nothing, so that the command line can report an error without waiting for JAX.
"""

from __future__ import annotations


class DelfjaxError(Exception):
    """Base of every error this library raises for bad input: one line that names the thing, the
    value seen and what would be accepted."""


class DelfjaxWarning(UserWarning):
    """Something that the user should know of a result: one line, which the command line prints."""
