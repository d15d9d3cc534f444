"""The tables of the ICCV 2017 poster, and what finished runs put beside each published number.

Every number that the poster prints is a :class:`PosterCell`: it says which experiment, result and
settings would measure the same. :func:`ours` looks for the latest finished run that fits, and says
why there is none.

Source: Noh, Araujo, Sim, Weyand, Han 2017, "Large-Scale Image Retrieval with Attentive Deep Local
    Features", poster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from delfjax.datasets.catalogue import present_datasets
from delfjax.files import flatten
from delfjax.suite.runs.comparison import experiments_with_runs
from delfjax.suite.runs.folders import FinishedRun, differences, finished_runs

NAMES = {
    "google_landmarks_v1": "Google-Landmarks",
    "oxford5k": "Oxford5k",
    "oxford105k": "Oxford105k",
    "paris6k": "Paris6k",
    "paris106k": "Paris106k",
    "holidays": "Holidays",
}
NOT_RUN = "not run"


@dataclass(frozen=True)
class System:
    """One way to search, as the poster names it.

    Attributes:
        name: as printed.
        experiment: the one that would measure it; empty where the suite has none.
        settings: what a run of that experiment must agree with.
        unlike: dotted field → values that make it another system.
        quoted: whether the authors took the numbers from another paper instead of running it.
    """

    name: str
    experiment: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    unlike: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    quoted: bool = False


@dataclass(frozen=True)
class PosterCell:
    """One published number, and where ours would come from.

    Attributes:
        system: row of the table: a system, or what is counted.
        dataset: one of :data:`NAMES`.
        published: as printed (mAP in percent); ``None`` where the poster has no number.
        experiment: the one whose runs are looked through; empty where the suite has none.
        metric: dotted name of the result.
        settings: what a run must agree with.
        unlike: dotted field → values that make it another system.
        factor: the result times this is comparable with ``published``.
        quoted: whether the authors took the number from another paper.
    """

    system: str
    dataset: str
    published: int | float | str | None
    experiment: str
    metric: str
    settings: Mapping[str, Any]
    unlike: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    factor: float = 1.0
    quoted: bool = False

    def fits(self, run: FinishedRun) -> bool:
        """Whether ``run`` is of this system and dataset."""
        held = flatten(run.config)
        refused = any(held.get(name) in values for name, values in self.unlike.items())
        return (
            run.experiment == self.experiment
            and not refused
            and not differences(self.settings, run.config)
        )


@dataclass(frozen=True)
class Ours:
    """What stands beside a published number: a value and the run it comes from, or the reasons why
    there is none."""

    value: int | float | str | None = None
    run: FinishedRun | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class PosterTable:
    """One table of the poster.

    Attributes:
        title: what it says.
        cells: its numbers.
        rows: attribute of a cell that names the row, ``"system"`` or ``"dataset"``; the other one
            names the column.
        notes: what a reader has to know.
    """

    title: str
    cells: tuple[PosterCell, ...]
    rows: str = "system"
    notes: tuple[str, ...] = ()

    def grid(self) -> dict[str, dict[str, PosterCell]]:
        """Row → column → cell, in the order of the poster."""
        found: dict[str, dict[str, PosterCell]] = {}
        for cell in self.cells:
            row, column = cell.system, NAMES[cell.dataset]
            if self.rows == "dataset":
                row, column = column, row
            found.setdefault(row, {})[column] = cell
        return found


# The search that stands for DELF, and what it is not: neither a random nor an untrained network is
# a trained one.
_SEARCH, _EXTRACT, _MAP = "41_search_and_verify", "30_extract_features", "mean.inliers"
_RESNET = {"name": "resnet50", "output": "conv4"}
_TUNED = {"backbone.weights": ("imagenet", "random")}
_TRAINED = {"scorer.weights": ("random",)}

_DELF = System(
    "DELF+FT+ATT (ours)",
    _SEARCH,
    {"backbone": _RESNET, "scorer": {"kind": "attention"}},
    unlike={**_TUNED, **_TRAINED},
)
# Percent of mean average precision on each of these datasets; the poster prints "—" for None.
_BENCHMARKS = ("oxford5k", "oxford105k", "paris6k", "paris106k")
_PUBLISHED: tuple[tuple[System, tuple[float | None, ...]], ...] = (
    (System("DIR"), (86.1, 82.8, 94.5, 90.6)),
    (System("DIR+QE"), (87.1, 85.2, 95.3, 91.8)),
    (System("siaMAC"), (77.1, 69.5, 83.9, 76.3)),
    (System("siaMAC+QE"), (81.7, 76.6, 86.2, 79.8)),
    (System("CONGAS"), (70.8, 61.1, 67.1, 56.8)),
    (System("LIFT"), (54.0, None, 53.6, None)),
    (System("DIR+QE*", quoted=True), (89.0, 87.8, 93.8, 90.5)),
    (System("siaMAC+QE*", quoted=True), (82.9, 77.9, 85.6, 78.3)),
    (_DELF, (83.8, 82.6, 85.0, 81.7)),
    (System("DELF+FT+ATT+DIR+QE (ours)"), (90.0, 88.5, 95.7, 92.8)),
)
# Landmarks (scenes), query images, database images, whether there are query distractors.
_SIZES: dict[str, tuple[int | str, ...]] = {
    "google_landmarks_v1": (12_894, 100_000, 1_060_709, "yes"),
    "oxford5k": (16, 55, 5_062, "no"),
    "paris6k": (11, 55, 6_412, "no"),
    "holidays": (500, 500, 1_491, "no"),
}
_COUNTED = (
    ("landmarks (scenes)", _SEARCH, "landmarks"),
    ("query images", _SEARCH, "queries"),
    ("database images", _EXTRACT, "photos"),
    ("query distractors", _SEARCH, "query_distractors"),
)
_VARIANTS = (
    System("DELF+FT+ATT", _SEARCH, _DELF.settings, unlike=_DELF.unlike),
    System(
        "DELF+ATT",
        _SEARCH,
        {"backbone": {**_RESNET, "weights": "imagenet"}, "scorer": {"kind": "attention"}},
        unlike=_TRAINED,
    ),
    System("DELF+FT", _SEARCH, {"backbone": _RESNET, "scorer": {"kind": "norm"}}, unlike=_TUNED),
    System(
        "DELF-noFT",
        _SEARCH,
        {"backbone": {**_RESNET, "weights": "imagenet"}, "scorer": {"kind": "norm"}},
    ),
)


def poster_tables() -> tuple[PosterTable, PosterTable, PosterTable]:
    """The datasets, the results, and the ablation."""
    return _datasets_table(), _results_table(), _ablation_table()


def gathered_runs() -> tuple[dict[str, list[FinishedRun]], list[str]]:
    """Experiment → its finished runs, the latest last; and one line for each run that is
    damaged."""
    runs, problems = {}, []
    for experiment in experiments_with_runs():
        whole, damaged = finished_runs(experiment)
        problems += damaged
        if whole:
            runs[experiment] = whole
    return runs, problems


def ours(cell: PosterCell, runs: Mapping[str, Sequence[FinishedRun]]) -> Ours:
    """What the latest run that fits found, or why there is nothing to show."""
    fitting = [run for run in runs.get(cell.experiment, ()) if cell.fits(run)]
    if not fitting:
        return Ours(reasons=_why_not(cell))
    value = flatten(fitting[-1].results).get(cell.metric)
    if isinstance(value, bool):
        return Ours("yes" if value else "no", fitting[-1])
    if isinstance(value, str):
        return Ours(value, fitting[-1])
    if isinstance(value, int | float):
        return Ours(value if cell.factor == 1 else value * cell.factor, fitting[-1])
    return Ours(reasons=(f"run {fitting[-1].hash} has no result {cell.metric!r}",))


def attention_helps_more(runs: Mapping[str, Sequence[FinishedRun]]) -> bool | None:
    """Whether our runs bear out the ablation, FT+ATT > ATT > FT > noFT; ``None`` as long as one of
    them is missing."""
    found = [ours(cell, runs).value for cell in _ablation_table().cells]
    values = [value for value in found if isinstance(value, int | float)]
    return values == sorted(set(values), reverse=True) if len(values) == len(found) else None


def as_frame(
    table: PosterTable, runs: Mapping[str, Sequence[FinishedRun]]
) -> tuple[pd.DataFrame, list[str]]:
    """A table for a notebook: published beside ours; and the reasons that its letters stand for."""
    letters: dict[str, str] = {}
    rows = {
        row: {
            (column, source): text
            for column, cell in cells.items()
            for source, text in (
                ("published", shown(cell.published)),
                ("ours", _beside(ours(cell, runs), letters)),
            )
        }
        for row, cells in table.grid().items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.columns = pd.MultiIndex.from_tuples(list(frame.columns))
    return frame, [f"{letter}: {reason}" for reason, letter in letters.items()]


def published_scores(table: PosterTable) -> dict[str, dict[str, float]]:
    """Row → column → published number, without the cells that have none."""
    return {
        row: {
            column: float(cell.published)
            for column, cell in cells.items()
            if isinstance(cell.published, int | float)
        }
        for row, cells in table.grid().items()
    }


def measured_scores(
    table: PosterTable, runs: Mapping[str, Sequence[FinishedRun]]
) -> dict[str, dict[str, float]]:
    """Row → column → our number, without the cells that have none."""
    found: dict[str, dict[str, float]] = {}
    for row, cells in table.grid().items():
        values = {column: ours(cell, runs).value for column, cell in cells.items()}
        found[row] = {
            column: float(value)
            for column, value in values.items()
            if isinstance(value, int | float)
        }
    return {row: values for row, values in found.items() if values}


def shown(value: int | float | str | None) -> str:
    """A number of the poster as it is printed: counts with separators, scores with one digit."""
    if value is None or isinstance(value, str):
        return value or "—"
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def letters_of(reasons: Sequence[str], letters: dict[str, str]) -> str:
    """The letters that stand for ``reasons``; new ones are added to ``letters`` (reason →
    letter)."""
    return ", ".join(letters.setdefault(reason, chr(ord("a") + len(letters))) for reason in reasons)


def _beside(found: Ours, letters: dict[str, str]) -> str:
    if found.run is None:
        return f"{NOT_RUN} ({letters_of(found.reasons, letters)})"
    return f"{shown(found.value)} [{found.run.hash}]"


def _why_not(cell: PosterCell) -> tuple[str, ...]:
    if cell.quoted:
        return ("quoted by the authors from another paper; there is nothing to run",)
    reasons = [] if cell.experiment else ["the system is not yet in the suite"]
    if cell.dataset not in present_datasets():
        reasons.append("the dataset is not downloaded")
    return tuple(reasons) or (f"no finished run of {cell.experiment} has these settings",)


def _datasets_table() -> PosterTable:
    cells = tuple(
        PosterCell(counted, dataset, published, experiment, metric, {"dataset": dataset})
        for dataset, sizes in _SIZES.items()
        for (counted, experiment, metric), published in zip(_COUNTED, sizes, strict=True)
    )
    notes = (
        "The paper counts 111,036 queries of Google-Landmarks, the poster 100,000.",
        "Oxford5k has 11 landmarks in its ground truth, the poster counts 16.",
    )
    return PosterTable("Datasets", cells, "dataset", notes)


def _results_table() -> PosterTable:
    cells = tuple(
        _scored(system, dataset, published)
        for system, row in _PUBLISHED
        for dataset, published in zip(_BENCHMARKS, row, strict=True)
    )
    notes = (
        (
            "Mean average precision in percent, by the classic protocol of Oxford and Paris, not"
            " the revisited one."
        ),
        "*: quoted from the original papers; the authors of DELF ran the other systems themselves.",
        (
            "—: LIFT was not run on the larger datasets. “(ours)” is the poster's word for its"
            " authors' systems."
        ),
    )
    return PosterTable("Results on existing datasets", cells, notes=notes)


def _ablation_table() -> PosterTable:
    cells = tuple(_scored(system, "google_landmarks_v1", None) for system in _VARIANTS)
    notes = (
        (
            "Published claim: attention helps more than fine-tuning, FT+ATT > ATT > FT > noFT; the"
            " poster draws curves, no numbers."
        ),
    )
    return PosterTable("Ablation: does attention help more than fine-tuning?", cells, notes=notes)


def _scored(system: System, dataset: str, published: float | None) -> PosterCell:
    settings = {"dataset": dataset, **system.settings}
    return PosterCell(
        system.name,
        dataset,
        published,
        system.experiment,
        _MAP,
        settings,
        system.unlike,
        factor=100.0,
        quoted=system.quoted,
    )
