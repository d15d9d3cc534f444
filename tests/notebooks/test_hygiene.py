"""Every notebook obeys the rules of the house, and papermill, nbval and ruff agree with them. nbval
runs them."""

from __future__ import annotations

import ast
import copy
import json
import logging
import re
import subprocess
import sys
from itertools import chain, pairwise
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from papermill.inspection import inspect_notebook

from delfjax import paths
from delfjax.cli import main
from delfjax.suite.reporting.reproduction import plan
from delfjax.suite.running import notebook_rules as hygiene
from delfjax.suite.running.notebook_rules import Kind, notebooks
from delfjax.suite.runs.folders import RunError

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KINDS = {path: hygiene.kind_of(nbformat.read(path, as_version=4)) for path in NOTEBOOKS}
EXPERIMENTS = [path for path, kind in KINDS.items() if kind == Kind.EXPERIMENT]


def _name(path: Path) -> str:
    return path.name


# Its checks fill two cells, so that something can be put between them.
WHOLE = next(path for path in EXPERIMENTS if path.name.startswith("10"))


@pytest.fixture
def experiment() -> NotebookNode:
    """An experiment that obeys the rules, to be spoilt."""
    return nbformat.read(WHOLE, as_version=4)


def _cell(notebook: NotebookNode, tag: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if tag in hygiene.tags(cell))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_every_notebook_obeys_the_rules(path: Path) -> None:
    assert hygiene.check(path) == []


@pytest.mark.parametrize("action", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff_finds_nothing_in_the_notebooks(action: list[str]) -> None:
    """Under the rules of the library, and laid out by the same hand."""
    command = [sys.executable, "-m", "ruff", *action, "--no-cache", "notebooks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_notebook_is_run_by_reproduce() -> None:
    mine = ROOT / "notebooks" / "70_mine.ipynb"
    assert notebooks() == NOTEBOOKS and sorted(chain(*plan(NOTEBOOKS))) == NOTEBOOKS
    assert plan([*NOTEBOOKS, mine])[-2] == [mine]
    kinds = {path.name[:2]: kind.value for path, kind in KINDS.items()}
    assert {name for name, kind in kinds.items() if kind == "tour"} == {"00", "12"}
    assert {name for name, kind in kinds.items() if kind == "report"} == {"42", "90", "91"}
    experiments = {"10", "11", "13", "20", "21", "22", "23", "30", "31", "40", "41"}
    experiments |= {"50", "51", "52", "60", "61", "62"}
    assert {name for name, kind in kinds.items() if kind == "experiment"} == experiments


def _last_text(notebook: NotebookNode) -> str:
    return next(cell.source for cell in reversed(notebook.cells) if cell.cell_type == "markdown")


def test_the_links_to_the_next_notebook_lead_through_all_of_them_in_order() -> None:
    ends = {path.stem: _last_text(nbformat.read(path, as_version=4)) for path in NOTEBOOKS}
    following = {stem: re.findall(r"Next: `(\w+)`\.$", text) for stem, text in ends.items()}
    names = [path.stem for path in NOTEBOOKS]
    expected = {name: [after] for name, after in pairwise(names)}
    assert following == expected | {names[-1]: []}
    assert "the last notebook" in ends[names[-1]]


def _questions(text: str) -> dict[str, str]:
    """The tables of notebooks in a text: name → second column."""
    return dict(re.findall(r"^\| `(\d\d_\w+)` \| ([^|]+?) \|", text, re.MULTILINE))


def test_each_question_is_the_same_in_the_title_the_readme_and_the_first_notebook() -> None:
    titles = {path.stem: nbformat.read(path, as_version=4).cells[0].source for path in NOTEBOOKS}
    asked = {
        name: found.group(1)
        for name, title in titles.items()
        if (found := re.search(r"^- \*\*Question\*\*: (.+)$", title, re.MULTILINE))
    }
    start = nbformat.read(NOTEBOOKS[0], as_version=4)
    tour = "\n".join(cell.source for cell in start.cells if cell.cell_type == "markdown")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert list(asked) == [path.stem for path in NOTEBOOKS]
    assert _questions(readme) == asked
    assert _questions(tour) == asked


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_papermill_sees_the_parameters_that_the_runner_sees(path: Path) -> None:
    found = {
        name: ast.literal_eval(entry["default"])
        for name, entry in inspect_notebook(str(path)).items()
    }
    assert found == hygiene.parameter_defaults(nbformat.read(path, as_version=4))
    if KINDS[path] == Kind.EXPERIMENT:
        expected = {
            "preset": "ci",
            "dataset": "world",
            "seed": 0,
            "overrides": "",
            "upstream": "latest",
            "recipe": "siamac",
        }
        assert found == {name: expected[name] for name in found}
        assert {"preset", "dataset", "seed", "overrides"} <= found.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_what_a_notebook_compiles_is_kept_for_the_next_time(path: Path) -> None:
    cells = [
        "".join(cell.source)
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]
    starts = [cell for cell in cells if "experiment.start(" in cell]
    assert all(cell.startswith("device.use_compilation_cache()\n") for cell in starts)


def test_a_tour_has_no_parameters(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="papermill"):
        assert inspect_notebook(str(ROOT / "notebooks" / "00_start_here.ipynb")) == {}


def test_nbval_collects_every_code_cell_of_every_notebook() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "--collect-only", "-q", "notebooks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        collected = re.findall(rf"{path.stem}(?:\.ipynb)?::Cell \d+", done.stdout)
        assert len(set(collected)) == sum(cell.cell_type == "code" for cell in cells), done.stdout


@pytest.mark.parametrize("path", EXPERIMENTS, ids=_name)
def test_each_run_carries_the_name_of_its_notebook(path: Path) -> None:
    source = "\n".join(
        cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
    )
    assert f'.start("{path.stem}"' in source


def test_fixing_strips_what_running_leaves_and_twice_is_once(
    tmp_path: Path, experiment: NotebookNode
) -> None:
    code = next(cell for cell in experiment.cells if cell.cell_type == "code")
    code.update(
        execution_count=3, outputs=[nbformat.v4.new_output("stream", text="said")], id="something"
    )
    code.metadata["scrolled"] = True
    experiment.metadata["kernelspec"]["name"] = "somebody's"
    other = tmp_path / WHOLE.name
    other.write_text(nbformat.writes(experiment), encoding="utf-8")
    assert hygiene.check(other) == ["is not normalised; run fix"]
    assert hygiene.fix(other)
    assert other.read_bytes() == WHOLE.read_bytes()
    assert not hygiene.fix(other)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f():\n    return 1", "defines 'f'"),
        ("double = lambda x: 2 * x", "defines 'a lambda'"),
        ("import os\nos.getcwd()", "imports something"),
        ("!ls", "shell or IPython command"),
        ("%matplotlib inline", "shell or IPython command"),
        ("root = 'data/runs'", "contains the path 'data/runs'"),
        ("print(f'{run.path}/store')", "contains the path '/store'"),
        ("name = 'results.json'", "contains the path 'results.json'"),
        ("\n".join(["x = 1"] * 16), "longer than 15 lines"),
    ],
)
def test_code_that_belongs_elsewhere_is_found(
    experiment: NotebookNode, source: str, complaint: str
) -> None:
    place = experiment.cells.index(_cell(experiment, "checks")) - 2
    experiment.cells[place].source = source
    assert any(complaint in line for line in hygiene.violations(experiment))


