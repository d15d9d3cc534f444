"""All plans and shards of a store, and what they amount to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from delfjax.features.store.format import SHARD, Group, Plan, StoreError, numbered, read_plans
from delfjax.features.store.shards import Shard, read_shard


@dataclass(frozen=True)
class Contents:
    """The plans of a store in order, and the committed shards by group index."""

    plans: Sequence[Plan]
    shards: Mapping[int, Shard]

    @property
    def groups(self) -> Iterator[Group]:
        """The groups of all plans, in order."""
        return (group for plan in self.plans for group in plan.groups)


@dataclass
class View:
    """What a store holds after all its plans, whatever the order in which groups were committed.

    Attributes:
        places: image → group and row of its features.
        failures: image → group that records why it has none.
        pending: images that were planned but not committed.
    """

    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    pending: dict[str, None] = field(default_factory=dict)


def read_contents(path: Path, expected_hash: str) -> Contents:
    """The plans and committed shards of a store.

    Raises:
        StoreError: a file is missing or damaged, or was written with another config.
    """
    # Shards are listed before plans, so a reader never sees a shard without its plan while another
    # process is writing.
    listed = numbered(path, SHARD)
    plans = read_plans(path)
    groups = [group for plan in plans for group in plan.groups]
    shards: dict[int, Shard] = {}
    for index, match in listed:
        if index >= len(groups):
            raise StoreError(f"{path / match[0]}: damaged store: no plan has group {index}")
        if index in shards:
            raise StoreError(
                f"{path / match[0]}: damaged store: group {index} is also in"
                f" {shards[index].path.name}"
            )
        shards[index] = read_shard(path / match[0], match[2], groups[index], expected_hash)
    dims = {shard.descriptor_dim for shard in shards.values() if shard.names}
    if len(dims) > 1:
        raise StoreError(
            f"{path}: damaged: its shards hold descriptors of different dimensions, {sorted(dims)}"
        )
    return Contents(plans, shards)


def view(contents: Contents) -> View:
    """Apply all plans in order: what is gone leaves, what is known takes the features of an earlier
    record, and the last record of an image counts."""
    found = View()
    by_content = records_by_content(contents) if any(p.known for p in contents.plans) else {}
    for plan in contents.plans:
        for name in plan.gone:
            _forget(found, name)
        for name, digest in plan.known.items():
            # Without its record, which may be lost with a shard, an image is extracted again.
            if digest in by_content:
                _forget(found, name)
                found.places[name] = by_content[digest]
        for group in plan.groups:
            _apply(found, group, contents.shards.get(group.index))
    return found


def records_by_content(contents: Contents) -> dict[str, tuple[int, int]]:
    """Group and row of the features of each image file, by the digest of the file."""
    return {
        digest: (index, row)
        for index, shard in sorted(contents.shards.items())
        for row, digest in enumerate(shard.content_hashes)
    }


def _apply(found: View, group: Group, shard: Shard | None) -> None:
    if shard is None:
        found.pending.update(dict.fromkeys(group.names))
        return
    for row, name in enumerate(shard.names):
        _forget(found, name)
        found.places[name] = (group.index, row)
    for name in shard.failures:
        _forget(found, name)
        found.failures[name] = group.index


def _forget(found: View, name: str) -> None:
    found.places.pop(name, None)
    found.failures.pop(name, None)
    found.pending.pop(name, None)
