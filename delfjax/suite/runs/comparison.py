"""Comparison of the finished runs of one experiment: which settings differ, how the results differ,
and whether the difference is more than chance.

Columns are dotted names. A setting is named as for ``--set``, a result by its place in
``results.json`` (preceded by ``results.`` if a setting has the same name), and provenance by
``provenance.`` and its field.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from delfjax.config import abbreviated, require_known, weight_file
from delfjax.evaluation.significance import bootstrap_interval, paired_permutation_test
from delfjax.files import flatten
from delfjax.suite.runs.claims import finished_folders
from delfjax.suite.runs.folders import PRESETS, FinishedRun, RunError, finished_runs
from delfjax.suite.runs.tables import as_text, compact, table_of

# Most pairs of settings that are tested: all pairs of six settings.
MOST_PAIRS = 15
# Most results in a short table.
MAIN_METRICS = 8
# Settings that only repeat the seed.
_REPEATED = ("photos.seed",)


@dataclass(frozen=True)
class Comparison:
    """The finished runs of an experiment, compared; ``print`` shows it for a terminal.

    Attributes:
        experiment: name of the experiment, which is that of its notebook.
        table: one row per run, with all its values (:func:`runs_table`).
        overview: one row per run, with its main values (:func:`overview`).
        summary: means over seeds (:func:`summary`).
        tests: tests of settings against each other, query by query (:func:`paired_tests`).
        problems: one line per damaged run; such runs are left out.
    """

    experiment: str
    table: pd.DataFrame
    overview: pd.DataFrame
    summary: pd.DataFrame
    tests: pd.DataFrame
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        names = list(dict.fromkeys(self.summary["metric"]))
        is_main = self.summary["metric"].isin(names[:MAIN_METRICS])
        main = self.summary[is_main].reset_index(drop=True)
        left_out = len(names) - MAIN_METRICS
        more = f" ({left_out} more are in the table of --out)" if left_out > 0 else ""
        runs = "finished run" if len(self.table) == 1 else "finished runs"
        parts = [
            f"{len(self.table)} {runs} of {self.experiment}, the latest last\n"
            f"{as_text(self.overview)}",
            f"means over seeds{more}\n{as_text(main)}",
        ]
        if len(self.tests) or self.tests.attrs["notes"]:
            parts.append(f"query by query, second minus first\n{as_text(self.tests)}")
        return "\n\n".join([*parts, *(f"left out: {line}" for line in self.problems)])


def compare(experiment: str, *, by: Sequence[str] = (), preset: str = "any") -> Comparison:
    """Compare the finished runs of an experiment.

    Args:
        experiment: its name, or a prefix that no other experiment has.
        by: settings to group runs by; by default all that differ, except the seed.
        preset: use only runs of this preset.

    Raises:
        RunError: there is no finished run; the message names the nearest experiment that has one.
        ConfigError: a field or the preset is unknown.
    """
    runs, problems = runs_of(experiment, preset=preset)
    return Comparison(
        experiment=runs[0].experiment,
        table=runs_table(runs),
        overview=overview(runs),
        summary=summary(runs, by),
        tests=paired_tests(runs, by),
        problems=problems,
    )


def experiments_with_runs() -> list[str]:
    """Names of the experiments that have a finished run, even a damaged one."""
    return sorted({path.parent.name for path in finished_folders()})


def runs_of(experiment: str, *, preset: str = "any") -> tuple[list[FinishedRun], list[str]]:
    """The finished runs of an experiment, the latest last, and one line per damaged run.

    Args:
        experiment: its name, or a prefix that no other experiment has.
        preset: use only runs of this preset; ``"any"`` uses all.

    Raises:
        RunError: there is no such run; the message names the nearest experiment that has one.
        ConfigError: the preset is unknown.
    """
    require_known("preset", preset, ("any", *PRESETS))
    known = experiments_with_runs()
    fitting = [name for name in known if name.startswith(experiment)]
    name = fitting[0] if len(fitting) == 1 and experiment not in known else experiment
    runs, problems = finished_runs(name)
    runs = [
        run for run in runs if preset in ("any", run.provenance.get("parameters", {}).get("preset"))
    ]
    if not runs:
        raise RunError(_no_run_of(name, preset=preset, damaged=problems, known=known))
    return _readable(runs), problems


def runs_table(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """One row per run, indexed by its hash, with settings, results and provenance.

    Column names are dotted. A list becomes JSON text, a long one its length and a digest. Values
    that a run lacks are left empty.
    """
    rows = []
    for run in runs:
        settings = flatten(run.config)
        found = {_column(name, settings): value for name, value in flatten(run.results).items()}
        origin = {f"provenance.{name}": value for name, value in flatten(run.provenance).items()}
        rows.append({**settings, **found, **origin})
    return table_of(rows, index=[run.hash for run in runs])


def overview(runs: Sequence[FinishedRun], *, limit: int = MAIN_METRICS) -> pd.DataFrame:
    """One row per run: settings that differ, its main results (at most ``limit``), and seconds."""
    fields = varying(runs)
    shown = metrics(runs)[:limit]
    rows = []
    for run in runs:
        settings = flatten(run.config)
        results = flatten(run.results)
        rows.append({
            **{name: settings.get(name) for name in fields},
            **{_column(name, fields): results.get(name) for name in shown},
            "seconds": run.provenance.get("seconds"),
        })  # fmt: skip
    return table_of(rows, index=[run.hash for run in runs])


def varying(runs: Sequence[FinishedRun]) -> list[str]:
    """Settings in which the runs differ, including those that only some runs have.

    Settings that only repeat the seed are left out.
    """
    settings = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for values in settings for name in values)
    return [
        name
        for name in names
        if name not in _REPEATED
        and len({json.dumps(values[name]) if name in values else "" for values in settings}) > 1
    ]


def metrics(runs: Sequence[FinishedRun]) -> list[str]:
    """Names of the results that are numbers in some run, the least nested first."""
    names = dict.fromkeys(
        name for run in runs for name, value in flatten(run.results).items() if _is_number(value)
    )
    return sorted(names, key=lambda name: name.count("."))


def groups(
    runs: Sequence[FinishedRun], by: Sequence[str] = ()
) -> dict[tuple[Any, ...], list[FinishedRun]]:
    """Group runs with equal settings: values of :func:`group_fields` → runs, sorted by value."""
    fields = group_fields(runs, by)
    members: dict[tuple[Any, ...], list[FinishedRun]] = defaultdict(list)
    for run in runs:
        settings = flatten(run.config)
        members[tuple(compact(settings.get(name)) for name in fields)].append(run)
    return {values: members[values] for values in sorted(members, key=_order)}


def group_fields(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> list[str]:
    """Settings that runs are grouped by: ``by``, or else all that differ except the seed.

    Raises:
        ConfigError: no run has such a field; the message names the nearest.
    """
    known = dict.fromkeys(name for run in runs for name in flatten(run.config))
    for name in by:
        require_known("field", name, known)
    return list(dict.fromkeys(by)) if by else [name for name in varying(runs) if name != "seed"]


def summary(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> pd.DataFrame:
    """Mean over seeds, with its uncertainty, of every numeric result in each group of settings.

    A group can have several runs per seed if ``by`` leaves out settings that differ. These are
    averaged first, so that each seed counts once.

    Returns:
        A table with the fields, ``metric``, ``mean``, ``std`` (over seeds, with n − 1), ``low`` and
        ``high`` (95 % bootstrap interval of the mean), ``seeds`` and ``runs``. For a single seed,
        ``std``, ``low`` and ``high`` are empty.

    Raises:
        ConfigError: a field is unknown.
    """
    fields = group_fields(runs, by)
    rows: list[dict[str, Any]] = []
    for values, members in groups(runs, by).items():
        settings = dict(zip(fields, values, strict=True))
        rows += [
            {**settings, "metric": metric, **_spread(members, metric)}
            for metric in metrics(members)
        ]
    return table_of(
        rows, columns=[*fields, "metric", "mean", "std", "low", "high", "seeds", "runs"]
    )


def intervals(
    runs: Sequence[FinishedRun], metric: str, by: Sequence[str] = ()
) -> dict[str, tuple[float, float, float]]:
    """Label of each group → mean of one result over seeds, lower and upper end of its interval.

    Raises:
        ConfigError: no run has that result, or a field is unknown; the message names the nearest.
    """
    require_known("metric", metric, metrics(runs))
    fields = group_fields(runs, by)
    found: dict[str, tuple[float, float, float]] = {}
    for values, members in groups(runs, by).items():
        if metric in metrics(members):
            spread = _spread(members, metric)
            found[label(fields, values)] = (
                spread["mean"],
                spread.get("low", math.nan),
                spread.get("high", math.nan),
            )
    return found


def paired_tests(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> pd.DataFrame:
    """Compare every two groups of settings query by query with a permutation test.

    The score of a query is its mean over seeds. Only queries that both groups have are compared.
    The p-values are not corrected for multiple tests: of twenty tests, one is expected to fall
    below 0.05 by chance. ``attrs["notes"]`` says what was left out.

    Returns:
        A table with ``first``, ``second`` (labels of the groups), ``metric``, ``queries``,
        ``first_mean``, ``second_mean``, ``difference`` (second − first) and ``p``. A pair has a row
        for each metric for which both groups have scores per query.

    Raises:
        ConfigError: a field is unknown.
    """
    fields = group_fields(runs, by)
    notes: list[str] = []
    scores = {
        label(fields, values): _scores_per_query(members, notes)
        for values, members in groups(runs, by).items()
    }
    pairs = list(itertools.combinations(scores, 2))
    if len(pairs) > MOST_PAIRS:
        notes.append(
            f"{len(pairs) - MOST_PAIRS} of {len(pairs)} pairs are not tested; name fewer fields to"
            " compare fewer groups"
        )
    rows = []
    for first, second in pairs[:MOST_PAIRS]:
        for metric in sorted(scores[first].keys() & scores[second].keys()):
            row = _paired(scores[first][metric], scores[second][metric])
            rows += [{"first": first, "second": second, "metric": metric, **row}] if row else []
    columns = [
        "first",
        "second",
        "metric",
        "queries",
        "first_mean",
        "second_mean",
        "difference",
        "p",
    ]
    table = table_of(rows, columns=columns)
    table.attrs["notes"] = notes
    return table


def label(fields: Sequence[str], values: Sequence[Any]) -> str:
    """Label of a group, such as ``"search.neighbours=5, index.kind=exact"``."""
    words = (
        f"{name}={'absent' if value is None else value}"
        for name, value in zip(fields, values, strict=True)
    )
    return ", ".join(words) or "all runs"


def _readable(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The runs with weight files shown by name and digest, the same weights always by the same
    name."""
    names: dict[str, Any] = {}

    def readable(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: readable(inner) for name, inner in value.items()}
        file = weight_file(value)
        if file is None or not file.digest:
            return value
        return names.setdefault(file.digest, abbreviated(value))

    return [replace(run, config=readable(run.config)) for run in runs]


