"""Options and checks that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from delfjax.errors import DelfjaxError

Set = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(
        name="set",
        metavar="FIELD=VALUE",
        help="change one config field, e.g. features.max_features=500; repeatable",
    ),
]
Preset = Annotated[str, tyro.conf.arg(help="named config: default, fast, ci, paper2017")]
DatasetName = Annotated[
    str,
    tyro.conf.arg(
        name="dataset", metavar="NAME", help="a dataset by name, one of `delfjax datasets list`"
    ),
]
DatasetRoot = Annotated[
    Path | None,
    tyro.conf.arg(
        name="root",
        metavar="DIR",
        help="folder of the dataset; default: its place under external/ of the data root",
    ),
]
Flag = tyro.conf.FlagCreatePairsOff[bool]


class UsageError(DelfjaxError):
    """A command line that says nothing that can be done."""


def require_one(what: str, folder: Path | None, dataset: str, root: Path | None) -> None:
    """Refuse both of a folder and a dataset, neither, or the root of no dataset.

    Args:
        what: what the folder holds, as the command line calls it.
        folder: what was given for it.
        dataset: name of the dataset; empty when none was named.
        root: its folder.

    Raises:
        UsageError: it cannot be told what is meant.
    """
    if folder is not None and dataset:
        raise UsageError(f"{folder} and --dataset {dataset}: name a {what} or a dataset, not both")
    if folder is None and not dataset:
        raise UsageError(f"nothing to work on; name a {what}, or a dataset with --dataset NAME")
    if root is not None and not dataset:
        raise UsageError(f"--root {root}: say which dataset lies there, with --dataset NAME")


def require_writable(option: str, file: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse a file that could not be written before the work is done that would fill it."""
    if file is None:
        return
    if suffixes and file.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {file}: the name must end in {', '.join(suffixes)}")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UsageError(
            f"{option} {file}: {'is a folder' if file.is_dir() else 'its folder does not exist'}"
        )
