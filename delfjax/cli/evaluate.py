"""Scores: ``delfjax evaluate``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from delfjax.cli.options import (
    DatasetName,
    DatasetRoot,
    Flag,
    Maybe,
    Preset,
    Set,
    Words,
    namesakes,
    require_one,
    require_utf8,
    require_writable,
)
from delfjax.cli.output import print

if TYPE_CHECKING:
    from delfjax.pipeline.one_system import DatasetEvaluation

# Failures that are printed one by one; the JSON file has them all.
_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Evaluate:
    """Score a system on a labelled folder or a dataset, by votes and by inliers.

    A dataset is scored by its published protocols.

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
    json: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            metavar="FILE",
            help="file for scores, timings (seconds), rankings and failures",
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
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Evaluate and print one line for each score."""
        from delfjax.config import preset
        from delfjax.datasets.catalogue import open_dataset
        from delfjax.datasets.photo_folder import GROUNDTRUTH
        from delfjax.files import replace_file
        from delfjax.models.model_files import override_system
        from delfjax.pipeline.one_system import evaluate_dataset

        require_one("labelled folder", self.folder, self.dataset, self.root)
        require_writable("--json", self.json)
        require_utf8("--store", self.store)
        config = override_system(preset(self.preset), self.overrides)
        dataset = (
            open_dataset("folder", self.folder)
            if self.folder
            else open_dataset(self.dataset, self.root)
        )
        read = namesakes(self.json, dataset.root, [*dataset.database, GROUNDTRUTH])
        require_writable("--json", self.json, inputs=read)
        result = evaluate_dataset(
            dataset,
            config,
            protocols=self.protocols,
            store=self.store,
            retry_failed=self.retry_failed,
        )
        if self.json is not None:
            # A name that is not UTF-8 is escaped as in JSON.
            replace_file(self.json, result.to_json().encode(errors="backslashreplace"))
        for note in dataset.notes:
            print(note, file=sys.stderr)
        for line in _scores(result):
            print(line)
        _print_counts(result)


def _print_counts(result: DatasetEvaluation) -> None:
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    print(
        f"{result.num_images} images, {result.num_failed} failed; {times}; config"
        f" {result.config_hash}"
    )
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
        yield f"{tier:12s} mAP  votes {scores['votes']:.3f}  inliers {scores['inliers']:.3f}"
    for protocol, stages in result.results.items():
        if result.tiers:
            continue
        votes, inliers = stages["votes"]["means"], stages["inliers"]["means"]
        for mean in votes:
            said = f"votes {_shown(votes[mean])}  inliers {_shown(inliers[mean])}"
            yield f"{protocol:12s} {mean:10s} {said}  {stages['inliers']['protocol']}"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