def _no_run_of(name: str, *, preset: str, damaged: Sequence[str], known: Sequence[str]) -> str:
    of = f"no finished run of {name!r}" + ("" if preset == "any" else f" at preset {preset!r}")
    if damaged:
        return f"{of} is undamaged: {damaged[0]}"
    others = [other for other in known if other != name]
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.0)
    if name in known or not near:
        return f"{of}; make one first: delfjax run {name}"
    return f"{of}; the nearest experiment that has one is {near[0]!r}"


def _order(values: tuple[Any, ...]) -> list[tuple[int, float, str]]:
    """Sort key of a group: absent values first, then numbers by size, then text by the alphabet."""
    return [_rank(value) for value in values]


def _rank(value: Any) -> tuple[int, float, str]:
    if value is None:
        return 0, 0.0, ""
    if _is_number(value):
        return 1, float(value), ""
    return 2, 0.0, str(value)


def _column(name: str, settings: Collection[str]) -> str:
    """Column of a result, distinct from the names of settings."""
    return f"results.{name}" if name in settings else name


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _each_seed(measured: Iterable[tuple[Hashable, float]]) -> np.ndarray:
    """Mean of each seed's values, in the order in which the seeds first appear."""
    values: dict[Hashable, list[float]] = defaultdict(list)
    for seed, value in measured:
        values[seed].append(value)
    return np.array([np.mean(own) for own in values.values()], dtype=np.float64)


