"""What every test runs under: checked shapes, strict promotion, and a data root of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Before the first import of the library: from here on its annotated shapes and types are checked at
# every call.
install_import_hook("delfjax", "beartype.beartype")

from delfjax import device  # noqa: E402 - the hook goes first
from delfjax.suite.running import notebook_schema  # noqa: E402, F401 - before tests that import nbformat

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run, none kept in the checkout; compilation makes single examples slow.
settings.register_profile("delfjax", derandomize=True, database=None, deadline=None)
settings.load_profile("delfjax")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: begun last, it would keep one worker busy long after the other has
    nothing to do."""
    items.sort(key=lambda item: item.path.name != "test_execution.py")


@pytest.fixture(scope="session", autouse=True)
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data root of this test session: nothing is written in the checkout.

    Workers of a parallel run share it, and with it the compiled programs, also those of the
    commands that tests start.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "delfjax-data"
    root.mkdir(exist_ok=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("DELFJAX_DATA", str(root))
    device.use_compilation_cache()
    yield root
    patch.undo()


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with the same seed for every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def textured_image() -> np.ndarray:
    """A 96×128 RGB image with structure at every scale, uint8: sums of random waves, different in
    each channel."""
    generator = np.random.default_rng(1)
    rows, columns = np.mgrid[0:96, 0:128].astype(np.float64)
    waves = np.zeros((96, 128, 3))
    for period in (64, 32, 16, 8, 4):
        angle, phase = generator.uniform(0, 2 * np.pi, (2, 3))
        turns = (rows[..., None] * np.sin(angle) + columns[..., None] * np.cos(angle)) / period
        waves += np.sin(2 * np.pi * turns + phase) * period**0.5
    scaled = (waves - waves.min()) / (waves.max() - waves.min())
    return np.round(255 * scaled).astype(np.uint8)
