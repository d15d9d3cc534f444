"""A training resumes from the last checkpoint that is whole, says what is damaged, and is the only
one in its folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import google_crc32c
import jax
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pytest
import safetensors.numpy
import tensorstore

from delfjax.errors import DelfjaxWarning
from delfjax.models.weights import tensor_digest
from delfjax.training.batches import LabelledPhotos, TrainingError
from delfjax.training.checkpoints import Checkpoints
from delfjax.training.loop import METRICS, metric_lines
from delfjax.training.photo_record import same_photos
from tests.fuzzing import damaged, damaged_json, failures
from tests.kills import kill_at_every_step
from tests.unit.models.foreign.tensor_bundles import varint

ABOUT = {"seed": 3, "optimiser": {"name": "sgd"}}


def state(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "learnt": {"kernel": rng.normal(size=(7, 5)).astype(np.float32)},
        "optimiser": (np.array(seed, np.int32), {"trace": rng.normal(size=9).astype(np.float32)}),
    }


def same(found: Any, expected: Any) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(expected)))


def scores(accuracy: float) -> dict[str, float]:
    return {"loss": 1.5, "accuracy": accuracy}


def write_run(folder: Path, steps: int = 4) -> None:
    """A run whose first checkpoint is the best."""
    with Checkpoints(folder, ABOUT) as checkpoints:
        for step in range(1, steps + 1):
            checkpoints.save(step, state(step), scores(1 / step))


def kept(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "checkpoints").iterdir())


def resumed(folder: Path) -> tuple[int, Any, str]:
    """The step and state that a run resumes from, and the warning."""
    with Checkpoints(folder, ABOUT) as checkpoints, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        step, found = checkpoints.resume(state(0))
    return step, found, "\n".join(str(warning.message) for warning in said)


def test_the_last_two_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    write_run(tmp_path, 5)
    assert kept(tmp_path) == ["1.safetensors", "4.safetensors", "5.safetensors"]
    step, found, said = resumed(tmp_path)
    assert (step, said) == (5, "") and same(found, state(5))
    with Checkpoints(tmp_path, ABOUT) as checkpoints:
        assert (checkpoints.last, checkpoints.best) == (5, 1)
        assert checkpoints.validated == {step: scores(1 / step) for step in (1, 4, 5)}
        checkpoints.save(6, state(6), scores(1.0))
        assert checkpoints.best == 6, "the latest of equals"
    assert kept(tmp_path) == ["5.safetensors", "6.safetensors"]


def test_a_new_run_starts_at_the_beginning(tmp_path: Path) -> None:
    assert resumed(tmp_path / "new")[::2] == (0, "")


def test_without_photos_held_out_the_last_checkpoint_is_the_best(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, ABOUT) as checkpoints:
        for step in (2, 10):
            checkpoints.save(step, state(step), None)
        assert checkpoints.best == 10 and checkpoints.validated == {}


def test_arrays_are_placed_as_those_of_the_first_state(tmp_path: Path) -> None:
    start = jax.device_put(state(0), jax.local_devices()[0])
    with Checkpoints(tmp_path, ABOUT) as checkpoints:
        checkpoints.save(1, jax.device_put(state(1)), None)
        found = checkpoints.restore(1, start)
    assert same(found, state(1))
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(start), strict=True)
    assert all(leaf.sharding == other.sharding for leaf, other in leaves)


@pytest.mark.parametrize("number", range(25))
def test_a_flipped_bit_in_the_last_checkpoint_is_noticed(tmp_path: Path, number: int) -> None:
    write_run(tmp_path)
    file = tmp_path / "checkpoints" / "4.safetensors"
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(number)
    # The first trials hit the numbers at the end of the file.
    at = len(content) - 1 - int(rng.integers(150 if number < 8 else len(content)))
    content[at] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)
    step, found, said = resumed(tmp_path)
    assert step == 3 and same(found, state(3))
    assert said.startswith(f"{file}: ") and said.endswith("; training resumes from step 3")
    assert "\n" not in said
    with Checkpoints(tmp_path, ABOUT) as checkpoints:
        checkpoints.save(4, state(4), scores(0.25))
    assert resumed(tmp_path)[::2] == (4, "")


@pytest.mark.parametrize("damage", ["empty", "missing", "folder"])
def test_a_run_falls_back_to_the_best_and_then_says_how_to_start_again(
    tmp_path: Path, damage: str
) -> None:
    write_run(tmp_path)
    files = [tmp_path / "checkpoints" / f"{step}.safetensors" for step in (1, 3, 4)]
    for file in files[1:]:
        file.unlink()
        if damage == "folder":
            file.mkdir()
        elif damage == "empty":
            file.touch()
    step, found, said = resumed(tmp_path)
    assert step == 1 and same(found, state(1))
    assert (damage == "missing") == (said == "")
    files[0].write_bytes(b"")
    with pytest.raises(TrainingError) as error, Checkpoints(tmp_path, ABOUT):
        pass
    assert str(error.value).endswith(
        f"; no other checkpoint is whole; remove {tmp_path} to start again"
    )
    assert kept(tmp_path), "what is damaged is left to the user"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({**state(0), "more": np.zeros(2)}, "does not fit the network: 0 unexpected, 1 missing"),
        (jax.tree.map(np.float64, state(0)), "has type float32, expected float64"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: Path, other: dict[str, Any], said: str
) -> None:
    write_run(tmp_path)
    with Checkpoints(tmp_path, ABOUT) as checkpoints, pytest.raises(TrainingError, match=said):
        checkpoints.resume(other)


@pytest.mark.parametrize("content", [None, "", "[]", '{"seed": 3'])
def test_damaged_settings_are_restored_from_a_checkpoint(
    tmp_path: Path, content: str | None
) -> None:
    write_run(tmp_path)
    file = tmp_path / "training.json"
    whole = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_text(content)
    with (
        pytest.raises(TrainingError, match=r"a training run with optimiser\.name 'sgd', not 'ada'"),
        Checkpoints(tmp_path, {**ABOUT, "optimiser": {"name": "ada"}}),
    ):
        pass
    assert resumed(tmp_path)[0] == 4
    assert file.read_bytes() == whole


def test_a_run_that_has_not_begun_replaces_damaged_settings(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("")
    assert resumed(tmp_path)[0] == 0
    assert json.loads((tmp_path / "training.json").read_text()) == ABOUT


def test_damaged_lines_of_the_metrics_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 0.5, "accuracy": 1.0} for step in (1, 2, 3, 4)]
    text = [json.dumps(line) for line in lines]
    text[1] = text[1][:9]
    text[2] = '{"loss": 1.0}'
    (tmp_path / METRICS).write_bytes("\n".join([*text, '{"step": 5, "lo\xff']).encode("latin-1"))
    with pytest.warns(DelfjaxWarning, match="left out because they are damaged: 3 of 5"):
        assert metric_lines(tmp_path / METRICS) == [lines[0], lines[3]]
    assert metric_lines(tmp_path / "none") == []


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond ``limit`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 1, 700])
def test_a_full_disk_is_named_once_and_leaves_the_earlier_checkpoints(
    tmp_path: Path, room: int, capfd: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, 2)
    with Checkpoints(tmp_path, ABOUT) as checkpoints:
        with full_disk(room), pytest.raises(OSError, match=r"checkpoints/3\.safetensors'$"):
            checkpoints.save(3, state(3), scores(0.1))
        assert kept(tmp_path) == ["1.safetensors", "2.safetensors"]
        assert checkpoints.last == 2
        checkpoints.save(3, state(3), scores(0.1))
    assert capfd.readouterr().err == ""
    assert resumed(tmp_path)[0] == 3


def test_the_second_training_in_a_folder_waits_for_the_first_and_names_it(tmp_path: Path) -> None:
    ready, end = threading.Event(), threading.Event()

    def first() -> None:
        with Checkpoints(tmp_path, ABOUT) as checkpoints:
            checkpoints.save(1, state(1), None)
            ready.set()
            end.wait(60)
            checkpoints.save(2, state(2), None)

    said: list[str] = []

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        said.append(str(message))
        end.set()

    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings():
        running = pool.submit(first)
        assert ready.wait(60)
        with (
            pytest.raises(TrainingError, match="with seed 3, not 4"),
            Checkpoints(tmp_path, {**ABOUT, "seed": 4}),
        ):
            pass
        warnings.showwarning = show
        warnings.simplefilter("always")
        with Checkpoints(tmp_path, ABOUT) as checkpoints:
            assert checkpoints.last == 2
        running.result()
    assert len(said) == 1
    assert said[0].startswith(f"{tmp_path}: process {os.getpid()} on ")
    assert said[0].endswith(" is training in this folder; waiting for it to end")


SAVE = """
from pathlib import Path
from tests.unit.training.test_checkpoints import ABOUT, Checkpoints, scores, state
"""
RESUME = """
with Checkpoints(Path("run"), ABOUT) as checkpoints:
    first, _ = checkpoints.resume(state(0))
    for step in range(first + 1, 5):
        checkpoints.save(step, state(step), scores(1 / step))
