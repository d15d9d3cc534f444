"""A reader of TensorFlow checkpoints without TensorFlow: it executes nothing from a checkpoint and
verifies every length and checksum.

A checkpoint consists of ``PREFIX.index``, a table of the tensors' names, types, shapes and
locations, and ``PREFIX.data-NNNNN-of-MMMMM``, their values. TF1's Saver, SavedModels (in their
folder ``variables``) and TF2's object-based checkpoints share this format. In an object-based
checkpoint, a tensor's name is a path through Python objects; the names of the variables are in a
graph of these objects, which is stored as one more tensor.
Source: the documented formats of LevelDB's tables and of ``tensor_bundle.proto`` and
    ``trackable_object_graph.proto``.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import ml_dtypes
import numpy as np

from delfjax.errors import quoted, shown
from delfjax.models.foreign.wire_format import Message, varint
from delfjax.models.weights import Tensors, WeightsError, file_bytes
from delfjax.pickles import MAX_AXES

# The type numbers of `types.proto`.
_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("u1"),
    14: np.dtype("<u2"),
    17: np.dtype("<u2"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
_STRING, _BOOL, _BFLOAT16 = 7, 10, 14

_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER_BYTES, _TRAILER_BYTES = 48, 5
_HEADER = b""
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE, _VALUE_SUFFIX = "VARIABLE_VALUE", "/.ATTRIBUTES/VARIABLE_VALUE"
# Edges of the graph that Keras adds for its own bookkeeping; all others are attributes that a
# programmer named.
_BOOKKEEPING = re.compile(
    r"_?(non_)?(trainable_)?variables|layers|layer(_with_weights)?-\d+|keras_api|regularization_losses|metrics|_.*trackables?"
)
# Limits, so that a small file cannot take much time or memory. A checkpoint of DELF has some 800
# tensors with names of less than a hundred characters, an index of 50 kB and a graph of 200 kB.
MAX_INDEX_BYTES = 16 << 20
MAX_GRAPH_BYTES = 16 << 20
MAX_TENSORS = 100_000
MAX_OBJECTS = 100_000
MAX_NAME_BYTES = 1000
# Largest description of one tensor in the index.
MAX_ENTRY_BYTES = 4000
_DATA_FILE = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")

# Exceptions that parsing a malformed file may raise; all mean that the checkpoint is damaged.
_MALFORMED = (ValueError, IndexError, KeyError, OverflowError)


class _Refused(Exception):
    """The reason why a checkpoint is refused; :func:`read_tf_tensors` adds the path."""


@dataclass(frozen=True)
class _Entry:
    """Type, shape and location of a tensor's values.

    Attributes:
        type: number of the type in ``types.proto``.
        shape: lengths of the axes.
        shard: number of the data file.
        offset: first byte in that file.
        size: number of bytes.
        crc: masked checksum of the bytes.
    """

    type: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def is_tf_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` is a TensorFlow checkpoint: a folder, a prefix, or one of a prefix's files.

    A folder's content is not checked.
    """
    path = Path(path)
    return (
        path.is_dir()
        or bool(_DATA_FILE.search(path.name))
        or path.with_name(f"{path.name}.index").is_file()
    )


def read_tf_tensors(
    path: str | Path, *, names: Literal["variables", "objects"] = "variables"
) -> Tensors:
    """Numeric tensors of a TensorFlow checkpoint; tensors of text are left out.

    Arrays are read-only, and bfloat16 is widened to float32.

    Args:
        path: the prefix, one of its files, a SavedModel, or a folder whose file ``checkpoint``
            names the latest of several checkpoints.
        names: only matters for object-based checkpoints. "objects" names each tensor by its path
            along the attributes that a programmer named; "variables" names it as its variable was
            named, but falls back to paths if variables lack names or share them.

    Raises:
        WeightsError: a file is missing, truncated or damaged, or has an unsupported feature:
            compressed tables, variables stored in slices, or other types.
    """
    prefix = _prefix(Path(path))
    index = prefix.with_name(f"{prefix.name}.index")
    try:
        table = file_bytes(index)
        if len(table) > MAX_INDEX_BYTES:
            raise _Refused(f"has {len(table):,} bytes, expected at most {MAX_INDEX_BYTES:,}")
        entries, shards = _entries(_table(table))
        data = [
            file_bytes(prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}"))
            for shard in range(shards)
        ]
        # Tensors do not share bytes; if they did, a small file could hold a huge number of values.
        if sum(entry.size for entry in entries.values()) > sum(map(len, data)):
            raise _Refused("truncated, or its tensors overlap: they need more bytes than there are")
        named = _names(entries, data, names)
        return {
            named.get(key, key): _values(key, entry, data)
            for key, entry in entries.items()
            if entry.type != _STRING
        }
    except _Refused as reason:
        raise WeightsError(f"{index}: {reason}") from None
    except _MALFORMED as error:
        raise WeightsError(
            f"{index}: truncated or damaged checkpoint ({type(error).__name__}: {quoted(error)})"
        ) from None


