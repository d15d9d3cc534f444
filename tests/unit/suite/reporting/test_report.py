"""The report: one page that loads nothing, in which every number leads to a run and every run to
its command."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from delfjax import paths, plots
from delfjax.suite.reporting import poster
from delfjax.suite.reporting.report import build_report
from delfjax.suite.runs.folders import FinishedRun, RunError, start_run

# Elements of HTML that have no end tag.
_VOID = {"meta", "img", "wbr", "br", "link", "hr"}
BACKBONE = {"name": "resnet50", "output": "conv4", "weights": "tuned.safetensors"}
DELF = {
    "dataset": "oxford5k",
    "backbone": BACKBONE,
    "scorer": {"kind": "attention", "weights": "attention.safetensors"},
}


@pytest.fixture(autouse=True)
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))


class Page(HTMLParser):
    """A parsed page; fails if tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes {self.open}"

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names]

    def row(self, *begins: str) -> list[str]:
        """The one row that begins with these cells."""
        (row,) = [cells for cells in self.rows if cells[: len(begins)] == list(begins)]
        return row


def made(name: str, results: dict[str, Any], **config: Any) -> FinishedRun:
    run = start_run(
        name, {"seed": 0, **config}, parameters={"preset": "ci", "seed": config.get("seed", 0)}
    )
    return run.finish(results)


def drawn(name: str) -> FinishedRun:
    """A run with a picture."""
    run = start_run(name, {"seed": 0})
    run.save_figure("tier_scores", plots.plot_tier_scores({"photo": {"votes": 0.5}}))
    return run.finish({"map": 0.5})


def page() -> Page:
    return Page(build_report().read_text(encoding="utf-8"))


def test_without_runs_the_page_opens_and_says_so() -> None:
    built = build_report()
    assert built == paths.runs_root() / "report" / "index.html"
    assert "There is no finished run yet" in Page(built.read_text(encoding="utf-8")).text


def test_the_page_loads_nothing() -> None:
    drawn("10_example")
    parsed = page()
    assert all(
        value.startswith(("#", "data:image/png;base64,")) for value in parsed.values("src", "href")
    )
    assert "link" not in {tag for tag, _, _ in parsed.attributes}
    text = build_report().read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|//[a-z]+\.", re.sub(r"base64,[\w+/=]+", "", text))


def test_every_hash_leads_to_the_row_with_its_command() -> None:
    runs = [
        made("10_example", {"map": 0.5}, seed=0),
        made("10_example", {"map": 0.25}, seed=1),
        made("20_other", {"map": 1.0}),
    ]
    parsed = page()
    targets = {value[1:] for value in parsed.values("href")}
    assert targets <= set(parsed.values("id"))
    for run in runs:
        row = parsed.row(run.hash, str(run.provenance["command"]))
        assert row[3] == run.provenance["device"]
    text = build_report().read_text(encoding="utf-8")
    linked = set(re.findall(r'<a class="run" href="#(run-\d+)">(\w+)</a>', text))
    assert {
        (name, digits) for name, digits in re.findall(r'<td id="(run-\d+)"><code>(\w+)<', text)
    } == linked


def test_a_run_that_reads_another_one_leads_to_it() -> None:
    upstream = made("10_example", {"map": 0.5})
    start_run("20_other", {"seed": 0}, upstream={"features": upstream}).finish({"map": 0.5})
    (command,) = [row for row in page().rows if row[1].startswith("delfjax run 20_other")]
    assert command[-1] == upstream.hash


def test_results_stand_beside_the_hash_of_their_run() -> None:
    first, second = (
        made("10_example", {"map": 0.123456}, seed=0),
        made("10_example", {"map": 0.5}, seed=1),
    )
    parsed = page()
    assert parsed.row(first.hash, "0")[2] == "0.1235"
    assert parsed.row(second.hash, "1")[2] == "0.5"


def test_means_over_seeds_name_all_of_their_runs() -> None:
    runs = [
        made("10_example", {"map": value}, seed=seed)
        for seed, value in enumerate((0.25, 0.5, 0.75))
    ]
    row = page().row("all runs", "map")
    assert row[2:4] == ["0.5", "0.25"] and row[5] == "3"
    assert sorted(row[6].split()) == sorted(run.hash for run in runs)


