"""Options and checks that several commands share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import tyro

from delfjax.errors import DelfjaxError
from delfjax.files import link_target

if TYPE_CHECKING:
    from delfjax.config import Assignment, DelfConfig

T = TypeVar("T")
# An option that may be left out, and one that takes several words. Given `T | None` and
# `tuple[str, ...]`, tyro would check the defaults with typeguard, which takes as long to import as
# tyro itself.
Maybe = Optional[T]  # noqa: UP045 - the other spelling is the one that needs typeguard
Words = tuple[Any, ...]
Set = Annotated[
    tyro.conf.UseAppendAction[Words],
    tyro.conf.arg(
        name="set",
        metavar="FIELD=VALUE",
        help="change one config field, for instance features.max_features=500",
    ),
]
Preset = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME",
        help=(
            "config to start from: default, fast (a third of the time), ci (seconds, for tests) or"
            " paper2017"
        ),
    ),
]
SystemName = Annotated[
    str,
    tyro.conf.arg(
        name="system",
        metavar="NAME",
        help=(
            "what ranks: delf, sift or congas (local features), mac, rmac, gem, siamac or dir"
            " (global descriptors), one of each, as in delf+dir, and +qe at the end to expand"
            " queries; NAME=FILE takes a trained model"
        ),
        help_behavior_hint="(default: delf)",
    ),
]
DatasetName = Annotated[
    str,
    tyro.conf.arg(
        name="dataset",
        metavar="NAME",
        help="name of a dataset; `delfjax datasets list` has them all",
        help_behavior_hint="(default: none)",
    ),
]
DatasetRoot = Annotated[
    Maybe[Path],
    tyro.conf.arg(
        name="root",
        metavar="DIR",
        help="folder of the dataset",
        help_behavior_hint="(default: its folder under external/ of the data root)",
    ),
]
Flag = tyro.conf.FlagCreatePairsOff[bool]


class UsageError(DelfjaxError):
    """A command line whose options contradict each other or name something unusable."""


def require_one(what: str, folder: Path | None, dataset: str, root: Path | None) -> None:
    """Require either a folder or a dataset, and a dataset wherever there is a root.

    Args:
        what: what the folder holds, as the command's help calls it.
        folder: the folder named on the command line.
        dataset: the dataset named on the command line, or an empty string.
        root: the dataset's folder named on the command line.

    Raises:
        UsageError: both or neither of ``folder`` and ``dataset``, or a ``root`` on its own.
    """
    if folder is not None and dataset:
        raise UsageError(f"{folder} and --dataset {dataset}: give a {what} or a dataset, not both")
    if folder is None and not dataset:
        raise UsageError(f"no input: give a {what}, or a dataset with --dataset NAME")
    if root is not None and not dataset:
        raise UsageError(f"--root {root}: name the dataset in this folder with --dataset NAME")


def resolved(name: str, system: str, assignments: Iterable[str]) -> DelfConfig:
    """The config of a preset, as a system, with some fields set.

    Args:
        name: the preset.
        system: the system, ``NAME`` or ``NAME=FILE`` with a model file; that of the preset when
            empty.
        assignments: fields to set, which also change what the system's name has set.

    Raises:
        ConfigError: the preset, the system or a field is unknown, or a value does not fit.
        WeightsError: a weight file is missing, or its description is damaged.
    """
    from delfjax.config import preset
    from delfjax.models.model_files import override_system

    return override_system(preset(name), [*named(system), *assignments])


def named(system: str) -> list[str]:
    """The assignments that an option ``--system`` stands for; see :func:`resolved`."""
    from delfjax.config import MODEL, SYSTEM

    called, _, model = system.partition("=")
    return [
        *([f"{SYSTEM}={called}"] if called else []),
        *([f"{MODEL}={model}"] if model else []),
    ]


def accepted_changes(
    fixed: DelfConfig, assignments: Iterable[Assignment], sections: Sequence[str], since: str
) -> list[Assignment]:
    """The assignments to apply to a config of which a part can no longer change.

    Another path of the same weights is not a change. Of ``model=FILE``, only the places of the
    weights count for the fixed part: its settings were chosen before.

    Args:
        fixed: the config that something was made with.
        assignments: fields to set.
        sections: sections of the config that are fixed.
        since: what fixed them, as in ``"the store s was made"``.

    Raises:
        UsageError: an assignment changes one of ``sections``.
    """
    from delfjax.config import MODEL, SYSTEM, Assignment, override, to_dict
    from delfjax.files import flatten
    from delfjax.models.model_files import WEIGHTS_FIELDS, expand, moved_weights

    held = flatten(to_dict(fixed))
    accepted: list[Assignment] = []
    for given in assignments:
        for each in expand([given], method=fixed.features.method):
            if each.section not in sections:
                accepted.append(each)
                continue
            old, part = held[each.path], WEIGHTS_FIELDS.get(each.path)
            if given.path == MODEL and (part is None or not old):
                # Without weights of its own, the reduction was fitted on the features.
                continue
            new = flatten(to_dict(override(fixed, [each])))[each.path]
            value = old if new == old else None
            if value is None and part is not None:
                value = moved_weights(part, old, new)
            if value is None:
                if given.path == SYSTEM:
                    raise UsageError(
                        f"--system {given.value}: ranks by other features than there were when"
                        f" {since}; extract and index with this system"
                    )
                raise UsageError(
                    f"--set {given}: {each.section} was fixed when {since}; make it again to"
                    " change it"
                )
            if value != old:
                accepted.append(Assignment(each.path, value))
    return accepted


def require_at_least(option: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises:
        UsageError: ``value`` is less than ``least``.
    """
    if value < least:
        raise UsageError(f"{option} {value}: expected at least {least}")