def _prefix(path: Path) -> Path:
    """The prefix that the names of a checkpoint's files share."""
    if not path.is_dir():
        return path.with_name(_DATA_FILE.sub("", path.name))
    for folder in (path / "variables", path):
        if (folder / "variables.index").is_file():
            return folder / "variables"
    state = path / "checkpoint"
    if not state.is_file():
        raise WeightsError(
            f"{path}: neither a SavedModel (variables/variables.index is missing) nor a folder of"
            " checkpoints (checkpoint is missing)"
        )
    latest = re.search(rb'^model_checkpoint_path: "([^"\n]+)"', file_bytes(state), re.MULTILINE)
    if latest is None:
        raise WeightsError(f"{state}: has no entry model_checkpoint_path")
    # Only the file name counts: the folder may have been moved since.
    name = Path(latest[1].decode(errors="replace")).name
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME_BYTES:
        raise WeightsError(f"{state}: model_checkpoint_path names the file {shown(name)}")
    return path / name


def _table(data: bytes) -> dict[bytes, bytes]:
    """Keys and values of a table, which consists of blocks of them and a block that locates the
    others."""
    footer = data[-_FOOTER_BYTES:]
    if len(data) < _FOOTER_BYTES or not footer.endswith(_TABLE_MAGIC):
        raise _Refused(
            "not the index of a TensorFlow checkpoint: it does not end with the footer of a table"
        )
    at = 0
    handle = []
    for _ in range(4):
        number, at = varint(footer, at)
        handle.append(number)
    found: dict[bytes, bytes] = {}
    last = None
    total = 0
    for _, place in _block(data, *handle[2:]):
        offset, at = varint(place, 0)
        size = varint(place, at)[0]
        total += size
        if total > len(data):
            raise _Refused("damaged: its blocks overlap")
        for key, value in _block(data, offset, size):
            if last is not None and key <= last:
                raise _Refused(f"its keys are not in order, {shown(key)} follows {shown(last)}")
            if len(found) == MAX_TENSORS:
                raise _Refused(f"describes more than {MAX_TENSORS:,} tensors")
            found[key] = value
            last = key
    return found


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key is stored as its difference from the key before it."""
    end = offset + size
    if end + _TRAILER_BYTES > len(data):
        raise _Refused(f"truncated: a block ends at byte {end + _TRAILER_BYTES} of {len(data)}")
    _require_crc(
        data[offset : end + 1],
        int.from_bytes(data[end + 1 : end + _TRAILER_BYTES], "little"),
        "a block of names",
    )
    if data[end] != 0:
        raise _Refused(
            "its table is compressed; only uncompressed checkpoints, as TensorFlow writes them, are"
            " supported"
        )
    block = data[offset:end]
    # After the entries come the offsets of the keys that are stored in full, then their number.
    stop = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    if size < 4 or stop < 0:
        raise _Refused("damaged: a block is shorter than its list of full keys")
    at = 0
    key = b""
    while at < stop:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        length, at = varint(block, at)
        if shared > len(key) or at + own + length > stop:
            raise _Refused("damaged: an entry extends beyond its block")
        # A key may repeat the one before it and add a byte, so that a block of 1 MB could hold
        # keys of 100 GB in all.
        if shared + own > MAX_NAME_BYTES:
            raise _Refused(f"holds a name of {shared + own:,} bytes, limit {MAX_NAME_BYTES:,}")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _require_crc(data: bytes | memoryview, masked: int, what: str) -> None:
    """Compare the checksum of ``data`` with a masked one.

    These files rotate and shift their checksums, because the checksum of data that itself contains
    checksums would be weak.
    """
    if _masked(google_crc32c.value(bytes(data))) != masked:
        raise _Refused(f"damaged: the checksum of {what} does not match")


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _entries(table: dict[bytes, bytes]) -> tuple[dict[str, _Entry], int]:
    """The entry of each tensor, and the number of data files."""
    if _HEADER not in table:
        raise _Refused("not the index of a checkpoint: its table has no header")
    header = Message.parse(table.pop(_HEADER))
    shards, big_endian = header.number(1), header.number(2)
    if big_endian:
        raise _Refused("its tensors are big-endian; only little-endian ones are supported")
    if not 0 < shards <= 99999:
        raise _Refused(f"its header claims {shards} data files, expected 1 to 99999")
    # Entries of slices have a key that begins with 0 and is not text. The sliced variable has an
    # entry of its own, which is refused.
    named = {key.decode(): value for key, value in table.items() if not key.startswith(b"\0")}
    return {key: _entry(key, value, shards) for key, value in named.items()}, shards


def _entry(key: str, stored: bytes, shards: int) -> _Entry:
    if len(stored) > MAX_ENTRY_BYTES:
        raise _Refused(
            f"{shown(key)} is described in {len(stored):,} bytes, expected at most"
            f" {MAX_ENTRY_BYTES:,}; a variable stored in slices is not supported"
        )
    message = Message.parse(stored)
    if message.values.get(7):
        raise _Refused(
            f"{shown(key)} is stored in slices; save it as one variable, without a partitioner"
        )
    if message.number(1) not in (*_TYPES, _STRING):
        raise _Refused(
            f"{shown(key)} has TensorFlow's type {message.number(1)}, which is not supported"
        )
    shape = tuple(
        dimension.number(1) for field in message.messages(2) for dimension in field.messages(2)
    )
    if len(shape) > MAX_AXES:
        raise _Refused(f"{shown(key)} has {len(shape)} axes, expected at most {MAX_AXES}")
    entry = _Entry(
        type=message.number(1),
        shape=shape,
        shard=message.number(3),
        offset=message.number(4),
        size=message.number(5),
        crc=message.number(6),
    )
    if entry.shard >= shards:
        raise _Refused(f"{shown(key)} is in data file {entry.shard}, but there are only {shards}")
    if entry.type != _STRING and math.prod(shape) * _TYPES[entry.type].itemsize != entry.size:
        raise _Refused(
            f"{shown(key)} of shape {shape} and type {_TYPES[entry.type]} cannot have"
            f" {entry.size} bytes"
        )
    return entry


def _stored(key: str, entry: _Entry, data: list[bytes]) -> memoryview:
    """The bytes of a tensor, checked to lie inside its data file; the checksum is not verified."""
    shard = data[entry.shard]
    if entry.offset + entry.size > len(shard):
        raise _Refused(
            f"truncated: {shown(key)} ends at byte {entry.offset + entry.size} of data file"
            f" {entry.shard}, which has {len(shard)} bytes"
        )
    return memoryview(shard)[entry.offset : entry.offset + entry.size]


def _values(key: str, entry: _Entry, data: list[bytes]) -> np.ndarray:
    stored = _stored(key, entry, data)
    _require_crc(stored, entry.crc, shown(key))
    values: np.ndarray = np.require(np.frombuffer(stored, _TYPES[entry.type]), requirements="A")
    if entry.type == _BFLOAT16:
        values = values.view(ml_dtypes.bfloat16).astype(np.float32)
    elif entry.type == _BOOL:
        values = values != 0
    values = values.reshape(entry.shape)
    values.setflags(write=False)
    return values


def _names(
    entries: dict[str, _Entry], data: list[bytes], names: Literal["variables", "objects"]
) -> dict[str, str]:
    """Key → name of the tensors of an object-based checkpoint, as ``names`` asks for."""
    if _GRAPH not in entries:
        return {}
    parts = Message.parse(_text(entries[_GRAPH], data)).parts(1)
    if len(parts) > MAX_OBJECTS:
        raise _Refused(f"its graph has {len(parts):,} objects, expected at most {MAX_OBJECTS:,}")
    nodes = [Message.parse(part) for part in parts]
    paths = _paths(nodes)
    by_path: dict[str, str] = {}
    by_variable: dict[str, str] = {}
    for number, node in enumerate(nodes):
        for value in node.messages(2):
            key = value.text(3)
            if value.text(1) == _VALUE and key in entries:
                by_path[key] = paths.get(number, key.removesuffix(_VALUE_SUFFIX))
                by_variable[key] = value.text(2)
    taken = list(by_variable.values())
    unambiguous = "" not in taken and len({*taken}) == len(taken)
    chosen = by_variable if names == "variables" and unambiguous else by_path
    if len({*chosen.values(), *entries}) != len(chosen) + len(entries):
        raise _Refused("its graph of objects gives two tensors the same name")
    return chosen


def _text(entry: _Entry, data: list[bytes]) -> bytes:
    """The text of a tensor with a single text, stored as its length, a checksum of the length, and
    the text."""
    if entry.size > MAX_GRAPH_BYTES:
        raise _Refused(f"its graph has {entry.size:,} bytes, expected at most {MAX_GRAPH_BYTES:,}")
    stored = bytes(_stored(_GRAPH, entry, data))
    length, at = varint(stored, 0)
    text = stored[at + 4 :]
    if math.prod(entry.shape) != 1 or len(text) != length:
        raise _Refused(f"damaged: {_GRAPH} is not a single text")
    size = length.to_bytes(8 if length > 0xFFFFFFFF else 4, "little")
    _require_crc(size, int.from_bytes(stored[at : at + 4], "little"), f"the length of {_GRAPH}")
    _require_crc(size + stored[at:], entry.crc, _GRAPH)
    return text


def _paths(nodes: list[Message]) -> dict[int, str]:
    """The shortest path to each object along attributes that a programmer named."""
    paths = {0: ""}
    waiting = deque([0])
    while waiting:
        here = waiting.popleft()
        for child in nodes[here].messages(1):
            number, name = child.number(1), child.text(2)
            if number not in paths and not _BOOKKEEPING.fullmatch(name):
                if number >= len(nodes):
                    raise _Refused(
                        f"its graph has {len(nodes)} objects, but an edge leads to number {number}"
                    )
                paths[number] = f"{paths[here]}/{name}".lstrip("/")
                if len(paths[number]) > MAX_NAME_BYTES:
                    raise _Refused(
                        f"its graph has a path of {len(paths[number]):,} characters, expected at"
                        f" most {MAX_NAME_BYTES:,}"
                    )
                waiting.append(number)
    return paths
