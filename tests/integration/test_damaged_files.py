"""Files that others made and that may be damaged on purpose: each is read, or refused in one clear
line, within limits of time and memory."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import yaml

from delfjax.config import ConfigError, DelfConfig
from delfjax.errors import DelfjaxError
from delfjax.models.foreign.delf_release import read_datum
from delfjax.models.foreign.tf_checkpoints import read_tf_tensors
from delfjax.models.foreign.torch_checkpoints import read_torch_tensors
from delfjax.models.model_files import (
    BACKBONE,
    REDUCTION,
    SCORER,
    card,
    load_part,
    override_system,
    part_digest,
    record_scores,
    save_model,
)
from delfjax.models.weights import read_description, read_safetensors
from delfjax.pickles import read_plain_pickle
from delfjax.suite.running.notebook_rules import cell_titles, check, fix, read_notebook
from delfjax.suite.running.runner import prepare
from delfjax.suite.running.sweeps import plan_sweep, read_sweep
from delfjax.suite.runs.comparison import compare
from delfjax.suite.runs.folders import find_run, open_run
from tests.fuzzing import ROOT, Trial, damaged, damaged_json, failures
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


EVALUATION = {
    "dataset": "photos",
    "config_hash": "0123456789",
    "tiers": {"easy": {"inliers": 0.5, "votes": 0.25}},
    "results": {"labelled": {"inliers": {"means": {"mAP": 0.5, "recall": None}}}},
}
SYSTEM = {
    BACKBONE: {"name": "resnet50", "stride_layout": "keras", "output": "conv4"},
    SCORER: {"kind": "attention", "hidden": 8},
    "features": {"scales": [0.5, 1.0], "border_px": 3},
    REDUCTION: {"dim": 2, "whiten": False},
}
MADE_FOR = {"backbone": {"name": "resnet50", "weights": "0" * 64}}
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    BACKBONE: {"name": "resnet50", "stride_layout": "keras", "best_step": 20, "seconds": 3.5},
    SCORER: {"name": "delg", "hidden": 8, "code_dim": 4, "rectified": True, **MADE_FOR},
    REDUCTION: {"dim": 2, "whiten": False, "explained": 0.5, "same_backbone": None, **MADE_FOR},
}


def read_a_damaged_weight_card(rng: np.random.Generator, folder: Path) -> None:
    """Damage the card in a weight file or beside it, or an evaluation to be recorded in it."""
    file = folder / "model.safetensors"
    scores = [{"dataset": "photos", "config_hash": "a", "inliers": {"easy": 0.5}}]
    parts = {part: ({"x": NUMBERS}, about) for part, about in DESCRIPTIONS.items()}
    save_model(file, parts, system=SYSTEM, about={"scores": scores, "receptive_field": {"px": 9}})
    about, tensors = read_description(file), read_safetensors(file)
    described = json.dumps(about).encode()
    evaluation = json.dumps(EVALUATION).encode()
    if rng.random() < 0.3:
        evaluation = damaged_json(EVALUATION, rng)
    elif rng.random() < 0.7:
        described = (
            b'{"format": "delfjax-weights", "version": 1, "model": "delf", "digest": "%s", '
            b'"config": %s}' % (about["digest"].encode(), damaged_json(about["config"], rng))
        )
    else:
        described = damaged_json(about, rng)
    if rng.random() < 0.5:
        metadata = {"delfjax": described.decode(errors="replace")}
        file.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))
    else:
        # As earlier versions wrote it.
        file.write_bytes(safetensors.numpy.save(tensors))
        file.with_suffix(".json").write_bytes(described)
    (folder / "scores.json").write_bytes(evaluation)
    list(card(file))
    for part in DESCRIPTIONS:
        part_digest(file, part)
        load_part(file, part)
    record_scores(file, [folder / "scores.json"])
    list(card(file))
    try:
        override_system(DelfConfig(), [f"model={file}"])
    except ConfigError as error:
        # The settings of a readable card may be wrong; their error names the field.
        raise ConfigError(f"{file}: {error}") from None


SWEEP = {
    "question": "Which number of features is enough?",
    "notebooks": ["30", "41"],
    "preset": "ci",
    "dataset": "world",
    "grid": {"features.max_features": [150, 300]},
    "zip": {"search.neighbours": [5, 10], "index.kind": ["exact", "ivf"]},
    "list": [{"features.border_px": 3}],
    "seeds": [0, 1],
}


def read_a_damaged_sweep(rng: np.random.Generator, folder: Path) -> None:
    """JSON is YAML as well; other YAML is written in blocks and damaged by bytes."""
    data = damaged_json(SWEEP, rng)
    if rng.random() < 0.4:
        text = yaml.safe_dump(SWEEP).replace("- 150", "- &a 2026-02-30\n  - *a\n  - !!set {a}")
        data = damaged(text.encode(), rng)
    (folder / "sweep.yaml").write_bytes(data)
    sweep = read_sweep(folder / "sweep.yaml")
    try:
        plan_sweep(sweep)
    except DelfjaxError as error:
        raise DelfjaxError(f"sweep.yaml: {error}") from None


def read_a_damaged_notebook(rng: np.random.Generator, folder: Path) -> None:
    """Damage the JSON of a notebook of the suite, or the bytes of its cells' code."""
    whole = json.loads((ROOT / "notebooks" / "30_extract_features.ipynb").read_text("utf-8"))
    if rng.random() < 0.3:
        cell = whole["cells"][int(rng.integers(0, len(whole["cells"])))]
        source = damaged("".join(cell["source"]).encode(), rng)
        cell["source"] = source.decode("utf-8", "replace")
        data = json.dumps(whole).encode()
    else:
        data = damaged_json(whole, rng)
    file = folder / "30_extract_features.ipynb"
    file.write_bytes(data)
    check(file)
    cell_titles(read_notebook(file))
    fix(file)
    try:
        prepare(file, {})
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