def test_more_than_eight_import_statements_of_the_library_are_found(
    experiment: NotebookNode,
) -> None:
    [imports] = [cell for cell in experiment.cells if "from delfjax import" in cell.source]
    imports.source = "\n".join(
        [
            "import numpy",
            "import delfjax",
            *(f"from delfjax.suite import name{i}, other{i}" for i in range(7)),
        ]
    )
    assert not any("import statements" in line for line in hygiene.violations(experiment))
    imports.source += "\nfrom delfjax.suite import (\n    one,\n    more\n)"
    assert any(
        "has 9 import statements of delfjax" in line for line in hygiene.violations(experiment)
    )


@pytest.mark.parametrize(
    "source", ['preset: str = "ci"', "seed = 1 + 1", "seed = other = 1", "", "print(1)"]
)
def test_parameters_that_papermill_cannot_set_are_found(
    experiment: NotebookNode, source: str
) -> None:
    _cell(experiment, "parameters").source = source
    assert "the parameters are not all of the form name = literal" in hygiene.violations(experiment)


@pytest.mark.parametrize("source", ["assert True", "total = 3", "print('fine')"])
def test_checks_that_are_no_asserts_with_a_message_are_found(
    experiment: NotebookNode, source: str
) -> None:
    _cell(experiment, "checks").source = source
    assert any(
        "which is not an assert with a message" in line for line in hygiene.violations(experiment)
    )


def test_an_experiment_without_checks_is_found(experiment: NotebookNode) -> None:
    for cell in experiment.cells:
        if "checks" in hygiene.tags(cell):
            cell.metadata.clear()
    assert "has no cell tagged 'checks'; at least one is needed" in hygiene.violations(experiment)


def test_checks_with_something_between_them_are_found(experiment: NotebookNode) -> None:
    checks = experiment.cells.index(_cell(experiment, "checks"))
    between = [nbformat.v4.new_markdown_cell("More."), nbformat.v4.new_code_cell("more = 1")]
    experiment.cells[checks + 1 : checks + 1] = between
    complaint = "the cells tagged 'checks' are not consecutive"
    assert complaint in hygiene.violations(experiment)