def require_utf8(option: str, place: Path | None) -> None:
    """Refuse a file or folder to write whose name not all libraries could open.

    Raises:
        UsageError: the path is not UTF-8.
    """
    try:
        str(place).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{option} {place}: the path is not UTF-8, choose another") from None


def require_writable(
    option: str,
    file: Path | None,
    suffixes: tuple[str, ...] = (),
    *,
    inputs: Iterable[str | Path] = (),
) -> None:
    """Check an output file before the work that would fill it.

    Args:
        option: the option that named the file.
        file: the file; ``None`` passes.
        suffixes: endings that are accepted, in lower case; any when empty.
        inputs: what the command reads; it need not exist.

    Raises:
        UsageError: another ending, a folder of that name, no folder that it can be written to, or
            something that must not be replaced: an input, or a pipe, device or the like.
    """
    if file is None:
        return
    require_utf8(option, file)
    if suffixes and file.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {file}: the file name must end in {' or '.join(suffixes)}")
    if file.is_dir():
        raise UsageError(f"{option} {file}: is a folder, expected a file")
    if file.exists() and not file.is_file():
        raise UsageError(f"{option} {file}: is a pipe or device, expected an ordinary file")
    if any(_are_same(file, Path(read)) for read in inputs):
        raise UsageError(
            f"{option} {file}: is what the command reads, so it is not overwritten; name another"
            " file"
        )
    try:
        target = link_target(file)
    except OSError as error:
        raise UsageError(f"{option} {file}: a link that leads nowhere ({error.strerror})") from None
    folder = target.absolute().parent
    whose = "its folder" if target == file else f"a link to {target}, whose folder"
    if not folder.is_dir():
        raise UsageError(f"{option} {file}: {whose} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {file}: {whose} cannot be written to")


def namesakes(file: Path | None, folder: str | Path, names: Iterable[str]) -> list[Path]:
    """Which photos of a folder have the file name of ``file``, so that they might be it; it is
    faster to compare names than files."""
    if file is None:
        return []
    wanted = file.name.lower()
    return [Path(folder, name) for name in names if PurePath(name).name.lower() == wanted]


def _are_same(one: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):
        return one.samefile(other)
    return False
