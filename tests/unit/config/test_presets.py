"""Presets are valid and differ, and an unknown one is answered with the nearest."""

from __future__ import annotations

import json

import pytest

from delfjax.config import (
    PRESETS,
    TRAINING_PRESETS,
    ConfigError,
    DelfConfig,
    TrainingConfig,
    TrainingStages,
    config_hash,
    from_dict,
    preset,
    to_dict,
    training_preset,
)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_a_round_trip_through_json(name: str) -> None:
    plain = json.loads(json.dumps(to_dict(preset(name))))
    assert from_dict(DelfConfig, plain) == preset(name)
    assert config_hash(plain) == config_hash(preset(name))


def test_presets_differ() -> None:
    assert len({config_hash(config) for config in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_samples_enough_to_train_its_index(name: str) -> None:
    index = preset(name).index
    # FAISS asks for 39 training points per centroid.
    assert 39 * max(index.lists, 1 << index.pq_bits) <= index.train_samples


def test_an_unknown_preset_names_the_nearest_and_all() -> None:
    with pytest.raises(
        ConfigError,
        match="preset 'paper' is unknown; did you mean 'paper2017'\\? there are: default, ",
    ):
        preset("paper")


def test_a_preset_of_training_is_found_by_name_and_the_nearest_named() -> None:
    for name in TRAINING_PRESETS:
        chosen = training_preset(name)
        assert from_dict(type(chosen), to_dict(chosen)) == chosen
        kind = name.partition("_")[2]
        assert isinstance(getattr(TrainingStages(), kind), type(chosen))
        assert chosen.stage == (kind if type(chosen) is TrainingConfig else "global")
    with pytest.raises(ConfigError, match="training preset 'quick' is unknown; did you mean"):
        training_preset("quick")
