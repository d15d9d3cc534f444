"""One HTML page from all finished runs: the poster's tables with our numbers beside them, and a
section for each experiment.

The report only reads finished runs. The page loads nothing: style, script and pictures are
embedded. Every measured number stands beside the hash of its run, and the last table lists the
command that repeats each run.

This module collects plain values; the Jinja templates beside it lay them out and escape them.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from delfjax import __version__, paths
from delfjax.files import flatten, replace_file
from delfjax.suite.reporting import poster
from delfjax.suite.reporting.poster import PosterCell
from delfjax.suite.running.notebook_rules import HEADINGS, notebooks, read_notebook
from delfjax.suite.runs.comparison import (
    MAIN_METRICS,
    group_fields,
    groups,
    label,
    metrics,
    summary,
    varying,
)
from delfjax.suite.runs.folders import FinishedRun, RunError
from delfjax.suite.runs.tables import number

_PNG = b"\x89PNG\r\n\x1a\n"
_UNKNOWN = "not known"


@dataclass(frozen=True)
class RunLink:
    """A link to a run.

    Attributes:
        text: hash of the run, or ``experiment/hash`` for a run that is not on the page.
        anchor: anchor of the row with its command; empty if there is none.
    """

    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the text shown.
        sorts_as: the number behind ``text`` with all its digits; empty if ``text`` is not a number.
        runs: runs to link to.
        command: a command line, in pieces within which a line never breaks.
        row_of: anchor of this cell, if links to a run lead here.
    """

    text: str = ""
    sorts_as: str = ""
    runs: tuple[RunLink, ...] = ()
    command: tuple[str, ...] = ()
    row_of: str = ""


@dataclass(frozen=True)
class Heading:
    """The heading of a column.

    Attributes:
        pieces: its name, in pieces between which a line may break.
        numeric: whether the column holds numbers.
    """

    pieces: tuple[str, ...]
    numeric: bool


@dataclass(frozen=True)
class Table:
    """Rows of cells under their headings."""

    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Pair:
    """A published number and ours.

    Attributes:
        published: the published number, as text.
        ours: our number, as text, or a remark that there is none.
        run: run that our number comes from; ``None`` if there is none.
        reasons: why there is no number of ours.
        letters: the reasons as letters of the list below the table.
    """

    published: str
    ours: str
    run: RunLink | None = None
    reasons: str = ""
    letters: str = ""


