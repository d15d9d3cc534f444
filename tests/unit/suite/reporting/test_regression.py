"""Expected results: drift beyond its tolerance is found by name; another font is not drift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from delfjax import plots
from delfjax.suite.reporting import regression
from delfjax.suite.reporting.regression import accept, drift
from delfjax.suite.runs.folders import FinishedRun, RunError, start_run

RESULTS: dict[str, Any] = {"mean": {"inliers": 0.8}, "pairs": 120, "by scale": [0.25, 0.5]}


@pytest.fixture(autouse=True)
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path / "data"))


def finished(
    results: dict[str, Any], *, bar: float = 0.8, font: str = "sans-serif", seed: int = 0
) -> FinishedRun:
    run = start_run("10_example", {"seed": seed})
    with matplotlib.rc_context({"font.family": font}):
        tiers = {"crop": {"votes": bar, "inliers": 0.9}, "scale": {"votes": 0.5, "inliers": 0.7}}
        run.save_figure("scores", plots.plot_tier_scores(tiers))
    return run.finish(results)


def test_the_same_run_is_as_expected(tmp_path: Path) -> None:
    accept(finished(RESULTS), tmp_path)
    assert drift(finished(RESULTS), tmp_path) == []


def test_one_per_cent_of_drift_is_found_and_a_tenth_of_it_is_not(tmp_path: Path) -> None:
    accept(finished(RESULTS), tmp_path)
    assert drift(finished({**RESULTS, "mean": {"inliers": 0.8 * 1.01}}), tmp_path) == [
        "mean.inliers is 0.808, expected 0.8"
    ]
    assert drift(finished({**RESULTS, "mean": {"inliers": 0.8 * 1.001}}), tmp_path) == []
    assert drift(finished({**RESULTS, "pairs": 121}), tmp_path) == ["pairs is 121, expected 120"]


def test_a_tolerance_set_by_hand_holds_and_outlives_acceptance(tmp_path: Path) -> None:
    accept(finished(RESULTS), tmp_path)
    file = tmp_path / "expected.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "tolerances": {"mean.inliers": 0.05}}))
    moved = finished({**RESULTS, "mean": {"inliers": 0.8 * 1.03}})
    assert drift(moved, tmp_path) == []
    accept(moved, tmp_path)
    assert json.loads(file.read_text())["tolerances"] == {"mean.inliers": 0.05}


def test_values_and_settings_that_come_or_go_are_found(tmp_path: Path) -> None:
    accept(finished(RESULTS), tmp_path)
    lines = drift(finished({"pairs": 120, "more": 1, "by scale": [0.25]}, seed=1), tmp_path)
    assert [line.partition(" is ")[0] for line in lines] == [
        "by scale.1",
        "config",
        "mean.inliers",
        "more",
    ]


def test_a_figure_that_changed_is_found_and_another_font_is_not(tmp_path: Path) -> None:
    accept(finished(RESULTS), tmp_path)
    assert drift(finished(RESULTS, font="serif"), tmp_path) == []
    (line,) = drift(finished(RESULTS, bar=0.7), tmp_path)
    assert line.startswith("figure scores.png differs by")


def test_pictures_of_other_shapes_are_different() -> None:
    assert regression.picture_difference(np.zeros((100, 320)), np.zeros((150, 320))) == 1
    assert regression.picture_difference(np.zeros((100, 320)), np.zeros((102, 320))) == 0


def test_an_experiment_without_expected_results_says_how_to_accept_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="regression accept 10_example"):
        drift(finished(RESULTS), tmp_path)
