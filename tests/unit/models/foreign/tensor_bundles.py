"""A writer of TensorFlow checkpoints, from the description of their format, for tests alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import google_crc32c
import ml_dtypes
import numpy as np

TYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
MAGIC = 0xDB4775248B80FB57


def varint(number: int) -> bytes:
    """A number with seven bits per byte, the lowest first."""
    head = b""
    while number > 127:
        head, number = head + bytes([number & 127 | 128]), number >> 7
    return head + bytes([number])


def number(field: int, value: int) -> bytes:
    """An integer field."""
    return varint(field << 3) + varint(value)


def part(field: int, content: bytes | str) -> bytes:
    """A field of text, bytes or a message."""
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def masked(data: bytes) -> bytes:
    """The masked checksum of ``data``, as these files store it."""
    crc = google_crc32c.value(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def entry(dtype: int, shape: Sequence[int], offset: int, data: bytes, shard: int = 0) -> bytes:
    """The entry of a tensor in an index."""
    dimensions = b"".join(part(2, number(1, size)) for size in shape)
    message = number(1, dtype) + part(2, dimensions)
    message += number(3, shard) if shard else b""
    message += number(4, offset) if offset else b""
    return message + number(5, len(data)) + varint(6 << 3 | 5) + masked(data)


def table(entries: Mapping[str, bytes], *, kind: int = 0, in_order: bool = True) -> bytes:
    """An index: blocks of five entries, every third key stored in full."""
    data, places = b"", []
    keys = sorted(entries, key=str.encode) if in_order else list(entries)
    for start in range(0, len(keys), 5):
        chosen = keys[start : start + 5]
        block = block_of([(key.encode(), entries[key]) for key in chosen])
        places.append((chosen[-1].encode() + b"\0", varint(len(data)) + varint(len(block))))
        data += closed(block, kind)
    footer = b""
    for block in (block_of([]), block_of(places)):
        footer += varint(len(data)) + varint(len(block))
        data += closed(block, 0)
    return data + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def block_of(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of a table, without what closes it."""
    data, whole, last = b"", [], b""
    for count, (key, value) in enumerate(entries):
        same = next(
            (n for n, (one, other) in enumerate(zip(key, last, strict=False)) if one != other),
            min(len(key), len(last)),
        )
        shared = 0 if count % 3 == 0 else same
        whole += [len(data)] if count % 3 == 0 else []
        data += (
            varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        )
        last = key
    return (
        data
        + b"".join(place.to_bytes(4, "little") for place in whole or [0])
        + max(1, len(whole)).to_bytes(4, "little")
    )


def closed(block: bytes, kind: int) -> bytes:
    """A block with its kind of compression and its checksum."""
    return block + bytes([kind]) + masked(block + bytes([kind]))


def header(shards: int = 1, *, big_endian: bool = False) -> bytes:
    """The header, which is stored under the empty key."""
    return number(1, shards) + (number(2, 1) if big_endian else b"") + part(3, number(1, 1))


def write_bundle(
    prefix: Path, tensors: Mapping[str, np.ndarray], *, shards: int = 1, graph: bytes | None = None
) -> Path:
    """Write a checkpoint; data files take tensors in turn, the first also takes the graph."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    entries, data = {"": header(shards)}, [bytearray() for _ in range(shards)]
    for count, (name, tensor) in enumerate(tensors.items()):
        shard, raw = count % shards, tensor.tobytes()
        entries[name] = entry(TYPES[tensor.dtype.name], tensor.shape, len(data[shard]), raw, shard)
        data[shard] += raw
    if graph is not None:
        size = len(graph).to_bytes(4, "little")
        stored = varint(len(graph)) + masked(size) + graph
        stored_entry = entry(7, (), len(data[0]), stored)
        entries[GRAPH] = stored_entry[:-4] + masked(size + masked(size) + graph)
        data[0] += stored
    for shard, raw in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(raw)
    index = prefix.with_name(f"{prefix.name}.index")
    index.write_bytes(table(entries))
    return index


def object_graph(variables: Mapping[str, str], *, keys: Mapping[str, str]) -> bytes:
    """The graph of a model's objects: path of attributes → full name of the variable at its end.

    Args:
        variables: by path.
        keys: by path, the names of the tensors.
    """
    nodes: list[bytes] = [b""]
    places = {"": 0}
    for path in variables:
        for depth in range(path.count("/") + 1):
            here = "/".join(path.split("/")[: depth + 1])
            if here not in places:
                places[here] = len(nodes)
                nodes.append(b"")
                above, _, name = here.rpartition("/")
                nodes[places[above]] += part(1, number(1, places[here]) + part(2, name))
        value = part(1, "VARIABLE_VALUE") + part(2, variables[path]) + part(3, keys[path])
        nodes[places[path]] += part(2, value)
    return b"".join(part(1, node) for node in nodes)


def write_objects(
    prefix: Path, tensors: Mapping[str, np.ndarray], names: Mapping[str, str] | None = None
) -> Path:
    """An object-based checkpoint: path of attributes → tensor, and the full names of the
    variables."""
    keys = {path: path + VALUE for path in tensors}
    graph = object_graph({path: (names or {}).get(path, path) for path in tensors}, keys=keys)
    return write_bundle(
        prefix, {keys[path]: tensor for path, tensor in tensors.items()}, graph=graph
    )


def write_datum(path: Path, array: np.ndarray) -> Path:
    """Write a ``DatumProto`` of DELF: a shape, and floats in row-major order."""
    shape = b"".join(varint(size) for size in array.shape)
    path.write_bytes(part(1, part(1, shape)) + part(2, part(1, array.astype("<f4").tobytes())))
    return path


def example() -> dict[str, np.ndarray]:
    """Tensors of every type that is read, scalars and empty ones among them."""
    numbers = np.arange(24)
    kinds = {name: numbers.astype(name) for name in TYPES if name not in ("bfloat16", "bool")}
    return {
        **{f"layer/{name}": values.reshape(2, 3, 4) for name, values in kinds.items()},
        "layer/bfloat16": numbers.astype(ml_dtypes.bfloat16),
        "layer/bool": numbers % 3 == 0,
        "global_step": np.array(500_000, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