@dataclass(frozen=True)
class PosterPart:
    """A table of the poster: rows with a pair per column, and the reasons behind its letters."""

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Pair, ...]], ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A picture with its title; ``source`` is a ``data:`` URL that contains the picture."""

    title: str
    source: str


@dataclass(frozen=True)
class ExperimentPart:
    """The section of an experiment.

    Attributes:
        name: name of its notebook.
        question: question of the notebook; empty if the notebook is not part of the suite.
        count: number of runs, in words.
        runs: settings that differ and main results of each run.
        seeds: means over seeds, if some settings were run with several seeds.
        latest: the run that ``figures`` and ``results`` come from.
        figures: pictures of the latest run.
        results: all results of the latest run.
        problems: one line per unreadable picture, which is left out.
    """

    name: str
    question: str
    count: str
    runs: Table
    seeds: Table | None
    latest: RunLink
    figures: tuple[Figure, ...]
    results: Table
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """Everything on the page.

    Attributes:
        facts: pairs of name and text about devices, commits and versions of the runs.
        poster: the poster's tables.
        verdict: whether our runs confirm the poster's claim.
        experiments: one section per experiment with a finished run.
        left_out: one line per run or picture that could not be read.
        commands: the command of each run; ``None`` if there is no run.
    """

    facts: tuple[tuple[str, str], ...]
    poster: tuple[PosterPart, ...]
    verdict: str
    experiments: tuple[ExperimentPart, ...]
    left_out: tuple[str, ...]
    commands: Table | None


Links = Mapping[Path, RunLink]
Runs = Mapping[str, Sequence[FinishedRun]]


def build_report(out: Path | None = None) -> Path:
    """Write the page and return its file.

    Args:
        out: the file; by default ``report/index.html`` in the folder of the runs.

    Raises:
        RunError: the page cannot be written.
    """
    target = out if out is not None else paths.runs_root() / "report" / "index.html"
    text = page_text()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, text.encode("utf-8"))
    except OSError as error:
        raise RunError(f"report {target}: cannot be written: {error.strerror or error}") from None
    return target


def page_text() -> str:
    """The HTML of the page."""
    templates = Environment(
        loader=PackageLoader("delfjax.suite.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("page.html").render(page=_page())


def _page() -> Page:
    runs, damaged = poster.gathered_runs()
    members = [run for of in runs.values() for run in of]
    links = {run.path: RunLink(run.hash, f"run-{place}") for place, run in enumerate(members, 1)}
    experiments = tuple(_experiment(name, of, links) for name, of in runs.items())
    unreadable = [problem for part in experiments for problem in part.problems]
    return Page(
        facts=_facts(runs),
        poster=tuple(_poster_part(table, runs, links) for table in poster.poster_tables()),
        verdict=_verdict(runs),
        experiments=experiments,
        # The absolute path of the runs is of no interest to readers on other machines.
        left_out=tuple(
            line.replace(f"{paths.runs_root()}/", "") for line in (*damaged, *unreadable)
        ),
        commands=_commands(members, links) if members else None,
    )


def _verdict(runs: Runs) -> str:
    """Whether the scores of our runs are in the order that the poster claims."""
    found = poster.attention_helps_more(runs)
    if not found:
        return "Not known yet: not all four variants have been run."
    said = (f"on {name}: {'yes' if holds else 'no'}" for name, holds in found.items())
    return ", ".join(said).capitalize() + "."


def _facts(runs: Runs) -> tuple[tuple[str, str], ...]:
    members = [run for of in runs.values() for run in of]
    found = f"{_counted(len(members), 'finished run')} of {_counted(len(runs), 'experiment')}"
    facts = {
        "Built": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by delfjax {__version__} from {found}",
        "Devices": _each(run.provenance.get("device") for run in members),
        "Commits": _each(_commit(run) for run in members),
        "Versions": _each(version for run in members for version in _versions(run)),
    }
    return tuple((name, text) for name, text in facts.items() if text)


def _poster_part(table: poster.PosterTable, runs: Runs, links: Links) -> PosterPart:
    grid = table.grid()
    letters: dict[str, str] = {}
    rows = tuple(
        (name, tuple(_pair(cell, runs, links, letters) for cell in cells.values()))
        for name, cells in grid.items()
    )
    return PosterPart(
        title=table.title,
        corner=table.rows.capitalize(),
        columns=tuple(next(iter(grid.values()))),
        rows=rows,
        reasons=tuple(letters),
        notes=table.notes,
    )


def _pair(cell: PosterCell, runs: Runs, links: Links, letters: dict[str, str]) -> Pair:
    """One pair of the poster; letters for new reasons are added to ``letters``."""
    published = poster.shown(cell.published)
    found = poster.ours(cell, runs)
    if found.run is None:
        marks = poster.letters_of(found.reasons, letters)
        return Pair(published, poster.NOT_RUN, reasons="; ".join(found.reasons), letters=marks)
    return Pair(published, poster.shown(found.value), links[found.run.path])


def _experiment(name: str, runs: Sequence[FinishedRun], links: Links) -> ExperimentPart:
    latest = runs[-1]
    seeds = [{run.config.get("seed") for run in members} for members in groups(runs).values()]
    pictures = {path: _figure(path) for path in latest.figures}
    results = [(_cell(of), _cell(value)) for of, value in flatten(latest.results).items()]
    return ExperimentPart(
        name=name,
        question=_question(name),
        count=_counted(len(runs), "run"),
        runs=_runs_table(runs, links),
        seeds=_seeds_table(runs, links) if max(map(len, seeds)) > 1 else None,
        latest=links[latest.path],
        figures=tuple(figure for figure in pictures.values() if figure is not None),
        results=_table(["result", "value"], results),
        problems=tuple(
            f"{path}: not a readable PNG picture"
            for path, figure in pictures.items()
            if figure is None
        ),
    )


def _runs_table(runs: Sequence[FinishedRun], links: Links) -> Table:
    fields = varying(runs)
    shown = metrics(runs)[:MAIN_METRICS]
    rows = []
    for run in runs:
        settings = flatten(run.config)
        results = flatten(run.results)
        values = [settings.get(name) for name in fields] + [results.get(name) for name in shown]
        seconds = run.provenance.get("seconds")
        rows.append((Cell(runs=(links[run.path],)), *map(_cell, values), _cell(seconds)))
    return _table(["run", *fields, *shown, "seconds"], rows)


def _seeds_table(runs: Sequence[FinishedRun], links: Links) -> Table:
    fields = group_fields(runs)
    shown = metrics(runs)[:MAIN_METRICS]
    rows = []
    for values, members in groups(runs).items():
        table = summary(members)
        of = Cell(runs=tuple(links[run.path] for run in members))
        for row in table[table["metric"].isin(shown)].to_dict("records"):
            interval = f"{number(row['low'])} to {number(row['high'])}"
            said = (
                label(fields, values),
                row["metric"],
                row["mean"],
                row["std"],
                interval if row["seeds"] > 1 else "one seed",
                row["seeds"],
            )
            rows.append((*map(_cell, said), of))
    return _table(["settings", "result", "mean", "std", "interval", "seeds", "runs"], rows)


def _figure(path: Path) -> Figure | None:
    """The picture in a file; ``None`` if it cannot be read or is not a PNG."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data.startswith(_PNG):
        return None
    title = path.stem.replace("_", " ").capitalize()
    return Figure(title, f"data:image/png;base64,{base64.b64encode(data).decode()}")