def test_a_run_that_is_finished_before_its_checks_or_before_the_end_is_found(
    experiment: NotebookNode,
) -> None:
    complaint = "the last code cell, right after the checks, must be the only one to finish the run"
    assert complaint not in hygiene.violations(experiment)
    longer = copy.deepcopy(experiment)
    longer.cells += [nbformat.v4.new_markdown_cell("More."), nbformat.v4.new_code_cell("more = 1")]
    assert complaint in hygiene.violations(longer)
    finish = next(cell for cell in experiment.cells if "run.finish(" in cell.source)
    experiment.cells.remove(finish)
    experiment.cells.insert(experiment.cells.index(_cell(experiment, "checks")), finish)
    assert complaint in hygiene.violations(experiment)


def test_a_cell_is_called_what_the_text_before_it_says_first(experiment: NotebookNode) -> None:
    before = experiment.cells.index(_cell(experiment, "checks")) - 1
    experiment.cells[before].source = "## Two claims\n\nBoth hold at every preset: the order first."
    experiment.cells[before + 2].source = "Then the bounds: one for each preset."
    titles = list(hygiene.cell_titles(experiment).values())
    assert {"Two claims", "Then the bounds"} <= set(titles) and max(map(len, titles)) <= 60
    assert len(titles) == sum(cell.cell_type == "code" for cell in experiment.cells)


def test_code_without_a_sentence_before_it_is_found(experiment: NotebookNode) -> None:
    del experiment.cells[experiment.cells.index(_cell(experiment, "checks")) - 1]
    assert any(
        line.endswith("has no sentence before it") for line in hygiene.violations(experiment)
    )


@pytest.mark.parametrize(
    ("caption", "complaint"),
    [
        ("What must hold.", "says 'What must hold', which tells a reader nothing"),
        ("## Checks\n\nWhat must hold.", "says 'What must hold', which tells a reader nothing"),
        ("What must hold. Margins are half of what was measured at each preset.", "says 'What"),
        ("The inliers of each photo.", "says only 'The inliers of each photo.'"),
        ("", "says only ''"),
    ],
)
def test_captions_that_say_nothing_are_found(
    experiment: NotebookNode, caption: str, complaint: str
) -> None:
    experiment.cells[experiment.cells.index(_cell(experiment, "checks")) - 1].source = caption
    assert any(complaint in line for line in hygiene.violations(experiment))


@pytest.mark.parametrize(
    "caption",
    [
        "## Train",
        "The loss has to fall, since the labels are those it was trained on.",
        "### Checks\n\nFour bounds.",
    ],
)
def test_a_heading_or_a_full_sentence_is_a_caption(experiment: NotebookNode, caption: str) -> None:
    experiment.cells[experiment.cells.index(_cell(experiment, "checks")) - 1].source = caption
    parameters = experiment.cells.index(_cell(experiment, "parameters"))
    experiment.cells[parameters - 1].source = "Parameters (explained in `00_start_here`):"
    assert not any(" says " in line for line in hygiene.violations(experiment))


@pytest.mark.parametrize(
    "source",
    [
        'assert preset == "ci" or total > 3, "too few"',
        'assert overrides or preset != "full" or total > 3, "too few"',
        'assert total > 3 or "ci" == preset, "too few"',
        'assert overrides or (not (preset in ("quick", "full")) or total > 3), "too few"',
        'small = preset == "ci" or overrides\nassert small or total > 3, "too few"',
        'claimed = preset != "ci" and not overrides\nassert not claimed or total > 3, "too few"',
    ],
)
def test_asserts_that_the_preset_makes_empty_are_found(
    experiment: NotebookNode, source: str
) -> None:
    _cell(experiment, "checks").source = source
    assert any("asserts nothing at some preset" in line for line in hygiene.violations(experiment))


@pytest.mark.parametrize(
    "source",
    [
        'assert overrides or total > {"ci": 2, "quick": 3, "full": 3}[preset], "too few"',
        'assert overrides or total > (2 if preset == "ci" else 3), "too few"',
        'assert preset in ("ci", "quick", "full"), "another preset"',
    ],
)
def test_a_bound_for_each_preset_is_no_empty_assert(experiment: NotebookNode, source: str) -> None:
    _cell(experiment, "checks").source = source
    assert not any("at some preset" in line for line in hygiene.violations(experiment))


def test_a_title_that_does_not_say_what_to_expect_is_found(experiment: NotebookNode) -> None:
    experiment.cells[0].source = experiment.cells[0].source.replace("**Expect**", "Expect")
    assert any(
        line.startswith("the first cell does not have") for line in hygiene.violations(experiment)
    )


