"""The runner of damaged inputs notices what a reader must not do."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np

from delfjax.errors import DelfjaxError
from tests.fuzzing import damaged, damaged_json, failures


def raises(rng: np.random.Generator, folder: Path) -> None:
    raise ValueError("unexpected")


def crashes(rng: np.random.Generator, folder: Path) -> None:
    os.abort()


def hangs(rng: np.random.Generator, folder: Path) -> None:
    while True:
        pass


def fills_the_memory(rng: np.random.Generator, folder: Path) -> None:
    np.ones(150 << 20, np.uint8)


def asks_for_more_than_there_is(rng: np.random.Generator, folder: Path) -> None:
    try:
        bytearray(1 << 40)
    except MemoryError:
        raise DelfjaxError(f"{folder}: damaged") from None


def deletes_elsewhere(rng: np.random.Generator, folder: Path) -> None:
    (Path(__file__).parent / "absent.txt").unlink(missing_ok=True)


def starts_a_process(rng: np.random.Generator, folder: Path) -> None:
    subprocess.run(["true"], check=True)


def hides_the_file(rng: np.random.Generator, folder: Path) -> None:
    raise DelfjaxError("some file is damaged")


def speaks_in_lines(rng: np.random.Generator, folder: Path) -> None:
    (folder / "given.bin").touch()
    raise DelfjaxError("given.bin: two\nlines")


def refuses(rng: np.random.Generator, folder: Path) -> None:
    (folder / "given.bin").write_bytes(damaged(b"content", rng))
    raise DelfjaxError("given.bin: is not what was expected")


REPORTED = {
    raises: "ValueError: unexpected",
    crashes: "ends the process with -6",
    hangs: "takes longer than 2 s",
    fills_the_memory: "MB of memory",
    asks_for_more_than_there_is: "runs out of memory",
    deletes_elsewhere: "absent.txt outside its folder",
    starts_a_process: "causes subprocess.Popen",
    hides_the_file: "names none of the files",
    speaks_in_lines: "not one line",
}


def test_every_misdeed_is_reported_and_the_next_input_is_tried() -> None:
    found = failures(refuses, *REPORTED, refuses, count=1, seconds=2.0, memory_bytes=100 << 20)
    assert len(found) == len(REPORTED)
    for line, (trial, reason) in zip(found, REPORTED.items(), strict=True):
        assert line.startswith(f"{__name__}:{trial.__name__} 0 0: ") and reason in line


def test_damage_depends_on_the_generator_alone_and_changes_something() -> None:
    value = {"a": [1, 2, {"b": "text"}], "c": {"d": None}}
    data = json.dumps(value).encode()
    for damage, given in ((damaged, data), (damaged_json, value)):
        made = [damage(given, np.random.default_rng(seed)) for seed in range(200)]  # type: ignore[operator]  # each takes its own kind of value
        again = [damage(given, np.random.default_rng(seed)) for seed in range(200)]  # type: ignore[operator]  # each takes its own kind of value
        assert made == again
        assert len(set(made)) > 150 and sum(each != data for each in made) > 180
