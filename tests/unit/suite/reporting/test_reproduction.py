"""The order of a reproduction: every notebook once, after what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from delfjax.suite.reporting.reproduction import _calls, plan
from delfjax.suite.running.notebook_rules import notebooks
from delfjax.suite.running.runner import prepare
from delfjax.suite.settings import upstream_of


def test_every_notebook_is_planned_once_after_what_it_reads() -> None:
    *lanes, last = plan(notebooks())
    assert sorted([path for lane in (*lanes, last) for path in lane]) == sorted(notebooks())
    for lane in lanes:
        names = [path.stem for path in lane]
        for place, name in enumerate(names):
            upstream = upstream_of(name)
            assert upstream is None or upstream[1] in names[:place]
    assert [path.stem for path in last] == ["90_compare_runs", "91_reproduce_poster"]


def test_notebooks_go_side_by_side_in_lanes_and_what_is_kept_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    jobs = {path.stem: prepare(path, {}) for path in notebooks()}
    kept = {"10_inspect_dataset", "13_measure_challenges"}
    calls = _calls(notebooks(), jobs, kept)
    assert calls.keys() == jobs.keys() - kept
    first = [name for name, call in calls.items() if not call.needs]
    assert first == ["00_start_here", "11_mine_landmarks"]
    # What is in one lane goes one after the other, also across one that is kept.
    assert calls["20_finetune_descriptors"].needs == {"00_start_here"}
    last = {"90_compare_runs", "91_reproduce_poster"}
    assert all(calls[name].needs == calls.keys() - last for name in last)
    assert all(call.needs <= calls.keys() for call in calls.values())
