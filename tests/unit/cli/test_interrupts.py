"""Ctrl-C ends a command in one line, whatever the program is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from delfjax.cli.interrupts import prompt_interrupts

ROOT = Path(__file__).resolve().parents[3]
# Sends itself an interrupt at the place named by the first word.
_SCRIPT = """
import os, signal, sys, time, types
from pathlib import Path
from delfjax.cli import main

# A program started in the background by a script ignores interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def during_import():
    place = Path(sys.argv[2])
    (place / "half_way.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    sys.path.insert(0, str(place))
    try:
        import half_way
    except BaseException:
        raise ImportError("initialisation failed")

class Finalised:
    def __del__(self):
        interrupt()
        for _ in range(1000):
            pass

def during_finaliser():
    Finalised()
    time.sleep(20)

def twice():
    try:
        interrupt()
        time.sleep(20)
    finally:
        interrupt()
        time.sleep(20)

moments = {
    "work": lambda: (interrupt(), time.sleep(20)),
    "import": during_import,
    "finaliser": during_finaliser,
    "twice": twice,
}
# In place of the module that imports and runs the commands.
sys.modules["delfjax.cli.running"] = types.SimpleNamespace(run=lambda _: moments[sys.argv[1]]())
sys.exit(main([]))
"""


@pytest.mark.parametrize("moment", ["work", "import", "finaliser", "twice"])
def test_an_interrupt_is_answered_at_every_moment(moment: str, tmp_path: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, moment, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    said = "" if moment == "twice" else "delfjax: interrupted; the same command resumes\n"
    assert done.stderr == said
    assert time.monotonic() - started < 19


def test_the_command_imports_nothing_before_it_can_answer_an_interrupt() -> None:
    script = """
import sys
before = set(sys.modules)
from delfjax.cli import main
print(*sorted(set(sys.modules) - before))
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "delfjax.cli.interrupts":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
sys.exit(main([]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert set(done.stdout.split()) <= {"__future__", "delfjax", "delfjax.cli"}
    assert done.returncode == 130
    assert done.stderr == "delfjax: interrupted; the same command resumes\n"


def test_an_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with prompt_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
