"""A trained system in one file does what its parts do, in every command and notebook, and says what
it is."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delfjax.cli import main
from delfjax.config import ConfigError, DelfConfig, config_hash, override, weight_file
from delfjax.datasets.skimage_photos import write_photo_set
from delfjax.features import extractor
from delfjax.features.reduction import ReductionError, reduction_for
from delfjax.features.store import FeatureStore
from delfjax.models.delf import load_delf
from delfjax.models.model_files import load_part, override_system
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import WeightsError
from delfjax.retrieval.local_index import build_index
from delfjax.retrieval.system_index import open_index
from delfjax.suite.settings import photo_experiment

SMALL = [
    "features.max_side=128",
    "features.scales=[1.0, 1.4142]",
    "features.max_features=60",
    "reduction.dim=16",
]
SETS = [word for change in SMALL for word in ("--set", change)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, their store, and the file of the system that made it."""
    folder = tmp_path_factory.mktemp("made")
    write_photo_set(folder / "photos", objects=("coffee",), distractors=("moon",), max_side=128)
    assert main(["extract", str(folder / "photos"), "--store", str(folder / "store"), *SETS]) == 0
    assert (
        main(
            [
                "weights",
                "export",
                str(folder / "model.safetensors"),
                "--store",
                str(folder / "store"),
                *SETS,
            ]
        )
        == 0
    )
    return folder


