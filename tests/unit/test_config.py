"""Configs: presets are valid, the hash means the same everywhere, overrides are strict and their
errors help."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from delfjax.config import (
    PRESETS,
    ConfigError,
    DelfConfig,
    FeaturesConfig,
    config_hash,
    from_dict,
    override,
    preset,
    to_dict,
)
from delfjax.files import flatten


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_the_way_through_json(name: str) -> None:
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


def test_the_hash_is_the_same_in_another_process() -> None:
    script = (
        "from delfjax.config import PRESETS, config_hash; print(*map(config_hash,"
        " PRESETS.values()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.split() == [config_hash(config) for config in PRESETS.values()]


def test_the_hash_does_not_depend_on_the_order_of_fields() -> None:
    def backwards(values: Any) -> Any:
        return (
            {k: backwards(values[k]) for k in reversed(values)}
            if isinstance(values, dict)
            else values
        )

    plain = to_dict(DelfConfig())
    assert list(backwards(plain)) != list(plain)
    assert config_hash(backwards(plain)) == config_hash(plain)


def test_every_field_changes_the_hash() -> None:
    plain = to_dict(DelfConfig())
    seen = {config_hash(plain)}
    for path in flatten(plain):
        changed = json.loads(json.dumps(plain))
        *rooms, leaf = path.split(".")
        place = changed
        for room in rooms:
            place = place[room]
        place[leaf] = "something else"
        seen.add(config_hash(changed))
    assert len(seen) == 1 + len(flatten(plain))


def test_only_what_decides_the_features_is_part_of_the_extraction() -> None:
    default = config_hash(DelfConfig().extraction())
    for same in (
        "features.batch_size=4",
        "reduction.dim=8",
        "index.kind=ivf",
        "search.neighbours=3",
        "seed=1",
    ):
        assert config_hash(override(DelfConfig(), [same]).extraction()) == default, same
    for other in (
        "features.max_side=512",
        "backbone.output=conv5",
        "scorer.kind=norm",
        "features.nms_iou=0.5",
    ):
        assert config_hash(override(DelfConfig(), [other]).extraction()) != default, other


@pytest.mark.parametrize("drawn", ["backbone.weights=random", "scorer.weights=random"])
def test_the_seed_is_part_of_an_extraction_with_random_weights(drawn: str) -> None:
    one, other = (override(DelfConfig(), [drawn, f"seed={seed}"]).extraction() for seed in (0, 1))
    assert config_hash(one) != config_hash(other)
    # What a store records is enough to draw the same weights again.
    assert from_dict(DelfConfig, {**to_dict(DelfConfig()), **other}).seed == 1


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    changed = override(
        DelfConfig(),
        [
            "features.max_features=500",
            " features.scales = [0.5, 1]",
            "reduction.whiten=false",
            "seed=3",
        ],
    )
    features = dataclasses.replace(FeaturesConfig(), max_features=500, scales=(0.5, 1.0))
    reduction = dataclasses.replace(DelfConfig().reduction, whiten=False)
    assert changed == dataclasses.replace(
        DelfConfig(), features=features, reduction=reduction, seed=3
    )
    assert DelfConfig().features.max_features == 1000


def test_the_last_of_two_overrides_counts() -> None:
    assert override(DelfConfig(), ["seed=1", "seed=2"]).seed == 2


def test_text_with_an_equals_sign_in_it_is_one_value() -> None:
    assert (
        override(DelfConfig(), ["backbone.weights=a=b.safetensors"]).backbone.weights
        == "a=b.safetensors"
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "features.max_feature=5",
            "'features.max_feature' does not exist; did you mean 'features.max_features'",
        ),
        (
            "feature.max_features=5",
            "'feature.max_features' does not exist; did you mean 'features.max_features'",
        ),
        ("features=5", "'features' does not exist"),
        ("features.max_features.more=5", "'features.max_features.more' does not exist"),
        ("features.max_features", "is not of the form path.to.field=value"),
        ("=5", "'' does not exist"),
        ("features.max_features=many", "'features.max_features': .*integer.*, got 'many'"),
        ("features.max_features=2.5", "'features.max_features': .*, got 2.5"),
        ("features.max_features=0", "greater than 0, got 0"),
        ("features.max_side=8", "greater than or equal to 32, got 8"),
        ("features.scales=1", "'features.scales': .*, got 1"),
        ("features.scales=[]", "'features.scales': .*, got"),
        ("features.scales=[1, -1]", "'features.scales.1': .*, got -1"),
        ("features.threshold=NaN", "'features.threshold': .*finite number, got nan"),
        (
            "verification.threshold_px=Infinity",
            "'verification.threshold_px': .*finite number, got inf",
        ),
        ("backbone.name=vgg", "'backbone.name': .*'resnet50'.*, got 'vgg'"),
        ("reduction.whiten=perhaps", "'reduction.whiten': .*boolean.*, got 'perhaps'"),
        ("backbone.weights=5", "'backbone.weights': .*string, got 5"),
    ],
)
def test_a_bad_override_is_one_line_that_says_what_would_do(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        override(DelfConfig(), [assignment])
    assert "\n" not in str(refused.value)


def test_an_unknown_preset_names_the_nearest_and_all() -> None:
    with pytest.raises(
        ConfigError,
        match="preset 'paper' is unknown; did you mean 'paper2017'\\? there are: default, ",
    ):
        preset("paper")


@pytest.mark.parametrize(
    "values", [{"feature": {}}, {"features": {"max_sides": 3}}, {"seed": 0, "speed": 1}]
)
def test_unknown_fields_of_a_dictionary_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="config field '(feature|features.max_sides|speed)'"):
        from_dict(DelfConfig, values)


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DelfConfig().features.max_side = 3  # type: ignore[misc]  # that it is an error is the claim
