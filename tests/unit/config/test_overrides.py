"""Overrides are strict, their errors help, and a command knows which sections it takes."""

from __future__ import annotations

import dataclasses

import pytest

from delfjax.config import (
    MODEL,
    SECTIONS,
    STAGE_SECTIONS,
    SYSTEM_SECTIONS,
    Config,
    ConfigError,
    DelfConfig,
    FeaturesConfig,
    TrainingStages,
    assignments_of,
    joined_assignments,
    override,
    parse_overrides,
    to_dict,
)


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
def test_a_bad_override_is_one_line_that_suggests_a_good_one(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        override(DelfConfig(), [assignment])
    assert "\n" not in str(refused.value)


def test_the_root_has_every_section_and_yields_system_and_stages() -> None:
    changes = ["seed=3", "search.neighbours=5", "delg.delg.code_dim=7", "mining.radius_m=50"]
    whole = override(Config(), changes)
    assert set(to_dict(whole)) == set(SECTIONS)
    assert whole.system == override(DelfConfig(), changes[:2])
    assert whole.stages == override(TrainingStages(), changes[2:3])
    assert whole.mining.radius_m == 50
    stages = {section: getattr(Config(), section).stage for section in STAGE_SECTIONS}
    own = {name: name for name in ("finetune", "attention", "delg")}
    assert stages == own | {"siamac": "global", "dir": "global"}
    # A part goes back where it came from.
    assert Config(**vars(whole.system), **vars(whole.stages), mining=whole.mining) == whole


def test_overrides_keep_their_order_and_know_their_section() -> None:
    asked = assignments_of("search.neighbours=5 ;mining.radius_m = 3;; seed=1; attention.steps=2;")
    assert asked == ["search.neighbours=5", "mining.radius_m = 3", "seed=1", "attention.steps=2"]
    found = [(each.section, str(each)) for each in parse_overrides(asked)]
    assert found == [
        ("search", "search.neighbours=5"),
        ("mining", "mining.radius_m=3"),
        ("seed", "seed=1"),
        ("attention", "attention.steps=2"),
    ]


@pytest.mark.parametrize(
    "value",
    ["/a;b/c.safetensors", 'say "so"', '"', '"; seed=2', "[0.5, 1.0]", "a=b", "1.0; x", "ö;ü", ""],
)
def test_any_value_survives_among_other_assignments(value: str) -> None:
    asked = [f"backbone.weights={value}", "seed=1"]
    parts = assignments_of(joined_assignments(asked))
    assert [part.partition("=")[0] for part in parts] == ["backbone.weights", "seed"]
    # Values are read as JSON or bare text.
    assert override(DelfConfig(), asked[1:]) == override(DelfConfig(), parts[1:])
    if not value.startswith("["):
        assert override(DelfConfig(), parts).backbone.weights == value
    assert assignments_of(joined_assignments(parts)) == parts


def test_a_value_in_quotes_may_hold_a_semicolon() -> None:
    asked = 'backbone.weights = "/a;b=c.safetensors" ;seed=1; scorer.weights="d"e; index.lists=3'
    assert assignments_of(asked) == [
        'backbone.weights = "/a;b=c.safetensors"',
        "seed=1",
        'scorer.weights="d"e',
        "index.lists=3",
    ]
    with pytest.raises(ConfigError, match="'b.safetensors' is not of the form .* double quotes"):
        assignments_of("backbone.weights=/a;b.safetensors")


def test_fields_of_one_section_need_not_name_it() -> None:
    def fields(*assignments: str, within: str) -> list[str]:
        taken = ("backbone", within)
        parsed = parse_overrides(assignments, sections=taken, within=within)
        return [each.path for each in parsed]

    assert fields(
        "steps=1", "backbone.output=conv5", "attention.mirror=false", within="attention"
    ) == [
        "attention.steps",
        "backbone.output",
        "attention.mirror",
    ]
    # The stage "delg" has a field of the same name.
    assert fields("delg.code_dim=8", "delg.steps=1", "delg.delg.scale=2", within="delg") == [
        "delg.delg.code_dim",
        "delg.steps",
        "delg.delg.scale",
    ]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("serch.neighbours=5", "'serch.neighbours' does not exist; did you mean 'search.neigh"),
        ("atention.steps=5", "'atention.steps' does not exist; did you mean 'attention.steps'"),
        ("step=5", "'step' does not exist; did you mean 'steps'"),
        ("search=5", "'search' does not exist"),
        (
            "finetune.steps=5",
            "'finetune.steps' is not used here; sections that are: backbone, .*attention",
        ),
        ("mining.radius_m=5", "'mining.radius_m' is not used here; sections that are: backbone, "),
        ("model=x.safetensors", "'model' is not used here; sections that are: backbone, "),
        ("steps", "'steps' is not of the form path.to.field=value"),
    ],
)
def test_a_field_outside_the_sections_used_is_refused_by_name(
    assignment: str, message: str
) -> None:
    taken = (*SYSTEM_SECTIONS, "attention")
    with pytest.raises(ConfigError, match=message) as refused:
        parse_overrides(["seed=1", assignment], sections=taken, within="attention")
    assert "\n" not in str(refused.value)


def test_a_model_file_is_an_override_for_commands_that_accept_it() -> None:
    (found,) = parse_overrides(["model=my=file.safetensors"], sections=(*SYSTEM_SECTIONS, MODEL))
    assert (found.section, found.value) == (MODEL, "my=file.safetensors")
    with pytest.raises(ConfigError, match="'model' does not exist"):
        override(DelfConfig(), ["model=landmark_world"])
