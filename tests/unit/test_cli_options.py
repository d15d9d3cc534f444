"""What an earlier command fixed can no longer be changed; where its weights are now can be said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delfjax.cli.options import UsageError, refuse_changes
from delfjax.config import Assignment, DelfConfig, override, parse_overrides
from delfjax.models.model_files import BACKBONE, REDUCTION, SCORER, override_system, save_model

SECTIONS = ("backbone", "scorer", "features", "reduction", "seed")


def saved(path: Path, *, scorer: float = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {BACKBONE: 1.0, SCORER: scorer, REDUCTION: 1.0}
    parts = {part: ({"w": np.full(2, value)}, {"name": part}) for part, value in values.items()}
    save_model(path, parts, system={"features": {"threshold": 0.5}}, about={})
    return path


def refuse(fixed: DelfConfig, *texts: str) -> None:
    asked: list[Assignment] = parse_overrides(texts, sections=(*SECTIONS, "search", "model"))
    refuse_changes(fixed, asked, SECTIONS, "the index i was made")


def test_the_same_weights_may_be_somewhere_else_now(tmp_path: Path) -> None:
    file = saved(tmp_path / "one.safetensors")
    config = override_system(DelfConfig(), [f"model={file}"])
    copy = saved(tmp_path / "far away" / "copy.safetensors")
    file.unlink()
    refuse(config, f"scorer.weights={copy}", "search.neighbours=5", "features.threshold=0.5")
    refuse(config, f"model={copy}")


def test_other_weights_and_other_settings_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "one.safetensors")
    config = override_system(DelfConfig(), [f"model={file}"])
    other = saved(tmp_path / "other.safetensors", scorer=2)
    for changes, section in (
        ([f"scorer.weights={other}"], "scorer"),
        ([f"backbone.weights={other}", f"model={other}"], "scorer"),
        (["scorer.weights=random"], "scorer"),
        (["reduction.weights="], "reduction"),
        (["seed=1"], "seed"),
    ):
        with pytest.raises(UsageError) as error:
            refuse(config, *changes)
        said = f"{section} was fixed when the index i was made; make it again to change it"
        assert str(error.value) == f"--set {changes[-1]}: {said}"


def test_an_index_of_an_earlier_version_takes_the_file_that_it_is_given(tmp_path: Path) -> None:
    config = override(DelfConfig(), ["scorer.weights=gone.safetensors"])
    refuse(config, f"scorer.weights={saved(tmp_path / 'one.safetensors')}")
    with pytest.raises(UsageError, match="scorer was fixed"):
        refuse(config, "scorer.weights=random")
