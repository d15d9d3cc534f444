"""Hashes of configs do not change by accident: runs, feature stores and trained weights of earlier
versions lie under them.

A field that is added, or a default that changes, changes some of these on purpose; the literals
then follow.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from delfjax.config import (
    PRESETS,
    TRAINING_PRESETS,
    BackboneConfig,
    MiningConfig,
    TrainingConfig,
    config_hash,
    preset,
    training_preset,
)
from delfjax.models.model_files import part_digest
from delfjax.models.weights import shipped_attention
from delfjax.suite import trained_stages
from delfjax.suite.settings import photo_experiment
from delfjax.suite.trained_stages import trained_stage


@pytest.mark.parametrize(
    ("name", "whole", "extraction"),
    [
        ("default", "7c7b264459", "de811236e3"),
        ("fast", "b0d0a45758", "79a87af326"),
        ("ci", "8e1714f851", "b986e2038d"),
        ("paper2017", "6d0806294f", "58e4dd4b83"),
    ],
)
def test_presets_keep_their_hashes(name: str, whole: str, extraction: str) -> None:
    assert config_hash(preset(name)) == whole
    assert config_hash(preset(name).extraction()) == extraction


def test_trainings_and_mining_keep_their_hashes() -> None:
    assert {name: config_hash(training_preset(name)) for name in TRAINING_PRESETS} == {
        "paper_finetune": "877dc6f0c4",
        "paper_attention": "040a415fcd",
        "paper_delg": "b9fafd885f",
        "quick_finetune": "b95101a073",
        "quick_attention": "0d392cb2b3",
        "quick_delg": "2158d8e354",
        "paper_siamac": "e8a6898af6",
        "paper_dir": "ab07edead0",
        "quick_siamac": "0560d92522",
        "quick_dir": "191def3a98",
    }
    assert config_hash(MiningConfig()) == "2423a1db29"
    assert set(PRESETS) == {"default", "fast", "ci", "paper2017"}


def test_the_attention_that_ships_is_the_one_that_its_name_stands_for() -> None:
    """Hashes count the name alone, so another attention needs another name."""
    digest = part_digest(shipped_attention("landmark_world"), "scorer")
    assert digest == "5b27dee947089c5f0f839522414b429e2fb3a0668bff419a16737417d33df365"


@pytest.mark.parametrize(
    ("scale", "dataset", "runs"),
    [
        (
            "ci",
            "world",
            {
                "10_inspect_dataset": "457075635e",
                "11_mine_landmarks": "c05f993d06",
                "13_measure_challenges": "d64e48df5b",
                "20_finetune_descriptors": "52f260bdff",
                "21_train_attention": "2a042bc3e5",
                "22_train_delg": "29a9cec207",
                "30_extract_features": "2e6a52cee0",
                "31_fit_reduction": "889571cbe3",
                "40_build_index": "36c5b0f6b7",
                "41_search_and_verify": "889571cbe3",
                "42_explore_results": "889571cbe3",
                "50_ablation": "aaba7db361",
                "51_visualise_attention": "6c0ebe95d4",
                "52_reject_no_match": "336d5106f9",
                "61_combine_delf_dir": "336d5106f9",
                "62_compare_with_congas": "49510fdbc3",
                "a_notebook_of_ones_own": "d353f7117d",
            },
        ),
        (
            "quick",
            "world",
            {
                "20_finetune_descriptors": "a8efb0fe2d",
                "21_train_attention": "cdc8af6506",
                "22_train_delg": "8e94228358",
                "30_extract_features": "d11c23fb56",
                "41_search_and_verify": "b8701515a3",
                "50_ablation": "443e35edd9",
            },
        ),
        (
            "full",
            "world",
            {"22_train_delg": "e242bade45", "41_search_and_verify": "096df94c09"},
        ),
        (
            "quick",
            "embedded",
            {"30_extract_features": "69ded30356", "41_search_and_verify": "0e057eeca4"},
        ),
    ],
)
def test_runs_of_notebooks_keep_their_hashes(
    scale: str, dataset: str, runs: dict[str, str]
) -> None:
    experiment = photo_experiment(scale, 0, dataset=dataset)
    assert {name: config_hash(experiment.settings(name)) for name in runs} == runs


def test_trained_stages_keep_their_places_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    places: dict[int, tuple[str, str]] = {}

    def train_stage(_: object, *, config: TrainingConfig, folder: Path, **__: object) -> None:
        places[len(places)] = config.stage, folder.parent.name
        raise LookupError

    monkeypatch.setattr(trained_stages, "train_stage", train_stage)
    monkeypatch.setattr(trained_stages, "open_dataset", lambda *_: None)
    for config in vars(photo_experiment("quick", 0).training).values():
        with pytest.raises(LookupError):
            trained_stage(Path("world-abc"), backbone=BackboneConfig(), config=config, seed=1)
    assert list(places.values()) == [
        ("finetune", "a602cdc403"),
        ("attention", "7ad45117db"),
        ("delg", "a979325054"),
        ("global", "94d132e63a"),
        ("global", "c43946a635"),
    ]