def _commands(runs: Sequence[FinishedRun], links: Links) -> Table:
    places = {f"{run.experiment}/{run.hash}": links[run.path] for run in runs}
    rows = []
    for run in runs:
        origin = run.provenance
        finished = str(origin["finished"]).replace("T", " ").removesuffix("+00:00")
        program, *options = str(origin.get("command", _UNKNOWN)).split(" --")
        read = map(str, origin.get("upstream", {}).values())
        rows.append(
            (
                Cell(run.hash, row_of=links[run.path].anchor),
                Cell(command=(program, *(f"--{option}" for option in options))),
                _cell(_commit(run)),
                _cell(origin.get("device")),
                _cell(origin.get("seconds")),
                _cell(finished),
                Cell(runs=tuple(places.get(place, RunLink(place)) for place in read)),
            )
        )
    headings = ["run", "command", "commit", "device", "seconds", "finished (UTC)", "reads"]
    return _table(headings, rows)


def _table(names: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> Table:
    """A table under headings. A long dotted name may break after a dot, but not within a number."""
    headings = tuple(
        Heading(
            pieces=tuple(re.split(r"(?<=[._])(?!\d)", name)),
            numeric=any(row[place].sorts_as for row in rows),
        )
        for place, name in enumerate(names)
    )
    return Table(headings, tuple(rows))


def _cell(value: Any) -> Cell:
    """The cell of a plain value; empty for ``None`` and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value))
    return Cell(str(value) if isinstance(value, int) else number(value), sorts_as=repr(value))


def _question(experiment: str) -> str:
    """The question of a notebook; empty if the notebook is not part of the suite."""
    try:
        path = next((path for path in notebooks() if path.stem == experiment), None)
        cells = read_notebook(path).cells if path is not None else []
        first = cells[0].source if cells else ""
    except RunError:
        return ""
    line = next((line for line in first.splitlines() if f"**{HEADINGS[0]}**" in line), "")
    asked = line.partition("**:")[2].replace("`", "").strip()
    return asked[:1].upper() + asked[1:]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _each(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _commit(run: FinishedRun) -> str:
    git = run.provenance.get("git")
    if not git:
        return "no checkout"
    return f"{str(git['commit'])[:7]}{' with changes' if git['dirty'] else ''}"


def _versions(run: FinishedRun) -> list[str]:
    packages = run.provenance.get("packages", {})
    return [
        f"Python {run.provenance.get('python', _UNKNOWN)}",
        *(f"{name} {version}" for name, version in packages.items()),
    ]