def _spread(runs: Sequence[FinishedRun], metric: str) -> dict[str, Any]:
    results = [(run.config.get("seed"), flatten(run.results).get(metric)) for run in runs]
    measured = [(seed, float(value)) for seed, value in results if _is_number(value)]
    values = _each_seed(measured)
    mean = {"mean": float(values.mean()), "seeds": len(values), "runs": len(measured)}
    if len(values) < 2:
        return mean
    low, high = bootstrap_interval(values)
    return {**mean, "std": float(values.std(ddof=1)), "low": low, "high": high}


def _scores_per_query(runs: Sequence[FinishedRun], notes: list[str]) -> dict[str, dict[str, float]]:
    """Metric → query → mean over seeds; runs with unreadable scores are noted and left out."""
    measured: dict[str, dict[str, list[tuple[Hashable, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in runs:
        try:
            kept = run.query_scores()
        except RunError as error:
            notes.append(f"run {run.hash} is left out: {error}")
            continue
        for metric, scores in kept.items():
            for query, score in scores.items():
                measured[metric][query].append((run.config.get("seed"), score))
    return {
        metric: {query: float(_each_seed(values).mean()) for query, values in queries.items()}
        for metric, queries in measured.items()
    }


def _paired(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, Any]:
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return {}
    scores1, scores2 = (
        np.array([scores[query] for query in shared], dtype=np.float64)
        for scores in (first, second)
    )
    return {
        "queries": len(shared),
        "first_mean": float(scores1.mean()),
        "second_mean": float(scores2.mean()),
        "difference": float((scores2 - scores1).mean()),
        "p": paired_permutation_test(scores1, scores2),
    }