"""


@pytest.mark.slow
def test_a_training_that_is_killed_at_any_step_resumes_from_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No kill stops the machine; waiting for the disk would take most of the time.
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    place = tmp_path / "place"
    place.mkdir()
    write_run(place / "run", 3)

    def check() -> None:
        copy = tmp_path / "copy"
        shutil.copytree(place / "run", copy)
        try:
            step, found, said = resumed(copy)
            assert step >= 3 and same(found, state(step)) and not said
            with Checkpoints(copy, ABOUT) as checkpoints:
                assert checkpoints.best == 1 and same(checkpoints.restore(1, found), state(1))
            assert not list(copy.rglob(".*.tmp"))
        finally:
            shutil.rmtree(copy)

    kills = kill_at_every_step(
        place, setup=SAVE, action=RESUME, check=check, size_limits=(0, 100, 1000)
    )
    assert kills >= 15
    assert kept(place / "run") == ["1.safetensors", "3.safetensors", "4.safetensors"]


def write_earlier(folder: Path, steps: tuple[int, ...]) -> None:
    """Checkpoints as earlier versions wrote them."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(best_fn=lambda found: found["accuracy"])
    with ocp.CheckpointManager(folder.resolve() / "checkpoints", options=options) as manager:
        for step in steps:
            manager.save(step, args=ocp.args.StandardSave(state(step)), metrics=scores(1 / step))
    (folder / "training.json").write_text(json.dumps(ABOUT))


