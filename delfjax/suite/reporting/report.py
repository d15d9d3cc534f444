"""One HTML page from all finished runs: the poster's tables with ours beside them, and a section
for each experiment.

Nothing is trained or extracted, and the page loads nothing: style, script and pictures are inside.
Every number stands beside the hash of its run, and the last table says which command makes that
run.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from delfjax import __version__, paths
from delfjax.suite.reporting import poster
from delfjax.suite.reporting.poster import Ours, PosterCell, PosterTable
from delfjax.suite.running.notebook_rules import HEADINGS, notebooks, read_notebook
from delfjax.suite.runs.comparison import (
    MAIN_METRICS,
    flat,
    group_fields,
    groups,
    label,
    metrics,
    number,
    summary,
    varying,
)
from delfjax.suite.runs.folders import FinishedRun, RunError

_INTRODUCTION = """<p>delfjax is an implementation of DELF (attentive deep local features, ICCV 2017) in JAX. Numbers on grey,
<span class="published">in italics</span>, are <b>published</b> ones. All others were measured here: each stands beside the hash
of its run, which leads to the command that makes it again.</p>
"""
_PNG = b"\x89PNG\r\n\x1a\n"
_UNKNOWN = "not known"
# How a cell with a number begins.
_NUMBER = '<td class="number"'


@dataclass(frozen=True)
class Page:
    """What the page is made from.

    Attributes:
        runs: experiment → its finished runs, the latest last.
        problems: one line for each run or picture that is left out.
        anchors: path of a run → name of its row in the table of commands.
    """

    runs: Mapping[str, Sequence[FinishedRun]]
    problems: list[str] = field(default_factory=list)
    anchors: Mapping[Path, str] = field(default_factory=dict)

    @property
    def all_runs(self) -> list[FinishedRun]:
        """Every finished run, experiment by experiment."""
        return [run for runs in self.runs.values() for run in runs]

    def link(self, run: FinishedRun) -> str:
        """The hash of a run, linked to its command."""
        return f'<a class="run" href="#{self.anchors[run.path]}">{escape(run.hash)}</a>'


def build_report(out: Path | None = None) -> Path:
    """Write the page; returns where it is.

    Args:
        out: the file; by default ``report/index.html`` in the folder of the runs.

    Raises:
        RunError: the page cannot be written.
    """
    target = out if out is not None else paths.runs_root() / "report" / "index.html"
    text = page_text()
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise RunError(f"report {target}: cannot be written: {error.strerror or error}") from None
    return target


def page_text() -> str:
    """The page as it is written."""
    runs, problems = poster.gathered_runs()
    places = (run.path for members in runs.values() for run in members)
    page = Page(runs, problems, {path: f"run-{place}" for place, path in enumerate(places, 1)})
    sections = {"Poster": _poster_section(page)}
    sections |= {experiment: _experiment_section(page, experiment) for experiment in runs}
    # After the others: a picture that cannot be read is found on the way.
    sections |= {"Left out": _left_out(page.problems)} if page.problems else {}
    sections |= {"Commands": _commands_section(page)} if runs else {}
    ids = {title: f"section-{place}" for place, title in enumerate(sections, 1)}
    return Template(_asset("report.html")).substitute(
        style=_asset("report.css"),
        script=_asset("report.js"),
        header=_header(page),
        contents=" ".join(f'<a href="#{ids[title]}">{escape(title)}</a>' for title in sections),
        sections="\n".join(
            f'<section id="{ids[title]}">\n{body}\n</section>' for title, body in sections.items()
        ),
    )


def _asset(name: str) -> str:
    return (
        resources.files("delfjax.suite.reporting")
        .joinpath("assets", name)
        .read_text(encoding="utf-8")
    )


def _header(page: Page) -> str:
    runs = page.all_runs
    found = f"{_counted(len(runs), 'finished run')} of {_counted(len(page.runs), 'experiment')}"
    facts = {
        "Built": (
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by delfjax {__version__}, from {found} and"
            " nothing else"
        ),
        "Devices": _each(run.provenance.get("device") for run in runs),
        "Commits": _each(_commit(run) for run in runs),
        "Versions": _each(version for run in runs for version in _versions(run)),
    }
    said = "".join(
        f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
    )
    none = (
        "<p><b>There is no finished run yet.</b> This makes the first ones: <code>make"
        " reproduce</code></p>"
    )
    return f"{_INTRODUCTION}<dl>{said}</dl>{'' if runs else none}"


def _poster_section(page: Page) -> str:
    tables = [_poster_table(page, table) for table in poster.poster_tables()]
    holds = poster.attention_helps_more(page.runs)
    verdict = "open, not all four variants were run" if holds is None else "yes" if holds else "no"
    return "\n".join(
        [
            "<h2>The poster’s tables, published beside ours</h2>",
            *tables,
            f"<p>Do our runs bear that order out? <b>{verdict}</b>.</p>",
        ]
    )


def _poster_table(page: Page, table: PosterTable) -> str:
    grid = table.grid()
    letters: dict[str, str] = {}
    columns = list(next(iter(grid.values())))
    rows = []
    for name, cells in grid.items():
        pairs = "".join(_published_and_ours(page, cells[column], letters) for column in columns)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{pairs}</tr>')
    top = "".join(f'<th class="pair" colspan="2">{escape(column)}</th>' for column in columns)
    below = '<th class="published">published</th><th>ours</th>' * len(columns)
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in letters)
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    corner = "Dataset" if table.rows == "dataset" else "System"
    return (
        f"<h3>{escape(table.title)}</h3>"
        '<div class="wide"><table class="poster"><thead><tr><th'
        f' rowspan="2">{corner}</th>{top}</tr><tr>{below}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        + (
            f'<p class="note">Not run, because:</p><ol class="note" type="a">{reasons}</ol>'
            if reasons
            else ""
        )
        + f'<ul class="note">{notes}</ul>'
    )


def _published_and_ours(page: Page, cell: PosterCell, letters: dict[str, str]) -> str:
    found: Ours = poster.ours(cell, page.runs)
    if found.run is None:
        marks = poster.letters_of(found.reasons, letters)
        beside = (
            f'<td class="missing" title="{escape("; ".join(found.reasons))}">{poster.NOT_RUN}'
            f" <sup>{marks}</sup></td>"
        )
    else:
        beside = f"<td><b>{escape(poster.shown(found.value))}</b> {page.link(found.run)}</td>"
    return f'<td class="published">{escape(poster.shown(cell.published))}</td>{beside}'


def _experiment_section(page: Page, experiment: str) -> str:
    runs = page.runs[experiment]
    latest = runs[-1]
    question = _question(experiment)
    parts = [f"<h2>{escape(experiment)}</h2>", f"<p>{escape(question)}</p>" if question else ""]
    parts += [f"<h3>{_counted(len(runs), 'run')}, the latest last</h3>", _runs_table(page, runs)]
    seeds = {
        values: {run.config.get("seed") for run in members}
        for values, members in groups(runs).items()
    }
    if any(len(different) > 1 for different in seeds.values()):
        parts += [
            "<h3>Means over seeds, with 95 % bootstrap intervals</h3>",
            _seeds_table(page, runs),
        ]
    parts += [_figure(page, latest, path) for path in latest.figures]
    rows = [[_cell(name), _cell(value)] for name, value in flat(latest.results).items()]
    whole = _table(["result", "value"], rows)
    parts.append(
        f"<details><summary>All {len(rows)} results of the latest run,"
        f" {escape(latest.hash)}</summary>"
    )
    parts.append(f"<p>Run {page.link(latest)}</p>{whole}</details>")
    return "\n".join(parts)


def _runs_table(page: Page, runs: Sequence[FinishedRun]) -> str:
    fields, shown = varying(runs), metrics(runs)[:MAIN_METRICS]
    rows = []
    for run in runs:
        settings, results = flat(run.config), flat(run.results)
        values = [settings.get(name) for name in fields] + [results.get(name) for name in shown]
        rows.append(
            [
                f"<td>{page.link(run)}</td>",
                *map(_cell, values),
                _cell(run.provenance.get("seconds")),
            ]
        )
    return _table(["run", *fields, *shown, "seconds"], rows)


def _seeds_table(page: Page, runs: Sequence[FinishedRun]) -> str:
    fields, shown = group_fields(runs), metrics(runs)[:MAIN_METRICS]
    rows = []
    for values, members in groups(runs).items():
        table = summary(members)
        links = " ".join(page.link(run) for run in members)
        for row in table[table["metric"].isin(shown)].to_dict("records"):
            interval = (
                "one seed" if row["seeds"] < 2 else f"{number(row['low'])} to {number(row['high'])}"
            )
            rows.append(
                [
                    _cell(label(fields, values)),
                    _cell(row["metric"]),
                    _cell(row["mean"]),
                    _cell(row["std"]),
                    _cell(interval),
                    _cell(row["seeds"]),
                    f"<td>{links}</td>",
                ]
            )
    return _table(["settings", "result", "mean", "std", "interval", "seeds", "runs"], rows)


def _figure(page: Page, run: FinishedRun, path: Path) -> str:
    title = path.stem.replace("_", " ").capitalize()
    try:
        data = path.read_bytes()
    except OSError as error:
        data = str(error.strerror).encode()
    if not data.startswith(_PNG):
        page.problems.append(f"{path}: not a picture that can be read")
        return ""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    caption = (
        f'{escape(title)} <span class="count">{escape(run.experiment)}, run {page.link(run)}</span>'
    )
    return (
        f'<figure><figcaption>{caption}</figcaption><img loading="lazy" alt="{escape(title)}"'
        f' src="{source}"></figure>'
    )


def _commands_section(page: Page) -> str:
    rows = []
    for run in page.all_runs:
        origin = run.provenance
        finished = str(origin["finished"]).replace("T", " ").removesuffix("+00:00")
        rows.append(
            [
                f'<td id="{page.anchors[run.path]}"><code>{escape(run.hash)}</code></td>',
                f"<td>{_command(str(origin.get('command', _UNKNOWN)))}</td>",
                _cell(_commit(run)),
                _cell(origin.get("device")),
                _cell(origin.get("seconds")),
                _cell(finished),
                (
                    f"<td>{' '.join(_upstream(page, str(place)) for place in origin.get('upstream', {}).values())}</td>"
                ),
            ]
        )
    headings = ["run", "command", "commit", "device", "seconds", "finished (UTC)", "reads"]
    return "<h2>Which command makes which run</h2>" + _table(headings, rows)


def _command(text: str) -> str:
    """A command that breaks between its options, never within one."""
    program, *options = text.split(" --")
    words = [program, *(f"--{option}" for option in options)]
    return f"<code>{' '.join(f'<span>{escape(word)}</span>' for word in words)}</code>"


def _upstream(page: Page, place: str) -> str:
    known = {f"{run.experiment}/{run.hash}": run for run in page.all_runs}
    return page.link(known[place]) if place in known else f"<code>{escape(place)}</code>"


def _left_out(problems: Sequence[str]) -> str:
    # Without the folder of the runs, which is of this machine.
    lines = (line.replace(f"{paths.runs_root()}/", "") for line in problems)
    return f"<h2>Left out</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already, under headings that are not; numbers stand to the
    right."""
    right = [any(row[place].startswith(_NUMBER) for row in rows) for place in range(len(headings))]
    # A long dotted name may break after a dot, a number may not.
    names = [re.sub(r"([._])(?!\d)", r"\1<wbr>", escape(name)) for name in headings]
    top = "".join(
        f"<th{' class=number' if to else ''}>{name}</th>"
        for name, to in zip(names, right, strict=True)
    )
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    kind = ' class="sortable"' if len(rows) > 1 else ""
    return (
        "<div"
        f' class="wide"><table{kind}><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "<td></td>"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{escape(str(value))}</td>"
    text = str(value) if isinstance(value, int) else number(value)
    return f'{_NUMBER} data-value="{value!r}">{text}</td>'


def _question(experiment: str) -> str:
    """What the notebook of that name asks; nothing where it is not one of the suite."""
    try:
        path = next((path for path in notebooks() if path.stem == experiment), None)
        first = read_notebook(path).cells[0].source if path is not None else ""
    except RunError:
        return ""
    line = next((line for line in first.splitlines() if f"**{HEADINGS[0]}**" in line), "")
    asked = line.partition("**:")[2].replace("`", "").strip()
    return asked[:1].upper() + asked[1:]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _each(values: Any) -> str:
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
