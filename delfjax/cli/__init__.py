"""The command line.

Bad usage and bad input end in one line on standard error and exit code 1.
"""

from __future__ import annotations

import sys

from delfjax.cli.interrupts import INTERRUPTED, MESSAGE, prompt_interrupts


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 with one line on standard error.

    It is 130 after Ctrl-C, and 141 if nobody reads the output any more, as in ``| head``.
    """
    try:
        with prompt_interrupts():
            # The commands are imported here, where Ctrl-C is answered.
            from delfjax.cli.running import run

            return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print(MESSAGE, file=sys.stderr)
        return INTERRUPTED
