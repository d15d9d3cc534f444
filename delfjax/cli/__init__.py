"""The command line.

Bad usage and bad input end in one line on standard error and exit code 1.

This module is imported before Ctrl-C can be answered, so it imports next to nothing.
"""

from __future__ import annotations

import sys

# The exit code of a program that Ctrl-C has stopped, as shells report it.
INTERRUPTED = 130
MESSAGE = "delfjax: interrupted; the same command resumes"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 with one line on standard error.

    It is 130 after Ctrl-C, and 141 if nobody reads the output any more, as in ``| head``.
    """
    try:
        # Imported here, where Ctrl-C is answered.
        from delfjax.cli.interrupts import prompt_interrupts

        with prompt_interrupts():
            from delfjax.cli.running import run

            return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print(MESSAGE, file=sys.stderr)
        return INTERRUPTED