def test_pictures_of_the_latest_run_are_inside_with_a_title() -> None:
    drawn("10_example")
    parsed = page()
    (source,) = [value for tag, name, value in parsed.attributes if (tag, name) == ("img", "src")]
    assert source.startswith("data:image/png;base64,iVBOR")
    assert "Tier scores" in parsed.text


def test_names_and_values_are_escaped_wherever_they_stand() -> None:
    bad = '<img src=x onerror="alert(1)">&amp;'
    run = start_run(f"10_{bad.replace('/', '')}", {"seed": 0, bad: bad}, parameters={bad: bad})
    run.save_query_scores("AP", {bad: 1.0})
    run.finish({bad: 0.5, "note": bad})
    start_run(run.experiment, {"seed": 0, bad: "other"}).finish({bad: 0.25})
    text = build_report().read_text(encoding="utf-8")
    assert "<img" not in text and 'onerror="' not in text
    assert bad in unescape(text).replace("<wbr>", "")
    Page(text)


SCRIPT = "<script>alert(1)</script>"


def test_a_script_in_a_name_a_setting_a_result_or_an_error_is_shown_as_text() -> None:
    """The only script on the page is its own, wherever the text comes from."""
    # Names of folders and files cannot contain a slash.
    name = "<script>alert(1)"
    runs = []
    for photo in (SCRIPT, "other"):
        run = start_run(f"10_{name}", {"seed": 0, "photo": photo}, parameters={"photo": photo})
        run.save_figure("scores", plots.plot_tier_scores({"photo": {"votes": 0.5}}))
        runs.append(run.finish({"found": SCRIPT, SCRIPT: 1.0}))
        (run.path / "figures" / "scores.png").rename(run.path / "figures" / f"{name}.png")
    broken = made(f"20_{name}", {"map": 0.5})
    (broken.path / "results.json").write_text("{")
    parsed = page()
    assert [tag for tag in parsed.tags if tag == "script"] == ["script"]
    assert f"20_{name}/{broken.hash}: damaged" in parsed.text
    assert f"delfjax run '10_{name}'" in parsed.text and f"{name} 10_{name}, run" in parsed.text
    assert parsed.row("found", SCRIPT) and parsed.row(SCRIPT, "1")
    assert parsed.row(runs[0].hash, SCRIPT, "1")


def test_a_damaged_run_is_left_out_and_named_without_the_path_of_this_machine(
    tmp_path: Path,
) -> None:
    whole, damaged = (
        made("10_example", {"map": 0.5}, seed=0),
        made("10_example", {"map": 0.98765}, seed=1),
    )
    (damaged.path / "results.json").write_text(json.dumps({"map": 0.98764}))
    parsed = page()
    assert "Left out" in parsed.text and f"10_example/{damaged.hash}: damaged" in parsed.text
    assert "0.9876" not in parsed.text and whole.hash in parsed.text
    assert str(tmp_path) not in parsed.text


def test_an_unreadable_picture_is_left_out_and_named() -> None:
    run = drawn("10_example")
    (run.path / "figures" / "tier_scores.png").write_bytes(b"")
    parsed = page()
    assert "tier_scores.png: not a readable PNG picture" in parsed.text
    assert not [tag for tag, _, _ in parsed.attributes if tag == "img"]


def test_the_page_is_written_completely_to_the_given_file_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "pages" / "report.html"
    assert build_report(out) == out and [entry.name for entry in out.parent.iterdir()] == [
        "report.html"
    ]
    with pytest.raises(RunError, match="cannot be written"):
        build_report(out / "below")


