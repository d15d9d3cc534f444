"""A shard: an Arrow IPC file with the features of one group of images, and its checks.

What a file says about itself is not trusted, even if its checksum is right: the schema, the lengths
of all columns and the values of all offsets are compared with what the plan and the shard's own
metadata require before an array is made of them.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pyarrow as pa

from delfjax.features.store.format import FORMAT_VERSION, Group, StoreError
from delfjax.files import json_bytes
from delfjax.types import ImageFeatures, LocalFeatures

_FLOATS = pa.large_list(pa.float32())
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("keypoints_yx", pa.large_list(pa.list_(pa.float32(), 2)), nullable=False),
        pa.field("scales", _FLOATS, nullable=False),
        pa.field("scores", _FLOATS, nullable=False),
        pa.field("descriptors", pa.large_list(pa.float16()), nullable=False),
        pa.field("global_descriptor", _FLOATS, nullable=False),
    ]
)
# Of a method whose features have an orientation.
_ORIENTED = _SCHEMA.append(pa.field("orientations", _FLOATS, nullable=False))
# The first and the last bytes of an Arrow IPC file. Between them is a stream of messages: the
# schema, one record batch, and an index of both, which is not needed.
_HEAD, _TAIL = b"ARROW1\0\0", b"ARROW1"
# Slots of a message's content in its flatbuffer, and of the compression in a record batch.
# Source: the Arrow columnar format, Message.fbs.
_CONTENT_SLOT, _COMPRESSION_SLOT = 8, 10
# Largest plausible number of features of one image, and of dimensions of a descriptor.
_MOST_FEATURES = 1 << 24
_MOST_DIMENSIONS = 1 << 16


@dataclass(frozen=True)
class Shard:
    """The facts about a shard that are known without reading its rows."""

    path: Path
    checksum: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    content_hashes: tuple[str, ...]
    failures: dict[str, str]
    failure_hashes: dict[str, str]
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
    orientations: np.ndarray | None = None

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
            orientations=None if self.orientations is None else self.orientations[own],
        )
        return ImageFeatures(
            local, pooled if len(pooled) else None, self.image_sizes[row], self.content_hashes[row]
        )


def read_shard(path: Path, checksum: str, group: Group, expected_hash: str) -> Shard:
    """The facts about a shard, from its metadata.

    Args:
        path: the file.
        checksum: the checksum in its name.
        group: the images that it has to hold.
        expected_hash: hash of the extraction config that it has to be made with.

    Raises:
        StoreError: the file is damaged, has another version or config, or holds other images.
    """
    with _refusing(path):
        schema = _schema(_messages(_mapped(path)))
        metadata = json.loads((schema.metadata or {})[b"delfjax"])
        _require(isinstance(metadata, dict), "its metadata is not a JSON object")
        version, stored_hash = metadata["format_version"], metadata["config_hash"]
        failures, hashes = metadata["failures"], metadata["content_hashes"]
        counts, dim = metadata["counts"], metadata["descriptor_dim"]
        failed = metadata.get("failure_hashes", {})
        for texts in (failures, failed):
            _require(isinstance(texts, dict) and _texts(texts.values()), "failures")
        _require(isinstance(hashes, list) and _texts(hashes), "content_hashes")
        _require(isinstance(counts, list) and _whole(counts, _MOST_FEATURES), "counts")
        _require(_whole([dim], _MOST_DIMENSIONS), "descriptor_dim")
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
        metadata.get("group") != group.index
        or not len(counts) == len(hashes) == len(names)
        or len(names) + len(failures) != len(group.names)
    ):
        raise StoreError(
            f"{path}: damaged: not the shard of group {group.index} of the store's plan"
        )
    return Shard(path, checksum, names, tuple(counts), tuple(hashes), failures, failed, dim)


def read_rows(shard: Shard, *, verify: bool) -> Rows:
    """The memory-mapped columns of a shard.

    Args:
        shard: the shard to read.
        verify: compare the file's checksum first, which reads every byte.

    Raises:
        StoreError: the shard is damaged.
    """
    with _refusing(shard.path):
        content = _mapped(shard.path)
        if verify and checksum(content) != shard.checksum:
            raise StoreError(
                f"{shard.path}: damaged: its checksum is {checksum(content)}, expected"
                f" {shard.checksum}; extract into a new store"
            )
        return _rows(_only_batch(_messages(content)), shard)


def _mapped(path: Path) -> pa.Buffer:
    """The bytes of a file. They stay mapped as long as an array refers to them, although the file
    is closed."""
    with pa.memory_map(str(path)) as source:
        return source.read_buffer()


def _messages(content: pa.Buffer) -> pa.BufferReader:
    _require(content[: len(_HEAD)].to_pybytes() == _HEAD, "its first bytes are not Arrow's")
    _require(content[-len(_TAIL) :].to_pybytes() == _TAIL, "its last bytes are not Arrow's")
    source = pa.BufferReader(content)
    source.seek(len(_HEAD))
    return source


def _schema(source: pa.BufferReader) -> pa.Schema:
    schema = pa.ipc.read_schema(pa.ipc.read_message(source))
    known = schema.equals(_SCHEMA) or schema.equals(_ORIENTED)
    _require(known, "its columns are not those of a feature store")
    return schema


def _only_batch(source: pa.BufferReader) -> pa.RecordBatch:
    schema = _schema(source)
    message = pa.ipc.read_message(source)
    _require(message.type == "record batch", f"holds a {message.type}, expected a record batch")
    # The store never compresses, and a few bytes could unpack to more than the memory.
    _require(not _is_compressed(message.metadata), "its columns are compressed")
    batch = pa.ipc.read_record_batch(message, schema)
    batch.validate(full=True)
    return batch


def _is_compressed(metadata: pa.Buffer) -> bool:
    data = metadata.to_pybytes()
    root = flatbuffers.table.Table(data, struct.unpack_from("<I", data)[0])
    content = root.Offset(_CONTENT_SLOT)
    _require(bool(content), "its record batch is empty")
    batch = flatbuffers.table.Table(data, root.Indirect(root.Pos + content))
    return bool(batch.Offset(_COMPRESSION_SLOT))


def _rows(batch: pa.RecordBatch, shard: Shard) -> Rows:
    """The columns of a validated record batch, if they are those that the metadata describes."""
    _require(batch.num_rows == len(shard.names), f"holds {batch.num_rows} images")
    flat = {field.name: batch.column(field.name) for field in batch.schema}
    _require(all(column.null_count == 0 for column in flat.values()), "a value is missing")
    offsets = np.concatenate([[0], np.cumsum(shard.counts, dtype=np.int64)])
    ends = {name: offsets for name in ("keypoints_yx", "scales", "scores", "orientations")}
    ends = {name: end for name, end in ends.items() if name in flat}
    ends["descriptors"] = offsets * shard.descriptor_dim
    for name, expected in ends.items():
        own = flat[name].offsets.to_numpy()
        _require(
            np.array_equal(own, expected) and len(flat[name].values) == int(expected[-1]),
            f"{name} has other lengths than its metadata says",
        )
    sizes = [tuple(flat[name].to_pylist()) for name in ("height", "width")]
    _require(min([1, *sizes[0], *sizes[1]]) == 1, "an image has no pixels")
    _require(tuple(flat["name"].to_pylist()) == shard.names, "its images are not those of its plan")
    _require(
        tuple(flat["content_hash"].to_pylist()) == shard.content_hashes,
        "its digests are not those of its metadata",
    )
    pooled = flat["global_descriptor"]
    values = {name: _numbers(flat[name].values) for name in (*ends, "global_descriptor")}
    return Rows(
        offsets=offsets,
        keypoints_yx=values["keypoints_yx"].reshape(-1, 2),
        scales=values["scales"],
        scores=values["scores"],
        descriptors=values["descriptors"].reshape(-1, max(1, shard.descriptor_dim)),
        global_offsets=pooled.offsets.to_numpy(),
        global_values=values["global_descriptor"],
        image_sizes=list(zip(*sizes, strict=True)),
        content_hashes=shard.content_hashes,
        orientations=values.get("orientations"),
    )


def _numbers(values: pa.Array) -> np.ndarray:
    """The numbers of an array of numbers, or of pairs of numbers; an error if one is missing."""
    while isinstance(values, pa.FixedSizeListArray):
        _require(values.null_count == 0, "a value is missing")
        values = values.values
    return np.asarray(values.to_numpy(zero_copy_only=True))


class _DamagedError(Exception):
    """What is wrong with a shard; :func:`_refusing` adds which."""


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _DamagedError(otherwise)


def _whole(values: Sequence[object], most: int) -> bool:
    return all(type(value) is int and 0 <= value <= most for value in values)


def _texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        _DamagedError,
        OSError,
        ValueError,
        LookupError,
        EOFError,
        RecursionError,
        struct.error,
        pa.ArrowException,
    ) as error:
        raise StoreError(f"{path}: damaged shard ({' '.join(str(error).split())[:120]})") from None


def arrow_bytes(images: Mapping[str, ImageFeatures], metadata: dict[str, Any]) -> pa.Buffer:
    """An Arrow IPC file with one record batch; an empty list means no global descriptor.

    Raises:
        ValueError: a feature is not valid, that is, padding was not removed; or some of the images
            have oriented features and others do not.
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
    columns = [
        pa.array(list(images), pa.string()),
        pa.array([image.image_size[0] for image in features], pa.int32()),
        pa.array([image.image_size[1] for image in features], pa.int32()),
        pa.array([image.content_hash for image in features], pa.string()),
        _lists(counts, pa.FixedSizeListArray.from_arrays(keypoints, 2)),
        _lists(counts, _flattened([one.scales for one in local], np.float32)),
        _lists(counts, _flattened([one.scores for one in local], np.float32)),
        _lists(
            [n * dim for n in counts], _flattened([one.descriptors for one in local], np.float16)
        ),
        _lists([len(values) for values in pooled], _flattened(pooled, np.float32)),
    ]
    turned = [one.orientations for one in local if one.orientations is not None]
    if turned:
        columns.append(_lists(counts, _flattened(turned, np.float32)))
    schema = (_ORIENTED if turned else _SCHEMA).with_metadata(
        {"delfjax": json_bytes(metadata, ensure_ascii=False)}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
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
