"""Programs stored on disk are traced once, found by other processes, and exported again if
damaged."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from delfjax import paths, programs
from delfjax.config import DelfConfig, VerificationConfig, override
from delfjax.device import count_compilations
from delfjax.features.extractor import Extractor
from delfjax.models.delf import load_delf
from delfjax.programs import StoredProgram, description
from delfjax.retrieval import verification
from delfjax.world import rendering

# Says how often the function was run by Python, and what the program returned.
_SCRIPT = """
import jax, numpy as np
from delfjax import device
from delfjax.programs import StoredProgram
from delfjax.types import LocalFeatures
device.use_compilation_cache()
traced = []
def double(batch):
    traced.append(1)
    x = batch["x"]
    local = LocalFeatures(
        keypoints_yx=x[:, None] * jax.numpy.ones(2), scales=x, scores=x * 2,
        descriptors=x[:, None], valid=x > 0,
    )
    return {"local": local, "total": (x.sum(),)}
program = StoredProgram(double, settings={"program": "double"})
with device.count_compilations() as count:
    found = program({"x": np.arange(3, dtype=np.float32)})
said = type(found["local"]).__name__, found["local"].scores.tolist(), float(found["total"][0])
print(len(traced) > 0, count.compiled, *said)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    monkeypatch.setattr(programs, "_LOADED", {})
    return tmp_path


def _files() -> list[Path]:
    return sorted(paths.program_cache().iterdir()) if paths.program_cache().is_dir() else []


def _square(x: jax.Array) -> jax.Array:
    return x * x


def test_a_second_process_neither_traces_nor_compiles(root: Path) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == [
        "True 1 LocalFeatures [0.0, 2.0, 4.0] 3.0",
        "False 0 LocalFeatures [0.0, 2.0, 4.0] 3.0",
    ]


def test_other_shapes_types_and_settings_are_other_programs(root: Path) -> None:
    for settings in ({"program": "square"}, {"program": "square", "level": 2}):
        for argument in (
            np.arange(3, dtype=np.float32),
            np.arange(4, dtype=np.float32),
            np.arange(3, dtype=np.int32),
        ):
            result = StoredProgram(_square, settings=settings)(argument)
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
    result = StoredProgram(_square, settings={"program": "square"})(argument)
    assert result.tolist() == [0, 1, 4]
    assert len(file.read_bytes()) == len(whole)


@pytest.mark.parametrize("place", ["", "programs"])
def test_a_cache_that_cannot_be_written_is_done_without_after_one_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    cache = root / "cache" / place
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("not a folder")
    monkeypatch.setattr(programs, "_UNWRITABLE", set())
    argument = np.arange(3, dtype=np.float32)
    with pytest.warns(UserWarning, match=r"cache: .*, so every process compiles again") as said:
        for name in ("one", "other"):
            result = StoredProgram(_square, settings={"program": name})(argument)
            assert result.tolist() == [0, 1, 4]
    assert len(said) == 1 and cache.read_text() == "not a folder"


def test_a_second_object_of_the_same_settings_loads_nothing(root: Path) -> None:
    argument = np.arange(3, dtype=np.float32)
    StoredProgram(_square, settings={"program": "square"})(argument)
    with count_compilations() as count:
        result = StoredProgram(_square, settings={"program": "square"})(argument)
    assert result.tolist() == [0, 1, 4] and count.programs == 0


def test_threads_make_a_program_once(root: Path) -> None:
    traced = []

    def counted(x: jax.Array) -> jax.Array:
        traced.append(1)
        return _square(x)

    program = StoredProgram(counted, settings={"program": "counted"})
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda k: program(np.full(3, k, np.float32)).tolist(), range(32)))
    assert results == [[k * k] * 3 for k in range(32)]
    assert len(traced) == 1 and len(_files()) == 1


def test_other_sources_are_other_programs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = StoredProgram(_square, settings={"program": "square"})
    for digest in ("one", "other", "one"):
        monkeypatch.setattr(programs, "source_digest", {__name__: digest}.__getitem__)
        again = StoredProgram(_square, settings={"program": "square"})
        assert again(np.arange(3, dtype=np.float32)).tolist() == [0, 1, 4]
    assert program.module == __name__ and len(_files()) == 2


def test_a_program_depends_on_the_module_that_defines_its_function() -> None:
    config = override(DelfConfig(), ["scorer.kind=norm", "features.scales=[1.0]"])
    extractor = Extractor(config, load_delf(config))
    of_extractor = (extractor._best, extractor._merge)
    assert {program.module for program in of_extractor} == {"delfjax.features.extractor"}
    of_backbone = extractor._dense.values()
    assert {program.module for program in of_backbone} == {"delfjax.features.batching"}
    effort = verification._effort(VerificationConfig())
    assert verification._fit(effort).module == "delfjax.retrieval.verification"
    of_renderer = (rendering._PHOTOGRAPH, rendering._TRUTH, rendering._film((32, 32)))
    assert {program.module for program in of_renderer} == {"delfjax.world.rendering"}


def test_nothing_is_written_while_no_cache_is_in_use(root: Path) -> None:
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        result = StoredProgram(_square, settings={"program": "square"})(
            np.arange(3, dtype=np.float32)
        )
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert result.tolist() == [0, 1, 4] and not _files()


def test_a_description_has_no_address() -> None:
    assert description({"f": _square}) == "{'f': <function _square>}"
