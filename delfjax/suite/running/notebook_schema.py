"""nbformat, imported without a slow grammar that it does not need.

Import this module before any other module imports nbformat. nbformat imports jsonschema, which
imports ``rfc3987_syntax`` where it is installed. That import builds a parser of internationalised
addresses and takes two seconds, as long as all other imports of the notebook runner. No notebook
schema contains such addresses. As a side effect, jsonschema accepts any text as an address in this
process.
"""

from __future__ import annotations

import sys

# The import system treats a module that is None in sys.modules as not installed.
_GRAMMAR = "rfc3987_syntax"
_known = sys.modules.setdefault(_GRAMMAR, None)  # type: ignore[arg-type]  # the import system knows None, its stubs do not
try:
    import nbformat
finally:
    if _known is None:
        del sys.modules[_GRAMMAR]

__all__ = ["nbformat"]
