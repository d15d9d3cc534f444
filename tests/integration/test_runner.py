"""The strict runner: every mistake and every accident ends in one line, exit code 1, and no
finished run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from delfjax import paths
from delfjax.cli import main
from delfjax.suite.settings import photo_experiment

Said = Callable[..., str]
PREPARE = """from delfjax.suite.settings import photo_experiment
experiment = photo_experiment(preset, seed, overrides=overrides)
run = experiment.start("70_small")"""


@pytest.fixture(autouse=True)
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path / "data"))


def write_notebook(folder: Path, body: str, *, prepare: str = PREPARE) -> Path:
    """An experiment of one idea."""
    cells = [
        new_markdown_cell("# Small"),
        new_code_cell(
            'preset = "ci"\nseed = 0\noverrides = ""\nfactor = 1.5',
            metadata={"tags": ["parameters"]},
        ),
        new_code_cell(prepare),
        new_markdown_cell("The one idea: it may fail."),
        new_code_cell(body),
        new_markdown_cell("The end."),
        new_code_cell('run.finish({"value": float(factor)})'),
    ]
    path = folder / "70_small.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def finished() -> list[Path]:
    return sorted(paths.runs_root().glob("*/*/DONE"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Said:
    """Run the command line; what it said: one line, with exit code 1 and no finished run."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 1
        lines = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("delfjax: ")
        ]
        assert len(lines) == 1 and not finished()
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--set", "fctor=2"],
            (
                "70_small: parameter 'fctor' is unknown; did you mean 'factor'? there are: preset,"
                " seed"
            ),
        ),
        (["--set", "factor=two"], "parameter 'factor' is float, for instance 1.5; got 'two'"),
        (["--set", "factor=true"], "parameter 'factor' is float, for instance 1.5; got True"),
        (
            ["--set", "features.max_feature=2"],
            "'features.max_feature' does not exist; did you mean 'features.max_features'?",
        ),
        (["--set", "features.max_features=few"], "'features.max_features'"),
        (["--set", "factor"], "--set factor: expected NAME=VALUE"),
        (["--seed", "one"], "one"),
        (["--preset", "quik"], "preset 'quik' is unknown; did you mean 'quick'?"),
        (["--upstream", "latest"], "parameter 'upstream' is unknown"),
    ],
)
def test_a_mistake_is_named_before_a_kernel_starts(
    tmp_path: Path, refused: Said, arguments: list[str], complaint: str
) -> None:
    assert complaint in refused("run", str(write_notebook(tmp_path, "pass")), *arguments)
    assert not paths.runs_root().exists()


def test_a_notebook_that_does_not_exist_is_named(refused: Said, tmp_path: Path) -> None:
    assert "no notebook is called '37'; there are: 00_start_here" in refused("run", "37")
    assert "begins the names of several notebooks: 40_build_index, 41_search_and_verify" in refused(
        "run", "4"
    )
    (tmp_path / "torn.ipynb").write_text('{"cells": [')
    assert "torn.ipynb: not a notebook" in refused("run", str(tmp_path / "torn.ipynb"))


def test_a_missing_upstream_run_is_named_before_a_kernel_starts(refused: Said) -> None:
    assert "no finished run of 40_build_index with these settings" in refused(
        "run", "41_search", "--preset", "ci"
    )
    assert "0 finished runs of 40_build_index begin with 'abc'; there are: none" in refused(
        "run", "41", "--upstream", "abc"
    )


def test_a_notebook_that_works_is_run_once_with_its_parameters_and_again_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = write_notebook(tmp_path, "assert factor == 2.0")
    assert (
        main(["run", str(notebook), "--set", "factor=2", "--set", "features.max_features=7"]) == 0
    )
    (done,) = finished()
    assert '"value": 2.0' in (done.parent / "results.json").read_text()
    assert '"max_features": 7' in (done.parent / "config.json").read_text()
    assert (done.parent / "notebook.ipynb").is_file() and "The one idea" in capsys.readouterr().err
    assert (
        main(["run", str(notebook), "--set", "factor=2", "--set", "features.max_features=7"]) == 0
    )
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (
            "1 / 0",
            (
                "70_small: ZeroDivisionError: division by zero (at “The one idea”); partly executed"
                " copy: "
            ),
        ),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "70_small: the kernel died; out of memory, or killed",
        ),
        (
            "run.finish({'value': float('nan')})",
            "RunError: run 70_small: result 'value' is nan, which is not finite",
        ),
        ("run.finish({})\nraise KeyError('late')", "KeyError: 'late'"),
    ],
    ids=["exception", "killed kernel", "no number", "exception after the finish"],
)
def test_an_accident_leaves_the_partly_executed_copy_and_no_finished_run(
    tmp_path: Path, refused: Said, body: str, complaint: str
) -> None:
    assert complaint in refused("run", str(write_notebook(tmp_path, body)))
    (copy,) = paths.runs_root().glob("70_small/*/notebook.ipynb")
    executed = [
        cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"
    ]
    assert any("70_small" in cell.source for cell in executed) and not executed[-1].outputs
    if "died" not in complaint:
        assert complaint.split(": ")[1] in (copy.parent / "traceback.txt").read_text()


def test_a_notebook_that_does_not_finish_its_run_is_an_error(tmp_path: Path, refused: Said) -> None:
    path = write_notebook(tmp_path, "factor = None")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source = "if factor:\n    run.finish({})"
    nbformat.write(notebook, path)
    assert "70_small: ended without finishing its run" in refused("run", str(path))


def test_a_disk_that_fills_ends_in_one_line_and_no_finished_run(tmp_path: Path) -> None:
    """The disk is simulated by the largest file a process may write: 64 kB."""
    notebook = write_notebook(tmp_path, "(run.path / 'features.npy').write_bytes(bytes(100_000))")
    script = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, 64_000))
from delfjax.cli import main
sys.exit(main(sys.argv[1:]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "run", str(notebook)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("delfjax: ")]
    assert (
        done.returncode == 1 and len(lines) == 1 and "File too large" in lines[0] and not finished()
    )


def test_a_damaged_run_is_not_read_by_the_next_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    run = photo_experiment("ci", 0).start("40_build_index").finish({"value": 1.0})
    (run.path / "results.json").write_text("{")
    assert main(["run", "41"]) == 1
    assert "damaged, results.json is not what was written" in capsys.readouterr().err
    assert finished() == [run.path / "DONE"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_two_runs_at_once_the_second_waits_and_takes_the_result(tmp_path: Path) -> None:
    count = f"open({str(tmp_path / 'executed')!r}, 'a').write('once ')"
    notebook = write_notebook(tmp_path, f"{count}\nimport time; time.sleep(3)")
    command = [sys.executable, "-m", "delfjax.cli", "run", str(notebook), "--set", "factor=3"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted((*process.communicate(), process.returncode) for process in both)
    assert [code for *_, code in said] == [0, 0]
    assert said[0][0].startswith("executed: ") and said[1][0].startswith("finished already: ")
    assert re.search(r"^70_small: process \d+ on .* is making .*; waiting", said[1][1], re.M)
    assert (tmp_path / "executed").read_text() == "once " and len(finished()) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_notebook_reads_is_built_on_demand() -> None:
    assert main(["run", "41", "--preset", "ci", "--upstream", "build"]) == 0
    assert [path.parts[-3] for path in finished()] == [
        "30_extract_features",
        "40_build_index",
        "41_search_and_verify",
    ]
