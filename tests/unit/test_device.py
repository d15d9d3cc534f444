"""The count of compilations, and the cache of compiled programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pytest

from delfjax import device


def test_a_program_is_counted_at_its_first_call_only() -> None:
    @jax.jit
    def fresh(x: jax.Array) -> jax.Array:
        return x * 3 + 0.12345

    x = np.ones((3, 5), np.float32)
    with device.count_compilations() as first:
        fresh(x).block_until_ready()
    with device.count_compilations() as second:
        fresh(x).block_until_ready()
    with device.count_compilations() as other_shape:
        fresh(x[:2]).block_until_ready()
    assert (first.programs, second.programs, other_shape.programs) == (1, 0, 1)
    assert second.compiled == 0 and other_shape.compiled <= 1


def test_nothing_is_counted_after_the_block() -> None:
    with device.count_compilations() as count:
        pass
    jax.jit(lambda x: x - 0.54321)(np.ones(7, np.float32)).block_until_ready()
    assert (count.programs, count.compiled) == (0, 0)


def test_nested_blocks_count_separately() -> None:
    with device.count_compilations() as outer:
        jax.jit(lambda x: x - 0.11111)(np.ones(7, np.float32)).block_until_ready()
        with device.count_compilations() as inner:
            jax.jit(lambda x: x - 0.22222)(np.ones(7, np.float32)).block_until_ready()
    assert (outer.programs, inner.programs) == (2, 1)


def test_a_moved_cache_still_holds_every_program(tmp_path: Path) -> None:
    script = (
        "import jax, numpy as np; from delfjax import device; device.use_compilation_cache();"
        "f = jax.jit(lambda x: x * 3 - 0.98765)\n"
        "with device.count_compilations() as count: f(np.ones(7, np.float32)).block_until_ready()\n"
        "print(count.programs, count.compiled)"
    )

    def count(root: Path) -> str:
        environment = {**os.environ, "DELFJAX_DATA": str(root)}
        return subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert count(tmp_path / "here") == "1 1\n"
    (tmp_path / "here").rename(tmp_path / "elsewhere")
    assert count(tmp_path / "elsewhere") == "1 0\n"


def test_a_damaged_entry_of_the_cache_is_compiled_again_once_and_without_a_word(
    tmp_path: Path,
) -> None:
    script = (
        "import jax, numpy as np; from delfjax import device; device.use_compilation_cache();"
        "f = jax.jit(lambda x: x * 5 - 0.45678)\n"
        "with device.count_compilations() as count: f(np.ones(7, np.float32)).block_until_ready()\n"
        "print(count.compiled)"
    )

    def compiled() -> str:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "DELFJAX_DATA": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    assert compiled() == "1\n"
    (entry,) = (tmp_path / "cache" / "xla" / version("jaxlib")).iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    assert [compiled(), compiled()] == ["1\n", "0\n"]


def test_devices_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.explain(RuntimeError("some fault")) is None
    assert "out of memory" in str(device.explain(RuntimeError("RESOURCE_EXHAUSTED: 9 bytes")))

    def missing() -> None:
        raise RuntimeError("no backend 'abacus'")

    monkeypatch.setattr(jax, "devices", missing)
    assert re.search(
        r"JAX_PLATFORMS=.*: no such device \(no backend 'abacus'\); unset",
        str(device.explain(AssertionError())),
    )
