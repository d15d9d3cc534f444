"""A weight file that a config names is known by what it holds, and loaded as that or not at all."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delfjax.config import (
    BackboneConfig,
    ConfigError,
    DelfConfig,
    config_hash,
    override,
    weight_file,
)
from delfjax.models.model_files import (
    BACKBONE,
    GLOBAL_SECTIONS,
    PROJECTION,
    REDUCTION,
    SCORER,
    WHITENING,
    card,
    load_part,
    override_system,
    part_digest,
    pinned,
    record_scores,
    save_model,
    weights_of,
)
from delfjax.models.weights import (
    WeightsError,
    describe_again,
    load_weights,
    read_description,
    save_weights,
    shipped_attention,
)


def scorer_file(path: Path, value: float) -> Path:
    save_weights(path, {"kernel": np.full(3, value, np.float32)}, {"name": "attention"})
    return path


def model_file(path: Path, *, backbone: float = 1, reduction: float = 1) -> Path:
    values = {BACKBONE: backbone, SCORER: 1.0, REDUCTION: reduction}
    parts = {part: ({"w": np.full(2, value)}, {"name": part}) for part, value in values.items()}
    save_model(path, parts, system={"scorer": {"kind": "attention"}}, about={})
    return path


def global_file(path: Path, *, whitening: float = 1) -> Path:
    values = {BACKBONE: 3.0, PROJECTION: 2.0, WHITENING: whitening}
    parts = {part: ({"w": np.full(2, value)}, {"name": part}) for part, value in values.items()}
    settings = {
        "backbone": {"name": "vgg16", "output": "pool5"},
        "pooling": "gem",
        "gem_exponent": 2.5,
        "whitening": {"kind": "learned", "dim": 1},
    }
    system = {"global_features": settings}
    save_model(path, parts, system=system, about={}, sections=GLOBAL_SECTIONS)
    assert settings["backbone"] == {"name": "vgg16", "output": "pool5"}, "arguments stay"
    return path


def test_a_relative_path_is_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = scorer_file(tmp_path / "one.safetensors", 1)
    monkeypatch.chdir(tmp_path)
    config = override_system(DelfConfig(), ["scorer.weights=one.safetensors"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    named = weight_file(config.scorer.weights)
    assert named is not None and named.path == str(file)
    assert load_part(config.scorer.weights, SCORER)[0]["kernel"].tolist() == [1, 1, 1]


def test_a_file_is_known_by_what_it_holds_and_not_by_its_name(tmp_path: Path) -> None:
    file = scorer_file(tmp_path / "one.safetensors", 1)
    same = scorer_file(tmp_path / "same.safetensors", 1)
    before, copy = (override_system(DelfConfig(), [f"scorer.weights={f}"]) for f in (file, same))
    assert config_hash(before) == config_hash(copy)
    assert config_hash(before.extraction()) == config_hash(copy.extraction())
    scorer_file(file, 2)
    after = override_system(DelfConfig(), [f"scorer.weights={file}"])
    assert config_hash(after) != config_hash(before)


def test_weights_that_were_replaced_after_they_were_named_are_not_loaded(tmp_path: Path) -> None:
    file = scorer_file(tmp_path / "one.safetensors", 1)
    named = override_system(DelfConfig(), [f"scorer.weights={file}"]).scorer.weights
    wanted = part_digest(file, SCORER)
    scorer_file(file, 2)
    found = part_digest(file, SCORER)
    with pytest.raises(WeightsError) as error:
        load_part(named, SCORER)
    assert f"digest {found[:12]}, but the scorer needs those with {wanted[:12]}" in str(error.value)
    assert "--set scorer.weights=FILE" in str(error.value)
    file.unlink()
    with pytest.raises(WeightsError, match=f"no such file; the scorer .* {wanted[:12]}; name the"):
        load_part(named, SCORER)
    # Nothing is read to keep a config as it was.
    config = DelfConfig(backbone=BackboneConfig(weights=f"/gone.safetensors@{wanted}"))
    assert pinned(config) is config


def test_the_parts_of_a_model_file_are_known_one_by_one(tmp_path: Path) -> None:
    """Another reduction leaves the features of a store what they are."""
    file = model_file(tmp_path / "model.safetensors")
    first = override_system(DelfConfig(), [f"model={file}"])
    model_file(file, reduction=2)
    second = override_system(DelfConfig(), [f"model={file}"])
    assert config_hash(first.extraction()) == config_hash(second.extraction())
    assert config_hash(first) != config_hash(second)
    model_file(file, backbone=2, reduction=2)
    third = override_system(DelfConfig(), [f"model={file}"])
    assert config_hash(third.extraction()) != config_hash(second.extraction())


def test_a_model_file_of_another_digest_is_refused(tmp_path: Path) -> None:
    file = model_file(tmp_path / "model.safetensors")
    digest = read_description(file)["digest"]
    assert override_system(DelfConfig(), [f"model={file}@{digest}"]).backbone.weights
    with pytest.raises(ConfigError, match=f"digest {digest[:12]}, but 000000000000 is asked for"):
        override_system(DelfConfig(), [f"model={file}@{'0' * 64}"])


def test_a_missing_weight_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors: no such file"):
        override_system(DelfConfig(), [f"backbone.weights={tmp_path / 'none.safetensors'}"])


def evaluation(file: Path, weights: dict[str, str]) -> Path:
    scores = {"inliers": {"means": {"map": 0.5}}}
    values = {
        "dataset": "oxford5k",
        "config_hash": "0123456789",
        "weights": weights,
        "tiers": {},
        "results": {"oxford5k": scores},
    }
    file.write_text(json.dumps(values))
    return file


def test_the_scores_of_other_weights_do_not_reach_a_card(tmp_path: Path) -> None:
    file = scorer_file(tmp_path / "one.safetensors", 1)
    config = override_system(DelfConfig(), [f"scorer.weights={file}"])
    scores = evaluation(tmp_path / "scores.json", weights_of(config))
    record_scores(file, [scores])
    assert load_weights(file)[1]["scores"][0]["inliers"] == {"oxford5k map": 0.5}
    # A recorded score changes the card alone.
    assert override_system(DelfConfig(), [f"scorer.weights={file}"]) == config
    copy = shutil.copy(file, tmp_path / "copy.safetensors")
    record_scores(copy, [scores])
    scorer_file(file, 2)
    with pytest.raises(WeightsError, match="scores of other weights: its scorer is [0-9a-f]{12}, "):
        record_scores(file, [scores])
    older = evaluation(tmp_path / "older.json", {})
    with pytest.raises(WeightsError, match="its scorer is not named, .* evaluate the weight file"):
        record_scores(copy, [older])


def test_of_two_that_record_scores_at_once_neither_is_lost(tmp_path: Path) -> None:
    file = scorer_file(tmp_path / "one.safetensors", 1)
    scores = evaluation(
        tmp_path / "scores.json", weights_of(override(DelfConfig(), [f"scorer.weights={file}"]))
    )
    second = threading.Thread(target=record_scores, args=(file, [scores]))

    def change(config: dict[str, Any]) -> dict[str, Any]:
        second.start()
        second.join(0.3)
        assert second.is_alive()
        return {**config, "best_step": 7}

    describe_again(file, change)
    second.join()
    about = load_weights(file)[1]
    assert about["best_step"] == 7 and len(about["scores"]) == 1


def test_an_evaluation_names_all_weights_that_it_scored(tmp_path: Path) -> None:
    file = model_file(tmp_path / "model.safetensors")
    found = weights_of(override_system(DelfConfig(), [f"model={file}"]))
    assert found == {part: part_digest(file, part) for part in (BACKBONE, SCORER, REDUCTION)}
    shipped = part_digest(shipped_attention("landmark_world"), SCORER)
    assert weights_of(DelfConfig()) == {BACKBONE: "imagenet", SCORER: shipped}


def test_a_model_file_of_global_descriptors_sets_and_pins_nested_fields(tmp_path: Path) -> None:
    file = global_file(tmp_path / "global.safetensors")
    config = override_system(DelfConfig(), [f"model={file}"])
    settings = config.global_features
    assert (settings.pooling, settings.gem_exponent) == ("gem", 2.5)
    assert (settings.backbone.output, settings.whitening.kind) == ("pool5", "learned")
    # The local half of the system stays as it was.
    assert config.backbone == BackboneConfig()
    named = {
        BACKBONE: settings.backbone.weights,
        PROJECTION: settings.region_projection.weights,
        WHITENING: settings.whitening.weights,
    }
    for part, value in zip(named, (3, 2, 1), strict=True):
        held = weight_file(named[part])
        assert held is not None and held.digest == part_digest(file, part)
        assert load_part(named[part], part)[0]["w"].tolist() == [value, value]
    # Another whitening leaves the descriptors of a store what they are.
    global_file(file, whitening=5)
    other = override_system(DelfConfig(), [f"model={file}"])
    assert config_hash(other.global_extraction()) == config_hash(config.global_extraction())
    assert config_hash(other) != config_hash(config)
    with pytest.raises(WeightsError, match="--set global_features.whitening.weights=FILE"):
        load_part(named[WHITENING], WHITENING)


def test_weights_of_global_descriptors_are_recorded_where_images_are_ranked_by_them(
    tmp_path: Path,
) -> None:
    file = global_file(tmp_path / "global.safetensors")
    local = override_system(DelfConfig(), [f"model={file}"])
    assert weights_of(local).keys() == {BACKBONE, SCORER}
    config = override_system(local, ["ranking.by=global"])
    found = weights_of(config)
    assert {section: found[section] for section in GLOBAL_SECTIONS.values()} == {
        section: part_digest(file, part) for part, section in GLOBAL_SECTIONS.items()
    }
    # The embedded backbone of the local half is no reason to refuse the scores of the other.
    record_scores(file, [evaluation(tmp_path / "scores.json", found)])
    lines = "\n".join(card(file))
    assert "oxford5k: oxford5k map 0.500" in lines
    assert lines.index("backbone") < lines.index("\nprojection") < lines.index("\nwhitening")
    assert "global_features.backbone.name: vgg16" in lines
    with pytest.raises(WeightsError, match="its backbone is imagenet, that of the weight file"):
        record_scores(file, [evaluation(tmp_path / "local.json", weights_of(local))])