def test_the_file_makes_the_same_model(made: Path) -> None:
    parts, whole = (
        override(DelfConfig(), SMALL),
        override_system(DelfConfig(), [f"model={made / 'model.safetensors'}"]),
    )
    assert whole.features.scales == parts.features.scales and whole.reduction.dim == 16
    # What a user chooses anew every time stays a user's choice.
    assert whole.features.max_side == DelfConfig().features.max_side
    expected, found = named_tensors(load_delf(parts)), named_tensors(load_delf(whole))
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_a_search_with_the_file_needs_nothing_else_and_finds_the_same(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file alone, in another place, with the reduction it brings."""
    shutil.copy(made / "model.safetensors", tmp_path / "other.safetensors")
    changes = [
        f"model={tmp_path / 'other.safetensors'}",
        "features.max_side=128",
        "features.max_features=60",
    ]
    model = [word for change in changes for word in ("--set", change)]
    assert main(["extract", str(made / "photos"), "--store", str(tmp_path / "store"), *model]) == 0
    own = FeatureStore.open(made / "store")
    again = FeatureStore.open(tmp_path / "store")
    assert own.names == again.names
    for name in own.names:
        np.testing.assert_array_equal(
            own.get(name).local.descriptors, again.get(name).local.descriptors
        )
    config = override_system(DelfConfig(), [*SMALL, f"model={tmp_path / 'other.safetensors'}"])
    fitted = build_index(own, config=override(DelfConfig(), SMALL)).reduction
    np.testing.assert_array_equal(
        build_index(again, config=config).reduction.projection, fitted.projection
    )
    weights = f"reduction.weights={tmp_path / 'other.safetensors'}"
    sets = ["--set", weights, "--set", "reduction.dim=16"]
    index = tmp_path / "index"
    assert main(["index", str(tmp_path / "store"), "--out", str(index), *sets]) == 0
    np.testing.assert_array_equal(open_index(index).reduction.projection, fitted.projection)
    (tmp_path / "away").mkdir()
    (tmp_path / "other.safetensors").rename(tmp_path / "away" / "model.safetensors")
    # As in another process, which has not loaded the weights yet.
    extractor._loaded.cache_clear()
    photo = str(next((made / "photos").rglob("*.jpg")))
    assert main(["search", str(index), photo]) == 1
    said = capsys.readouterr().err
    assert re.search(r"other\.safetensors: no such file; the backbone needs .* \w{12}; name", said)
    moved = ["--set", f"model={tmp_path / 'away' / 'model.safetensors'}"]
    assert main(["search", str(index), photo, *moved]) == 0


def test_notebooks_take_the_file_as_an_override(made: Path) -> None:
    model = made / "model.safetensors"
    experiment = photo_experiment(
        "ci", 0, dataset="embedded", overrides=f"model={model}; search.neighbours=5"
    )
    for section in (experiment.config.backbone, experiment.config.scorer):
        file = weight_file(section.weights)
        assert file is not None and file.path == str(model) and file.digest
    assert experiment.config.search.neighbours == 5
    plain = photo_experiment("ci", 0, dataset="embedded").settings("30_extract_features")
    assert config_hash(experiment.settings("30_extract_features")) != config_hash(plain)


def test_the_card_says_what_it_is_trained_on_what_and_how_it_scored(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, scores = made / "model.safetensors", made / "scores.json"
    assert main(["weights", "card", str(file)]) == 0
    said = capsys.readouterr().out
    assert (
        "trained_on: world_train" in said and "efficientnet_lite0" in said and "size: 339" in said
    )
    assert "scores: none on record" in said
    before = load_part(file, "scorer")
    assert (
        main(
            [
                "evaluate",
                str(made / "photos"),
                "--json",
                str(scores),
                "--set",
                f"model={file}",
                *SETS,
            ]
        )
        == 0
    )
    for _ in range(2):  # once more changes nothing
        assert main(["weights", "record", str(file), str(scores)]) == 0
    said, found = capsys.readouterr().out.rpartition("scores\n")[2], json.loads(scores.read_text())
    assert (
        said.count("folder: ") == 1
        and f"homography {found['tiers']['homography']['inliers']:.3f}" in said
    )
    assert f"config {found['config_hash']}" in said
    after = load_part(file, "scorer")
    assert before[1] == after[1] and all(
        np.array_equal(before[0][name], after[0][name]) for name in before[0]
    )
    assert main(["weights", "card", "landmark_world"]) == 0
    assert "trained_on: world_train" in capsys.readouterr().out


def test_a_reduction_is_refused_for_other_descriptors_or_dimensions(made: Path) -> None:
    config = override_system(
        DelfConfig(), [*SMALL, f"model={made / 'model.safetensors'}"]
    ).reduction
    store = FeatureStore.open(made / "store")
    assert reduction_for(store, config=config, seed=0).extraction_hash == store.config_hash
    with pytest.raises(
        ReductionError, match="model.safetensors: its reduction is for dim 16, not 8"
    ):
        reduction_for(store, config=replace(config, dim=8), seed=0)
    store.config["backbone"]["weights"] = "random"
    with pytest.raises(ReductionError, match="its reduction is for backbone .*, not .*random"):
        reduction_for(store, config=config, seed=0)
    with pytest.raises(
        WeightsError, match="parts.safetensors: holds no reduction, only: backbone, scorer"
    ):
        load_part(export_without_store(made), "reduction")


def export_without_store(folder: Path) -> Path:
    file = folder / "parts.safetensors"
    assert main(["weights", "export", str(file), *SETS]) == 0
    return file


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("moon", "model=moon: moon: neither a weight file .* there are: landmark_world"),
        (".", r"model=\.: \.: is a folder, expected a weight file"),
        ("landmark_world", "model=landmark_world: .* does not describe a complete system"),
    ],
)
def test_a_file_that_is_no_system_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        override_system(DelfConfig(), [f"model={name}"])


def test_scores_that_are_none_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scores.json").write_text("[]")
    before = (made / "model.safetensors").read_bytes()
    assert (
        main(["weights", "record", str(made / "model.safetensors"), str(tmp_path / "scores.json")])
        == 1
    )
    said = capsys.readouterr().err
    assert "scores.json: damaged: holds a list, expected a JSON object; not an evaluation;" in said
    assert "expected a file written by `delfjax evaluate --json`" in said
    assert (made / "model.safetensors").read_bytes() == before
