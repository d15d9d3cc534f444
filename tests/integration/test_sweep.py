"""Sweeps: killed, interrupted, in parallel or on a cluster, they end with the same runs; a failure
costs its own runs only."""

from __future__ import annotations

import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from distributed import LocalCluster
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from delfjax import paths
from delfjax.cli import main
from delfjax.files import Lock
from delfjax.suite.running import kernels
from delfjax.suite.running.sweeps import plan_sweep, read_sweep, run_sweep
from delfjax.suite.runs.claims import EXECUTING
from delfjax.suite.runs.folders import finished_runs

SUITE = (
    Path(__file__).resolve().parents[2] / "notebooks" / "sweeps" / "features_and_neighbours.yaml"
)
BODY = """import time
from delfjax.suite.settings import photo_experiment
run = photo_experiment(preset, seed, dataset=dataset, overrides=overrides).start("70_small")
time.sleep(0.5)
assert seed != 13, "an unlucky number"
run.finish({"value": run.config["features"]["max_features"] + seed})"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs of a small notebook, under a data root of their own."""
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path / "data"))
    parameters = 'preset = "ci"\ndataset = "embedded"\nseed = 0\noverrides = ""'
    cells = [
        new_markdown_cell("# Small"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell(BODY),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "70_small.ipynb")
    return write_sweep(tmp_path, seeds=[0, 1])


def write_sweep(folder: Path, *, seeds: list[int]) -> Path:
    path = folder / "sweep.yaml"
    values = {
        "question": "?",
        "notebooks": [str(folder / "70_small.ipynb")],
        "grid": {"features.max_features": [10]},
    }
    path.write_text(yaml.safe_dump({**values, "seeds": seeds}))
    return path


def start(file: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "delfjax.cli", "sweep", str(file), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def table(experiment: str) -> dict[str, tuple[bytes, bytes]]:
    """Settings and results of each finished run, to the byte."""
    runs, problems = finished_runs(experiment)
    assert not problems
    return {
        run.hash: (
            (run.path / "config.json").read_bytes(),
            (run.path / "results.json").read_bytes(),
        )
        for run in runs
    }


def wait_for_orphans() -> None:
    """What a killed sweep had under way ends soon after it, finished or not."""
    time.sleep(1)  # workers end with the process that started them, kernels with their worker
    for file in paths.runs_root().glob("*/.*.lock"):
        with Lock(file, wait_s=math.inf):
            pass


def wait_for_runs(count: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many runs are finished and no longer executed."""

    def settled() -> int:
        done = paths.runs_root().glob("*/*/DONE")
        return sum(not (file.parent / EXECUTING).exists() for file in done)

    while process.poll() is None and settled() < count:
        time.sleep(0.05)


def test_a_sweep_that_was_killed_goes_on_and_ends_with_the_same_table(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with start(sweep) as killed:
        wait_for_runs(1, killed)
        killed.kill()
    wait_for_orphans()
    before = len(table("70_small"))
    assert 1 <= before < 2
    assert main(["sweep", str(sweep), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to run") == 2 - before
    assert main(["sweep", str(sweep)]) == 0
    assert f"{2 - before} done, {before} skipped, 0 failed" in capsys.readouterr().out
    assert sorted(run.results["value"] for run in finished_runs("70_small")[0]) == [10, 11]


def test_a_run_that_was_killed_after_its_results_is_listed_as_to_run(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its notebook was not executed to its end, so the sweep makes it again."""
    assert main(["sweep", str(sweep)]) == 0
    run = finished_runs("70_small")[0][0]
    capsys.readouterr()
    assert main(["sweep", str(sweep), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to run") == 0
    (run.path / EXECUTING).touch()
    assert main(["sweep", str(sweep), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to run") == 1
    assert main(["sweep", str(sweep)]) == 0
    assert "1 done, 1 skipped, 0 failed" in capsys.readouterr().out


def test_an_interrupted_sweep_says_that_it_resumes_and_leaves_no_half_run(
    sweep: Path, request: pytest.FixtureRequest
) -> None:
    # Three runs: of two, the other could be finished as well before the signal arrives.
    write_sweep(sweep.parent, seeds=[0, 1, 2])
    # Tests that a shell started in the background ignore this signal, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with start(sweep, "--workers", "2") as stopped:
        wait_for_runs(1, stopped)
        stopped.send_signal(signal.SIGINT)
        said = stopped.communicate()[1]
    assert stopped.returncode == 130 and "the same command resumes" in said
    report = run_sweep(plan_sweep(read_sweep(sweep)), progress=False)
    assert not report.failed and len(table("70_small")) == 3


@pytest.mark.slow
def test_two_sweeps_at_once_make_each_run_once_and_report_no_failure(sweep: Path) -> None:
    write_sweep(sweep.parent, seeds=[2, 3, 4])
    with start(sweep) as first, start(sweep, "--workers", "2") as second:
        said = [process.communicate() for process in (first, second)]
    assert first.returncode == second.returncode == 0
    counts = [re.search(r"(\d) done, (\d) skipped, 0 failed", out) for out, _ in said]
    assert sum(int(count[1]) for count in counts if count) == 3
    assert sum(int(count[2]) for count in counts if count) == 3
    assert "is making" in said[0][1] + said[1][1]
    assert len(table("70_small")) == 3


@pytest.mark.slow
def test_a_sweep_started_while_workers_of_a_killed_one_live_waits_for_them(sweep: Path) -> None:
    with start(sweep) as killed:
        while not list(paths.runs_root().glob("70_small/*/config.json")):
            time.sleep(0.05)
        killed.kill()
    report = run_sweep(plan_sweep(read_sweep(sweep)), progress=False)
    assert not report.failed and len(report.done) + len(report.skipped) == 2
    assert len(table("70_small")) == 2


def test_a_failure_costs_its_own_runs_only_and_is_listed(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write_sweep(sweep.parent, seeds=[13, 1])), "--workers", "2"]) == 1
    said = capsys.readouterr()
    assert "1 done, 0 skipped, 1 failed" in said.out
    assert said.err.count("AssertionError: an unlucky number") == 1
    assert (
        "1 of 2 runs failed; the same command tries them again" in said.err
        and len(table("70_small")) == 1
    )


def test_a_cluster_executes_the_same_sweep(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers are Dask's own, which may fork no kernels, whatever the environment says."""
    monkeypatch.setenv(kernels.CHOICE, kernels.NAME)
    options = {"scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}, "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster:
        tasks = plan_sweep(read_sweep(write_sweep(sweep.parent, seeds=[0, 1])))
        report = run_sweep(tasks, scheduler=cluster.scheduler_address, progress=False)
    assert len(report.done) == 2 and not report.failed and len(table("70_small")) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_sweep_of_the_suite_killed_twice_equals_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, tables = {}, []
    moments = random.Random(0)
    for name, workers in (("unbroken", 1), ("parallel", 2), ("killed", 2)):
        monkeypatch.setenv("DELFJAX_DATA", str(tmp_path / name))
        for _ in range(2 if name == "killed" else 0):
            with start(SUITE, "--workers", "2") as killed:
                time.sleep(moments.uniform(10, 60))
                killed.kill()
        report = run_sweep(plan_sweep(read_sweep(SUITE)), workers=workers, progress=False)
        assert not report.failed
        seconds[name] = report.seconds
        tables.append(
            [
                table(name)
                for name in ("30_extract_features", "40_build_index", "41_search_and_verify")
            ]
        )
    assert [len(runs) for runs in tables[0]] == [6, 6, 12]
    assert tables[0] == tables[1] == tables[2]
    print(seconds)
    assert seconds["parallel"] < seconds["unbroken"]