RUN: dict[str, dict[str, Any]] = {
    "config.json": {"seed": 0, "features": {"max_features": 300, "scales": [0.5, 1.0]}},
    "results.json": {"easy": {"mAP": 0.5, "queries": 12}, "curve": [1, 0.5], "method": "exact"},
    "provenance.json": {
        "delfjax": "1.0",
        "python": "3.11.7",
        "packages": {"jax": "0.10.2"},
        "device": "cpu cpu",
        "git": {"commit": "0" * 40, "dirty": False},
        "parameters": {"preset": "ci", "seed": 0},
        "command": "delfjax run 41",
        "finished": "2026-01-02T03:04:05+00:00",
        "seconds": 12.5,
        "timings": {"search": 0.5},
        "upstream": {"index": "40_build_index/0123456789"},
    },
}
SCORES = {"a.jpg": 0.5, "b.jpg": 1, "c.jpg": 0.0}


def read_a_damaged_run(rng: np.random.Generator, folder: Path) -> None:
    """Damage one file of two runs, and recompute the digests of the run."""
    os.environ["DELFJAX_DATA"] = str(folder)
    chosen = str(rng.choice([*RUN, "mAP.json", "DONE"]))
    for number in (0, 1):
        run = folder / "runs" / "41_search_and_verify" / f"{number}123456789"
        (run / "queries").mkdir(parents=True)
        digests = {}
        for name, values in RUN.items():
            plain = {**values, "seed": number} if name == "config.json" else values
            damage = number == 0 and name == chosen
            data = damaged_json(plain, rng) if damage else json.dumps(plain).encode()
            (run / name).write_bytes(data)
            digests[name] = hashlib.sha256(data).hexdigest()
        hit = number == 0 and chosen == "mAP.json"
        scores = damaged_json(SCORES, rng) if hit else json.dumps(SCORES).encode()
        (run / "queries" / "mAP.json").write_bytes(scores)
        hit = number == 0 and chosen == "DONE"
        done = damaged_json(digests, rng) if hit else json.dumps(digests).encode()
        (run / "DONE").write_bytes(done)
    str(compare("41"))
    first = open_run(folder / "runs" / "41_search_and_verify" / "0123456789")
    first.query_scores()
    find_run("41_search_and_verify", "0123", {})


TRIALS: list[Trial] = [
    read_a_damaged_pickle,
    read_a_damaged_torch_checkpoint,
    read_a_damaged_index,
    read_a_damaged_object_graph,
    read_a_damaged_datum,
    read_a_damaged_safetensors_file,
    read_a_damaged_weight_card,
    read_a_damaged_sweep,
    read_a_damaged_notebook,
    read_a_damaged_run,
]


def test_damaged_files_are_read_or_refused_in_one_clear_line() -> None:
    assert not failures(*TRIALS, count=15)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("trial", TRIALS, ids=[trial.__name__ for trial in TRIALS])
def test_two_thousand_damaged_files_are_read_or_refused_in_one_clear_line(trial: Trial) -> None:
    assert not failures(trial, count=2000, seed=1)
