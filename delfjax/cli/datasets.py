"""Datasets: ``delfjax datasets list | render | fetch | verify | summary``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from delfjax.cli.groups import Group
from delfjax.cli.options import DatasetRoot, Flag, UsageError, Words, require_at_least
from delfjax.cli.output import print
from delfjax.errors import DelfjaxError
from delfjax.world.challenges import KNOBS

if TYPE_CHECKING:
    from delfjax.datasets.checking import Check
    from delfjax.datasets.fetch.fetching import FetchPlan

Name = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(metavar="NAME", help="name of the dataset; `delfjax datasets list` has them all"),
]
# Problems of one copy that are printed one by one; the others are counted.
_SHOWN_PROBLEMS = 20
# A larger download needs its user's consent, bytes.
_ASK_BEYOND = 10_000_000_000


@dataclass(frozen=True)
class List:
    """List all datasets: origin, availability, licence, size, expected counts.

    Example: delfjax datasets list
    """

    def run(self) -> None:
        """Print what is known about each; nothing is opened."""
        from delfjax.datasets.catalogue import CATALOGUE, dataset_folders
        from delfjax.datasets.fetch.archives import describe_checksums

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
                print(f"    folder    {place} ({'present' if place.is_dir() else 'absent'})")
            for what, expected in entry.expected.items():
                accepted = " or ".join(f"{value:,d}" for value in expected.values)
                print(f"    {what:9s} {accepted} ({expected.source})")


_CHALLENGES = "; ".join(f"{name} ({meaning})" for name, meaning in KNOBS.items())


@dataclass(frozen=True)
class Render:
    """Render the landmark world: photographs with exact ground truth.

    An interrupted rendering resumes; a missing photograph is rendered again.

    Example: delfjax datasets render --preset ci --root small --set occlusion=0.8
    """

    preset: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME",
            help="ci (seconds), quick (1,500 photographs, minutes) or full (over 100,000, hours)",
        ),
    ] = "quick"
    root: DatasetRoot = None
    seed: Annotated[int, tyro.conf.arg(help="each seed is another world")] = 0
    set: Annotated[
        tyro.conf.UseAppendAction[Words],
        tyro.conf.arg(
            metavar="KNOB=VALUE",
            help=(
                "change a count, image_side (pixels), or a challenge from 0 to 1, for instance"
                f" occlusion=0.8; the challenges are {_CHALLENGES}"
            ),
        ),
    ] = ()
    workers: Annotated[
        int,
        tyro.conf.arg(
            help="photographs rendered at a time",
            help_behavior_hint="(default: 0, as many as there are processors)",
        ),
    ] = 0

    def run(self) -> None:
        """Render what is missing and print how many photographs there are."""
        from delfjax.datasets.catalogue import dataset_folders
        from delfjax.world.knobs import world_config
        from delfjax.world.writing import build_world

        knobs = dict(_assignment(text) for text in self.set)
        if "seed" in knobs:
            raise UsageError(f"--set seed={knobs['seed']}: use --seed")
        config = world_config(self.preset, seed=self.seed, **knobs)
        require_at_least("--workers", self.workers, 0)
        root = self.root or dataset_folders("world")[0]
        report = build_world(root, config, workers=self.workers or None)
        lost = f" ({report.restored} were missing or cut short)" if report.restored else ""
        print(
            f"{root}: {report.done} photographs rendered{lost}, {report.skipped} already there;"
            " datasets `world` and `world_train`"
        )


def _assignment(text: str) -> tuple[str, int | float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), int(value) if value.strip().lstrip("-").isdigit() else float(value)
    except ValueError:
        raise UsageError(
            f"--set {text}: expected KNOB=NUMBER, for instance occlusion=0.8"
        ) from None


@dataclass(frozen=True)
class Fetch:
    """Download a dataset or take it from a local copy, compare checksums, unpack.

    Complete files are kept, so the same command resumes.

    Example: delfjax datasets fetch roxford5k
    """

    name: Name
    root: DatasetRoot = None
    source: Annotated[
        str,
        tyro.conf.arg(
            name="from",
            metavar="FOLDER|URL",
            help="folder or address that holds the same files",
            help_behavior_hint="(default: where they are published)",
        ),
    ] = ""
    yes: Annotated[Flag, tyro.conf.arg(help="download more than 10 GB without asking")] = False
    keep_archives: Annotated[
        Flag, tyro.conf.arg(help="keep downloaded archives in .fetch of the dataset's folder")
    ] = False

    def run(self) -> None:
        """Fetch what is missing; files that failed are listed and end in an error."""
        from delfjax.datasets.fetch.downloading import FetchError
        from delfjax.datasets.fetch.fetching import fetch, plan_fetch

        plan = plan_fetch(self.name, self.root, source=self.source)
        print(plan)
        _require_consent(plan, yes=self.yes)
        report = fetch(plan, keep_archives=self.keep_archives)
        for file, reason in report.failed:
            print(f"{file}: {reason}")
        print(report, file=sys.stderr)
        if report.failed:
            file, reason = report.failed[0]
            others = len(report.failed) - 1
            raise FetchError(
                f"{self.name}: {file}: {reason}"
                + (f" (and {others} other files, listed above)" if others else "")
            )
        if plan.remedies:
            raise FetchError(f"{self.name}: incomplete: {'; '.join(plan.remedies)}")


@dataclass(frozen=True)
class Verify:
    """Check that every image of a dataset is there, and its counts as published.

    Example: delfjax datasets verify roxford5k --decode
    """

    name: Name
    root: DatasetRoot = None
    decode: Annotated[Flag, tyro.conf.arg(help="also open every image and check every box")] = False

    def run(self) -> None:
        """Print counts and problems; an incomplete copy ends in an error."""
        from delfjax.datasets.catalogue import dataset_entry, open_dataset
        from delfjax.datasets.checking import verify_dataset
        from delfjax.datasets.columns import DatasetError

        dataset = open_dataset(self.name, self.root)
        check = verify_dataset(dataset, dataset_entry(self.name).expected, decode=self.decode)
        _print_check(check, dataset.notes)
        print(f"{check.checked} images checked, {len(check.problems)} unusable", file=sys.stderr)
        if not check.complete:
            differing = [count.name for count in check.counts if not count.agrees]
            raise DatasetError(
                f"{dataset.root}: not a complete copy of {self.name}; unusable images:"
                f" {len(check.problems)}; counts that differ: {', '.join(differing) or 'none'}"
            )


@dataclass(frozen=True)
class Summary:
    """Show the counts of the present datasets beside the published ones.

    Example: delfjax datasets summary
    """

    name: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(
            metavar="[NAME]",
            help="name of one dataset",
            help_behavior_hint="(default: all that are present)",
        ),
    ] = ""
    root: DatasetRoot = None

    def run(self) -> None:
        """Print the counts of one dataset, or of all whose folder is there."""
        from delfjax.datasets.catalogue import CATALOGUE, present_datasets

        if self.name:
            _print_summary(self.name, self.root)
            return
        if self.root is not None:
            raise UsageError(f"--root {self.root}: name the dataset in this folder as well")
        present = 0
        for name in present_datasets():
            try:
                _print_summary(name, None)
                present += 1
            except DelfjaxError as error:
                print(f"{name}: {error}")
        print(f"{present} of {len(CATALOGUE)} datasets present", file=sys.stderr)


def _require_consent(plan: FetchPlan, *, yes: bool) -> None:
    """Ask before a large download; without a terminal, require ``--yes``."""
    from delfjax.datasets.fetch.downloading import readable

    if yes or plan.size <= _ASK_BEYOND:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"{plan.name}: {len(plan.missing)} files of ≈ {readable(plan.size)} in all; --yes"
            " confirms the download"
        )
    if input("Download them? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError(f"{plan.name}: nothing was downloaded")


def _print_summary(name: str, root: Path | None) -> None:
    from delfjax.datasets.catalogue import dataset_entry, open_dataset
    from delfjax.datasets.checking import compare_counts

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
        print(f"{check.known_corrupt} images are damaged or missing, as in the published dataset")
    for path, reason in check.problems[:_SHOWN_PROBLEMS]:
        print(f"{path}: {reason}")
    if len(check.problems) > _SHOWN_PROBLEMS:
        print(f"… and {len(check.problems) - _SHOWN_PROBLEMS} more")


DATASETS = Group(
    about="List, render, fetch, verify and count datasets.",
    sections={
        "commands": {
            "list": List,
            "render": Render,
            "fetch": Fetch,
            "verify": Verify,
            "summary": Summary,
        }
    },
)