def test_a_run_of_an_earlier_version_resumes_and_is_continued_in_this_format(
    tmp_path: Path,
) -> None:
    write_earlier(tmp_path, (1, 2, 3))
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-7").mkdir()
    start = jax.device_put(state(0))
    with Checkpoints(tmp_path, ABOUT) as checkpoints:
        assert checkpoints.validated == {step: scores(1 / step) for step in (1, 2, 3)}
        with pytest.warns(DelfjaxWarning, match="3: was written by an earlier version, without a"):
            step, found = checkpoints.resume(start)
        assert step == 3 and same(found, state(3))
        checkpoints.save(4, state(4), scores(0.1))
        assert kept(tmp_path) == ["1", "3", "4.safetensors"]
        assert checkpoints.best == 1
        checkpoints.save(5, state(5), scores(1.0))
    assert kept(tmp_path) == ["4.safetensors", "5.safetensors"]


def test_a_damaged_checkpoint_of_an_earlier_version_is_left_out(tmp_path: Path) -> None:
    write_earlier(tmp_path, (1, 2))
    for file in (tmp_path / "checkpoints" / "2" / "default").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    start = jax.device_put(state(0))
    with Checkpoints(tmp_path, ABOUT) as checkpoints, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        step, found = checkpoints.resume(start)
    assert step == 1 and same(found, state(1))
    assert "training resumes from step 1" in str(said[-1].message)


ARRAY = "learnt.kernel"


def database(folder: Path) -> tensorstore.KvStore:
    """The arrays of an earlier version's checkpoint 2."""
    place = {"driver": "file", "path": f"{folder.resolve()}/checkpoints/2/default/"}
    options = {"file_io_sync": False}
    spec = {"driver": "ocdbt", "base": place, "context": options}
    return tensorstore.KvStore.open(spec).result()


