"""Run folders: complete or absent, read by others only when done, never with a number that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from delfjax import paths, plots
from delfjax.experiments.runs import RunError, finished_run, run_path, start_run

CONFIG: dict[str, Any] = {"seed": 0, "preset": "ci", "delf": {"features": {"max_side": 256}}}


@pytest.fixture(autouse=True)
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))


def test_a_finished_run_is_found_by_its_config() -> None:
    run = start_run("10_example", CONFIG)
    run.finish({"map": 0.5, "pairs": [1, 2], "images": 3})
    found = finished_run("10_example", json.loads(json.dumps(CONFIG)))
    assert found.path == run.path == run_path("10_example", CONFIG)
    assert found.path.parent == paths.runs_root() / "10_example" and len(found.path.name) == 10
    assert json.loads((found.path / "results.json").read_text()) == {"map": 0.5, "pairs": [1, 2], "images": 3}
    assert json.loads((found.path / "config.json").read_text()) == CONFIG


def test_provenance_names_versions_device_and_time() -> None:
    run = start_run("10_example", CONFIG)
    run.finish({})
    provenance = json.loads((run.path / "provenance.json").read_text())
    assert {"delfjax", "python", "packages", "device", "seconds"} == set(provenance)
    assert {"jax", "faiss-cpu", "numpy"} <= set(provenance["packages"]) and provenance["seconds"] >= 0


def test_another_config_is_another_run() -> None:
    start_run("10_example", CONFIG).finish({})
    with pytest.raises(RunError, match="run notebooks/10_example.ipynb first"):
        finished_run("10_example", {**CONFIG, "seed": 1})
    with pytest.raises(RunError, match="no finished run of 11_other"):
        finished_run("11_other", CONFIG)


def test_a_run_that_did_not_finish_is_not_found() -> None:
    start_run("10_example", CONFIG)
    with pytest.raises(RunError, match="no finished run of 10_example"):
        finished_run("10_example", CONFIG)


def test_a_run_started_again_is_not_done_until_it_finishes_again() -> None:
    start_run("10_example", CONFIG).finish({"map": 0.1})
    again = start_run("10_example", CONFIG)
    with pytest.raises(RunError):
        finished_run("10_example", CONFIG)
    assert not (again.path / "results.json").exists()


@pytest.mark.parametrize("keep", [False, True])
def test_what_an_earlier_run_left_is_kept_only_on_request(keep: bool) -> None:
    run = start_run("10_example", CONFIG)
    (run.path / "checkpoint").write_text("half-way")
    again = start_run("10_example", CONFIG, keep=keep)
    assert (again.path / "checkpoint").exists() == keep


@pytest.mark.parametrize(
    ("results", "name"),
    [
        ({"map": float("nan")}, "'map' is nan"),
        ({"tiers": {"crop": {"votes": float("inf")}}}, "'tiers.crop.votes' is inf"),
        ({"errors": [0.5, float("-inf")]}, "'errors.1' is -inf"),
    ],
)
def test_a_result_that_is_no_number_is_refused_by_name_and_the_run_not_done(
    results: dict[str, Any], name: str
) -> None:
    run = start_run("10_example", CONFIG)
    with pytest.raises(RunError, match=f"run 10_example: result {name}"):
        run.finish(results)
    with pytest.raises(RunError, match="no finished run"):
        finished_run("10_example", CONFIG)


def test_figures_are_pictures_in_the_folder_of_the_run() -> None:
    run = start_run("10_example", CONFIG)
    run.save_figure("times", plots.plot_stage_times({"extract": 1.0, "search": 0.5}))
    assert (run.path / "figures" / "times.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_nothing_half_written_is_left_beside_the_results() -> None:
    run = start_run("10_example", CONFIG)
    run.finish({"map": 1.0})
    assert sorted(p.name for p in run.path.iterdir()) == ["DONE", "config.json", "provenance.json", "results.json"]
