"""TensorFlow's checkpoints, read without TensorFlow: nothing in them is executed, every length and
checksum is verified.

A checkpoint is ``PREFIX.index``, a table of names, types, shapes and places, and
``PREFIX.data-NNNNN-of-MMMMM``, the values. TF1's Saver, a SavedModel (in its folder ``variables``)
and TF2's object-based checkpoints all write this. In the last, a tensor's name is a path through
Python objects, and the graph of these objects, one more tensor, has the variables' names.
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

from delfjax.models.foreign.wire_format import Message, varint
from delfjax.models.weights import Tensors, WeightsError, file_bytes

# Numbers of `types.proto`.
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
# Edges of the graph by which Keras finds its variables again; the others are attributes that
# somebody named.
_BOOKKEEPING = re.compile(
    r"_?(non_)?(trainable_)?variables|layers|layer(_with_weights)?-\d+|keras_api|regularization_losses|metrics|_.*trackables?"
)
_DATA_FILE = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")

# What parsing a malformed file raises; all of it means the same here.
_MALFORMED = (ValueError, IndexError, KeyError, OverflowError, MemoryError)


class _Refused(Exception):
    """Why a checkpoint is refused; the public function adds which."""


@dataclass(frozen=True)
class _Entry:
    """Where the values of a tensor are."""

    type: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def is_tf_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` names a checkpoint of TensorFlow: a folder, a prefix, or one of the files
    behind it."""
    path = Path(path)
    return (
        path.is_dir()
        or bool(_DATA_FILE.search(path.name))
        or path.with_name(f"{path.name}.index").is_file()
    )


def read_tf_tensors(
    path: str | Path, *, names: Literal["variables", "objects"] = "variables"
) -> Tensors:
    """Tensors of a TensorFlow checkpoint, without those of text. Arrays are read-only; bfloat16 is
    widened to float32.

    Args:
        path: the prefix, one of its files, a SavedModel, or a folder with TensorFlow's file
            ``checkpoint``, which says which of several is the latest.
        names: in an object-based checkpoint, "variables" gives tensors the names that their
            variables had, or the paths of the objects where these are not one for each; "objects"
            gives all of them paths, along the attributes that a programmer named.

    Raises:
        WeightsError: a file is missing, truncated or damaged, or holds what is not read here:
            compressed tables, variables in slices, other types.
    """
    prefix = _prefix(Path(path))
    index = prefix.with_name(f"{prefix.name}.index")
    try:
        entries, shards = _entries(_table(file_bytes(index)))
        data = [
            file_bytes(prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}"))
            for shard in range(shards)
        ]
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
            f"{index}: truncated or damaged checkpoint ({type(error).__name__}: {error})"
        ) from None


def _prefix(path: Path) -> Path:
    """What the names of a checkpoint's files begin with."""
    if not path.is_dir():
        return path.with_name(_DATA_FILE.sub("", path.name))
    for folder in (path / "variables", path):
        if (folder / "variables.index").is_file():
            return folder / "variables"
    state = path / "checkpoint"
    if not state.is_file():
        raise WeightsError(
            f"{path}: neither a SavedModel (variables/variables.index) nor a folder of checkpoints"
            " (checkpoint)"
        )
    latest = re.search(rb'^model_checkpoint_path: "([^"\n]+)"', file_bytes(state), re.MULTILINE)
    if latest is None:
        raise WeightsError(f"{state}: names no model_checkpoint_path")
    # A folder may have been moved since.
    return path / Path(latest[1].decode(errors="replace")).name


