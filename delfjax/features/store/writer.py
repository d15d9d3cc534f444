"""Writing a feature store, which only one process may do at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from delfjax.config import config_hash
from delfjax.features.store.contents import Contents, read_contents, records_by_content, view
from delfjax.features.store.format import (
    FORMAT_VERSION,
    HEADER,
    LOCK,
    SHARD_SIZE,
    Group,
    Plan,
    Source,
    StoreError,
    cut,
    read_header,
    read_source,
    require_config,
    write_header,
    write_source,
)
from delfjax.features.store.reader import FeatureStore
from delfjax.features.store.shards import Shard, arrow_bytes, checksum, read_shard
from delfjax.files import TEMPORARY, Lock, LockHeldError, remove_leftovers, replace_file, write_json
from delfjax.types import ImageFeatures


class StoreWriter:
    """A context manager that holds the lock of a store and adds images to the store.

    The lock belongs to the operating system, which releases it when the process ends for whatever
    reason.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, shard_size: int = SHARD_SIZE) -> None:
        """Set up the writer; nothing is written before the context is entered.

        Args:
            path: the folder of the store; created if missing.
            config: the extraction config, plain JSON values.
            shard_size: images per shard, for images that have not been planned yet.

        Raises:
            StoreError: ``shard_size`` is less than 1.
        """
        if shard_size < 1:
            raise StoreError(f"{path}: shard size is {shard_size}, expected at least 1 image")
        self.path = path
        self._config = config
        self._shard_size = shard_size
        self._lock = Lock(path / LOCK)
        self._plans: list[Plan] = []
        self._shards: dict[int, Shard] = {}
        self._contents = Contents(self._plans, self._shards)

    def __enter__(self) -> StoreWriter:
        """Take the lock; create the store, or check the existing one.

        Raises:
            StoreError: another process is writing the store, the store has another version or
                config or is damaged, or the folder holds other files.
        """
        _make_folder(self.path)
        self._acquire()
        try:
            remove_leftovers(self.path)
            if not (self.path / HEADER).exists():
                write_header(self.path, self._config)
            self._resume()
        except BaseException:
            # The with block never begins, so `__exit__` will not release the lock.
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
        """The store, opened for reading, with everything committed so far."""
        return FeatureStore.open(self.path)

    def record_source(self, source: Source) -> None:
        """Record where the images come from. A store that is meant to hold a whole folder stays
        so when some of its images are asked for."""
        recorded = read_source(self.path)
        if recorded is not None and recorded.root == source.root and recorded.scanned:
            return
        if source != recorded:
            write_source(self.path, source)

    def plan(
        self,
        names: Iterable[str],
        *,
        again: Iterable[str] = (),
        gone: Iterable[str] = (),
        known: Mapping[str, str] | None = None,
    ) -> list[Group]:
        """Record which images are to be extracted, and how the folder has changed otherwise.

        Args:
            names: the wanted images; those that the store does not know are planned, in sorted
                order.
            again: wanted images to extract again although they are done.
            gone: images that the store is to hold no longer; their features stay in its files.
            known: wanted image → digest of its file, for images whose features the store holds
                under another name; a digest that it does not hold is ignored.

        Returns:
            The uncommitted groups that hold a wanted image, in order.
        """
        held = view(self._contents)
        stored = records_by_content(self._contents) if known else {}
        taken = {name: digest for name, digest in (known or {}).items() if digest in stored}
        wanted, left = set(names), sorted(gone)
        repeated = (wanted & set(again)) - held.pending.keys()
        new = wanted - held.places.keys() - held.failures.keys() - held.pending.keys()
        fresh = sorted((new | repeated) - taken.keys())
        if fresh or left or taken:
            first = sum(len(plan.groups) for plan in self._plans)
            plan = {"first_group": first, "shard_size": self._shard_size, "names": fresh}
            changes = {"gone": left, "known": dict(sorted(taken.items()))}
            values = {**plan, **{key: value for key, value in changes.items() if value}}
            write_json(self.path / f"plan-{len(self._plans):06d}.json", values, ensure_ascii=False)
            self._plans.append(Plan(tuple(cut(fresh, first, self._shard_size)), tuple(left), taken))
        return [
            group
            for group in self._contents.groups
            if group.index not in self._shards and not wanted.isdisjoint(group.names)
        ]

    def commit(
        self,
        group: Group,
        features: Mapping[str, ImageFeatures],
        failures: Mapping[str, str],
        *,
        failure_hashes: Mapping[str, str] | None = None,
    ) -> None:
        """Write the shard of ``group``; it is on disk when this returns.

        Args:
            group: a group returned by :meth:`plan`.
            features: image → features, for the images that succeeded.
            failures: image → reason, for the images that failed.
            failure_hashes: image → digest of the file that failed, empty if it could not be read;
                without one, the image is tried again by the next extraction.

        Raises:
            StoreError: the descriptors have another dimension than those in the store.
            ValueError: the group was committed before, or the images are not exactly its own.
        """
        if group.index in self._shards or sorted([*features, *failures]) != sorted(group.names):
            raise ValueError(
                f"group {group.index} must be committed once and with exactly its"
                f" {len(group.names)} images"
            )
        kept = {name: features[name] for name in group.names if name in features}
        held = {shard.descriptor_dim for shard in self._shards.values()}
        own = {int(image.local.descriptors.shape[-1]) for image in kept.values()}
        dims = (own | held) - {0}
        if len(dims) > 1:
            raise StoreError(
                f"{self.path}: descriptors of {sorted(dims)} dimensions cannot share a store"
            )
        dim = dims.pop() if dims else 0
        metadata: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "config_hash": config_hash(self._config),
            "group": group.index,
            "descriptor_dim": dim,
            "counts": [len(image.local.scales) for image in kept.values()],
            "content_hashes": [image.content_hash for image in kept.values()],
            "failures": {name: failures[name] for name in group.names if name in failures},
        }
        if failure_hashes is not None and failures:
            metadata["failure_hashes"] = {
                name: failure_hashes[name] for name in metadata["failures"]
            }
        content = arrow_bytes(kept, metadata)
        file = self.path / f"shard-{group.index:06d}-{checksum(content)}.arrow"
        replace_file(file, memoryview(content))
        self._shards[group.index] = read_shard(
            file, checksum(content), group, metadata["config_hash"]
        )

    def _resume(self) -> None:
        stored = read_header(self.path)
        require_config(self.path, stored, self._config)
        found = read_contents(self.path, config_hash(stored))
        self._plans = list(found.plans)
        self._shards = dict(found.shards)
        self._contents = Contents(self._plans, self._shards)

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except LockHeldError as error:
            raise StoreError(
                f"{self.path}: is being written by {error.holder}; wait until it has finished, or"
                " name another store"
            ) from None
        except OSError as error:
            raise StoreError(f"{self._lock.file}: cannot be written: {error.strerror}") from None


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        found = [entry.name for entry in path.iterdir()]
    except OSError as error:
        raise StoreError(f"{path}: cannot be created or listed: {error.strerror}") from None
    foreign = sorted(
        name for name in found if not (name.startswith(LOCK) or name.endswith(TEMPORARY))
    )
    if foreign and HEADER not in found:
        raise StoreError(
            f"{path}: not a feature store ({HEADER} is missing, but {foreign[0]!r} is there); name"
            " a new folder"
        )