def change_layout(held: tensorstore.KvStore, **changed: object) -> None:
    held[f"{ARRAY}/.zarray"] = json.dumps(
        {**json.loads(held[f"{ARRAY}/.zarray"]), **changed}
    ).encode()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda held: held.write(f"{ARRAY}/0.0", None).result(), '"learnt.kernel/0.0" in OCDBT'),
        (lambda held: held.write(f"{ARRAY}/.zarray", None).result(), "learnt.kernel is missing"),
        (
            lambda held: held.write(f"{ARRAY}/0.0", held[f"{ARRAY}/0.0"][:-3]).result(),
            '"learnt.kernel/0.0" in OCDBT',
        ),
        (
            # Reading one of these pieces would take a gigabyte.
            lambda held: change_layout(held, chunks=[1 << 14, 1 << 14]),
            r"in pieces of shape \[16384, 16384\], expected at most \[7, 5\]",
        ),
        (
            lambda held: change_layout(held, shape=[7, 6]),
            r"learnt.kernel has shape \[7, 6\], expected \[7, 5\]",
        ),
        (
            lambda held: change_layout(held, dtype="<i4"),
            "learnt.kernel has type int32, expected float32",
        ),
    ],
    ids=["missing piece", "missing array", "cut piece", "large pieces", "shape", "type"],
)
def test_a_damaged_array_of_an_earlier_version_is_named_in_one_line(
    tmp_path: Path, damage: Callable[[tensorstore.KvStore], object], reason: str
) -> None:
    write_earlier(tmp_path, (2,))
    damage(database(tmp_path))
    with (
        Checkpoints(tmp_path, ABOUT) as checkpoints,
        pytest.warns(DelfjaxWarning, match="written by an earlier version"),
        pytest.raises(TrainingError, match=reason) as error,
    ):
        checkpoints.restore(2, jax.device_put(state(0)))
    assert str(tmp_path / "checkpoints" / "2") in str(error.value)
    assert str(error.value).isprintable()


def write_photos(folder: Path) -> LabelledPhotos:
    photos = LabelledPhotos(folder, ["a.png", "b.png"], np.array([0, 1]), 2, ("1f", "2f"))
    same_photos(folder, photos, resumed=False)
    return photos


def read_a_damaged_run(rng: np.random.Generator, folder: Path) -> None:
    """One file of a run is damaged; digests are computed again where the damage is to get past
    them."""
    write_run(folder, 2)
    photos = write_photos(folder)
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "validation_loss": 1.0}]
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    kind = rng.integers(6)
    if kind == 0:
        (folder / "training.json").write_bytes(damaged_json(ABOUT, rng))
    elif kind == 1:
        file = folder / "photos.json"
        file.write_bytes(damaged_json(json.loads(file.read_text()), rng))
    elif kind == 2:
        line = damaged_json(lines[0], rng)
        whole = (folder / METRICS).read_bytes()
        (folder / METRICS).write_bytes(damaged(whole, rng) if rng.random() < 0.3 else line + whole)
    else:
        damage_checkpoint(folder / "checkpoints" / "2.safetensors", kind, rng)
    if rng.random() < 0.2:
        (folder / "checkpoints" / "1.safetensors").write_bytes(rng.bytes(30))
    with Checkpoints(folder, ABOUT) as checkpoints:
        same_photos(folder, photos, resumed=True)
        step, found = checkpoints.resume(state(0))
        metric_lines(folder / METRICS)
        assert step in (1, 2)
        assert all(
            leaf.dtype == other.dtype and leaf.shape == other.shape
            for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(state(0)), strict=True)
        )
        checkpoints.save(3, found, scores(0.5))
    assert resumed(folder)[0] == 3


