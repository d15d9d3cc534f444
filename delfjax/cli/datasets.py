"""Datasets: ``delfjax datasets list | render | fetch | verify | summary``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from delfjax.cli.options import DatasetRoot, Flag, UsageError
from delfjax.datasets.benchmark import DatasetError
from delfjax.datasets.catalogue import (
    CATALOGUE,
    dataset_entry,
    dataset_folders,
    open_dataset,
    present_datasets,
)
from delfjax.datasets.checking import Check, compare_counts, verify_dataset
from delfjax.datasets.fetch.archives import describe_checksums
from delfjax.datasets.fetch.downloading import FetchError, readable
from delfjax.datasets.fetch.fetching import FetchPlan, fetch, plan_fetch
from delfjax.device import use_compilation_cache
from delfjax.errors import DelfjaxError
from delfjax.world.knobs import KNOBS, world_config
from delfjax.world.writing import build_world

Name = Annotated[
    tyro.conf.Positional[str], tyro.conf.arg(help="dataset, one of `delfjax datasets list`")
]
# Problems of one copy that are printed one by one; the rest is counted.
_SHOWN_PROBLEMS = 20
# More than this is fetched only when its user agrees, bytes.
_ASK_BEYOND = 10_000_000_000


@dataclass(frozen=True)
class List:
    """List every dataset: where it comes from, what can still be had, licence, size, expected
    counts."""

    def run(self) -> None:
        """Print what is known about each; nothing is opened."""
        for name, entry in CATALOGUE.items():
            print(f"{name}: {entry.title}")
            print(f"    from      {entry.origin}")
            print(f"    available {entry.availability}")
            checksums = (
                f"; checksums {describe_checksums(entry.published)}" if entry.published else ""
            )
            print(f"    licence   {entry.licence}; size {entry.size}{checksums}")
            for files in entry.published:
                if files.remedy:
                    print(f"    by hand   {files.remedy}")
            for place in dataset_folders(name):
                print(f"    place     {place} ({'present' if place.is_dir() else 'not there'})")
            for what, expected in entry.expected.items():
                accepted = " or ".join(f"{value:,d}" for value in expected.values)
                print(f"    {what:9s} {accepted} ({expected.source})")


_CHALLENGES = "; ".join(f"{name} ({meaning})" for name, meaning in KNOBS.items())


@dataclass(frozen=True)
class Render:
    """Render the landmark world: photographs, exact ground truth, GPS positions; run again, it
    resumes."""

    preset: Annotated[
        str,
        tyro.conf.arg(help="ci (seconds), quick (about 1,500 photographs) or full (over 100,000)"),
    ] = "quick"
    root: DatasetRoot = None
    seed: Annotated[int, tyro.conf.arg(help="another seed is another world")] = 0
    set: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            metavar="KNOB=VALUE",
            help=(
                "change a count, image_side, or a challenge from 0 to 1, occlusion=0.8;"
                f" repeatable. Challenges: {_CHALLENGES}"
            ),
        ),
    ] = ()
    workers: Annotated[
        int, tyro.conf.arg(help="photographs at a time; 0: as many as there are processors")
    ] = 0

    def run(self) -> None:
        """Render what is missing and print how many photographs there are."""
        use_compilation_cache()
        config = world_config(
            self.preset, seed=self.seed, **dict(_assignment(text) for text in self.set)
        )
        root = self.root or dataset_folders("world")[0]
        report = build_world(root, config, workers=self.workers or None)
        print(
            f"{root}: {report.done} photographs rendered, {report.skipped} were there; open it as"
            " `world` and `world_train`"
        )


def _assignment(text: str) -> tuple[str, int | float]:
    name, equals, value = text.partition("=")
    try:
        return name.strip(), int(value) if value.strip().lstrip("-").isdigit() else float(value)
    except ValueError:
        raise DatasetError(
            f"--set {text}: expected KNOB=NUMBER{'' if equals else ', there is no ='}"
        ) from None


@dataclass(frozen=True)
class Fetch:
    """Download a dataset, or take it from a local copy, compare checksums, and unpack it; run
    again, it resumes."""

    name: Name
    root: DatasetRoot = None
    source: Annotated[
        str,
        tyro.conf.arg(
            name="from",
            metavar="FOLDER|URL",
            help="a copy of the same files; default: where they are published",
        ),
    ] = ""
    yes: Annotated[Flag, tyro.conf.arg(help="do not ask before more than 10 GB")] = False
    keep_archives: Annotated[
        Flag, tyro.conf.arg(help="leave downloaded archives in .fetch of the dataset's folder")
    ] = False

    def run(self) -> None:
        """Fetch what is missing; files that failed are listed and end in an error."""
        plan = plan_fetch(self.name, self.root, source=self.source)
        print(plan)
        _require_consent(plan, yes=self.yes)
        report = fetch(plan, keep_archives=self.keep_archives)
        for file, reason in report.failed:
            print(f"{file}: {reason}")
        print(report, file=sys.stderr)
        if report.failed:
            (file, reason), others = report.failed[0], len(report.failed) - 1
            raise FetchError(
                f"{self.name}: {file}: {reason}"
                + (f" (and {others} other files, listed above)" if others else "")
            )
        if plan.remedies:
            raise FetchError(f"{self.name}: not complete: {'; '.join(plan.remedies)}")


@dataclass(frozen=True)
class Verify:
    """Look for every image of a dataset and compare its counts with those of the real one."""

    name: Name
    root: DatasetRoot = None
    decode: Annotated[Flag, tyro.conf.arg(help="also open every image and every query's box")] = (
        False
    )

    def run(self) -> None:
        """Print counts and problems; a copy that is not complete ends in an error."""
        dataset = open_dataset(self.name, self.root)
        check = verify_dataset(dataset, dataset_entry(self.name).expected, decode=self.decode)
        _print_check(check, dataset.notes)
        print(f"{check.checked} images looked at, {len(check.problems)} unusable", file=sys.stderr)
        if not check.complete:
            differing = [count.name for count in check.counts if not count.agrees]
            raise DatasetError(
                f"{dataset.root}: not a complete copy of {self.name}: {len(check.problems)} images"
                f" unusable, {len(differing)} counts"
                f" differ{': ' + ', '.join(differing) if differing else ''}"
            )


@dataclass(frozen=True)
class Summary:
    """Show the counts of whatever datasets are present beside those of the real ones."""

    name: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(help="dataset; default: all that are present")
    ] = ""
    root: DatasetRoot = None

    def run(self) -> None:
        """Print the counts of one dataset, or of all whose folder is there."""
        if self.name:
            _print_summary(self.name, self.root)
            return
        if self.root is not None:
            raise DatasetError(f"--root {self.root}: say which dataset lies there")
        present = 0
        for name in present_datasets():
            try:
                _print_summary(name, None)
                present += 1
            except DelfjaxError as error:
                print(f"{name}: {error}")
        print(f"{present} of {len(CATALOGUE)} datasets present", file=sys.stderr)


def _require_consent(plan: FetchPlan, *, yes: bool) -> None:
    """Ask before very much is fetched; without a terminal nobody can be asked."""
    if yes or plan.size <= _ASK_BEYOND:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"{plan.name}: ≈ {readable(plan.size)} in {len(plan.missing)} files is much; say --yes"
            " if that is meant"
        )
    if input("Fetch them? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError(f"{plan.name}: nothing was fetched")


def _print_summary(name: str, root: Path | None) -> None:
    dataset = open_dataset(name, root)
    print(f"{name}: {dataset.root}")
    for count in compare_counts(dataset, dataset_entry(name).expected):
        print(f"    {count}")
    for note in dataset.notes:
        print(f"    {note}")


def _print_check(check: Check, notes: tuple[str, ...]) -> None:
    for count in check.counts:
        print(count)
    for note in notes:
        print(note)
    if check.known_corrupt:
        print(f"{check.known_corrupt} images known to be damaged are")
    for path, reason in check.problems[:_SHOWN_PROBLEMS]:
        print(f"{path}: {reason}")
    if len(check.problems) > _SHOWN_PROBLEMS:
        print(f"… and {len(check.problems) - _SHOWN_PROBLEMS} more")


Datasets = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Fetch, tyro.conf.subcommand("fetch")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Summary, tyro.conf.subcommand("summary")]
)


@dataclass(frozen=True)
class DatasetsCommand:
    """List the datasets there are, render the landmark world, fetch another, verify a copy, or
    count what is present."""

    action: tyro.conf.OmitSubcommandPrefixes[Datasets]

    def run(self) -> None:
        """Run the action."""
        self.action.run()
