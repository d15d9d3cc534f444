"""Programs kept on disk: traced once, found by other processes, made again when damaged."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from delfjax import paths, programs
from delfjax.device import count_compilations
from delfjax.programs import StoredProgram, description

# Says how often the function was run by Python, and what the program returned.
_SCRIPT = """
import jax, numpy as np
from delfjax import device
from delfjax.programs import StoredProgram
device.use_compilation_cache()
traced = []
def double(batch):
    traced.append(1)
    return batch["x"] * 2, batch["x"].sum()
program = StoredProgram(double, settings={"program": "double"})
with device.count_compilations() as count:
    twice, total = program({"x": np.arange(5, dtype=np.float32)})
print(len(traced) > 0, count.compiled, twice.tolist(), float(total))
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    monkeypatch.setattr(programs, "_LOADED", {})
    return tmp_path


def _files() -> list[Path]:
    return sorted(paths.program_cache().iterdir()) if paths.program_cache().is_dir() else []


def _square(x: jax.Array) -> tuple[jax.Array, ...]:
    return (x * x,)


def test_a_second_process_neither_traces_nor_compiles(root: Path) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == [
        "True 1 [0.0, 2.0, 4.0, 6.0, 8.0] 10.0",
        "False 0 [0.0, 2.0, 4.0, 6.0, 8.0] 10.0",
    ]


def test_other_shapes_types_and_settings_are_other_programs(root: Path) -> None:
    for settings in ({"program": "square"}, {"program": "square", "level": 2}):
        for argument in (
            np.arange(3, dtype=np.float32),
            np.arange(4, dtype=np.float32),
            np.arange(3, dtype=np.int32),
        ):
            (result,) = StoredProgram(_square, settings=settings)(argument)
            assert result.tolist() == (argument * argument).tolist()
    assert len(_files()) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_made_again(root: Path, damage: str) -> None:
    argument = np.arange(3, dtype=np.float32)
    StoredProgram(_square, settings={"program": "square"})(argument)
    (file,) = _files()
    whole = file.read_bytes()
    programs._LOADED.clear()  # as in another process
    file.write_bytes(
        {"cut": whole[:-1], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage]
    )
    (result,) = StoredProgram(_square, settings={"program": "square"})(argument)
    assert result.tolist() == [0, 1, 4]
    assert len(file.read_bytes()) == len(whole)


def test_a_second_object_of_the_same_settings_loads_nothing(root: Path) -> None:
    argument = np.arange(3, dtype=np.float32)
    StoredProgram(_square, settings={"program": "square"})(argument)
    with count_compilations() as count:
        (result,) = StoredProgram(_square, settings={"program": "square"})(argument)
    assert result.tolist() == [0, 1, 4] and count.programs == 0


def test_threads_make_a_program_once(root: Path) -> None:
    traced = []

    def counted(x: jax.Array) -> tuple[jax.Array, ...]:
        traced.append(1)
        return _square(x)

    program = StoredProgram(counted, settings={"program": "counted"})
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda k: program(np.full(3, k, np.float32))[0].tolist(), range(32))
        )
    assert results == [[k * k] * 3 for k in range(32)]
    assert len(traced) == 1 and len(_files()) == 1


def test_nothing_is_written_while_no_cache_is_in_use(root: Path) -> None:
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        (result,) = StoredProgram(_square, settings={"program": "square"})(
            np.arange(3, dtype=np.float32)
        )
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert result.tolist() == [0, 1, 4] and not _files()


def test_a_description_has_no_address() -> None:
    assert description({"f": _square}) == "{'f': <function _square>}"
