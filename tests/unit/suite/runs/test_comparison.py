"""Comparison of finished runs: differing settings are found, means can be checked by hand, and a
damaged run costs only itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delfjax import plots
from delfjax.config import ConfigError
from delfjax.evaluation.significance import bootstrap_interval
from delfjax.suite.runs import comparison as compare
from delfjax.suite.runs import tables
from delfjax.suite.runs.folders import FinishedRun, RunError, start_run

NAME = "10_example"


@pytest.fixture(autouse=True)
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))


def made(
    results: dict[str, Any],
    *,
    neighbours: int = 5,
    seed: int = 0,
    scores: dict[str, float] | None = None,
    name: str = NAME,
    preset: str = "ci",
    **more: Any,
) -> FinishedRun:
    config = {
        "photos": {"objects": [f"object {place}" for place in range(30)], "seed": seed},
        "features": {"scales": [0.5, 1.0]},
        "search": {"neighbours": neighbours},
        "seed": seed,
        **more,
    }
    run = start_run(name, config, parameters={"preset": preset, "seed": seed})
    if scores is not None:
        run.save_query_scores("AP inliers", scores)
    return run.finish(results, timings={"search": 0.5})


def test_a_table_has_one_row_for_each_run_with_settings_results_and_provenance() -> None:
    runs = [made({"mean": {"votes": 0.5}, "pairs": 3}, seed=seed) for seed in (0, 1)]
    table = compare.runs_table(runs)
    assert list(table.index) == [run.hash for run in runs] and table.index.name == "run"
    assert list(table["search.neighbours"]) == [5, 5] and list(table["seed"]) == [0, 1]
    assert list(table["mean.votes"]) == [0.5, 0.5] and list(table["pairs"]) == [3, 3]
    assert list(table["provenance.timings.search"]) == [0.5, 0.5]
    assert table["provenance.command"].iloc[1] == f"delfjax run {NAME} --preset ci --seed 1"


def test_short_lists_are_text_and_long_ones_a_distinguishing_digest() -> None:
    first, second = (
        made({}),
        made({}, photos={"objects": [f"other {place}" for place in range(30)]}),
    )
    table = compare.runs_table([first, second])
    assert list(table["features.scales"]) == ["[0.5, 1.0]"] * 2
    assert all(text.startswith("30 values ") for text in table["photos.objects"])
    assert table["photos.objects"].nunique() == 2


def test_a_result_with_the_name_of_a_setting_gets_a_prefix() -> None:
    table = compare.runs_table([made({"seed": 99, "mean": 0.5}, seed=7)])
    assert (table["seed"].item(), table["results.seed"].item()) == (7, 99)


def test_the_same_weights_under_two_paths_are_one_group_shown_by_name() -> None:
    one, other = "0123456789abcdef" * 4, "fedcba9876543210" * 4
    for seed, weights in enumerate((f"/a/one.safetensors@{one}", f"/b/copy.safetensors@{one}")):
        made({"mean": 0.5}, seed=seed, backbone={"weights": weights})
    made({"mean": 0.5}, seed=2, backbone={"weights": f"/a/one.safetensors@{other}"})
    groups = compare.groups(compare.runs_of(NAME)[0])
    assert {values: len(members) for values, members in groups.items()} == {
        ("one.safetensors@0123456789ab",): 2,
        ("one.safetensors@fedcba987654",): 1,
    }


def test_what_differs_is_found_and_what_repeats_the_seed_is_not_named() -> None:
    assert compare.varying([made({}, neighbours=5, seed=0), made({}, neighbours=9, seed=1)]) == [
        "search.neighbours",
        "seed",
    ]
    assert compare.varying([made({})]) == []


def test_a_setting_that_some_runs_lack_differs() -> None:
    runs = [made({"map": 0.25}), made({"map": 0.5}, whiten=None), made({"map": 0.75}, whiten=True)]
    assert compare.varying(runs) == ["whiten"]
    assert list(compare.intervals(runs[::2], "map")) == ["whiten=absent", "whiten=True"]


def test_a_summary_is_mean_spread_and_interval_over_seeds() -> None:
    values = {5: (0.25, 0.5, 0.75), 10: (1.0,)}
    runs = [
        made({"map": v}, neighbours=n, seed=s)
        for n, seeds in values.items()
        for s, v in enumerate(seeds)
    ]
    first, second = compare.summary(runs).to_dict("records")
    low, high = bootstrap_interval([0.25, 0.5, 0.75])
    assert first == {
        "search.neighbours": 5,
        "metric": "map",
        "mean": 0.5,
        "std": 0.25,
        "low": low,
        "high": high,
        "seeds": 3,
        "runs": 3,
    }
    assert (second["search.neighbours"], second["mean"], second["seeds"], second["runs"]) == (
        10,
        1.0,
        1,
        1,
    )
    assert np.isnan([second["std"], second["low"], second["high"]]).all()


def test_each_seed_counts_once_however_many_runs_it_has() -> None:
    runs = [
        made({"map": 0.0}, neighbours=5, seed=0),
        made({"map": 0.5}, neighbours=10, seed=0),
        made({"map": 0.75}, neighbours=5, seed=1),
    ]
    (row,) = compare.summary(runs, by=["features.scales"]).to_dict("records")
    assert (row["mean"], row["seeds"], row["runs"]) == ((0.25 + 0.75) / 2, 2, 3)


def test_only_numbers_are_metrics_and_nested_ones_come_last() -> None:
    run = made(
        {
            "deep": {"crop": {"votes": 1.0}},
            "note": "good",
            "passed": True,
            "list": [1, 2],
            "pairs": 3,
            "mean": {"a": 0.5},
        }
    )
    assert compare.metrics([run]) == ["pairs", "mean.a", "deep.crop.votes"]


def test_numbers_are_ordered_by_size() -> None:
    runs = [made({"map": 0.5}, neighbours=n) for n in (10, 9, 100)]
    assert list(compare.summary(runs)["search.neighbours"]) == [9, 10, 100]


def test_an_unknown_field_or_metric_is_refused_with_the_nearest_one() -> None:
    run = made({"mean": {"inliers": 0.5}})
    for function in (compare.summary, compare.paired_tests):
        with pytest.raises(
            ConfigError,
            match="field 'search.neighbors' is unknown; did you mean 'search.neighbours'",
        ):
            function([run], by=["search.neighbors"])
    with pytest.raises(
        ConfigError, match="metric 'mean.inlier' is unknown; did you mean 'mean.inliers'"
    ):
        compare.intervals([run], "mean.inlier")


def test_systems_are_compared_on_the_queries_they_share_each_averaged_over_seeds() -> None:
    runs = [
        made({}, neighbours=5, seed=0, scores={"a": 0.0, "b": 0.5, "alone": 1.0}),
        made({}, neighbours=5, seed=1, scores={"a": 0.5, "b": 0.5}),
        made({}, neighbours=10, seed=0, scores={"a": 1.0, "b": 0.75, "other": 0.0}),
    ]
    (row,) = compare.paired_tests(runs).to_dict("records")
    assert (row["first"], row["second"]) == ("search.neighbours=5", "search.neighbours=10")
    assert (row["metric"], row["queries"]) == ("AP inliers", 2)
    assert (row["first_mean"], row["second_mean"]) == ((0.25 + 0.5) / 2, (1.0 + 0.75) / 2)
    # a: 0.75, b: 0.25; of four ways to flip two signs, two reach the sum.
    assert (row["difference"], row["p"]) == (0.5, 0.5)


def test_one_group_or_none_with_scores_is_compared_with_nothing() -> None:
    assert compare.paired_tests([made({}, scores={"a": 1.0})]).empty
    assert compare.paired_tests([made({}, neighbours=n) for n in (1, 2)]).empty
    assert compare.paired_tests(
        [made({}, neighbours=n, scores={f"query {n}": 1.0}) for n in (1, 2)]
    ).empty


def test_pairs_beyond_fifteen_are_left_out_with_a_note() -> None:
    runs = [made({"map": 0.5}, neighbours=n, scores={"a": n / 10}) for n in range(7)]
    tests = compare.paired_tests(runs)
    assert len(tests) == compare.MOST_PAIRS == 15
    assert "6 of 21 pairs are not tested" in tables.as_text(tests)


def test_scores_that_cannot_be_read_cost_one_run_not_the_comparison() -> None:
    runs = [made({}, neighbours=n, scores={"a": n / 10}) for n in (1, 2, 3)]
    (runs[0].path / "queries" / "AP inliers.json").write_text("{")
    tests = compare.paired_tests(runs)
    assert list(tests["first"]) == ["search.neighbours=2"]
    assert any(runs[0].hash in note for note in tests.attrs["notes"])


def test_a_damaged_run_is_named_and_the_others_are_compared() -> None:
    whole, damaged = made({"map": 0.5}, seed=0), made({"map": 0.25}, seed=1)
    (damaged.path / "results.json").write_text(json.dumps({"map": 1.0}))
    runs, problems = compare.runs_of(NAME)
    assert [run.hash for run in runs] == [whole.hash]
    assert len(problems) == 1 and damaged.hash in problems[0]
    assert f"left out: {problems[0]}" in str(compare.compare(NAME))


def test_without_a_finished_run_the_nearest_experiment_that_has_one_is_named() -> None:
    with pytest.raises(RunError, match="make one first: delfjax run 10_example"):
        compare.runs_of(NAME)
    made({"map": 0.5})
    made({"map": 0.5}, name="41_search_and_verify")
    with pytest.raises(
        RunError,
        match=(
            r"no finished run of '10_exmaple'; the nearest experiment that has one is '10_example'"
        ),
    ):
        compare.runs_of("10_exmaple")
    with pytest.raises(RunError, match="no finished run of '10_example' at preset 'full'"):
        compare.runs_of(NAME, preset="full")


def test_when_every_run_is_damaged_the_first_reason_is_given() -> None:
    run = made({"map": 0.5})
    (run.path / "config.json").unlink()
    with pytest.raises(
        RunError, match=f"no finished run of '10_example' is undamaged: .*{run.hash}: damaged"
    ):
        compare.runs_of(NAME)


def test_a_unique_prefix_names_an_experiment() -> None:
    made({"map": 0.5})
    assert compare.runs_of("10")[0][0].experiment == NAME
    made({"map": 0.5}, name="10_other")
    with pytest.raises(RunError, match="no finished run of '10'"):
        compare.runs_of("10")


def test_runs_are_chosen_by_preset() -> None:
    made({"map": 0.5}, seed=0)
    made({"map": 0.5}, seed=1, preset="quick")
    assert [run.config["seed"] for run in compare.runs_of(NAME, preset="quick")[0]] == [1]
    assert len(compare.runs_of(NAME)[0]) == 2
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        compare.runs_of(NAME, preset="quik")


def test_a_comparison_reads_as_text_with_one_run_and_with_several() -> None:
    made({"map": 0.5}, scores={"a": 0.5})
    alone = str(compare.compare(NAME[:2]))
    assert alone.startswith("1 finished run of 10_example") and "query by query" not in alone
    made({"map": 0.75}, neighbours=10, scores={"a": 0.75})
    both = str(compare.compare(NAME, by=["search.neighbours"]))
    assert (
        both.startswith("2 finished runs of 10_example")
        and "search.neighbours=10" in both
        and "query by query" in both
    )


def test_intervals_are_drawn_with_one_line_for_each_setting() -> None:
    rows = {
        "search.neighbours=5": (0.5, 0.4, 0.6),
        "search.neighbours=10": (0.75, float("nan"), float("nan")),
    }
    figure = plots.plot_intervals(rows, label="map")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(rows)
    assert plots.png(figure).startswith(b"\x89PNG")
