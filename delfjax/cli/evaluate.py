"""Scores: ``delfjax evaluate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from delfjax.cli.options import (
    DatasetName,
    DatasetRoot,
    Flag,
    Maybe,
    Preset,
    Set,
    UsageError,
    Words,
    namesakes,
    require_one,
    require_utf8,
    require_writable,
    resolved,
)
from delfjax.cli.output import print

if TYPE_CHECKING:
    from delfjax.config import DelfConfig
    from delfjax.pipeline.one_system import DatasetEvaluation

# Failures that are printed one by one; the JSON file has them all.
_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Evaluate:
    """Score one or several systems on a labelled folder or a dataset.

    A dataset is scored by its published protocols, each stage of a ranking alone.

    Several systems share what they have in common.

    Features are kept: other search settings need no new extraction.

    Example: delfjax evaluate --dataset roxford5k --json scores.json
    """

    folder: Annotated[
        tyro.conf.Positional[Maybe[Path]],
        tyro.conf.arg(
            metavar="[FOLDER]",
            help="folder with a groundtruth.json, or with one folder for each landmark",
            help_behavior_hint="(or --dataset)",
        ),
    ] = None
    dataset: DatasetName = ""
    root: DatasetRoot = None
    protocols: Annotated[
        tyro.conf.UseAppendAction[Words],
        tyro.conf.arg(
            name="protocol",
            metavar="NAME",
            help="one of the dataset's protocols, for instance hard of roxford5k",
            help_behavior_hint="(repeatable; default: all of them)",
        ),
    ] = ()
    json_file: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            name="json",
            metavar="FILE",
            help="file for scores, timings (seconds), rankings and failures, by system if several",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    store: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            metavar="DIR",
            help="feature store to read or fill",
            help_behavior_hint="(default: one in the cache)",
        ),
    ] = None
    retry_failed: Annotated[
        Flag, tyro.conf.arg(help="retry failed images and queries, changed or not")
    ] = False
    systems: Annotated[
        tyro.conf.UseAppendAction[Words],
        tyro.conf.arg(
            name="system",
            metavar="NAME",
            help=(
                "delf, sift or congas (local features), mac, rmac, gem, siamac or dir (global"
                " descriptors), one of each, as in delf+dir, and +qe at the end to expand queries;"
                " NAME=FILE takes a trained model; all stands for every row of the poster's table"
            ),
            help_behavior_hint="(repeatable; default: delf)",
        ),
    ] = ()
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Evaluate and print one line for each score."""
        from delfjax.datasets.catalogue import open_dataset
        from delfjax.datasets.photo_folder import GROUNDTRUTH
        from delfjax.files import replace_file
        from delfjax.pipeline.one_system import evaluate_together

        require_one("labelled folder", self.folder, self.dataset, self.root)
        require_writable("--json", self.json_file)
        require_utf8("--store", self.store)
        systems = self._systems()
        if self.store is not None and len(systems) > 1:
            raise UsageError(
                f"--store {self.store}: takes the features of one system, not of {len(systems)};"
                " without it, the features of all of them are kept in the cache"
            )
        dataset = (
            open_dataset("folder", self.folder)
            if self.folder
            else open_dataset(self.dataset, self.root)
        )
        read = namesakes(self.json_file, dataset.root, [*dataset.database, GROUNDTRUTH])
        require_writable("--json", self.json_file, inputs=read)
        results = evaluate_together(
            dataset,
            systems,
            protocols=self.protocols,
            store=self.store,
            retry_failed=self.retry_failed,
        )
        if self.json_file is not None:
            plain: dict[str, Any] = {name: vars(result) for name, result in results.items()}
            if len(plain) == 1:
                plain = next(iter(plain.values()))
            text = json.dumps(plain, indent=1, ensure_ascii=False)
            # A name that is not UTF-8 is escaped as in JSON.
            replace_file(self.json_file, text.encode(errors="backslashreplace"))
        for note in dataset.notes:
            print(note, file=sys.stderr)
        if len(results) > 1:
            for line in _compared(results):
                print(line)
        else:
            for line in _scores(next(iter(results.values()))):
                print(line)
        _print_counts(results)

    def _systems(self) -> dict[str, DelfConfig]:
        """Name → system, for every system asked for."""
        from delfjax.config import SYSTEMS

        names = [
            name for given in self.systems for name in (SYSTEMS if given == "all" else (given,))
        ]
        asked = dict.fromkeys(names or ("",))
        return {name: resolved(self.preset, name, self.overrides) for name in asked}


def _print_counts(results: Mapping[str, DatasetEvaluation]) -> None:
    """Counts, times and failures; several systems have all but the hashes of their configs in
    common."""
    result = next(iter(results.values()))
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    hashes = ", ".join(f"{name} {of.config_hash}".strip() for name, of in results.items())
    print(f"{result.num_images} images, {result.num_failed} failed; {times}; config {hashes}")
    failed = [
        *result.failures.items(),
        *((f"query {name}", why) for name, why in result.query_failures.items()),
    ]
    for name, reason in failed[:_SHOWN_FAILURES]:
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if len(failed) > _SHOWN_FAILURES:
        print(f"failed: {len(failed) - _SHOWN_FAILURES} more", file=sys.stderr)


def _scores(result: DatasetEvaluation) -> Iterator[str]:
    """One line for each tier of a folder, or for each mean of each protocol, which ends with the
    protocol's identifier."""
    for tier, scores in result.tiers.items():
        yield f"{tier:12s} mAP  {_by_stage(scores)}"
    for protocol, stages in result.results.items():
        if result.tiers:
            continue
        last = stages[result.stages[-1]]
        for mean in last["means"]:
            scores = {stage: stages[stage]["means"][mean] for stage in result.stages}
            yield f"{protocol:12s} {mean:10s} {_by_stage(scores)}  {last['protocol']}"


def _by_stage(scores: Mapping[str, float | None]) -> str:
    return "  ".join(f"{stage} {_shown(value)}" for stage, value in scores.items())


def _compared(results: Mapping[str, DatasetEvaluation]) -> Iterator[str]:
    """A table of the final scores: one line for each system."""
    rows = {name: result.rows() for name, result in results.items()}
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    width = max(map(len, ["system", *rows]))
    wide = [max(len(column), 5) for column in columns]
    yield "  ".join(
        ["system".ljust(width), *(c.rjust(w) for c, w in zip(columns, wide, strict=True))]
    )
    for name, row in rows.items():
        shown = (_shown(row.get(c)).rjust(w) for c, w in zip(columns, wide, strict=True))
        yield "  ".join([name.ljust(width), *shown])


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