def _table(data: bytes) -> dict[bytes, bytes]:
    """Keys and values of a table: blocks of them, and a block that says where these are."""
    footer = data[-_FOOTER_BYTES:]
    if len(data) < _FOOTER_BYTES or not footer.endswith(_TABLE_MAGIC):
        raise _Refused("not the index of a TensorFlow checkpoint: it does not end as a table does")
    at = 0
    handle = []
    for _ in range(4):
        number, at = varint(footer, at)
        handle.append(number)
    found: dict[bytes, bytes] = {}
    last = None
    for _, place in _block(data, *handle[2:]):
        offset, at = varint(place, 0)
        for key, value in _block(data, offset, varint(place, at)[0]):
            # Keys in order leave no way for a small file to stand for many entries.
            if last is not None and key <= last:
                raise _Refused(f"its keys are not in order, {key!r:.60} follows {last!r:.60}")
            found[key] = value
            last = key
    return found


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key holds only what differs from the key before it."""
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
            "its table is compressed; TensorFlow writes checkpoints uncompressed, and others are"
            " not read here"
        )
    block = data[offset:end]
    # Behind the entries stand the places where keys are whole, and how many these are.
    stop = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    if size < 4 or stop < 0:
        raise _Refused("damaged: a block is shorter than its list of whole keys")
    at, key = 0, b""
    while at < stop:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        length, at = varint(block, at)
        if shared > len(key) or at + own + length > stop:
            raise _Refused("damaged: an entry leaves its block")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _require_crc(data: bytes | memoryview, masked: int, what: str) -> None:
    """Compare with a checksum as these files mask it: rotated and shifted, so that data may hold
    checksums themselves."""
    if _masked(google_crc32c.value(bytes(data))) != masked:
        raise _Refused(f"damaged: the checksum of {what} does not agree")


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _entries(table: dict[bytes, bytes]) -> tuple[dict[str, _Entry], int]:
    """What the index says of each tensor, and how many files hold them."""
    if _HEADER not in table:
        raise _Refused("a table without the header of a checkpoint")
    header = Message.parse(table.pop(_HEADER))
    shards, big_endian = header.number(1), header.number(2)
    if big_endian:
        raise _Refused("its tensors are big-endian; only little-endian ones are read here")
    if not 0 < shards <= 99999:
        raise _Refused(f"speaks of {shards} files of values")
    # A variable that is stored in slices has an entry of its own, which is refused; those of its
    # slices have no names.
    named = {key.decode(): value for key, value in table.items() if not key.startswith(b"\0")}
    return {key: _entry(key, Message.parse(value), shards) for key, value in named.items()}, shards


def _entry(key: str, told: Message, shards: int) -> _Entry:
    if told.values.get(7):
        raise _Refused(
            f"{key!r} is stored in slices; save it as one variable, without a partitioner"
        )
    if told.number(1) not in (*_TYPES, _STRING):
        raise _Refused(
            f"{key!r} is of type {told.number(1)} of TensorFlow's, which is not read here"
        )
    shape = tuple(
        dimension.number(1) for message in told.messages(2) for dimension in message.messages(2)
    )
    entry = _Entry(
        told.number(1), shape, told.number(3), told.number(4), told.number(5), told.number(6)
    )
    if entry.shard >= shards:
        raise _Refused(f"{key!r} is in file {entry.shard} of {shards}")
    if entry.type != _STRING and math.prod(shape) * _TYPES[entry.type].itemsize != entry.size:
        raise _Refused(f"{key!r} of shape {shape} has {entry.size} bytes")
    return entry


def _stored(key: str, entry: _Entry, data: list[bytes]) -> memoryview:
    """The bytes of a tensor, inside its file; unverified."""
    shard = data[entry.shard]
    if entry.offset + entry.size > len(shard):
        raise _Refused(
            f"truncated: {key!r} ends at byte {entry.offset + entry.size} of {len(shard)} in file"
            f" {entry.shard}"
        )
    return memoryview(shard)[entry.offset : entry.offset + entry.size]


def _values(key: str, entry: _Entry, data: list[bytes]) -> np.ndarray:
    stored = _stored(key, entry, data)
    _require_crc(stored, entry.crc, repr(key))
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
    """Better names than the keys of an object-based checkpoint, by key."""
    if _GRAPH not in entries:
        return {}
    nodes = Message.parse(_text(entries[_GRAPH], data)).messages(1)
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
    chosen = (
        by_variable
        if names == "variables" and "" not in taken and len({*taken}) == len(taken)
        else by_path
    )
    if len({*chosen.values(), *entries}) != len(chosen) + len(entries):
        raise _Refused("its graph of objects gives two tensors one name")
    return chosen


def _text(entry: _Entry, data: list[bytes]) -> bytes:
    """The one text of a tensor of texts: its length, a checksum of that, and the text."""
    stored = bytes(_stored(_GRAPH, entry, data))
    length, at = varint(stored, 0)
    text = stored[at + 4 :]
    if math.prod(entry.shape) != 1 or len(text) != length:
        raise _Refused(f"damaged: {_GRAPH} is not one text")
    size = length.to_bytes(8 if length > 0xFFFFFFFF else 4, "little")
    _require_crc(size, int.from_bytes(stored[at : at + 4], "little"), f"the length of {_GRAPH}")
    _require_crc(size + stored[at:], entry.crc, _GRAPH)
    return text


def _paths(nodes: list[Message]) -> dict[int, str]:
    """The shortest path of attributes to each object, along what a programmer named."""
    paths, waiting = {0: ""}, deque([0])
    while waiting:
        here = waiting.popleft()
        for child in nodes[here].messages(1):
            number, name = child.number(1), child.text(2)
            if number not in paths and not _BOOKKEEPING.fullmatch(name):
                if number >= len(nodes):
                    raise _Refused(
                        f"its graph of objects has {len(nodes)} of them, not the {number} that one"
                        " names"
                    )
                paths[number] = f"{paths[here]}/{name}".lstrip("/")
                waiting.append(number)
    return paths
