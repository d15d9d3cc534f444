"""Sweeps: a file becomes a graph of runs, each run once and after what it reads; mistakes are named
before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from delfjax.config import ConfigError
from delfjax.suite.running import workers
from delfjax.suite.running.sweeps import SweepFile, plan_sweep, read_sweep, run_sweep
from delfjax.suite.runs.folders import RunError

ROOT = Path(__file__).resolve().parents[4]
SWEEPS = sorted((ROOT / "notebooks" / "sweeps").glob("*.yaml"))


@pytest.fixture(autouse=True)
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_the_suite_can_be_planned(path: Path) -> None:
    assert plan_sweep(read_sweep(path)) and read_sweep(Path(path.stem)) == read_sweep(path)


def test_points_are_the_product_of_grid_zip_list_and_seeds() -> None:
    sweep = SweepFile(
        question="?",
        notebooks=["41"],
        grid={"a.x": [1, 2]},
        zip={"b.y": [3, 4], "b.z": [5, 6]},
        list=[{"c.v": 7}],
        seeds=[0, 1],
    )
    points = list(sweep.points())
    assert len(points) == 2 * 2 * 1 * 2
    assert points[0] == ({"a.x": 1, "b.y": 3, "b.z": 5, "c.v": 7}, 0)
    assert ({"a.x": 2, "b.y": 4, "b.z": 6, "c.v": 7}, 1) in points
    assert list(SweepFile(question="?", notebooks=["41"]).points()) == [({}, 0)]


def test_each_run_is_planned_once_after_what_it_reads_with_only_the_settings_that_decide_it() -> (
    None
):
    grid = {"features.max_features": [150, 300], "search.neighbours": [5, 10]}
    tasks = plan_sweep(SweepFile(question="?", notebooks=["30", "41"], grid=grid, seeds=[0, 1, 2]))
    names = [task.job.notebook.stem for task in tasks]
    assert {name: names.count(name) for name in names} == {
        "30_extract_features": 6, "40_build_index": 6, "41_search_and_verify": 12,
    }  # fmt: skip
    paths = [task.job.path for task in tasks]
    assert all(
        task.needs is None or paths.index(task.needs) < paths.index(task.job.path) for task in tasks
    )
    assert (
        tasks[0].command
        == "delfjax run 30_extract_features --preset ci --dataset world --seed 0 --set"
        " features.max_features=150"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("question: q\nnotebook: [30]", "key 'notebook' is unknown; did you mean 'notebooks'"),
        ("question: q", "the key 'notebooks' is missing"),
        ("question: q\nnotebooks: 30", "config field 'notebooks'"),
        ("question: q\nnotebooks: [30]\nseeds: [one]", "'seeds.0'"),
        (
            "question: q\nnotebooks: [30]\nzip: {a.b: [1], c.d: [1, 2]}",
            "different numbers of values",
        ),
        (
            "question: q\nnotebooks: ['30']\ngrid: {features.max_feature: [1]}",
            "did you mean 'features.max_features'",
        ),
        (
            "question: q\nnotebooks: ['30']\ngrid: {features.max_features: [many]}",
            "'features.max_features'",
        ),
        (
            "question: q\nnotebooks: ['30']\npreset: quik",
            "preset 'quik' is unknown; did you mean 'quick'",
        ),
        ("question: q\nnotebooks: ['37']", "no notebook is called '37'"),
        ("question: [", "no YAML"),
        (
            "question: q\nnotebooks: ['30']\ngrid: {a.b: &a [1], c.d: *a}",
            "aliases (*name) are not supported here",
        ),
        ("question: " + "[" * 2000, "nested deeper than 10 levels"),
        (
            "question: q\nnotebooks: ['30']\ngrid:\n"
            + "".join(f"  a.b{name}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]\n" for name in range(8)),
            "describes 100000000 runs, expected 1 to 1000",
        ),
        ("question: q\nnotebooks: ['30']\nseeds: []", "describes 0 runs"),
        ("question: q\nnotebooks: ['30']\ngrid: {a.b: [1], c.d: []}", "describes 0 runs"),
        ("question: " + "a" * 200_000, "has 200,010 bytes, a sweep has at most 200,000"),
        ("question: !!python/name:os.system", "no YAML"),
        (
            "question: q\nnotebooks: ['30']\nseeds: [2026-02-30]",
            "sweep.yaml: config field 'seeds.0'",
        ),
        ("question: q\nnotebooks: ['30']\nseeds: [!!timestamp 2026-02-30]", "no YAML"),
        ("question: q\nnotebooks: ['30']\nseeds: [" + "9" * 5000 + "]", "no YAML"),
        ("question: q\x1b[2J", "no YAML"),
        ("- 1", "no sweep"),
    ],
)
def test_a_mistake_in_the_file_is_named_before_anything_runs(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises((ConfigError, RunError)) as raised:
        plan_sweep(read_sweep(tmp_path / "sweep.yaml"))
    assert complaint in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_bytes("question: Wie groß?".encode("latin-1"))
    with pytest.raises(RunError, match=r"sweep.yaml: not UTF-8 .* position 17"):
        read_sweep(tmp_path / "sweep.yaml")


def test_a_date_that_does_not_exist_is_text(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("question: 2026-02-30\nnotebooks: ['30']")
    assert read_sweep(tmp_path / "sweep.yaml").question == "2026-02-30"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="sweep.yaml: No such file"):
        read_sweep(tmp_path / "sweep.yaml")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere", "abc://127.0.0.1:9"])
def test_a_scheduler_that_cannot_be_reached_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(workers, "_CONNECT_S", 1)
    tasks = plan_sweep(SweepFile(question="?", notebooks=["30"]))
    with pytest.raises(RunError, match=f"scheduler '{address}' cannot be reached") as raised:
        run_sweep(tasks, scheduler=address, progress=False)
    assert "\n" not in str(raised.value)
