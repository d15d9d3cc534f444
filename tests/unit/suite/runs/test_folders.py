"""Run folders: complete or absent, read only when finished, and never with a non-finite number."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from delfjax import paths, plots
from delfjax.suite.runs.comparison import experiments_with_runs
from delfjax.suite.runs.folders import (
    RunError,
    find_run,
    finished_run,
    finished_runs,
    latest_run,
    open_run,
    run_path,
    start_run,
)

CONFIG: dict[str, Any] = {"seed": 0, "preset": "ci", "delf": {"features": {"max_side": 256}}}


@pytest.fixture(autouse=True)
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))


def test_a_finished_run_is_found_by_its_config() -> None:
    run = start_run("10_example", CONFIG)
    run.finish({"map": 0.5, "pairs": [1, 2], "images": 3})
    found = finished_run("10_example", json.loads(json.dumps(CONFIG)))
    assert found.path == run.path == run_path("10_example", CONFIG)
    assert found.results == {"map": 0.5, "pairs": [1, 2], "images": 3} and found.config == CONFIG
    assert found.path.parent == paths.runs_root() / "10_example" and len(found.path.name) == 10
    assert json.loads((found.path / "results.json").read_text()) == {
        "map": 0.5,
        "pairs": [1, 2],
        "images": 3,
    }
    assert json.loads((found.path / "config.json").read_text()) == CONFIG
    assert repr(found) == f"run {found.path.name} of 10_example, finished: {found.path}"


def test_provenance_names_commit_versions_device_command_time_and_memory() -> None:
    parameters = {
        "preset": "ci",
        "dataset": "embedded",
        "seed": 3,
        "overrides": "a.b=1; c.d=[1, 2]",
        "upstream": "latest",
    }
    run = start_run("10_example", CONFIG, parameters=parameters).finish({}, timings={"train": 1.5})
    said = run.provenance
    assert (
        {"jax", "faiss-cpu", "numpy"} <= set(said["packages"])
        and said["seconds"] >= 0
        and said["timings"] == {"train": 1.5}
    )
    assert (
        said["command"]
        == "delfjax run 10_example --preset ci --dataset embedded --seed 3 --set a.b=1 --set"
        " 'c.d=[1, 2]'"
    )
    assert said["device"].startswith("cpu") and 10 < said["peak_memory_mb"] < 1e6
    assert said["git"] is None or (
        len(said["git"]["commit"]) == 40 and said["git"]["dirty"] in (True, False)
    )


def test_a_run_names_the_runs_it_read() -> None:
    first = start_run("10_example", CONFIG).finish({})
    second = start_run("11_other", CONFIG, upstream={"features": first}).finish({})
    assert second.provenance["upstream"] == {"features": f"10_example/{first.hash}"}


def test_the_latest_run_that_agrees_with_some_settings_is_found() -> None:
    old = start_run("10_example", {"seed": 0, "features": {"n": 1, "m": 2}}).finish({})
    new = start_run("10_example", {"seed": 0, "features": {"n": 1, "m": 3}}).finish({})
    assert latest_run("10_example", {"features": {"n": 1}}).hash in {old.hash, new.hash}
    assert latest_run("10_example", {"features": {"m": 2}}).hash == old.hash
    with pytest.raises(
        RunError, match='no finished run of 10_example with these settings; .*upstream="build"'
    ):
        latest_run("10_example", {"features": {"m": 4}})


def test_a_run_is_found_by_a_prefix_of_its_hash_if_its_settings_agree() -> None:
    run = start_run("10_example", CONFIG).finish({})
    assert find_run("10_example", run.hash[:6], {"seed": 0}).path == run.path
    with pytest.raises(
        RunError, match="made with other settings: delf.features.max_side is 256, expected 512"
    ):
        find_run("10_example", run.hash, {"delf": {"features": {"max_side": 512}}})
    with pytest.raises(
        RunError, match=f"0 finished runs of 10_example begin with 'zz'; there are: {run.hash}"
    ):
        find_run("10_example", "zz", {})


@pytest.mark.parametrize("name", ["config.json", "results.json", "provenance.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_run_is_refused_by_name_and_the_others_are_read(name: str, damage: str) -> None:
    whole = start_run("10_example", {**CONFIG, "seed": 1}).finish({"map": 0.5})
    victim = start_run("10_example", CONFIG).finish({"map": 0.5}).path / name
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_text(victim.read_text()[:-3] if damage == "cut" else "{}")
    with pytest.raises(
        RunError, match=f"damaged, {name} is not what was written; remove the folder"
    ):
        finished_run("10_example", CONFIG)
    found, problems = finished_runs("10_example")
    assert [run.hash for run in found] == [whole.hash] and len(problems) == 1


def test_a_full_disk_ends_in_one_line_and_no_finished_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = start_run("10_example", CONFIG)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="results.json cannot be written: No space left on device"):
        run.finish({"map": 0.5})
    with pytest.raises(RunError, match="not a finished run"):
        open_run(run.path)


def test_a_folder_that_another_process_writes_is_waited_for_and_the_process_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = run_path("10_example", CONFIG)
    script = f"""
