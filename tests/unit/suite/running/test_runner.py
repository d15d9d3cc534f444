"""A run is found again by the weights in the files that it names, from every folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delfjax.models.weights import save_weights
from delfjax.suite.running.runner import Job, find_notebook, prepare


def test_another_training_in_the_same_file_makes_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(value: float) -> None:
        save_weights(tmp_path / "a b.safetensors", {"w": np.full(2, value)}, {"name": "attention"})

    def job(path: str) -> Job:
        return prepare(find_notebook("41"), {"overrides": f"scorer.weights={path}", "seed": "3"})

    saved(1)
    monkeypatch.chdir(tmp_path)
    first = job("a b.safetensors")
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert job("../a b.safetensors") == first
    # Its kernel works in the folder of the notebook.
    assert first.parameters["overrides"].startswith(
        f"scorer.weights={tmp_path / 'a b.safetensors'}"
    )
    saved(2)
    assert job("../a b.safetensors").path != first.path
    # Repeating the command of the first run is repeating that run.
    again = prepare(first.notebook, first.parameters)
    assert again == first
