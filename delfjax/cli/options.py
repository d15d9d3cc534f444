"""Options and checks that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from delfjax.types import DelfjaxError

Set = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(name="set", metavar="FIELD=VALUE", help="change one config field, e.g. features.max_features=500; repeatable"),
]
Preset = Annotated[str, tyro.conf.arg(help="named config: default, fast, ci, paper2017")]
Flag = tyro.conf.FlagCreatePairsOff[bool]


class UsageError(DelfjaxError):
    """A command line that says nothing that can be done."""


def require_writable(option: str, file: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse a file that could not be written before the work is done that would fill it."""
    if file is None:
        return
    if suffixes and file.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {file}: the name must end in {', '.join(suffixes)}")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UsageError(f"{option} {file}: {'is a folder' if file.is_dir() else 'its folder does not exist'}")