import sys, time
from delfjax.suite.runs.folders import start_run
start_run("10_example", {CONFIG!r})
print("started", flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "started\n"
        before = (path / "config.json").stat().st_ino
        waiting = threading.Thread(target=start_run, args=("10_example", CONFIG))
        waiting.start()
        said = ""
        while waiting.is_alive() and not said:
            time.sleep(0.05)
            said = capsys.readouterr().err
        line = rf"10_example: process {other.pid} on \S+ is making {re.escape(str(path))}; waiting"
        assert re.match(line, said)
        assert waiting.is_alive() and (path / "config.json").stat().st_ino == before
        other.kill()
        waiting.join()
    start_run("10_example", CONFIG).finish({"map": 0.25})
    assert finished_run("10_example", CONFIG).results == {"map": 0.25}


def test_scores_and_figures_of_a_run_read_back_the_same() -> None:
    run = start_run("10_example", CONFIG)
    run.save_query_scores("AP", {"a.jpg": 0.25, "b.jpg": 1.0})
    run.save_figure("scores", plots.plot_tier_scores({"photo": {"votes": 0.5}}))
    found = run.finish({})
    assert found.query_scores() == {"AP": {"a.jpg": 0.25, "b.jpg": 1.0}}
    assert [figure.name for figure in found.figures] == ["scores.png"]
    with pytest.raises(RunError, match="'AP.a.jpg' is nan"):
        start_run("10_example", CONFIG).save_query_scores("AP", {"a.jpg": float("nan")})


def test_a_copy_of_a_run_beside_it_does_not_count(tmp_path: Path) -> None:
    for seed in (3, 4):
        start_run("10_example", {"seed": seed}).finish({"map": seed / 10})
    original = run_path("10_example", {"seed": 4})
    for name in ("0000000000", f"{original.name} backup"):
        shutil.copytree(original, original.with_name(name))
    runs, problems = finished_runs("10_example")
    assert [run.config["seed"] for run in runs] == [3, 4] and runs[1].path == original
    assert [line.partition(": ")[2] for line in problems] == [
        f"a copy of run {original.name}, which has the same settings"
    ] * 2
    shutil.rmtree(original)
    assert len(finished_runs("10_example")[0]) == 2


def test_another_config_is_another_run() -> None:
    start_run("10_example", CONFIG).finish({})
    with pytest.raises(RunError, match="run 10_example first"):
        finished_run("10_example", {**CONFIG, "seed": 1})
    with pytest.raises(RunError, match="no finished run of 11_other"):
        finished_run("11_other", CONFIG)


def test_a_run_that_did_not_finish_is_not_found() -> None:
    start_run("10_example", CONFIG)
    with pytest.raises(RunError, match="no finished run of 10_example"):
        finished_run("10_example", CONFIG)


def test_a_run_made_again_is_read_as_it_was_until_the_new_one_is_finished() -> None:
    run = start_run("10_example", CONFIG)
    run.save_query_scores("AP", {"a.jpg": 0.25})
    old = run.finish({"map": 0.1})
    again = start_run("10_example", CONFIG)
    assert again.path == old.path and not (again.path / "results.json").exists()
    found = [finished_run("10_example", CONFIG), *finished_runs("10_example")[0]]
    found += [latest_run("10_example", {"seed": 0}), find_run("10_example", old.hash[:4], {})]
    assert experiments_with_runs() == ["10_example"]
    for earlier in found:
        assert (earlier.experiment, earlier.hash) == ("10_example", old.hash)
        assert earlier.results == {"map": 0.1}
        assert earlier.query_scores() == {"AP": {"a.jpg": 0.25}}
    again.finish({"map": 0.2})
    assert finished_run("10_example", CONFIG).path == old.path
    assert [run.results for run in finished_runs("10_example")[0]] == [{"map": 0.2}]
    assert not found[0].path.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_files_of_an_unfinished_run_are_kept_only_on_request(resume: bool) -> None:
    run = start_run("10_example", CONFIG)
    (run.path / "checkpoint").write_text("half-way")
    again = start_run("10_example", CONFIG, resume=resume)
    assert (again.path / "checkpoint").exists() == resume


def test_a_finished_run_starts_afresh_even_with_resume() -> None:
    run = start_run("10_example", CONFIG)
    (run.path / "checkpoint").write_text("whole")
    run.finish({})
    assert not (start_run("10_example", CONFIG, resume=True).path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("results", "name"),
    [
        ({"map": float("nan")}, "'map' is nan"),
        ({"tiers": {"crop": {"votes": float("inf")}}}, "'tiers.crop.votes' is inf"),
        ({"errors": [0.5, float("-inf")]}, "'errors.1' is -inf"),
    ],
)
def test_a_non_finite_result_is_refused_by_name_and_the_run_stays_unfinished(
    results: dict[str, Any], name: str
) -> None:
    run = start_run("10_example", CONFIG)
    with pytest.raises(RunError, match=f"run 10_example: result {name}"):
        run.finish(results)
    with pytest.raises(RunError, match="no finished run"):
        finished_run("10_example", CONFIG)


def test_figures_are_pictures_in_the_folder_of_the_run() -> None:
    run = start_run("10_example", CONFIG)
    run.save_figure("scores", plots.plot_tier_scores({"photo": {"votes": 0.5}}))
    assert (run.path / "figures" / "scores.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_nothing_half_written_is_left_beside_the_results() -> None:
    run = start_run("10_example", CONFIG)
    run.finish({"map": 1.0})
    assert sorted(p.name for p in run.path.iterdir()) == [
        "DONE",
        "config.json",
        "provenance.json",
        "results.json",
    ]
