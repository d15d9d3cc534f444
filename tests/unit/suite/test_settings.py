"""Settings of the notebooks: preset and seed determine them, and an experiment depends only on what
it uses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delfjax.config import ConfigError, DelfConfig, config_hash
from delfjax.datasets import skimage_photos
from delfjax.datasets.columns import DatasetError
from delfjax.evaluation.mining_scores import LEAST_PHOTOS
from delfjax.models.weights import save_weights
from delfjax.suite.runs.folders import differences
from delfjax.suite.settings import (
    PhotoExperiment,
    challenge_world,
    index_of,
    mining_world,
    photo_experiment,
    relevant_overrides,
    store_of,
    table,
    upstream_of,
)
from delfjax.world.knobs import world_config
from tests.unit.datasets import miniatures

SEARCH = "41_search_and_verify"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhotoExperiment:
    """One object and one distractor at 96 pixels, under a separate data root."""
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    return replace(
        photo_experiment("ci", 3, dataset="embedded"),
        objects=("coffee",),
        distractors=("moon",),
        photo_side=96,
    )


def test_settings_depend_only_on_preset_and_seed() -> None:
    runs = [(preset, seed) for preset in ("ci", "quick", "full") for seed in (0, 1)]
    hashes = {config_hash(photo_experiment(*run).settings(SEARCH)) for run in runs}
    assert len(hashes) == len(runs)
    assert hashes == {config_hash(photo_experiment(*run).settings(SEARCH)) for run in runs}


def test_a_run_is_known_by_the_weights_in_a_file_and_not_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(name: str, value: float) -> None:
        save_weights(tmp_path / name, {"w": np.full(2, value)}, {"name": "attention"})

    def settings(name: str) -> dict[str, Any]:
        asked = photo_experiment("ci", 0, overrides=f"seed=0; scorer.weights={name}")
        # A kernel works elsewhere, with the text that the runner hands it.
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir(tmp_path.parent)
            again = photo_experiment("ci", 0, overrides=asked.parameters["overrides"])
        assert again.parameters == asked.parameters and again.whole == asked.whole
        return asked.settings("30_extract_features")

    monkeypatch.chdir(tmp_path)
    saved("one.safetensors", 1)
    saved("same.safetensors", 1)
    first, same = settings("one.safetensors"), settings("same.safetensors")
    assert config_hash(first) == config_hash(same) and not differences(first, same)
    saved("one.safetensors", 2)
    later = settings("one.safetensors")
    assert config_hash(later) != config_hash(first)
    (said,) = differences(later, first)
    assert re.fullmatch(
        r"scorer\.weights is 'one\.safetensors@\w{12}', expected 'one\.safetensors@\w{12}'", said
    )
    assert photo_experiment("ci", 0, overrides="seed=0").parameters["overrides"] == "seed=0"


def test_an_experiment_depends_on_what_it_uses_and_on_nothing_else() -> None:
    plain, changed = (
        photo_experiment("ci", 0, overrides=text)
        for text in ("", "search.neighbours=5; features.batch_size=2")
    )
    for name in ("30_extract_features", "40_build_index"):
        assert plain.settings(name) == changed.settings(name)
    assert (
        changed.settings(SEARCH)["search"]["neighbours"]
        == 5
        != plain.settings(SEARCH)["search"]["neighbours"]
    )
    # An unlisted notebook depends on everything.
    assert set(plain.settings("43_my_idea")) == set(plain.settings(SEARCH)) | {
        "finetune",
        "attention",
        "delg",
        "siamac",
        "dir",
        "global_features",
        "ranking",
        "expansion",
        "sift",
        "congas",
    }
    assert (
        relevant_overrides("40_build_index", "search.neighbours=5; index.probes=3")
        == "index.probes=3"
    )
    # Only the parameter may set the seed, so this override is kept and refused later.
    assert relevant_overrides("40_build_index", "search.neighbours=5; seed=1") == "seed=1"
    assert (
        relevant_overrides("40_build_index", "model=mine.safetensors") == "model=mine.safetensors"
    )
    with pytest.raises(ConfigError, match="'ftures.max_side' does not exist; did you mean 'feat"):
        relevant_overrides("40_build_index", "search.neighbours=5; ftures.max_side=1")


def test_a_training_depends_on_its_own_stage_and_has_overrides_of_its_own() -> None:
    asked = ("", "attention.steps=7; search.neighbours=5")
    plain, changed = (photo_experiment("ci", 0, dataset="world", overrides=text) for text in asked)
    assert changed.training.attention.steps == 7 != plain.training.attention.steps
    assert changed.settings("20_finetune_descriptors") == plain.settings("20_finetune_descriptors")
    assert changed.settings("21_train_attention") != plain.settings("21_train_attention")
    assert plain.settings("50_ablation")["seeds"] == [0] and photo_experiment("quick", 3).seeds == (
        3,
        4,
        5,
    )
    assert (
        relevant_overrides(SEARCH, "attention.steps=7; search.neighbours=5")
        == "search.neighbours=5"
    )
    with pytest.raises(ConfigError, match="did you mean 'attention.steps'"):
        photo_experiment("ci", 0, overrides="attention.stps=7")
    with pytest.raises(ConfigError, match="'mining.radius_m' is not used here"):
        photo_experiment("ci", 0, overrides="mining.radius_m=7")


@pytest.mark.parametrize("name", ["40_build_index", SEARCH])
def test_settings_contain_those_of_the_upstream_run(name: str) -> None:
    experiment, read = photo_experiment("ci", 0), upstream_of(name)
    assert read is not None and not differences(
        experiment.settings(read[1]), experiment.settings(name)
    )


def test_only_the_smallest_preset_leaves_photographs_out() -> None:
    small, quick, full = (
        photo_experiment(preset, 0, dataset="embedded") for preset in ("ci", "quick", "full")
    )
    assert (quick.objects, quick.distractors) == (
        skimage_photos.OBJECTS,
        skimage_photos.DISTRACTORS,
    )
    assert (full.objects, full.distractors) == (quick.objects, quick.distractors)
    assert set(small.objects) < set(quick.objects) and set(small.distractors) < set(
        quick.distractors
    )


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="preset 'slow' is unknown; there are: ci, quick, full"):
        photo_experiment("slow", 0)
    with pytest.raises(ConfigError, match="dataset 'embeded' is unknown; did you mean 'embedded'"):
        photo_experiment("ci", 0, dataset="embeded")
    with pytest.raises(
        ConfigError, match="'search.neighbors' does not exist; did you mean 'search.neighbours'"
    ):
        photo_experiment("ci", 0, overrides="search.neighbors=5")
    with pytest.raises(ConfigError, match="overrides set seed to 4, but the parameter seed is 0"):
        photo_experiment("ci", 0, overrides="seed=4")


def test_the_files_of_a_run_are_in_its_folder(tiny: PhotoExperiment) -> None:
    run = tiny.start(SEARCH)
    assert store_of(run).parent == run.path
    assert {index_of(run, kind).parent for kind in ("exact", "ivf_pq")} == {run.path}
    assert index_of(run, "exact") != index_of(run, "ivf_pq")


def test_a_table_has_the_rows_and_columns_it_was_given() -> None:
    shown = table({"first": {"a": 1, "b": 2.5}, "second": {"a": 3, "b": 4.5}})
    assert shown.index.tolist() == ["first", "second"]
    assert shown.to_dict("list") == {"a": [1, 3], "b": [2.5, 4.5]}


def test_experiments_on_the_world_depend_on_its_knobs_and_not_on_the_photographs() -> None:
    first, other = (photo_experiment("ci", seed, dataset="world") for seed in (0, 1))
    settings = first.settings("10_inspect_dataset")
    assert settings["world"] == first.world().plain() and "photos" not in settings
    assert settings["world"] != other.settings("10_inspect_dataset")["world"]
    challenge = first.settings("13_measure_challenges")["world"]
    assert challenge == challenge_world(first).plain() and challenge["train_landmarks"] == 0
    assert challenge_world(first, scale=1.0).plain() == {**challenge, "scale": 1.0}
    mined = first.settings("11_mine_landmarks")["world"]
    assert mined == mining_world(first).plain() and mined["database_views"] >= LEAST_PHOTOS
    assert mining_world(photo_experiment("quick", 0, dataset="world")) == world_config("quick")


def test_a_notebook_about_the_world_refuses_another_dataset() -> None:
    with pytest.raises(
        ConfigError,
        match="10_inspect_dataset: dataset is 'embedded', but this notebook works only on 'world'",
    ):
        photo_experiment("ci", 0, dataset="embedded").settings("10_inspect_dataset")


def test_a_benchmark_uses_the_defaults_and_is_identified_by_its_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = photo_experiment("quick", 0, dataset="holidays")
    assert (
        experiment.config.search == DelfConfig().search
        and experiment.config.features.max_side == 512
    )
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path / "nothing"))
    with pytest.raises(DatasetError, match="holidays: no such folder; holidays comes from"):
        experiment.settings(SEARCH)
    content = []
    for name in ("first", "same", "other"):
        monkeypatch.setenv("DELFJAX_DATA", str(tmp_path / name))
        root = miniatures.write("holidays", tmp_path / name / "external")
        if name == "other":
            miniatures.image(root / "jpg" / "149999.jpg")
        settings = experiment.settings(SEARCH)
        assert settings["dataset"] == "holidays" and "photos" not in settings
        content.append(settings["content"])
    assert content[0] == content[1] != content[2]


def test_a_run_of_another_method_is_never_taken_for_one_of_delf() -> None:
    plain, sift = (
        photo_experiment("ci", 0, overrides=text).settings(SEARCH)
        for text in ("", "features.method=sift")
    )
    assert differences(plain, sift) == ["features.method is 'sift', expected 'delf'"]
    assert "features.method is 'delf', expected 'sift'" in differences(sift, plain)
    # A run of a time when there was no other method.
    earlier = json.loads(json.dumps(plain))
    del earlier["features"]["method"]
    assert not differences(plain, earlier)


def test_a_run_depends_on_the_settings_of_its_own_method() -> None:
    def hashed(text: str, experiment: str = SEARCH) -> str:
        return config_hash(photo_experiment("ci", 0, overrides=text).settings(experiment))

    assert hashed("sift.sigma=2") == hashed("")
    assert hashed("features.method=sift; sift.sigma=2") != hashed("features.method=sift")
    assert hashed("sift.sigma=2", "62_compare_with_congas") != hashed("", "62_compare_with_congas")
    asked = "system=sift; sift.sigma=2; expansion.hops=2"
    assert relevant_overrides(SEARCH, asked) == "system=sift; sift.sigma=2"
