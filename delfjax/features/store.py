"""The feature store: a folder of Arrow files that holds the local features of any number of images.

::

    store.json                     format, version, extraction config and its hash; written once
    plan-000000.json               which images are to be extracted, and how they are cut into groups
    shard-000000-1b2c3d4e.arrow    group 0: one row per image, failures in the metadata; 1b2c3d4e is the file's CRC-32
    writer.lock                    empty, or who is writing

One group of the plan is one shard is one commit: the file appears complete, by a rename, or not at all, and is never
rewritten. What a shard holds depends on its group alone, so a run that was killed any number of times leaves the same
bytes as one that was not. Images that come later are planned in another plan, into new shards; an image extracted
again (its file changed, or a failure is retried) is planned again too, and its last record counts.

The checksum in a shard's name is verified before its rows are first used, so that a damaged file is refused by name.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import re
import socket
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from delfjax import __version__
from delfjax.config import config_hash
from delfjax.types import DelfjaxError, ImageFeatures, LocalFeatures

FORMAT = "delfjax feature store"
FORMAT_VERSION = 1
# Images per shard: about 20 MB of full descriptors, and what a kill can cost.
SHARD_SIZE = 32

_HEADER = "store.json"
_LOCK = "writer.lock"
_PLAN = re.compile(r"plan-(\d{6,})\.json")
_SHARD = re.compile(r"shard-(\d{6,})-([0-9a-f]{8})\.arrow")
_TEMPORARY = ".tmp"
# Shards kept mapped for the next image that is asked for.
_OPEN_SHARDS = 64


class StoreError(DelfjaxError):
    """A feature store of another version or config, damaged, or written by another process."""


@dataclass(frozen=True)
class Group:
    """Images that are committed together, as one shard."""

    index: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class StoreArrays:
    """Features of many images, one after the other.

    Attributes:
        names: the images, sorted.
        descriptors: of all features.
        keypoints_yx: pixels of the original image.
        scales: factor applied to the image.
        scores: attention scores.
        offsets: features of image ``i`` are rows ``offsets[i]`` to ``offsets[i + 1]``.
    """

    names: tuple[str, ...]
    descriptors: Float[np.ndarray, "n d"]
    keypoints_yx: Float[np.ndarray, "n 2"]
    scales: Float[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    offsets: Int[np.ndarray, " images1"]


@dataclass(frozen=True)
class _Shard:
    """What is known of a shard without reading its rows."""

    path: Path
    checksum: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    content_hashes: tuple[str, ...]
    failures: dict[str, str]
    descriptor_dim: int


@dataclass(frozen=True)
class _Rows:
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
        return ImageFeatures(local, pooled if len(pooled) else None, self.image_sizes[row], self.content_hashes[row])


class FeatureStore:
    """A store opened for reading: what was committed at that moment.

    Arrays come memory-mapped and read-only: keypoints, scales, scores and global descriptors ``float32``, local
    descriptors ``float16``. Not to be shared between threads.
    """

    def __init__(self, path: Path, config: dict[str, Any], groups: Sequence[Group], shards: Mapping[int, _Shard]) -> None:
        self.path = path
        self.config = config
        self.config_hash = config_hash(config)
        self._shards = dict(shards)
        self._pending = tuple(name for group in groups if group.index not in shards for name in group.names)
        self._places: dict[str, tuple[int, int]] = {}
        self._failures: dict[str, str] = {}
        for index, shard in sorted(self._shards.items()):
            for row, name in enumerate(shard.names):
                self._places[name] = (index, row)
                self._failures.pop(name, None)
            for name, reason in shard.failures.items():
                self._failures[name] = reason
                self._places.pop(name, None)
        self.names: tuple[str, ...] = tuple(sorted(self._places))
        self._mapped: OrderedDict[int, _Rows] = OrderedDict()
        self._verified: set[int] = set()

    @classmethod
    def open(cls, path: Path, *, config: dict[str, Any] | None = None) -> FeatureStore:
        """Open the store in the folder ``path``.

        Args:
            path: the folder.
            config: the extraction config it must have been made with; any, when not given.

        Raises:
            StoreError: no store, of another version or config, or damaged.
        """
        stored = _read_header(path)
        if config is not None:
            _require_config(path, stored, config)
        groups, shards = _read_contents(path, config_hash(stored))
        return cls(path, stored, groups, shards)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, index: int) -> ImageFeatures:
        return self.get(self.names[index])

    @property
    def descriptor_dim(self) -> int:
        """Dimensions of a local descriptor; 0 as long as there is no image."""
        return next((shard.descriptor_dim for shard in self._shards.values() if shard.names), 0)

    def done(self) -> frozenset[str]:
        """Images that need no extraction: those held, and those that failed."""
        return frozenset(self._places) | frozenset(self._failures)

    def failures(self) -> dict[str, str]:
        """Images that could not be extracted, each with its reason."""
        return dict(sorted(self._failures.items()))

    def pending(self) -> tuple[str, ...]:
        """Images that were planned and not committed: not empty after a run that was stopped."""
        return self._pending

    def counts(self) -> Int[np.ndarray, " images"]:
        """Number of local features of each image, in the order of ``names``."""
        places = (self._places[name] for name in self.names)
        return np.array([self._shards[index].counts[row] for index, row in places], np.int64)

    def content_hash(self, name: str) -> str:
        """Digest of the file that ``name`` was when it was extracted."""
        index, row = self._place(name)
        return self._shards[index].content_hashes[row]

    def get(self, name: str) -> ImageFeatures:
        """Features of one image.

        Raises:
            StoreError: it is not held, or its shard is damaged.
        """
        index, row = self._place(name)
        return self._rows(index).features(row)

    def arrays(self, *, reduce: Callable[[np.ndarray], np.ndarray] | None = None) -> StoreArrays:
        """All features, image after image in the order of ``names``.

        Args:
            reduce: applied to the descriptors of each image, so that the full ones never fill the memory.
        """
        offsets = np.concatenate([[0], np.cumsum(self.counts())]).astype(np.int64)
        images = [self.get(name).local for name in self.names]
        descriptors = [np.asarray(i.descriptors) if reduce is None else reduce(np.asarray(i.descriptors)) for i in images]
        none = np.zeros(0, np.float32)
        return StoreArrays(
            names=self.names,
            descriptors=np.concatenate(descriptors) if images else np.zeros((0, self.descriptor_dim), np.float16),
            keypoints_yx=np.concatenate([np.asarray(i.keypoints_yx) for i in images] or [none.reshape(0, 2)]),
            scales=np.concatenate([np.asarray(i.scales) for i in images] or [none]),
            scores=np.concatenate([np.asarray(i.scores) for i in images] or [none]),
            offsets=offsets,
        )

    def subset(self, names: Collection[str]) -> FeatureStore:
        """The same store as if it held and had tried no images but these; those it knows nothing of are left out."""
        wanted = frozenset(names)
        part = copy.copy(self)
        part._places = {name: place for name, place in self._places.items() if name in wanted}
        part._failures = {name: reason for name, reason in self._failures.items() if name in wanted}
        part._pending = tuple(name for name in self._pending if name in wanted)
        part.names = tuple(name for name in self.names if name in wanted)
        part._mapped = OrderedDict()
        return part

    def verify(self) -> None:
        """Read every byte.

        Raises:
            StoreError: a shard is damaged.
        """
        for index in self._shards:
            self._rows(index)

    def _place(self, name: str) -> tuple[int, int]:
        if name not in self._places:
            reason = self._failures.get(name)
            raise StoreError(f"{self.path}: holds no image {name!r}" + (f"; it failed: {reason}" if reason else ""))
        return self._places[name]

    def _rows(self, index: int) -> _Rows:
        rows = self._mapped.pop(index, None)
        if rows is None:
            rows = _read_rows(self._shards[index], verify=index not in self._verified)
            self._verified.add(index)
        self._mapped[index] = rows
        if len(self._mapped) > _OPEN_SHARDS:
            self._mapped.popitem(last=False)
        return rows


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
        self._lock = -1
        self._groups: list[Group] = []
        self._plans = 0
        self._committed: set[int] = set()
        self._descriptor_dim = 0

    def __enter__(self) -> StoreWriter:
        """Take the lock; make the store, or check the one that is there.

        Raises:
            StoreError: written by another process, of another version or config, damaged, or no store's folder.
        """
        _make_folder(self.path)
        self._lock = _take_lock(self.path)
        try:
            for leftover in self.path.glob(f".*{_TEMPORARY}"):
                leftover.unlink()
            if not (self.path / _HEADER).exists():
                _write_header(self.path, self._config)
            self._resume()
        except BaseException:
            # No with block begins, and so none will end and give the lock back.
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

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
        unfinished = {name for group in self._groups if group.index not in self._committed for name in group.names}
        planned = {name for group in self._groups for name in group.names}
        fresh = sorted((wanted - planned) | ((wanted & repeated) - unfinished))
        if fresh:
            first = len(self._groups)
            plan = {"first_group": first, "shard_size": self._shard_size, "names": fresh}
            _write_atomically(self.path / f"plan-{self._plans:06d}.json", _json_bytes(plan))
            self._plans += 1
            self._groups += _cut(fresh, first, self._shard_size)
        return [g for g in self._groups if g.index not in self._committed and not wanted.isdisjoint(g.names)]

    def commit(self, group: Group, features: Mapping[str, ImageFeatures], failures: Mapping[str, str]) -> None:
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
            raise ValueError(f"group {group.index} must be committed once, with exactly its {len(group.names)} images")
        kept = {name: features[name] for name in group.names if name in features}
        dims = {int(image.local.descriptors.shape[-1]) for image in kept.values()} | {self._descriptor_dim} - {0}
        if len(dims) > 1:
            raise StoreError(f"{self.path}: descriptors of {sorted(dims)} dimensions cannot share a store")
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
        shard = _arrow_bytes(kept, metadata)
        _write_atomically(self.path / f"shard-{group.index:06d}-{_checksum(shard)}.arrow", shard)
        self._committed.add(group.index)
        self._descriptor_dim = dim

    def _resume(self) -> None:
        stored = _read_header(self.path)
        _require_config(self.path, stored, self._config)
        self._groups, shards = _read_contents(self.path, config_hash(stored))
        self._plans = len(_numbered(self.path, _PLAN))
        self._committed = set(shards)
        self._descriptor_dim = FeatureStore(self.path, stored, self._groups, shards).descriptor_dim

    def _release(self) -> None:
        os.ftruncate(self._lock, 0)
        os.close(self._lock)
        self._lock = -1


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        found = [entry.name for entry in path.iterdir()]
    except OSError as error:
        raise StoreError(f"{path}: cannot be made or listed: {error.strerror}") from None
    foreign = sorted(name for name in found if name != _LOCK and not name.endswith(_TEMPORARY))
    if foreign and _HEADER not in found:
        raise StoreError(f"{path}: not a feature store ({_HEADER} is missing, {foreign[0]!r} is there); name a new folder")


def _take_lock(path: Path) -> int:
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"{path / _LOCK}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 200).decode("utf-8", "replace") or "another process"
        os.close(lock)
        raise StoreError(f"{path}: is being written by {holder}; wait for it, or name another store") from None
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return lock


def _write_header(path: Path, config: dict[str, Any]) -> None:
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "created_by": f"delfjax {__version__}",
        "config_hash": config_hash(config),
        "config": config,
    }
    _write_atomically(path / _HEADER, _json_bytes(header))


def _read_header(path: Path) -> dict[str, Any]:
    """The extraction config of a store."""
    file = path / _HEADER
    if not file.is_file():
        raise StoreError(f"{path}: not a feature store ({_HEADER} is missing); make one with `delfjax extract`")
    header = _read_json(file)
    if header.get("format") != FORMAT:
        raise StoreError(f"{file}: format is {header.get('format')!r}, expected {FORMAT!r}")
    if header.get("version") != FORMAT_VERSION:
        raise StoreError(f"{file}: version is {header.get('version')!r}, this delfjax reads {FORMAT_VERSION}")
    config = header.get("config")
    if not isinstance(config, dict) or config_hash(config) != header.get("config_hash"):
        raise StoreError(f"{file}: damaged, its config does not have the hash {header.get('config_hash')!r}")
    return config


def _require_config(path: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    if config_hash(stored) == config_hash(asked):
        return
    ours, theirs = _flat(stored), _flat(asked)
    changed = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
    first = f"{changed[0]} is {ours.get(changed[0])!r} there, {theirs.get(changed[0])!r} asked for" if changed else ""
    raise StoreError(
        f"{path}: extracted with config {config_hash(stored)}, not {config_hash(asked)} ({first}); name another store"
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _read_contents(path: Path, expected_hash: str) -> tuple[list[Group], dict[int, _Shard]]:
    # Shards are listed before plans: whoever reads while another process writes sees no shard without its plan.
    listed = _numbered(path, _SHARD)
    groups: list[Group] = []
    for number, (index, match) in enumerate(_numbered(path, _PLAN)):
        if index != number:
            raise StoreError(f"{path}: damaged, plan {number} is missing before {match[0]}")
        groups += _read_plan(path / match[0], len(groups))
    shards: dict[int, _Shard] = {}
    for index, match in listed:
        if index >= len(groups):
            raise StoreError(f"{path / match[0]}: damaged store, no plan has group {index}")
        if index in shards:
            raise StoreError(f"{path / match[0]}: damaged store, group {index} is also in {shards[index].path.name}")
        shards[index] = _read_shard(path / match[0], match[2], groups[index], expected_hash)
    dims = {shard.descriptor_dim for shard in shards.values() if shard.names}
    if len(dims) > 1:
        raise StoreError(f"{path}: damaged, its shards hold descriptors of {sorted(dims)} dimensions")
    return groups, shards


def _numbered(path: Path, pattern: re.Pattern[str]) -> list[tuple[int, re.Match[str]]]:
    names = sorted(entry.name for entry in path.iterdir())
    kind = pattern.pattern.partition("-")[0]
    found = [(name, pattern.fullmatch(name)) for name in names if name.startswith(f"{kind}-")]
    stray = next((name for name, match in found if match is None), None)
    if stray is not None:
        raise StoreError(f"{path / stray}: not a name that a {kind} of a feature store has")
    return sorted(((int(match[1]), match) for _, match in found if match), key=lambda item: item[0])


def _read_plan(file: Path, first: int) -> list[Group]:
    plan = _read_json(file)
    names, size = plan.get("names"), plan.get("shard_size")
    sound = isinstance(names, list) and all(isinstance(name, str) for name in names) and plan.get("first_group") == first
    if not sound or not isinstance(names, list) or not isinstance(size, int) or size < 1:
        raise StoreError(f"{file}: damaged, not a plan of a feature store that begins at group {first}")
    return _cut(names, first, size)


def _cut(names: Sequence[str], first: int, size: int) -> list[Group]:
    starts = range(0, len(names), size)
    return [Group(first + k, tuple(names[at : at + size])) for k, at in enumerate(starts)]


def _read_shard(path: Path, checksum: str, group: Group, expected_hash: str) -> _Shard:
    try:
        with pa.memory_map(str(path)) as source:
            raw = pa.ipc.open_file(source).schema.metadata[b"delfjax"]
        metadata = json.loads(raw)
        failures, counts = dict(metadata["failures"]), tuple(metadata["counts"])
        hashes, dim = tuple(metadata["content_hashes"]), int(metadata["descriptor_dim"])
        version, stored_hash, index = metadata["format_version"], metadata["config_hash"], metadata["group"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged shard ({' '.join(str(error).split())[:120]})") from None
    if version != FORMAT_VERSION:
        raise StoreError(f"{path}: shard of version {version!r}, this delfjax reads {FORMAT_VERSION}")
    if stored_hash != expected_hash:
        raise StoreError(f"{path}: shard of config {stored_hash}, its store has {expected_hash}")
    names = tuple(name for name in group.names if name not in failures)
    if index != group.index or len(counts) != len(names) or len(names) + len(failures) != len(group.names):
        raise StoreError(f"{path}: damaged, not the shard of group {group.index} of its store's plan")
    return _Shard(path, checksum, names, counts, hashes, failures, dim)


def _read_rows(shard: _Shard, *, verify: bool) -> _Rows:
    try:
        # The mapping lives as long as arrays refer to it; the file itself need not stay open.
        with pa.memory_map(str(shard.path)) as source:
            content = source.read_buffer()
        if verify and _checksum(content) != shard.checksum:
            raise StoreError(f"{shard.path}: damaged, its checksum is {_checksum(content)}; extract into a new store")
        batch = pa.ipc.open_file(pa.BufferReader(content)).get_batch(0)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{shard.path}: damaged shard ({' '.join(str(error).split())[:120]})") from None
    if tuple(batch.column("name").to_pylist()) != shard.names:
        raise StoreError(f"{shard.path}: damaged, its images are not those of the store's plan")
    scales, pooled = batch.column("scales"), batch.column("global_descriptor")
    sizes = zip(batch.column("height").to_pylist(), batch.column("width").to_pylist(), strict=True)
    return _Rows(
        offsets=scales.offsets.to_numpy(),
        keypoints_yx=batch.column("keypoints_yx").values.values.to_numpy().reshape(-1, 2),
        scales=scales.values.to_numpy(),
        scores=batch.column("scores").values.to_numpy(),
        descriptors=batch.column("descriptors").values.to_numpy().reshape(-1, max(1, shard.descriptor_dim)),
        global_offsets=pooled.offsets.to_numpy(),
        global_values=pooled.values.to_numpy(),
        image_sizes=list(sizes),
        content_hashes=shard.content_hashes,
    )


def _arrow_bytes(images: Mapping[str, ImageFeatures], metadata: dict[str, Any]) -> pa.Buffer:
    """An Arrow IPC file with one record batch; an empty list stands for no global descriptor."""
    features = list(images.values())
    local = [image.local for image in features]
    if not all(np.all(one.valid) for one in local):
        raise ValueError("only valid features may be stored: drop the padding first")
    counts = [len(one.scales) for one in local]
    dim = int(metadata["descriptor_dim"])
    pooled = [np.zeros(0, np.float32) if f.global_descriptor is None else f.global_descriptor for f in features]
    keypoints = _flattened([one.keypoints_yx for one in local], np.float32)
    columns = {
        "name": pa.array(list(images), pa.string()),
        "height": pa.array([image.image_size[0] for image in features], pa.int32()),
        "width": pa.array([image.image_size[1] for image in features], pa.int32()),
        "content_hash": pa.array([image.content_hash for image in features], pa.string()),
        "keypoints_yx": _lists(counts, pa.FixedSizeListArray.from_arrays(keypoints, 2)),
        "scales": _lists(counts, _flattened([one.scales for one in local], np.float32)),
        "scores": _lists(counts, _flattened([one.scores for one in local], np.float32)),
        "descriptors": _lists([n * dim for n in counts], _flattened([one.descriptors for one in local], np.float16)),
        "global_descriptor": _lists([len(values) for values in pooled], _flattened(pooled, np.float32)),
    }
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    schema = pa.schema(fields, metadata={"delfjax": _json_bytes(metadata)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return sink.getvalue()


def _flattened(parts: Sequence[Any], dtype: type[np.floating[Any]]) -> pa.Array:
    return pa.array(np.concatenate([np.zeros(0, dtype), *(np.asarray(part, dtype).ravel() for part in parts)]))


def _lists(lengths: Sequence[int], values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(np.cumsum([0, *lengths], dtype=np.int64)), values)


def _checksum(content: pa.Buffer) -> str:
    return f"{zlib.crc32(content):08x}"


def _json_bytes(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{file}: damaged ({error})") from None
    if not isinstance(values, dict):
        raise StoreError(f"{file}: damaged, not a JSON object")
    return values


def _write_atomically(path: Path, content: bytes | pa.Buffer) -> None:
    """All of ``content`` under the name ``path``, or nothing, even when the machine stops."""
    temporary = path.with_name(f".{path.name}{_TEMPORARY}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