def test_published_numbers_are_those_of_the_poster() -> None:
    datasets, results, _ = poster.poster_tables()
    assert datasets.grid()["Google-Landmarks"]["database images"].published == 1_060_709
    grid = results.grid()
    # The last two columns are our own datasets, of which the poster has no numbers.
    assert [cell.published for cell in grid["DELF+FT+ATT (ours)"].values()] == [
        *(83.8, 82.6, 85.0, 81.7),
        *(None, None),
    ]
    assert [cell.published for cell in grid["DELF+FT+ATT+DIR+QE (ours)"].values()] == [
        *(90.0, 88.5, 95.7, 92.8),
        *(None, None),
    ]
    assert [cell.published for cell in grid["LIFT"].values()] == [54.0, None, 53.6, *[None] * 3]
    # Sums of the columns as printed.
    sums = [
        sum(cells[name].published or 0 for cells in grid.values())
        for name in ("Oxford5k", "Paris106k")
    ]
    assert sums == pytest.approx([802.5, 738.6])


def test_a_number_that_was_not_run_says_so_and_why(tmp_path: Path) -> None:
    parsed = page()
    assert parsed.row("DELF+FT+ATT (ours)")[1:3] == ["83.8", "not run a"]
    assert parsed.row("CONGAS")[1:3] == ["70.8", "not run a"]
    assert parsed.row("LIFT")[1:3] == ["54.0", "not run f, a"]
    assert (
        "the system is not yet in the suite" in parsed.text
        and "the dataset is not downloaded" in parsed.text
    )
    (tmp_path / "external" / "oxford5k").mkdir(parents=True)
    _, results, _ = poster.poster_tables()
    cells = results.grid()["DELF+FT+ATT (ours)"]
    assert poster.ours(cells["Oxford5k"], {}).reasons == (
        "no finished run of 41_search_and_verify has these settings",
    )
    # It needs the distractors as well, which lie in a folder of their own.
    assert poster.ours(cells["Oxford105k"], {}).reasons == ("the dataset is not downloaded",)


def test_a_fitting_run_fills_its_cell_and_no_other() -> None:
    older = made("41_search_and_verify", {"mean": {"inliers": 0.5}}, **DELF, seed=1)
    run = made("41_search_and_verify", {"mean": {"inliers": 0.83751}}, **DELF, seed=0)
    parsed = page()
    latest = max((older, run), key=lambda found: (found.provenance["finished"], found.hash))
    shown = f"{100 * latest.results['mean']['inliers']:.1f} {latest.hash}"
    assert parsed.row("DELF+FT+ATT (ours)")[2] == shown
    runs, _ = poster.gathered_runs()
    _, results, _ = poster.poster_tables()
    filled = [
        (cell.system, cell.dataset)
        for cell in results.cells
        if poster.ours(cell, runs).run is not None
    ]
    assert filled == [("DELF+FT+ATT (ours)", "oxford5k")]
    assert poster.measured_scores(results, runs)["DELF+FT+ATT (ours)"].keys() == {"Oxford5k"}


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "embedded"},
        {"scorer": {"kind": "norm", "weights": "random"}},
        {"scorer": {"kind": "attention", "weights": "random"}},
        {"backbone": {**BACKBONE, "weights": "imagenet"}},
        {"backbone": {**BACKBONE, "name": "efficientnet_lite0"}},
    ],
)
def test_a_run_of_another_system_or_dataset_never_stands_beside_a_published_number(
    change: dict[str, Any],
) -> None:
    made("41_search_and_verify", {"mean": {"inliers": 0.9}}, **{**DELF, **change})
    runs, _ = poster.gathered_runs()
    _, results, _ = poster.poster_tables()
    assert all(poster.ours(cell, runs).run is None for cell in results.cells)


def test_a_fitting_run_without_the_result_says_so() -> None:
    run = made("41_search_and_verify", {"map": 0.9}, **DELF)
    runs, _ = poster.gathered_runs()
    _, results, _ = poster.poster_tables()
    cell = results.grid()["DELF+FT+ATT (ours)"]["Oxford5k"]
    assert poster.ours(cell, runs).reasons == (f"run {run.hash} has no result 'mean.inliers'",)


