"""What an earlier command fixed can no longer be changed; where its weights are now can be said.
What a command reads, it does not overwrite."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from delfjax.cli.options import UsageError, accepted_changes, namesakes, require_writable
from delfjax.config import (
    Assignment,
    DelfConfig,
    config_hash,
    named_weights,
    override,
    parse_overrides,
    to_dict,
)
from delfjax.models.model_files import BACKBONE, REDUCTION, SCORER, override_system, save_model
from delfjax.models.weights import shipped_attention

SECTIONS = ("backbone", "scorer", "features", "reduction", "seed")


def saved(path: Path, *, scorer: float = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {BACKBONE: 1.0, SCORER: scorer, REDUCTION: 1.0}
    parts = {part: ({"w": np.full(2, value)}, {"name": part}) for part, value in values.items()}
    save_model(path, parts, system={"features": {"threshold": 0.5}}, about={})
    return path


def changed(fixed: DelfConfig, *texts: str) -> DelfConfig:
    asked: list[Assignment] = parse_overrides(texts, sections=(*SECTIONS, "search", "model"))
    changes = accepted_changes(fixed, asked, SECTIONS, "the index i was made")
    return override_system(fixed, changes)


def test_the_same_weights_may_be_somewhere_else_now(tmp_path: Path) -> None:
    file = saved(tmp_path / "one.safetensors")
    config = override_system(DelfConfig(), [f"model={file}"])
    copy = saved(tmp_path / "far away" / "copy.safetensors")
    file.unlink()
    plain = (f"scorer.weights={copy}", "search.neighbours=5", "features.threshold=0.5")
    assert changed(config, *plain).search.neighbours == 5
    for spelling in (f"model={copy}", f'model="{copy}"', f"model={os.path.relpath(copy)}"):
        moved = changed(config, spelling)
        assert config_hash(moved) == config_hash(config)
        assert {file.path for file in named_weights(to_dict(moved))} == {str(copy)}


def test_a_model_that_moved_leaves_what_was_chosen_besides_it(tmp_path: Path) -> None:
    file = saved(tmp_path / "one.safetensors")
    # The reduction was fitted on the features, and their threshold was chosen.
    config = override_system(
        DelfConfig(), [f"model={file}", "reduction.weights=", "features.threshold=0.25"]
    )
    copy = file.rename(tmp_path / "copy.safetensors")
    moved = changed(config, f"model={copy}")
    assert moved.reduction.weights == "" and moved.features.threshold == 0.25
    assert moved.scorer.weights.startswith(f"{copy}@")
    assert config_hash(moved) == config_hash(config)


def test_a_file_that_ships_may_be_named_or_given(tmp_path: Path) -> None:
    file = shipped_attention("landmark_world")
    assert changed(DelfConfig(), f"scorer.weights={file}") == DelfConfig()
    named = override_system(DelfConfig(), [f"scorer.weights={file}"])
    assert config_hash(changed(named, "scorer.weights=landmark_world")) == config_hash(named)


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
            changed(config, *changes)
        said = f"{section} was fixed when the index i was made; make it again to change it"
        assert str(error.value) == f"--set {changes[-1]}: {said}"


def test_an_index_of_an_earlier_version_takes_the_file_that_it_is_given(tmp_path: Path) -> None:
    config = override(DelfConfig(), ["scorer.weights=gone.safetensors"])
    file = saved(tmp_path / "one.safetensors")
    assert changed(config, f"scorer.weights={file}").scorer.weights.startswith(f"{file}@")
    with pytest.raises(UsageError, match="scorer was fixed"):
        changed(config, "scorer.weights=random")


def test_an_input_is_not_overwritten_under_any_of_its_names(tmp_path: Path) -> None:
    photo, link, hard = (tmp_path / name for name in ("a.png", "link.png", "hard.png"))
    photo.write_bytes(b"pixels")
    link.symlink_to("a.png")
    os.link(photo, hard)
    for output in (photo, link, hard, tmp_path / "." / "a.png"):
        with pytest.raises(UsageError, match="is what the command reads, so it is not overwritten"):
            require_writable("--figure", output, inputs=[tmp_path / "missing.png", photo])
    other = tmp_path / "b.png"
    other.write_bytes(b"an earlier figure")
    for output in (other, tmp_path / "new.png"):
        require_writable("--figure", output, inputs=[photo, tmp_path / "new.png"])


def test_an_output_may_be_a_link_to_a_place_that_can_be_written(tmp_path: Path) -> None:
    for name, target in {"new": "b.png", "lost": "gone/b.png", "circle": "circle.png"}.items():
        (tmp_path / f"{name}.png").symlink_to(tmp_path / target)
    require_writable("--figure", tmp_path / "new.png", (".png",))
    lost = (
        f"{tmp_path / 'lost.png'}: a link to {tmp_path / 'gone' / 'b.png'}, whose folder does not"
    )
    with pytest.raises(UsageError, match=re.escape(lost)):
        require_writable("--figure", tmp_path / "lost.png")
    with pytest.raises(UsageError, match="circle.png: a link that leads nowhere"):
        require_writable("--figure", tmp_path / "circle.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match="is a pipe or device, expected an ordinary file"):
        require_writable("--json", tmp_path / "pipe.json")


def test_only_photos_of_the_same_name_are_compared() -> None:
    names = ["day/One.PNG", "one.png", "two.png", "one.png.jpg"]
    expected = [Path("photos/day/One.PNG"), Path("photos/one.png")]
    assert namesakes(Path("elsewhere/one.png"), "photos", names) == expected
    assert namesakes(None, "photos", names) == []
