"""The files of a feature store: their contents, how they are written, and how they are checked."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from delfjax import __version__
from delfjax.config import config_hash, identity, shown, without_digest
from delfjax.errors import DelfjaxError
from delfjax.files import flatten, json_bytes, read_json_object, write_json
from delfjax.types import ImageFeatures, LocalFeatures

FORMAT = "delfjax feature store"
FORMAT_VERSION = 1
# Images per shard: about 20 MB of unreduced descriptors, and the most work that a kill can lose.
SHARD_SIZE = 32
HEADER = "store.json"
LOCK = "writer.lock"
PLAN = re.compile(r"plan-(\d{6,})\.json")
_SHARD = re.compile(r"shard-(\d{6,})-([0-9a-f]{8})\.arrow")


class StoreError(DelfjaxError):
    """A feature store has another version or config, is damaged, or is being written by another
    process."""


@dataclass(frozen=True)
class Group:
    """Images that are committed together, as one shard."""

    index: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Shard:
    """The facts about a shard that are known without reading its rows."""

    path: Path
    checksum: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    content_hashes: tuple[str, ...]
    failures: dict[str, str]
    descriptor_dim: int


@dataclass(frozen=True)
class Rows:
    """The columns of a shard as memory-mapped arrays."""

    offsets: np.ndarray
    keypoints_yx: np.ndarray
    scales: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray
    global_offsets: np.ndarray
    global_values: np.ndarray
    image_sizes: list[tuple[int, int]]
    content_hashes: tuple[str, ...]

    def features(self, row: int) -> ImageFeatures:
        """Features of one row, as views of the mapped file."""
        own = slice(self.offsets[row], self.offsets[row + 1])
        pooled = self.global_values[self.global_offsets[row] : self.global_offsets[row + 1]]
        local = LocalFeatures(
            keypoints_yx=self.keypoints_yx[own],
            scales=self.scales[own],
            scores=self.scores[own],
            descriptors=self.descriptors[own],
            valid=np.ones(own.stop - own.start, bool),
        )
        return ImageFeatures(
            local, pooled if len(pooled) else None, self.image_sizes[row], self.content_hashes[row]
        )


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
    if header.get("format") != FORMAT:
        raise StoreError(f"{file}: format is {header.get('format')!r}, expected {FORMAT!r}")
    if header.get("version") != FORMAT_VERSION:
        raise StoreError(
            f"{file}: version is {header.get('version')!r}, this delfjax reads {FORMAT_VERSION}"
        )
    config = header.get("config")
    if not isinstance(config, dict) or config_hash(config) != header.get("config_hash"):
        raise StoreError(
            f"{file}: damaged: its config does not have the hash {header.get('config_hash')!r}"
        )
    return config


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
        found, expected = (shown(flatten(each).get(field)) for each in (stored, asked))
        difference = f"{field} is {found!r} in the store, but {expected!r} here"
        if without_digest(stored):
            difference += "; earlier versions did not record which weights a file held"
    raise StoreError(
        f"{path}: extracted with config {config_hash(stored)}, not {config_hash(asked)}"
        f" ({difference}); name another store"
    )


def read_contents(path: Path, expected_hash: str) -> tuple[list[Group], dict[int, Shard]]:
    """The groups of all plans in order, and the committed shards by group index.

    Raises:
        StoreError: a file is missing or damaged, or was written with another config.
    """
    # Shards are listed before plans, so a reader never sees a shard without its plan while another
    # process is writing.
    listed = numbered(path, _SHARD)
    groups: list[Group] = []
    for number, (index, match) in enumerate(numbered(path, PLAN)):
        if index != number:
            raise StoreError(f"{path}: damaged: plan {number} is missing before {match[0]}")
        groups += _read_plan(path / match[0], len(groups))
    shards: dict[int, Shard] = {}
    for index, match in listed:
        if index >= len(groups):
            raise StoreError(f"{path / match[0]}: damaged store: no plan has group {index}")
        if index in shards:
            raise StoreError(
                f"{path / match[0]}: damaged store: group {index} is also in"
                f" {shards[index].path.name}"
            )
        shards[index] = _read_shard(path / match[0], match[2], groups[index], expected_hash)
    dims = {shard.descriptor_dim for shard in shards.values() if shard.names}
    if len(dims) > 1:
        raise StoreError(
            f"{path}: damaged: its shards hold descriptors of different dimensions, {sorted(dims)}"
        )
    return groups, shards


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


def _read_plan(file: Path, first: int) -> list[Group]:
    plan = read_json_object(file, error=StoreError)
    names, size = plan.get("names"), plan.get("shard_size")
    sound = (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and plan.get("first_group") == first
    )
    if not sound or not isinstance(names, list) or not isinstance(size, int) or size < 1:
        raise StoreError(
            f"{file}: damaged: not a plan of a feature store that begins at group {first}"
        )
    return cut(names, first, size)


def cut(names: Sequence[str], first: int, size: int) -> list[Group]:
    """Groups of at most ``size`` names each, numbered from ``first``."""
    starts = range(0, len(names), size)
    return [Group(first + k, tuple(names[at : at + size])) for k, at in enumerate(starts)]


def _read_shard(path: Path, checksum: str, group: Group, expected_hash: str) -> Shard:
    try:
        with pa.memory_map(str(path)) as source:
            raw = pa.ipc.open_file(source).schema.metadata[b"delfjax"]
        metadata = json.loads(raw)
        failures, counts = dict(metadata["failures"]), tuple(metadata["counts"])
        hashes, dim = tuple(metadata["content_hashes"]), int(metadata["descriptor_dim"])
        version = metadata["format_version"]
        stored_hash = metadata["config_hash"]
        index = metadata["group"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged shard ({' '.join(str(error).split())[:120]})") from None
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path}: shard has version {version!r}, this delfjax reads {FORMAT_VERSION}"
        )
    if stored_hash != expected_hash:
        raise StoreError(
            f"{path}: shard of config {stored_hash}, but its store has {expected_hash}"
        )
    names = tuple(name for name in group.names if name not in failures)
    if (
        index != group.index
        or len(counts) != len(names)
        or len(names) + len(failures) != len(group.names)
    ):
        raise StoreError(
            f"{path}: damaged: not the shard of group {group.index} of the store's plan"
        )
    return Shard(path, checksum, names, counts, hashes, failures, dim)


def read_rows(shard: Shard, *, verify: bool) -> Rows:
    """The memory-mapped columns of a shard.

    Args:
        shard: the shard to read.
        verify: compare the file's checksum first, which reads every byte.

    Raises:
        StoreError: the shard is damaged.
    """
    try:
        # The mapping lives as long as arrays refer to it; the file itself need not stay open.
        with pa.memory_map(str(shard.path)) as source:
            content = source.read_buffer()
        if verify and checksum(content) != shard.checksum:
            raise StoreError(
                f"{shard.path}: damaged: its checksum is {checksum(content)}, expected"
                f" {shard.checksum}; extract into a new store"
            )
        batch = pa.ipc.open_file(pa.BufferReader(content)).get_batch(0)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{shard.path}: damaged shard ({' '.join(str(error).split())[:120]})"
        ) from None
    if tuple(batch.column("name").to_pylist()) != shard.names:
        raise StoreError(f"{shard.path}: damaged: its images are not those of the store's plan")
    scales, pooled = batch.column("scales"), batch.column("global_descriptor")
    sizes = zip(batch.column("height").to_pylist(), batch.column("width").to_pylist(), strict=True)
    return Rows(
        offsets=scales.offsets.to_numpy(),
        keypoints_yx=batch.column("keypoints_yx").values.values.to_numpy().reshape(-1, 2),
        scales=scales.values.to_numpy(),
        scores=batch.column("scores").values.to_numpy(),
        descriptors=batch.column("descriptors")
        .values.to_numpy()
        .reshape(-1, max(1, shard.descriptor_dim)),
        global_offsets=pooled.offsets.to_numpy(),
        global_values=pooled.values.to_numpy(),
        image_sizes=list(sizes),
        content_hashes=shard.content_hashes,
    )


def arrow_bytes(images: Mapping[str, ImageFeatures], metadata: dict[str, Any]) -> pa.Buffer:
    """An Arrow IPC file with one record batch; an empty list means no global descriptor.

    Raises:
        ValueError: a feature is not valid, that is, padding was not removed.
    """
    features = list(images.values())
    local = [image.local for image in features]
    if not all(np.all(one.valid) for one in local):
        raise ValueError("only valid features can be stored: drop the padding first")
    counts = [len(one.scales) for one in local]
    dim = int(metadata["descriptor_dim"])
    pooled = [
        np.zeros(0, np.float32) if f.global_descriptor is None else f.global_descriptor
        for f in features
    ]
    keypoints = _flattened([one.keypoints_yx for one in local], np.float32)
    columns = {
        "name": pa.array(list(images), pa.string()),
        "height": pa.array([image.image_size[0] for image in features], pa.int32()),
        "width": pa.array([image.image_size[1] for image in features], pa.int32()),
        "content_hash": pa.array([image.content_hash for image in features], pa.string()),
        "keypoints_yx": _lists(counts, pa.FixedSizeListArray.from_arrays(keypoints, 2)),
        "scales": _lists(counts, _flattened([one.scales for one in local], np.float32)),
        "scores": _lists(counts, _flattened([one.scores for one in local], np.float32)),
        "descriptors": _lists(
            [n * dim for n in counts], _flattened([one.descriptors for one in local], np.float16)
        ),
        "global_descriptor": _lists(
            [len(values) for values in pooled], _flattened(pooled, np.float32)
        ),
    }
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    schema = pa.schema(fields, metadata={"delfjax": json_bytes(metadata, ensure_ascii=False)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return sink.getvalue()


def _flattened(parts: Sequence[Any], dtype: type[np.floating[Any]]) -> pa.Array:
    return pa.array(
        np.concatenate([np.zeros(0, dtype), *(np.asarray(part, dtype).ravel() for part in parts)])
    )


def _lists(lengths: Sequence[int], values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(np.cumsum([0, *lengths], dtype=np.int64)), values)


def checksum(content: pa.Buffer) -> str:
    """CRC-32 of a shard's bytes, eight hexadecimal digits."""
    return f"{zlib.crc32(content):08x}"
