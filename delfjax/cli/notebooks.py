"""The form of the committed notebooks: ``delfjax notebooks check | fix``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from delfjax.cli.groups import Group
from delfjax.cli.options import Words
from delfjax.cli.output import print

Notebooks = Annotated[
    tyro.conf.Positional[Words],
    tyro.conf.arg(
        metavar="[NOTEBOOK ...]",
        help="notebooks, each a file or the beginning of a name",
        help_behavior_hint="(default: all)",
    ),
]


@dataclass(frozen=True)
class CheckNotebooks:
    """List the house rules that notebooks break.

    Example: delfjax notebooks check 41_search_and_verify
    """

    notebooks: Notebooks = ()

    def run(self) -> None:
        """Print one line for each rule that is broken; any such line ends in an error."""
        from delfjax.suite.running.notebook_rules import check, select
        from delfjax.suite.runs.folders import RunError

        chosen = select(self.notebooks)
        broken = [f"{path.name}: {line}" for path in chosen for line in check(path)]
        for line in broken:
            print(line)
        if broken:
            raise RunError(f"breaches of the house rules: {len(broken)}, listed above")
        print(f"{len(chosen)} notebooks obey the rules")


@dataclass(frozen=True)
class FixNotebooks:
    """Put notebooks into their committed form: no outputs, stable cell names.

    Example: delfjax notebooks fix notebooks/41_search_and_verify.ipynb
    """

    notebooks: Notebooks = ()

    def run(self) -> None:
        """Normalise the files and name each that changed."""
        from delfjax.suite.running.notebook_rules import fix, select

        changed = [path for path in select(self.notebooks) if fix(path)]
        for path in changed:
            print(f"{path.name}: normalised")
        if not changed:
            print("nothing to fix")


NOTEBOOKS = Group(
    about="Check the committed notebooks against the house rules, or normalise them.",
    sections={"commands": {"check": CheckNotebooks, "fix": FixNotebooks}},
)
