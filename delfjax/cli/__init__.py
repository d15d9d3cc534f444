"""The command line.

Bad usage and bad input end in one line on standard error and exit code 1.
"""

from __future__ import annotations

import sys

# The exit code of a program that Ctrl-C has stopped, as shells report it.
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 with one line on standard error.

    It is 130 after Ctrl-C, and 141 if nobody reads the output any more, as in ``| head``.
    """
    try:
        # The commands are imported here, so Ctrl-C ends in one line while they are.
        from delfjax.cli.running import run

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("delfjax: interrupted; the same command resumes", file=sys.stderr)
        return _INTERRUPTED
