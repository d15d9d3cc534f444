"""All commands."""

from __future__ import annotations

from delfjax.cli.datasets import DATASETS
from delfjax.cli.evaluate import Evaluate
from delfjax.cli.groups import Group
from delfjax.cli.mining import Mine
from delfjax.cli.notebooks import NOTEBOOKS
from delfjax.cli.photos import Extract, Index, Match, Search
from delfjax.cli.reporting import REGRESSION, Report, Reproduce
from delfjax.cli.runs import Compare, RunCommand, Sweep
from delfjax.cli.training import Train
from delfjax.cli.weights import WEIGHTS

# In the order in which somebody needs them who begins with a folder of photos.
COMMANDS = Group(
    about="Find the photos that show the same place or thing, with deep local features (DELF).",
    sections={
        "search photos": {
            "extract": Extract,
            "index": Index,
            "search": Search,
            "match": Match,
        },
        "score and explore": {
            "evaluate": Evaluate,
            "mine": Mine,
        },
        "get datasets": {
            "datasets": DATASETS,
        },
        "train models": {
            "train": Train,
            "weights": WEIGHTS,
        },
        "run notebooks": {
            "run": RunCommand,
            "sweep": Sweep,
            "compare": Compare,
            "report": Report,
            "reproduce": Reproduce,
            "regression": REGRESSION,
            "notebooks": NOTEBOOKS,
        },
    },
)
