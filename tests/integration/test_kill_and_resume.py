"""kill -9 at any moment of an extraction: the next run finishes it, and the store is that of an
undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_SCRIPT = Path(__file__).with_name("extraction_process.py")
_ROOT = Path(__file__).resolve().parents[2]
_IMAGES = 40
_BROKEN = ("07.png", "21.png")


class Extractions:
    """Starts extractions one at a time, each in a process of its own, without paying for the
    imports again."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "JAX_PLATFORMS": "cpu"}
        # Forking after JAX was imported, not started, is safe; JAX warns all the same.
        command = [sys.executable, "-W", "ignore:os.fork", str(_SCRIPT)]
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=environment,
        )
        assert self._line() == "ready"

    def start(self, extractor: str, photos: Path, store: Path) -> int:
        """Begin one; returns its process id."""
        return int(self._ask(json.dumps([extractor, str(photos), str(store)])))

    def wait(self) -> int:
        """Exit code of the one that was begun; −9 when it was killed."""
        return int(self._ask("wait"))

    def close(self) -> None:
        """End the server."""
        self._server.communicate()

    def _ask(self, line: str) -> str:
        assert self._server.stdin is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()


@pytest.fixture(scope="module")
def extractions() -> Iterator[Extractions]:
    """The server of extractions."""
    server = Extractions()
    yield server
    server.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small images of blurred noise, two of them cut short."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(5)
    for number in range(_IMAGES):
        width, height = (int(side) for side in generator.integers(36, 90, 2))
        noise = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8))
        noise.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    for name in _BROKEN:
        (folder / name).write_bytes((folder / name).read_bytes()[:200])
    return folder


def _bytes(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.iterdir()}


def _shards(store: Path) -> int:
    return len(list(store.glob("shard-*.arrow"))) if store.exists() else 0


def test_ten_kills_at_random_moments_leave_the_store_of_a_clean_run(
    tmp_path: Path, photos: Path, extractions: Extractions
) -> None:
    started = time.monotonic()
    extractions.start("histograms", photos, tmp_path / "clean")
    assert extractions.wait() == 0
    whole = time.monotonic() - started
    clean = _bytes(tmp_path / "clean")
    assert sum(name.startswith("shard-") for name in clean) == _IMAGES / 4

    generator = np.random.default_rng(11)
    kills, midway, runs = 0, 0, 0
    # A run that ends before its kill is compared, and another one begun: ten kills take a few runs.
    while kills < 10 or midway < 3:
        store = tmp_path / f"killed{runs}"
        process = extractions.start("histograms", photos, store)
        time.sleep(generator.uniform(0, whole))
        os.kill(process, signal.SIGKILL)
        if extractions.wait() == 0:
            assert _bytes(store) == clean
            runs += 1
        else:
            kills += 1
            midway += 0 < _shards(store) < _IMAGES / 4
        assert runs + kills < 100, (
            f"of {kills} kills only {midway} came between the first commit and the last"
        )
    extractions.start("histograms", photos, store)
    assert extractions.wait() == 0
    assert _bytes(store) == clean


def test_the_real_extractor_resumes_to_the_same_bytes(
    tmp_path: Path, photos: Path, extractions: Extractions
) -> None:
    store = tmp_path / "killed"
    for shards in (2, 6):
        process = extractions.start("delf", photos, store)
        deadline = time.monotonic() + 120
        while _shards(store) < shards:
            assert time.monotonic() < deadline, f"{_shards(store)} shards after two minutes"
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        assert extractions.wait() == -signal.SIGKILL
    assert _shards(store) < _IMAGES / 4
    for finished in (store, tmp_path / "clean"):
        extractions.start("delf", photos, finished)
        assert extractions.wait() == 0
    assert _bytes(store) == _bytes(tmp_path / "clean")
