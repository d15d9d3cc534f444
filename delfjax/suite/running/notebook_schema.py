"""Imports nbformat without a grammar that it has no use for; imported before whatever else imports
nbformat.

With nbformat comes jsonschema, and with that, where it is installed, ``rfc3987_syntax``: as it is
imported, it builds a parser of internationalised addresses for two seconds, as long as all else
that a runner of notebooks imports. No schema of a notebook has such addresses; in this process,
jsonschema takes any text for one.
"""

from __future__ import annotations

import sys

# An import statement takes what is None here for not installed.
_GRAMMAR = "rfc3987_syntax"
_known = sys.modules.setdefault(_GRAMMAR, None)  # type: ignore[arg-type]  # the import system knows None, its stubs do not
try:
    import nbformat
finally:
    if _known is None:
        del sys.modules[_GRAMMAR]

__all__ = ["nbformat"]
