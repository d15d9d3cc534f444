"""Finished runs of one experiment side by side: what differs, what came out, and whether that is
more than chance.

Columns are dotted names. Settings are called as ``--set`` calls them, results as ``results.json``
nests them (after ``results.`` where a setting has the same name), and what a run comes from begins
with ``provenance.``.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from delfjax import paths
from delfjax.config import require_known
from delfjax.evaluation.significance import bootstrap_interval, paired_permutation_test
from delfjax.files import flatten
from delfjax.suite.runs.folders import PRESETS, FinishedRun, RunError, finished_runs
from delfjax.suite.runs.tables import as_text, compact, table_of

# Pairs of settings that are tested against each other: all pairs of six.
MOST_PAIRS = 15
# Results shown where a table is to stay short.
MAIN_METRICS = 8
# Settings that repeat another one.
_REPEATED = ("photos.seed",)


@dataclass(frozen=True)
class Comparison:
    """The finished runs of an experiment, compared; as text, it is made for a terminal.

    Attributes:
        experiment: name, that of the notebook.
        table: one row for each run, with everything (:func:`runs_table`).
        overview: the same, short (:func:`overview`).
        summary: means over seeds (:func:`summary`).
        tests: settings against each other, query by query (:func:`paired_tests`).
        problems: one line for each damaged run, which is left out.
    """

    experiment: str
    table: pd.DataFrame
    overview: pd.DataFrame
    summary: pd.DataFrame
    tests: pd.DataFrame
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = list(dict.fromkeys(self.summary["metric"]))
        main = self.summary[self.summary["metric"].isin(shown[:MAIN_METRICS])].reset_index(
            drop=True
        )
        more = (
            f" ({len(shown) - MAIN_METRICS} more are in the table of --out)"
            if len(shown) > MAIN_METRICS
            else ""
        )
        count = (
            f"{len(self.table)} finished run{'' if len(self.table) == 1 else 's'} of"
            f" {self.experiment}"
        )
        parts = [
            f"{count}, the latest last\n{as_text(self.overview)}",
            f"means over seeds{more}\n{as_text(main)}",
        ]
        if len(self.tests) or self.tests.attrs["notes"]:
            parts.append(f"query by query, second minus first\n{as_text(self.tests)}")
        return "\n\n".join([*parts, *(f"left out: {line}" for line in self.problems)])


def compare(experiment: str, *, by: Sequence[str] = (), preset: str = "any") -> Comparison:
    """Compare the finished runs of an experiment, grouped by the settings ``by``, or by all that
    differ but the seed.

    Raises:
        RunError: there is no finished run; the nearest experiment that has some is named.
        ConfigError: an unknown field or preset.
    """
    runs, problems = runs_of(experiment, preset=preset)
    tables = runs_table(runs), overview(runs), summary(runs, by), paired_tests(runs, by)
    return Comparison(runs[0].experiment, *tables, problems)


def experiments_with_runs() -> list[str]:
    """Names of the experiments that have a finished run, damaged or not."""
    return sorted({done.parent.parent.name for done in paths.runs_root().glob("*/*/DONE")})


def runs_of(experiment: str, *, preset: str = "any") -> tuple[list[FinishedRun], list[str]]:
    """The finished runs of an experiment, the latest last, and one line for each that is damaged.

    Args:
        experiment: its name, or a beginning that no other has.
        preset: only those of this preset.

    Raises:
        RunError: there is none; the nearest experiment that has some is named.
        ConfigError: another preset.
    """
    require_known("preset", preset, ("any", *PRESETS))
    there = experiments_with_runs()
    begun = [name for name in there if name.startswith(experiment)]
    name = begun[0] if len(begun) == 1 and experiment not in there else experiment
    runs, problems = finished_runs(name)
    runs = [
        run for run in runs if preset in ("any", run.provenance.get("parameters", {}).get("preset"))
    ]
    if not runs:
        raise RunError(_none_of(name, preset=preset, damaged=problems, there=there))
    return runs, problems


def runs_table(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """One row for each run, called by its hash: settings, results and provenance under dotted
    names.

    Lists are JSON text, long ones their length and a digest; what a run lacks is left empty.
    """
    rows = []
    for run in runs:
        settings = flatten(run.config)
        found = {
            f"results.{name}" if name in settings else name: value
            for name, value in flatten(run.results).items()
        }
        origin = {f"provenance.{name}": value for name, value in flatten(run.provenance).items()}
        rows.append({**settings, **found, **origin})
    return table_of(rows, index=[run.hash for run in runs])


def overview(runs: Sequence[FinishedRun], *, limit: int = MAIN_METRICS) -> pd.DataFrame:
    """One row for each run: settings that differ, its main results (at most ``limit``), and
    seconds."""
    fields, shown = varying(runs), metrics(runs)[:limit]
    rows = []
    for run in runs:
        settings, results = flatten(run.config), flatten(run.results)
        rows.append({
            **{name: settings.get(name) for name in fields},
            **{_unlike(name, fields): results.get(name) for name in shown},
            "seconds": run.provenance.get("seconds"),
        })  # fmt: skip
    return table_of(rows, index=[run.hash for run in runs])


def varying(runs: Sequence[FinishedRun]) -> list[str]:
    """Settings in which the runs differ; one that some of them lack does. What merely repeats the
    seed does not count."""
    settings = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for values in settings for name in values)
    return [
        name
        for name in names
        if name not in _REPEATED
        and len({json.dumps(values[name]) if name in values else "" for values in settings}) > 1
    ]


def metrics(runs: Sequence[FinishedRun]) -> list[str]:
    """Names of the results that are numbers in some run, those least nested first."""
    names = dict.fromkeys(
        name for run in runs for name, value in flatten(run.results).items() if _is_number(value)
    )
    return sorted(names, key=lambda name: name.count("."))


def groups(
    runs: Sequence[FinishedRun], by: Sequence[str] = ()
) -> dict[tuple[Any, ...], list[FinishedRun]]:
    """Runs of like settings: values of the fields (see :func:`group_fields`) → runs, in the order
    of these values."""
    fields = group_fields(runs, by)
    members: dict[tuple[Any, ...], list[FinishedRun]] = defaultdict(list)
    for run in runs:
        settings = flatten(run.config)
        members[tuple(compact(settings.get(name)) for name in fields)].append(run)
    return {values: members[values] for values in sorted(members, key=_order)}


def group_fields(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> list[str]:
    """What runs are grouped by: the fields ``by``, or every setting that differs but the seed.

    Raises:
        ConfigError: no run has such a field; the nearest is named.
    """
    known = dict.fromkeys(name for run in runs for name in flatten(run.config))
    for name in by:
        require_known("field", name, known)
    return list(dict.fromkeys(by)) if by else [name for name in varying(runs) if name != "seed"]


def summary(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> pd.DataFrame:
    """Every number among the results, for each group of like settings: its mean over seeds and how
    sure that is.

    Runs of one seed (where ``by`` leaves other settings out) are averaged first, so that each seed
    counts once.

    Returns:
        The fields, ``metric``, ``mean``, ``std`` (of the seeds, n − 1), ``low`` and ``high`` (95 %
        bootstrap interval of the mean), ``seeds``, ``runs``. Of one seed nothing is known about the
        spread: ``std``, ``low``, ``high`` are empty.

    Raises:
        ConfigError: an unknown field.
    """
    fields, rows = group_fields(runs, by), []
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
    """Settings of each group in words → mean of one result over seeds, lower and upper end of its
    interval.

    Raises:
        ConfigError: no run has that result, or an unknown field; the nearest is named.
    """
    require_known("metric", metric, metrics(runs))
    fields, found = group_fields(runs, by), {}
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
    """Every two groups of like settings, compared query by query with a permutation test.

    The score of a query is its mean over seeds; only queries that both groups have are compared.
    The p-values are those of single tests: among twenty, one below 0.05 is chance.
    ``attrs["notes"]`` says what was left out.

    Returns:
        ``first``, ``second`` (settings), ``metric``, ``queries``, ``first_mean``, ``second_mean``,
        ``difference`` (second − first) and ``p``; no row where runs kept no scores per query, or
        only one group did.

    Raises:
        ConfigError: an unknown field.
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
    """Settings of a group in words, ``"search.neighbours=5, index.kind=exact"``."""
    words = (
        f"{name}={'absent' if value is None else value}"
        for name, value in zip(fields, values, strict=True)
    )
    return ", ".join(words) or "all runs"


def _none_of(name: str, *, preset: str, damaged: Sequence[str], there: Sequence[str]) -> str:
    of = f"no finished run of {name!r}" + ("" if preset == "any" else f" at preset {preset!r}")
    if damaged:
        return f"{of} is whole: {damaged[0]}"
    near = difflib.get_close_matches(
        name, [other for other in there if other != name], n=1, cutoff=0.0
    )
    if name in there or not near:
        return f"{of}; make one first: delfjax run {name}"
    return f"{of}; the nearest experiment that has some is {near[0]!r}"


def _order(values: tuple[Any, ...]) -> list[tuple[int, float, str]]:
    """Numbers by size, then text by the alphabet; what is absent comes first."""
    return [
        (
            (0, 0.0, "")
            if value is None
            else (1, float(value), "")
            if _is_number(value)
            else (2, 0.0, str(value))
        )
        for value in values
    ]


def _unlike(name: str, taken: Iterable[str]) -> str:
    return f"results.{name}" if name in set(taken) else name


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _each_seed(measured: Iterable[tuple[Hashable, float]]) -> np.ndarray:
    """Mean of every seed's values, in the order in which the seeds first appear."""
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
    """Metric → query → mean over seeds; runs whose scores cannot be read are noted and left out."""
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
