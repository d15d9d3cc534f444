"""Writing a feature store: the one process that may add images to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from delfjax.config import config_hash
from delfjax.features.store.format import (
    FORMAT_VERSION,
    HEADER,
    LOCK,
    PLAN,
    SHARD_SIZE,
    Group,
    StoreError,
    arrow_bytes,
    checksum,
    cut,
    numbered,
    read_contents,
    read_header,
    require_config,
    write_header,
)
from delfjax.features.store.reader import FeatureStore
from delfjax.files import TEMPORARY, Lock, LockHeldError, remove_leftovers, replace_file, write_json
from delfjax.types import ImageFeatures


class StoreWriter:
    """The one process that may add to a store: a context manager that holds the store's lock.

    The lock is the operating system's, so it ends with the process, however that ends.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, shard_size: int = SHARD_SIZE) -> None:
        """Nothing happens before the context is entered.

        Args:
            path: the folder; made when missing.
            config: the extraction config, plain JSON values.
            shard_size: images per shard, for images that are not planned yet.
        """
        if shard_size < 1:
            raise StoreError(f"{path}: shard size is {shard_size}, at least 1 image is needed")
        self.path = path
        self._config = config
        self._shard_size = shard_size
        self._lock = Lock(path / LOCK)
        self._groups: list[Group] = []
        self._plans = 0
        self._committed: set[int] = set()
        self._descriptor_dim = 0

    def __enter__(self) -> StoreWriter:
        """Take the lock; make the store, or check the one that is there.

        Raises:
            StoreError: written by another process, of another version or config, damaged, or no
                store's folder.
        """
        _make_folder(self.path)
        self._acquire()
        try:
            remove_leftovers(self.path)
            if not (self.path / HEADER).exists():
                write_header(self.path, self._config)
            self._resume()
        except BaseException:
            # No with block begins, and so none will end and give the lock back.
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def store(self) -> FeatureStore:
        """What is committed now, for reading."""
        return FeatureStore.open(self.path)

    def plan(self, names: Iterable[str], *, again: Iterable[str] = ()) -> list[Group]:
        """Put on record which images are to be extracted.

        Args:
            names: the images wanted; those that no plan has yet are planned, sorted.
            again: of these, the ones to extract anew although they are done.

        Returns:
            The groups that hold an image wanted and are not committed, in order.
        """
        wanted, repeated = set(names), set(again)
        unfinished = {
            name
            for group in self._groups
            if group.index not in self._committed
            for name in group.names
        }
        planned = {name for group in self._groups for name in group.names}
        fresh = sorted((wanted - planned) | ((wanted & repeated) - unfinished))
        if fresh:
            first = len(self._groups)
            plan = {"first_group": first, "shard_size": self._shard_size, "names": fresh}
            write_json(self.path / f"plan-{self._plans:06d}.json", plan, ensure_ascii=False)
            self._plans += 1
            self._groups += cut(fresh, first, self._shard_size)
        return [
            g
            for g in self._groups
            if g.index not in self._committed and not wanted.isdisjoint(g.names)
        ]

    def commit(
        self, group: Group, features: Mapping[str, ImageFeatures], failures: Mapping[str, str]
    ) -> None:
        """Write the shard of ``group``; when this returns, it is on disk.

        Args:
            group: one that :meth:`plan` gave.
            features: of the images that went well.
            failures: reasons of those that did not.

        Raises:
            StoreError: the descriptors have another dimension than those already held.
            ValueError: the group was committed before, or an image of it is missing or not its own.
        """
        if group.index in self._committed or sorted([*features, *failures]) != sorted(group.names):
            raise ValueError(
                f"group {group.index} must be committed once, with exactly its {len(group.names)}"
                " images"
            )
        kept = {name: features[name] for name in group.names if name in features}
        dims = {int(image.local.descriptors.shape[-1]) for image in kept.values()} | {
            self._descriptor_dim
        } - {0}
        if len(dims) > 1:
            raise StoreError(
                f"{self.path}: descriptors of {sorted(dims)} dimensions cannot share a store"
            )
        dim = dims.pop() if dims else 0
        metadata = {
            "format_version": FORMAT_VERSION,
            "config_hash": config_hash(self._config),
            "group": group.index,
            "descriptor_dim": dim,
            "counts": [len(image.local.scales) for image in kept.values()],
            "content_hashes": [image.content_hash for image in kept.values()],
            "failures": {name: failures[name] for name in group.names if name in failures},
        }
        shard = arrow_bytes(kept, metadata)
        file = self.path / f"shard-{group.index:06d}-{checksum(shard)}.arrow"
        replace_file(file, memoryview(shard))
        self._committed.add(group.index)
        self._descriptor_dim = dim

    def _resume(self) -> None:
        stored = read_header(self.path)
        require_config(self.path, stored, self._config)
        self._groups, shards = read_contents(self.path, config_hash(stored))
        self._plans = len(numbered(self.path, PLAN))
        self._committed = set(shards)
        self._descriptor_dim = FeatureStore(self.path, stored, self._groups, shards).descriptor_dim

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except LockHeldError as error:
            raise StoreError(
                f"{self.path}: is being written by {error.holder}; wait for it, or name another"
                " store"
            ) from None
        except OSError as error:
            raise StoreError(f"{self._lock.file}: cannot be written: {error.strerror}") from None


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        found = [entry.name for entry in path.iterdir()]
    except OSError as error:
        raise StoreError(f"{path}: cannot be made or listed: {error.strerror}") from None
    foreign = sorted(
        name for name in found if not (name.startswith(LOCK) or name.endswith(TEMPORARY))
    )
    if foreign and HEADER not in found:
        raise StoreError(
            f"{path}: not a feature store ({HEADER} is missing, {foreign[0]!r} is there); name a"
            " new folder"
        )
