"""nbformat comes without the grammar that takes longer to build than all else to import."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

SCRIPT = """
import sys
import delfjax.suite.running.runner
assert "jsonschema" in sys.modules and "rfc3987_syntax" not in sys.modules
import rfc3987_syntax
print(rfc3987_syntax.is_valid_syntax("iri", "https://example.org/ü"))
"""


def test_a_runner_does_not_wait_for_the_grammar_and_whoever_needs_it_has_it() -> None:
    assert find_spec("rfc3987_syntax"), (
        "jsonschema no longer asks for it: delfjax.suite.running.notebook_schema can go"
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr
