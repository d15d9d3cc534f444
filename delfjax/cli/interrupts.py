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
from types import CodeType, FrameType

from delfjax.cli import INTERRUPTED, MESSAGE

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
        if interrupted:
            os._exit(INTERRUPTED)
        running = list(_callers(frame))
        if any(code.co_filename.startswith("<frozen importlib") for code in running):
            os.write(2, f"{MESSAGE}\n".encode())
            os._exit(INTERRUPTED)
        if any(code.co_name in _SWALLOWING for code in running):
            threading.Timer(_LATER_S, _interrupt_main_thread).start()
            return
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):
        # Also wakes the thread, if it waits.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)


def _callers(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back
