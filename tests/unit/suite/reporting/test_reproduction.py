"""The order of a reproduction: every notebook once, after what it reads."""

from __future__ import annotations

from delfjax.suite.reporting.reproduction import plan
from delfjax.suite.running.notebook_rules import notebooks
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
