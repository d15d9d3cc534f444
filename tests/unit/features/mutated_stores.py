"""Opens damaged feature stores whose checksums were recomputed, so that the damage reaches the
reader.

    python -m tests.unit.features.mutated_stores SEED COUNT

prints the number of each, and stops at the first that is neither read nor refused with a
:class:`StoreError`. Memory is limited, and an alarm ends the process after ten seconds with one
store.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from delfjax.config import config_hash
from delfjax.features.store import FeatureStore, Source, StoreError, StoreWriter
from delfjax.types import ImageFeatures, LocalFeatures

_CONFIG: dict[str, Any] = {"features": {"max_side": 64, "scales": [0.5, 1.0]}, "seed": 3}
_LIMIT_S = 10
_LIMIT_BYTES = 1 << 30
# Values at the edges of the types that lengths and offsets have.
_EDGES = [0, 1, 2, -1, 127, -128, 255, 2**15, 2**20, 2**31 - 1, -(2**31), 2**40, 2**63 - 1]
_VALUES: list[Any] = [
    *_EDGES,
    None,
    True,
    "",
    "\ud800",
    "a\0b",
    "../x",
    1.5,
    float("nan"),
    10**400,
    [],
    {},
    [[]],
    {"a": None},
    [1] * 50,
]


def sound_store(folder: Path) -> None:
    """Write an intact store of eight images, of which one failed, one left and one was renamed."""
    rng = np.random.default_rng(5)
    names = [f"ö/{number}.jpg" for number in range(8)]
    images = {}
    for name in names:
        count = int(rng.integers(1, 5))
        local = LocalFeatures(
            keypoints_yx=rng.uniform(0, 60, (count, 2)).astype(np.float32),
            scales=np.ones(count, np.float32),
            scores=np.ones(count, np.float32),
            descriptors=rng.normal(size=(count, 6)).astype(np.float32),
            valid=np.ones(count, bool),
        )
        images[name] = ImageFeatures(local, np.ones(3, np.float32), (60, 60), f"digest of {name}")
    with StoreWriter(folder, _CONFIG, shard_size=8) as writer:
        (group,) = writer.plan(names)
        failed = {names[0]: "broken"}
        kept = {name: images[name] for name in names[1:]}
        writer.commit(group, kept, failed, failure_hashes={names[0]: ""})
        writer.plan(names[2:], gone=names[1:2], known={"new.jpg": images[names[1]].content_hash})
        writer.record_source(Source(str(folder.parent), scanned=True))


def mutate(folder: Path, rng: random.Random) -> None:
    """Damage one file of an intact store; its checksum is right afterwards."""
    (shard,) = folder.glob("shard-*.arrow")
    kind = rng.choice([_bytes] * 6 + [_retyped_metadata] * 3 + [_other_columns, _json_file])
    if kind is _json_file:
        _json_file(folder, rng)
        return
    change: Callable[[bytes, random.Random], bytes] = kind
    content = change(shard.read_bytes(), rng)
    shard.unlink()
    (folder / f"shard-000000-{zlib.crc32(content):08x}.arrow").write_bytes(content)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip bits, or overwrite numbers by values at the edge of their type."""
    made = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(len(made))
        size = rng.choice([0, 1, 2, 4, 8])
        if not size:
            made[place] ^= 1 << rng.randrange(8)
            continue
        value = rng.choice([*_EDGES, len(made), rng.getrandbits(8 * size)])
        place -= place % size
        made[place : place + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    if rng.random() < 0.1:
        cut = rng.randrange(len(made))
        made[cut : cut + rng.randrange(64)] = rng.randbytes(rng.randrange(64))
    return bytes(made)


def _retyped_metadata(content: bytes, rng: random.Random) -> bytes:
    """Replace a value of the metadata by one of another type or size."""
    batch = pa.ipc.open_file(pa.BufferReader(content)).get_batch(0)
    metadata = json.loads(batch.schema.metadata[b"delfjax"])
    text = _retyped(metadata, rng) if rng.random() < 0.95 else "[" * 100_000
    return _written(batch.columns, batch.schema.with_metadata({"delfjax": text}))


def _other_columns(content: bytes, rng: random.Random) -> bytes:
    """Write other columns than those of a store, or the same ones with other contents."""
    batch = pa.ipc.open_file(pa.BufferReader(content)).get_batch(0)
    columns, fields, metadata = list(batch.columns), list(batch.schema), batch.schema.metadata
    options = None
    place = rng.randrange(len(columns))
    match rng.randrange(5):
        case 0:
            del columns[place], fields[place]
        case 1:
            columns[place] = columns[place - 1]
            fields[place] = pa.field(fields[place].name, columns[place].type)
        case 2:
            columns = [column.take(pa.array([0, *range(len(column))])) for column in columns]
        case 3:
            kept = [None, *range(1, len(columns[place]))]
            columns[place] = columns[place].take(pa.array(kept, pa.int64()))
        case _:
            options = pa.ipc.IpcWriteOptions(compression=rng.choice(["zstd", "lz4"]))
    return _written(columns, pa.schema(fields, metadata), options)


def _written(columns: list[Any], schema: Any, options: Any = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return bytes(sink.getvalue())


def _json_file(folder: Path, rng: random.Random) -> None:
    """Replace a value in ``store.json``, a plan or ``source.json``, and the hash of the config."""
    file = folder / rng.choice(
        ["store.json", "plan-000000.json", "plan-000001.json", "source.json"]
    )
    text = _retyped(json.loads(file.read_text()), rng)
    if file.name == "store.json":
        with suppress(ValueError, TypeError, LookupError):
            values = json.loads(text)
            text = json.dumps({**values, "config_hash": config_hash(values["config"])})
    file.write_text(text)


def _retyped(values: Any, rng: random.Random) -> str:
    """JSON of ``values`` with one value, at any depth, replaced."""
    places: list[tuple[Any, Any]] = []

    def collect(at: Any) -> None:
        for key in at if isinstance(at, dict) else range(len(at)):
            places.append((at, key))
            if isinstance(at[key], dict | list):
                collect(at[key])

    collect(values)
    holder, key = rng.choice(places)
    if rng.random() < 0.1:
        del holder[key]
    else:
        holder[key] = rng.choice(_VALUES)
    sys.set_int_max_str_digits(0)
    text = json.dumps(values)
    sys.set_int_max_str_digits(4300)
    return text


def read_everything(folder: Path) -> None:
    """Read a store as index, search and extraction do."""
    store = FeatureStore.open(folder)
    for name in store.names:
        store.get(name)
    store.arrays()
    store.failures()
    assert store.source is None or store.source.root
    with StoreWriter(folder, store.config) as writer:
        writer.plan(["ö/3.jpg", "other.jpg"], known={"other.jpg": "digest of ö/3.jpg"})


def main(seed: int, count: int) -> None:
    """Open ``count`` damaged stores, within the limits of time and memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _LIMIT_BYTES, -1))
    with tempfile.TemporaryDirectory() as scratch:
        sound, damaged = Path(scratch, "sound"), Path(scratch, "damaged")
        sound_store(sound)
        read_everything(sound)
        for number in range(count):
            shutil.copytree(sound, damaged)
            mutate(damaged, random.Random(f"{seed} {number}"))
            signal.alarm(_LIMIT_S)
            print(number, end=" ")
            with suppress(StoreError):
                read_everything(damaged)
            signal.alarm(0)
            shutil.rmtree(damaged)
    print("finished")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
