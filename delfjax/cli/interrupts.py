"""Ctrl-C: one line and exit code 130, at whatever moment.

Python raises ``KeyboardInterrupt`` wherever the program happens to be. In a module that is being
imported, this becomes another error; in a callback of the garbage collector, it is lost.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# The exit code of a program that Ctrl-C has stopped, as shells report it.
INTERRUPTED = 130
MESSAGE = "delfjax: interrupted; the same command resumes"
# Functions out of which no exception is passed on: JAX's callback of the garbage collector, and
# finalisers.
_SWALLOWING = frozenset({"_xla_gc_callback", "__del__"})
# The time after which an interrupt that came at a bad moment is repeated, seconds.
_LATER_S = 0.02


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """Answer the first Ctrl-C with ``KeyboardInterrupt`` where that is of use, and end the process
    at once during an import or at a second Ctrl-C.

    An interrupt that is ignored, as in a background job, stays ignored.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    interrupted = False

    def handle(_: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted or _is_importing(frame):
            if not interrupted:
                os.write(2, f"{MESSAGE}\n".encode())
            os._exit(INTERRUPTED)
        if frame is not None and frame.f_code.co_name in _SWALLOWING:
            threading.Timer(_LATER_S, signal.raise_signal, [signal.SIGINT]).start()
            return
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
