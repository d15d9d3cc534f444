"""The JSON files of a feature store: its config, where its images come from, and its plans."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delfjax import __version__
from delfjax.config import abbreviated, config_hash, identity, without_digest
from delfjax.errors import DelfjaxError
from delfjax.files import flatten, read_json_object, write_json

FORMAT = "delfjax feature store"
FORMAT_VERSION = 1
# Images per shard: about 20 MB of unreduced descriptors, and the most work that a kill can lose.
SHARD_SIZE = 32
HEADER = "store.json"
SOURCE = "source.json"
LOCK = "writer.lock"
PLAN = re.compile(r"plan-(\d{6,})\.json")
SHARD = re.compile(r"shard-(\d{6,})-([0-9a-f]{8})\.arrow")


class StoreError(DelfjaxError):
    """A feature store has another version or config, is damaged, or is being written by another
    process."""


@dataclass(frozen=True)
class Group:
    """Images that are committed together, as one shard."""

    index: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What one run found to do, relative to everything that was planned before.

    Attributes:
        groups: images to extract.
        gone: images of earlier plans that have left the folder.
        known: new name of an image → digest of its file, whose features an earlier group holds.
    """

    groups: tuple[Group, ...]
    gone: tuple[str, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where the images of a store come from.

    Attributes:
        root: the folder that their names are relative to, an absolute path.
        scanned: whether the store is meant to hold every image under the folder.
    """

    root: str
    scanned: bool = False


def write_header(path: Path, config: dict[str, Any]) -> None:
    """Write ``store.json``: the format, its version, the extraction config and its hash.

    Raises:
        StoreError: the config names a weight file without the digest that identifies it.
    """
    files = without_digest(config)
    if files:
        raise StoreError(
            f"{path}: the config names the weight file {files[0]} without the digest of its"
            " weights; `delfjax.models.model_files.pinned` adds it"
        )
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "created_by": f"delfjax {__version__}",
        "config_hash": config_hash(config),
        "config": config,
    }
    write_json(path / HEADER, header, ensure_ascii=False)


def is_store(path: Path) -> bool:
    """Whether a folder claims to be a feature store, intact or not."""
    return (path / HEADER).is_file()


def read_header(path: Path) -> dict[str, Any]:
    """The extraction config of a store.

    Raises:
        StoreError: ``store.json`` is missing or damaged, or has another format or version.
    """
    file = path / HEADER
    if not file.is_file():
        raise StoreError(
            f"{path}: not a feature store ({HEADER} is missing); create one with `delfjax extract`"
        )
    header = read_json_object(file, error=StoreError)
    said, version = (reprlib.repr(header.get(name)) for name in ("format", "version"))
    if said != repr(FORMAT):
        raise StoreError(f"{file}: format is {said}, expected {FORMAT!r}")
    if version != repr(FORMAT_VERSION):
        raise StoreError(f"{file}: version is {version}, this delfjax reads {FORMAT_VERSION}")
    config, recorded = header.get("config"), header.get("config_hash")
    if not isinstance(config, dict) or _hash(config) != recorded:
        raise StoreError(
            f"{file}: damaged: its config does not have the hash {reprlib.repr(recorded)}"
        )
    return config


def _hash(config: dict[str, Any]) -> str:
    """The hash of a config from a file; empty if it is nested too deeply or has no JSON form."""
    try:
        return config_hash(config)
    except (ValueError, RecursionError):
        return ""


def write_source(path: Path, source: Source) -> None:
    """Record in ``source.json`` where the images of a store come from."""
    write_json(path / SOURCE, {"photos": source.root, "scanned": source.scanned})


def read_source(path: Path) -> Source | None:
    """Where the images of a store come from; ``None`` if that was never recorded.

    Raises:
        StoreError: ``source.json`` is damaged.
    """
    file = path / SOURCE
    if not file.exists():
        return None
    values = read_json_object(file, error=_unknown_source)
    root, scanned = values.get("photos"), values.get("scanned", False)
    if not isinstance(root, str) or not _is_path(root) or not isinstance(scanned, bool):
        raise _unknown_source(
            f"{file}: damaged: photos is {reprlib.repr(root)}, expected the path of a folder"
        )
    return Source(root, scanned)


def _unknown_source(why: str) -> StoreError:
    return StoreError(f"{why}; delete this file and extract again, which extracts only what is new")


def _is_path(text: str) -> bool:
    try:
        return Path(text).is_absolute() and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def require_config(path: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    """Check that a store was extracted with the config ``asked`` for.

    Raises:
        StoreError: it was not; the message names the first differing field.
    """
    if config_hash(stored) == config_hash(asked):
        return
    held = flatten(identity(stored))
    wanted = flatten(identity(asked))
    changed = [
        key for key in sorted(held.keys() | wanted.keys()) if held.get(key) != wanted.get(key)
    ]
    difference = ""
    if changed:
        field = changed[0]
        found, expected = (abbreviated(flatten(each).get(field)) for each in (stored, asked))
        difference = f"{field} is {found!r} in the store, but {expected!r} here"
        if without_digest(stored):
            difference += "; earlier versions did not record which weights a file held"
    raise StoreError(
        f"{path}: extracted with config {config_hash(stored)}, not {config_hash(asked)}"
        f" ({difference}); name another store"
    )


def numbered(path: Path, pattern: re.Pattern[str]) -> list[tuple[int, re.Match[str]]]:
    """Files of one kind (plans or shards) with their numbers, in order.

    Raises:
        StoreError: a file's name begins like one of that kind but does not match ``pattern``.
    """
    names = sorted(entry.name for entry in path.iterdir())
    kind = pattern.pattern.partition("-")[0]
    found = [(name, pattern.fullmatch(name)) for name in names if name.startswith(f"{kind}-")]
    stray = next((name for name, match in found if match is None), None)
    if stray is not None:
        raise StoreError(
            f"{path / stray}: not a valid file name for a {kind} of a feature store; move it away"
        )
    return sorted(((int(match[1]), match) for _, match in found if match), key=lambda item: item[0])


def read_plans(path: Path) -> list[Plan]:
    """The plans of a store, in order.

    Raises:
        StoreError: a plan is missing or damaged.
    """
    plans: list[Plan] = []
    first = 0
    for number, (index, match) in enumerate(numbered(path, PLAN)):
        if index != number:
            raise StoreError(f"{path}: damaged: plan {number} is missing before {match[0]}")
        plans.append(_read_plan(path / match[0], first))
        first += len(plans[-1].groups)
    return plans


def _read_plan(file: Path, first: int) -> Plan:
    values = read_json_object(file, error=StoreError)
    names, size = values.get("names"), values.get("shard_size")
    gone, known = values.get("gone", []), values.get("known", {})
    if (
        values.get("first_group") != first
        or not isinstance(names, list)
        or not isinstance(gone, list)
        or not isinstance(known, dict)
        or not _are_names([*names, *gone, *known, *known.values()])
        or not (type(size) is int and size >= 1)
    ):
        raise StoreError(
            f"{file}: damaged: not a plan of a feature store that begins at group {first}"
        )
    return Plan(tuple(cut(names, first, size)), tuple(gone), known)


def _are_names(values: Sequence[object]) -> bool:
    """Whether all values are text that UTF-8 and the file system can hold."""
    try:
        return all(isinstance(value, str) and b"\0" not in value.encode() for value in values)
    except UnicodeEncodeError:
        return False


def cut(names: Sequence[str], first: int, size: int) -> list[Group]:
    """Groups of at most ``size`` names each, numbered from ``first``."""
    starts = range(0, len(names), size)
    return [Group(first + k, tuple(names[at : at + size])) for k, at in enumerate(starts)]