def ablation(*scores: float) -> dict[str, bool]:
    tuned, plain = "tuned.safetensors", "imagenet"
    variants = ((tuned, "attention"), (plain, "attention"), (tuned, "norm"), (plain, "norm"))
    for (weights, kind), score in zip(variants, scores, strict=False):
        made(
            "41_search_and_verify",
            {"mean": {"inliers": score}},
            dataset="google_landmarks_v1",
            backbone={"name": "resnet50", "output": "conv4", "weights": weights},
            scorer={"kind": kind, "weights": "trained"},
        )
    return poster.attention_helps_more(poster.gathered_runs()[0])


@pytest.mark.parametrize(
    ("scores", "holds"),
    [
        ((0.8, 0.7, 0.6, 0.5), {"Google-Landmarks": True}),
        ((0.8, 0.6, 0.7, 0.5), {"Google-Landmarks": False}),
        ((0.8, 0.6, 0.6, 0.5), {"Google-Landmarks": False}),
        ((0.8, 0.7, 0.6), {}),
    ],
)
def test_the_ablation_is_judged_when_all_four_variants_were_run(
    scores: tuple[float, ...], holds: dict[str, bool]
) -> None:
    assert ablation(*scores) == holds


def test_the_ablation_on_the_world_is_that_of_its_notebook() -> None:
    scores = {"map_noFT": 0.37, "map_FT": 0.43, "map_ATT": 0.46, "map_FT_ATT": 0.49}
    run = made("50_ablation", scores, dataset="world")
    assert poster.attention_helps_more(poster.gathered_runs()[0]) == {"Landmark world": True}
    parsed = page()
    assert f"49.0 {run.hash}" in parsed.row("DELF+FT+ATT")
    assert "on landmark world: yes" in parsed.text.lower()


def test_a_combination_fills_the_columns_of_our_own_datasets() -> None:
    scores = {"map": {"dir": 0.5, "dir+qe": 0.55, "delf+dir+qe": 0.75}}
    run = made("61_combine_delf_dir", scores, dataset="world")
    _, results, _ = poster.poster_tables()
    grid, runs = results.grid(), poster.gathered_runs()[0]
    assert poster.ours(grid["DIR+QE"]["Landmark world"], runs).value == pytest.approx(55.0)
    assert poster.ours(grid["DELF+FT+ATT+DIR+QE (ours)"]["Landmark world"], runs).run == run
    assert poster.ours(grid["DIR+QE"]["Photo folder"], runs).run is None
    assert poster.ours(grid["DIR+QE"]["Oxford5k"], runs).run is None


def test_congas_has_a_notebook_of_its_own() -> None:
    run = made("62_compare_with_congas", {"map": {"congas": 0.4}}, dataset="world")
    _, results, _ = poster.poster_tables()
    grid, runs = results.grid(), poster.gathered_runs()[0]
    found = poster.ours(grid["CONGAS"]["Landmark world"], runs)
    assert found.value == pytest.approx(40.0) and found.run == run
    assert poster.ours(grid["CONGAS"]["Photo folder"], runs).reasons == (
        "no labelled photo folder was evaluated: `delfjax run 62 --dataset ./FOLDER`",
    )
    assert poster.ours(grid["LIFT"]["Landmark world"], runs).run is None


def test_a_table_for_a_notebook_has_published_beside_ours_and_letters_for_reasons() -> None:
    run = made("41_search_and_verify", {"mean": {"inliers": 0.8}}, **DELF)
    _, results, _ = poster.poster_tables()
    frame, reasons = poster.as_frame(results, poster.gathered_runs()[0])
    assert frame.loc["DELF+FT+ATT (ours)", ("Oxford5k", "ours")] == f"80.0 [{run.hash}]"
    assert frame.loc["DELF+FT+ATT (ours)", ("Oxford5k", "published")] == "83.8"
    assert reasons[0] == "a: the dataset is not downloaded"


def test_the_picture_of_the_results_has_a_panel_for_each_dataset() -> None:
    _, results, _ = poster.poster_tables()
    figure = plots.plot_against_published(
        poster.published_scores(results), poster.measured_scores(results, {})
    )
    assert [axes.get_title() for axes in figure.axes] == [
        "Oxford5k",
        "Oxford105k",
        "Paris6k",
        "Paris106k",
    ]
    assert plots.png(figure).startswith(b"\x89PNG")