def damage_checkpoint(file: Path, kind: int, rng: np.random.Generator) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, values = content[8 : 8 + length], content[8 + length :]
    if kind == 3:
        file.write_bytes(damaged(content, rng))
    elif kind == 4:
        header = damaged_json(json.loads(header), rng)
        file.write_bytes(len(header).to_bytes(8, "little") + header + values)
    else:
        parsed = json.loads(header)
        described = json.loads(parsed["__metadata__"]["delfjax"])
        with suppress(ValueError, RecursionError):
            described["config"]["record"] = json.loads(
                damaged_json(described["config"]["record"], rng)
            )
        record = json.dumps(described["config"]["record"], sort_keys=True)
        described["config"]["record_digest"] = hashlib.sha256(record.encode()).hexdigest()
        if rng.random() < 0.3:
            values = damaged(values, rng)[: len(values)].ljust(len(values), b"\0")
        parsed["__metadata__"]["delfjax"] = json.dumps(described)
        file.write_bytes(with_length(parsed) + values)
        described["digest"] = tensor_digest(safetensors.numpy.load_file(file))
        parsed["__metadata__"]["delfjax"] = json.dumps(described)
        file.write_bytes(with_length(parsed) + values)


def with_length(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@functools.cache
def earlier_files() -> dict[str, bytes]:
    """The files of a run of an earlier version that are read, by their names below its folder."""
    with tempfile.TemporaryDirectory() as folder:
        write_earlier(Path(folder), (2,))
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(Path(folder).rglob("*"))
            if file.is_file()
        }
    # What each process wrote is copied into one database, from which alone is read.
    return {name: data for name, data in files.items() if "ocdbt.process_0" not in name}


def body_of(content: bytes) -> bytes:
    """What is inside a file of the database."""
    packed = pa.BufferReader(content[14:-4])
    return pa.CompressedInputStream(packed, "zstd").read() if content[13] else content[14:-4]


def node(magic: bytes, body: bytes, *, packed: bool) -> bytes:
    """A file of the database, with its length and its checksum."""
    body = pa.Codec("zstd").compress(body, asbytes=True) if packed else body
    whole = magic + (len(body) + 18).to_bytes(8, "little") + bytes([0, packed]) + body
    return whole + google_crc32c.value(whole).to_bytes(4, "little")


def damage_the_database(folder: Path, rng: np.random.Generator) -> None:
    """Damage what is inside a file of the database; all lengths and checksums are right."""
    manifest = folder / "manifest.ocdbt"
    names = body_of(manifest.read_bytes())
    if rng.random() < 0.5:
        names = damaged(names, rng)
    else:
        (tree,) = (folder / "d").iterdir()
        before = tree.read_bytes()
        body = damaged(body_of(before), rng)
        if rng.random() < 0.05:
            body += bytes(1 << 25)
        after = node(before[:4], body, packed=rng.random() < 0.5)
        tree.write_bytes(after)
        names = names.replace(varint(len(before)), varint(len(after)))
    manifest.write_bytes(node(manifest.read_bytes()[:4], names, packed=rng.random() < 0.5))


def read_a_damaged_checkpoint_of_an_earlier_version(rng: np.random.Generator, folder: Path) -> None:
    for name, content in earlier_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    kind = rng.integers(4)
    if kind == 0:
        damage_a_file(folder / str(rng.choice(list(earlier_files()))), rng)
    elif kind == 1:
        damage_the_database(folder / "checkpoints" / "2" / "default", rng)
    elif kind == 2:
        held = database(folder)
        held[f"{ARRAY}/.zarray"] = damaged_json(json.loads(held[f"{ARRAY}/.zarray"]), rng)
    else:
        held = database(folder)
        held[f"{ARRAY}/0.0"] = damaged(held[f"{ARRAY}/0.0"], rng)
    with Checkpoints(folder, ABOUT) as checkpoints:
        step, found = checkpoints.resume(jax.device_put(state(0)))
    assert step == 2
    assert all(
        leaf.dtype == other.dtype and leaf.shape == other.shape
        for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(state(0)), strict=True)
    )


def damage_a_file(file: Path, rng: np.random.Generator) -> None:
    content = file.read_bytes()
    try:
        content = damaged_json(json.loads(content), rng)
    except ValueError:
        content = damaged(content, rng)
    file.write_bytes(content)


def test_damaged_runs_are_resumed_or_refused_in_one_line() -> None:
    assert not failures(read_a_damaged_run, count=25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_damaged_runs_are_resumed_or_refused_in_one_line() -> None:
    assert not failures(read_a_damaged_run, count=2000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_damaged_checkpoints_of_earlier_versions_are_read_or_refused_in_one_line() -> (
    None
):
    assert not failures(read_a_damaged_checkpoint_of_an_earlier_version, count=2000)
