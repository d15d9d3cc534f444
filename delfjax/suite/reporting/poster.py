"""The tables of the ICCV 2017 poster, with our measured number beside each published one.

Every number that the poster prints is a :class:`PosterCell`, which says which experiment, settings
and result would measure the same quantity. :func:`ours` finds the latest finished run that fits, or
says why there is none.

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
    "world": "Landmark world",
    "folder": "Photo folder",
}
NOT_RUN = "not run"


@dataclass(frozen=True)
class System:
    """A retrieval system of the poster.

    Attributes:
        name: name as printed.
        experiment: experiment that would measure it; empty if the suite has none.
        settings: settings that a run of that experiment must have.
        unlike: dotted field → values with which a run is of another system.
        quoted: whether the authors quote the numbers from another paper.
        counterpart: our system of this kind, as :data:`COMBINED` names it, on the nearest networks
            at hand; empty if the suite has none.
    """

    name: str
    experiment: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    unlike: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    quoted: bool = False
    counterpart: str = ""


@dataclass(frozen=True)
class PosterCell:
    """One published number, and the runs that would measure it.

    Attributes:
        system: row of the table: a system, or the quantity counted.
        dataset: one of :data:`NAMES`; the last two are ours, and have no published numbers.
        published: number as printed (mAP in percent); ``None`` if the poster has none.
        experiment: experiment whose runs would measure it; empty if the suite has none.
        metric: dotted name of the result.
        settings: settings that a run must have.
        unlike: dotted field → values with which a run is of another system.
        factor: factor that converts the result to the unit of ``published``.
        quoted: whether the authors quote the number from another paper.
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
    """Our counterpart of a published number: a value and its run, or why there is none."""

    value: int | float | str | None = None
    run: FinishedRun | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class PosterTable:
    """One table of the poster.

    Attributes:
        title: title of the table.
        cells: numbers of the table.
        rows: attribute of a cell that names its row, ``"system"`` or ``"dataset"``; the other
            attribute names its column.
        notes: remarks for the reader.
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


_SEARCH = "41_search_and_verify"
# Leaves the mean average precision of every system, by its name.
COMBINED = "61_combine_delf_dir"
# The same of other local features.
COMPARED = "62_compare_with_congas"
_ABLATION = "50_ablation"
# Our datasets, on which every system can be run, with the nearest networks at hand.
_OURS = ("world", "folder")
_EXTRACT = "30_extract_features"
_MAP = "mean.inliers"
_RESNET = {"name": "resnet50", "output": "conv4"}
# Weights with which a run does not count as fine-tuned, or its attention as trained.
_NOT_TUNED = {"backbone.weights": ("imagenet", "random")}
_NOT_TRAINED = {"scorer.weights": ("random",)}

_DELF = System(
    "DELF+FT+ATT (ours)",
    _SEARCH,
    {"backbone": _RESNET, "scorer": {"kind": "attention"}},
    unlike={**_NOT_TUNED, **_NOT_TRAINED},
    counterpart="delf",
)
_GLOBAL_WEIGHTS = {"global_features.backbone.weights": ("imagenet", "random")}
_DIR = {"global_features": {"backbone": {"name": "resnet101"}}}
_SIAMAC = {"global_features": {"backbone": {"name": "vgg16"}}}
_BOTH = System(
    "DELF+FT+ATT+DIR+QE (ours)",
    COMBINED,
    {**_DELF.settings, **_DIR},
    unlike={**_NOT_TUNED, **_NOT_TRAINED, **_GLOBAL_WEIGHTS},
    counterpart="delf+dir+qe",
)
# Columns of the results, mean average precision in percent; the poster prints "—" for None.
_BENCHMARKS = ("oxford5k", "oxford105k", "paris6k", "paris106k")
_PUBLISHED: tuple[tuple[System, tuple[float | None, ...]], ...] = (
    (System("DIR", COMBINED, _DIR, _GLOBAL_WEIGHTS, counterpart="dir"), (86.1, 82.8, 94.5, 90.6)),
    (
        System("DIR+QE", COMBINED, _DIR, _GLOBAL_WEIGHTS, counterpart="dir+qe"),
        (87.1, 85.2, 95.3, 91.8),
    ),
    (
        System("siaMAC", COMBINED, _SIAMAC, _GLOBAL_WEIGHTS, counterpart="siamac"),
        (77.1, 69.5, 83.9, 76.3),
    ),
    (
        System("siaMAC+QE", COMBINED, _SIAMAC, _GLOBAL_WEIGHTS, counterpart="siamac+qe"),
        (81.7, 76.6, 86.2, 79.8),
    ),
    (System("CONGAS", COMPARED, counterpart="congas"), (70.8, 61.1, 67.1, 56.8)),
    (System("LIFT"), (54.0, None, 53.6, None)),
    (System("DIR+QE*", quoted=True, counterpart="dir+qe*"), (89.0, 87.8, 93.8, 90.5)),
    (System("siaMAC+QE*", quoted=True, counterpart="siamac+qe*"), (82.9, 77.9, 85.6, 78.3)),
    (_DELF, (83.8, 82.6, 85.0, 81.7)),
    (_BOTH, (90.0, 88.5, 95.7, 92.8)),
)
# The values that _COUNTED names, in its order.
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
        unlike=_NOT_TRAINED,
    ),
    System(
        "DELF+FT", _SEARCH, {"backbone": _RESNET, "scorer": {"kind": "norm"}}, unlike=_NOT_TUNED
    ),
    System(
        "DELF-noFT",
        _SEARCH,
        {"backbone": {**_RESNET, "weights": "imagenet"}, "scorer": {"kind": "norm"}},
    ),
)


# Variant → result of the ablation on the landmark world.
_ABLATION_METRICS = {
    "DELF+FT+ATT": "map_FT_ATT",
    "DELF+ATT": "map_ATT",
    "DELF+FT": "map_FT",
    "DELF-noFT": "map_noFT",
}


def poster_tables() -> tuple[PosterTable, PosterTable, PosterTable]:
    """The tables of the datasets, of the results, and of the ablation."""
    return _datasets_table(), _results_table(), _ablation_table()


def gathered_runs() -> tuple[dict[str, list[FinishedRun]], list[str]]:
    """Experiment → its finished runs, the latest last; and one line per damaged run."""
    runs: dict[str, list[FinishedRun]] = {}
    problems: list[str] = []
    for experiment in experiments_with_runs():
        whole, damaged = finished_runs(experiment)
        problems += damaged
        if whole:
            runs[experiment] = whole
    return runs, problems


def ours(cell: PosterCell, runs: Mapping[str, Sequence[FinishedRun]]) -> Ours:
    """The result of the latest run that fits, or the reasons why there is none."""
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


def attention_helps_more(runs: Mapping[str, Sequence[FinishedRun]]) -> dict[str, bool]:
    """Dataset → whether our runs confirm the ablation on it, FT+ATT > ATT > FT > noFT; datasets
    without a number for each of the four are left out."""
    verdicts: dict[str, bool] = {}
    cells = _ablation_table().cells
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        found = [ours(cell, runs).value for cell in cells if cell.dataset == dataset]
        values = [value for value in found if isinstance(value, int | float)]
        if len(values) == len(found):
            verdicts[NAMES[dataset]] = values == sorted(set(values), reverse=True)
    return verdicts


def as_frame(
    table: PosterTable, runs: Mapping[str, Sequence[FinishedRun]]
) -> tuple[pd.DataFrame, list[str]]:
    """A table for a notebook with published and our numbers, and the reasons behind its letters."""
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
    """Row → column → published number; cells without a number are left out."""
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
    """Row → column → our number; cells without a number are left out."""
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
    """A number as the poster prints it: counts with separators, scores with one decimal."""
    if value is None or isinstance(value, str):
        return value or "—"
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def letters_of(reasons: Sequence[str], letters: dict[str, str]) -> str:
    """The letters that stand for ``reasons``; new reasons are added to ``letters``."""
    return ", ".join(letters.setdefault(reason, chr(ord("a") + len(letters))) for reason in reasons)


def _beside(found: Ours, letters: dict[str, str]) -> str:
    if found.run is None:
        return f"{NOT_RUN} ({letters_of(found.reasons, letters)})"
    return f"{shown(found.value)} [{found.run.hash}]"


def _why_not(cell: PosterCell) -> tuple[str, ...]:
    if cell.quoted:
        return ("quoted by the authors from another paper; there is nothing to run",)
    if cell.dataset == "folder" and cell.experiment:
        number = cell.experiment.partition("_")[0]
        return (
            f"no labelled photo folder was evaluated: `delfjax run {number} --dataset ./FOLDER`",
        )
    if cell.dataset in _OURS and cell.experiment:
        return (f"no finished run of {cell.experiment} has these settings",)
    reasons = [] if cell.experiment else ["the system is not yet in the suite"]
    if cell.dataset in _OURS:
        return tuple(reasons)
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
        cell
        for system, row in _PUBLISHED
        for cell in (
            *(
                _scored(system, dataset, published)
                for dataset, published in zip(_BENCHMARKS, row, strict=True)
            ),
            *(_counterpart(system, dataset) for dataset in _OURS),
        )
    )
    notes = (
        "Mean average precision in percent, by the classic protocol of Oxford and Paris, not the "
        "revisited one.",
        "*: quoted from the original papers; the authors of DELF ran the other systems themselves.",
        "—: LIFT was not run on the larger datasets. "
        "“(ours)” marks the systems of the poster's authors.",
        "Landmark world and photo folder: the same kinds of systems on the networks at hand "
        "(EfficientNet-Lite0: DELF from its stage conv4, global descriptors from conv5); "
        "61_combine_delf_dir says how each was trained.",
    )
    return PosterTable("Results on existing datasets", cells, notes=notes)


def _ablation_table() -> PosterTable:
    cells = tuple(
        cell
        for system in _VARIANTS
        for cell in (
            _scored(system, "google_landmarks_v1", None),
            PosterCell(
                system.name,
                "world",
                None,
                _ABLATION,
                _ABLATION_METRICS[system.name],
                {"dataset": "world"},
                factor=100.0,
            ),
        )
    )
    notes = (
        "Published claim: attention helps more than fine-tuning, FT+ATT > ATT > FT > noFT. "
        "The poster shows curves, not numbers.",
    )
    return PosterTable("Ablation: does attention help more than fine-tuning?", cells, notes=notes)


def _scored(system: System, dataset: str, published: float | None) -> PosterCell:
    settings = {"dataset": dataset, **system.settings}
    combined = system.experiment in (COMBINED, COMPARED)
    return PosterCell(
        system.name,
        dataset,
        published,
        system.experiment,
        f"map.{system.counterpart}" if combined else _MAP,
        settings,
        system.unlike,
        factor=100.0,
        quoted=system.quoted,
    )


def _counterpart(system: System, dataset: str) -> PosterCell:
    """Our system of the same kind on one of our own datasets."""
    return PosterCell(
        system.name,
        dataset,
        None,
        _counterparts(system),
        f"map.{system.counterpart}",
        {"dataset": dataset},
        factor=100.0,
    )


def _counterparts(system: System) -> str:
    """The experiment that runs our system of the same kind; empty if there is none."""
    if not system.counterpart:
        return ""
    return COMPARED if system.experiment == COMPARED else COMBINED
