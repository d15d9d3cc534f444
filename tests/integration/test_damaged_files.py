"""Files that others made and that may be damaged on purpose: each is read, or refused in one clear
line, within limits of time and memory."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delfjax.errors import DelfjaxError
from delfjax.models.foreign.delf_release import read_datum
from delfjax.models.foreign.tf_checkpoints import read_tf_tensors
from delfjax.models.foreign.torch_checkpoints import read_torch_tensors
from delfjax.models.weights import read_safetensors
from delfjax.pickles import read_plain_pickle
from tests.fuzzing import Trial, damaged, damaged_json, failures
from tests.unit.models.foreign.tensor_bundles import (
    MAGIC,
    block_of,
    closed,
    entry,
    header,
    object_graph,
    varint,
    write_bundle,
    write_datum,
)
from tests.unit.models.foreign.torch_files import (
    LAYOUTS,
    NUMBERS,
    Opcodes,
    ordered,
    pickled,
    storage,
    tensor,
)

GROUND_TRUTH = {
    "imlist": ["all_souls_000013", "radcliffe_camera_000519"],
    "qimlist": ["all_souls_000013"],
    "gnd": [{"bbx": (136.5, 34, 648, 955), "easy": [0, 70_000], "hard": np.arange(5), "junk": []}],
    7: [None, True, 2**80, b"bytes", {1, 2}, frozenset("a"), np.float64(0.5), np.array(["a"])],
}
# Opcodes that make much of little: nested pairs, deep lists, sets, repeated values, large numbers.
HOSTILE = (
    b")" + b"2\x86" * 50,
    b"]" * 20_000 + b"a" * 19_999,
    b"(" + b"\x8f" * 20_000 + b"l",
    b"(" + b"K\x07" + b"2" * 50_000 + b"t",
    b"\x8b" + (4000).to_bytes(4, "little") + b"\x7f" * 4000,
    b"\x94" * 20_000,
    b"}" + b")" + b"2\x87" * 40 + b"Ns",
)


def hostile(rng: np.random.Generator) -> bytes:
    """Opcodes that leave a value on the stack, or a string that is too long."""
    return HOSTILE[int(rng.integers(0, len(HOSTILE)))]


def read_a_damaged_pickle(rng: np.random.Generator, folder: Path) -> None:
    data = pickle.dumps(GROUND_TRUTH, int(rng.integers(0, 6)))
    if rng.random() < 0.3:
        at = int(rng.integers(2, len(data)))
        data = data[:at] + hostile(rng) + data[at:]
    data = damaged(data, rng) if rng.random() < 0.9 else data
    (folder / "gnd.pkl").write_bytes(data)
    read_plain_pickle(folder / "gnd.pkl", error=DelfjaxError)


def read_a_damaged_torch_checkpoint(rng: np.random.Generator, folder: Path) -> None:
    """Damage the pickle inside, so that the checksums of the archive are right, or all of it."""
    layout = LAYOUTS[int(rng.integers(0, len(LAYOUTS)))]
    whole = rng.random() < 0.2
    state = ordered({"conv.weight": tensor(storage(), size=(3, 4), stride=(4, 1)), "steps": 3})
    code = pickled({"state_dict": state, "epoch": 3})
    if not whole:
        if rng.random() < 0.4:
            at = int(rng.integers(0, len(code)))
            code = code[:at] + hostile(rng) + code[at:]
        code = damaged(code, rng)
    data = layout(Opcodes(code), {"0": NUMBERS})
    (folder / "model.pth").write_bytes(damaged(data, rng) if whole else data)
    read_torch_tensors(folder / "model.pth")


def read_a_damaged_index(rng: np.random.Generator, folder: Path) -> None:
    """Damage keys, values and blocks of a table; all checksums are right."""
    values = [("", header()), ("a/x", entry(1, (2, 3), 0, bytes(24)))]
    values += [(f"a/y{count}", entry(3, (), 24 + 4 * count, bytes(4))) for count in range(30)]
    chosen = int(rng.integers(0, len(values)))
    entries = [(key.encode(), value) for key, value in values]
    key, value = entries[chosen]
    where = int(rng.integers(0, 4))
    if where == 0:
        entries[chosen] = key, damaged(value, rng)
    elif where == 1:
        entries[chosen] = damaged(key, rng), value
    block = block_of(sorted(entries) if rng.random() < 0.9 else entries)
    block = damaged(block, rng) if where == 2 else block
    data = closed(block, 0)
    places = block_of([(b"zz", varint(0) + varint(len(block)))])
    places = damaged(places, rng) if where == 3 else places
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(places))
    data += closed(places, 0) + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")
    (folder / "model.index").write_bytes(data)
    (folder / "model.data-00000-of-00001").write_bytes(bytes(200))
    read_tf_tensors(folder / "model")


def read_a_damaged_object_graph(rng: np.random.Generator, folder: Path) -> None:
    paths = {f"layer{count}/{leaf}": f"net/{count}/{leaf}" for count in range(4) for leaf in "ab"}
    graph = object_graph(paths, keys={path: path for path in paths})
    held = {path: np.full((2, 3), 1, np.float32) for path in paths}
    write_bundle(folder / "objects", held, graph=damaged(graph, rng))
    (folder / "checkpoint").write_bytes(
        damaged(b'model_checkpoint_path: "objects"\n', rng)
        if rng.random() < 0.3
        else b'model_checkpoint_path: "objects"\n'
    )
    read_tf_tensors(folder, names="objects" if rng.random() < 0.5 else "variables")


def read_a_damaged_datum(rng: np.random.Generator, folder: Path) -> None:
    path = write_datum(folder / "pca.datum", np.arange(12, dtype=np.float32).reshape(3, 4))
    path.write_bytes(damaged(path.read_bytes(), rng))
    read_datum(path)


SAFETENSORS: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "BOOL", "shape": [], "data_offsets": [32, 33]},
}


def read_a_damaged_safetensors_file(rng: np.random.Generator, folder: Path) -> None:
    """Damage the header; its length is right."""
    described = damaged_json(SAFETENSORS, rng)
    data = struct.pack("<Q", len(described)) + described + bytes(33)
    (folder / "model.safetensors").write_bytes(damaged(data, rng) if rng.random() < 0.1 else data)
    read_safetensors(folder / "model.safetensors")


TRIALS: list[Trial] = [
    read_a_damaged_pickle,
    read_a_damaged_torch_checkpoint,
    read_a_damaged_index,
    read_a_damaged_object_graph,
    read_a_damaged_datum,
    read_a_damaged_safetensors_file,
]


def test_damaged_files_are_read_or_refused_in_one_clear_line() -> None:
    assert not failures(*TRIALS, count=40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("trial", TRIALS, ids=[trial.__name__ for trial in TRIALS])
def test_two_thousand_damaged_files_are_read_or_refused_in_one_clear_line(trial: Trial) -> None:
    assert not failures(trial, count=2000, seed=1)