def test_notebooks_are_selected_by_how_their_names_begin() -> None:
    assert hygiene.select(["40", "41_search"]) == [
        path for path in NOTEBOOKS if path.name[:2] in ("40", "41")
    ]
    with pytest.raises(
        RunError, match="no notebook is called '47'; there are: 00_start_here.ipynb, 10_"
    ):
        hygiene.select(["40", "47"])
    with pytest.raises(RunError, match="no notebook is called 'nnn.*n'…; there are"):
        hygiene.select(["n" * 5000])


@pytest.mark.parametrize("arguments", [[], ["tidy"], ["check", "47"]])
def test_bad_usage_ends_in_one_line_and_exit_code_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["notebooks", *arguments]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("delfjax: ")
    assert said.err.count("\n") == 1


def test_a_file_is_checked_and_fixed_by_its_path(
    tmp_path: Path, experiment: NotebookNode, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment.metadata["kernelspec"]["name"] = "somebody's"
    other = tmp_path / WHOLE.name
    other.write_text(nbformat.writes(experiment), encoding="utf-8")
    assert main(["notebooks", "check", str(other)]) == 1
    said = capsys.readouterr()
    assert said.out == f"{WHOLE.name}: is not normalised; run fix\n"
    assert said.err == "delfjax: breaches of the house rules: 1, listed above\n"
    assert main(["notebooks", "fix", str(other)]) == 0
    assert capsys.readouterr().out == f"{WHOLE.name}: normalised\n"
    assert main(["notebooks", "check", str(other)]) == 0
    other.write_text("{", encoding="utf-8")
    assert main(["notebooks", "fix", str(other)]) == 1
    assert f"{other}: not a notebook" in capsys.readouterr().err


def test_checking_the_suite_ends_with_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notebooks", "check"]) == 0
    assert capsys.readouterr().out == f"{len(NOTEBOOKS)} notebooks obey the rules\n"
    assert paths.repository_root() == ROOT


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"cells": {"cell_type": "code"}}, "'cells': "),
        (
            {"cells": [{"cell_type": "codes", "source": "", "metadata": {}}]},
            "'cells.0.cell_type': ",
        ),
        ({"cells": [{"cell_type": "raw", "source": [1], "metadata": {}}]}, "'cells.0.source"),
        ({"cells": [{"cell_type": "raw", "source": "", "metadata": []}]}, "'cells.0.metadata': "),
        (
            {"cells": [{"cell_type": "raw", "source": "", "metadata": {"tags": [{}]}}]},
            "not of type 'string'",
        ),
        ({"nbformat": 3}, "'nbformat': Input should be 4, found 3"),
        ({"nbformat": "4"}, "'nbformat': Input should be 4, found '4'"),
        ({"nbformat_minor": None}, "'nbformat_minor': "),
        ({"metadata": {"kernelspec": 7}}, "7 is not of type 'object'"),
    ],
)
def test_a_notebook_of_wrong_types_is_refused_in_one_line_by_every_command(
    tmp_path: Path, changed: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.ipynb"
    cell = {"cell_type": "raw", "source": "", "metadata": {}, "id": "a"}
    whole = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}
    file.write_text(json.dumps({**whole, **changed}), encoding="utf-8")
    for command in (["notebooks", "check"], ["notebooks", "fix"], ["run"]):
        assert main([*command, str(file)]) == 1
        said = capsys.readouterr().err
        assert f"{file}: not a notebook (" in said and reason in said and said.count("\n") == 1


def _with_code(source: str, *, tagged: str = "") -> NotebookNode:
    metadata = {"tags": [tagged]} if tagged else {}
    return new_notebook(cells=[new_code_cell(source, metadata=metadata)])


@pytest.mark.parametrize(
    "source", ["def", "a = (", "x = '\0'", "a = " + "[" * 150 + "]" * 150, "a = " + "-" * 150 + "1"]
)
def test_a_cell_that_is_not_python_is_a_finding(source: str) -> None:
    found = hygiene.violations(_with_code(source))
    assert any(line.startswith("cell 0: a cell ") for line in found)


@pytest.mark.parametrize("source", ["%time x = 1", "seed = 1\n!ls"])
def test_parameters_with_a_shell_command_are_a_finding(source: str) -> None:
    found = hygiene.violations(_with_code(source, tagged="parameters"))
    assert "the parameters are not all of the form name = literal" in found


@pytest.mark.parametrize("value", ["b'x'", "...", "2j", "1e999"])
def test_a_default_that_no_config_can_hold_is_refused(value: str) -> None:
    with pytest.raises(RunError, match="default of parameter 'x' is .*, expected a finite number"):
        hygiene.parameter_defaults(_with_code(f"x = {value}", tagged="parameters"))


def test_many_empty_lines_take_no_time() -> None:
    assert hygiene.violations(_with_code("\n" * 200_000 + "x = 1"))
