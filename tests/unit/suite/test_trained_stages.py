"""Measures of keypoints on landmarks agree with the masks, and a stage is trained only once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delfjax.config import BackboneConfig, DelfConfig, override
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.suite.data import world_set
from delfjax.suite.settings import photo_experiment
from delfjax.suite.trained_stages import (
    detector_curve,
    landmark_masks,
    landmark_shares,
    system,
    trained_stage,
)
from delfjax.types import ImageFeatures, LocalFeatures
from delfjax.world.knobs import world_config
from delfjax.world.reading import open_world


def features(keypoints_yx: list[tuple[float, float]]) -> ImageFeatures:
    """One feature at each keypoint, the first with the highest score."""
    count = len(keypoints_yx)
    local = LocalFeatures(
        keypoints_yx=np.array(keypoints_yx, np.float32).reshape(count, 2),
        scales=np.ones(count, np.float32),
        scores=np.linspace(2, 1, count, dtype=np.float32),
        descriptors=np.ones((count, 4), np.float16),
        valid=np.ones(count, bool),
    )
    return ImageFeatures(local=local, global_descriptor=None, image_size=(10, 10), content_hash="")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Two photographs of 10 × 10 pixels."""
    found = {
        "a.jpg": features([(0.4, 0.4), (9.4, 9.9), (2, 1)]),
        "b.jpg": features([(9, 9), (12, 3)]),
    }
    with StoreWriter(tmp_path / "store", {}) as writer:
        for group in writer.plan(found):
            writer.commit(group, found, {})
    return FeatureStore.open(tmp_path / "store")


MASK = np.zeros((10, 10), bool)
MASK[:5] = True


def test_shares_count_the_best_keypoints_on_the_mask(store: FeatureStore) -> None:
    shares = landmark_shares(store, {"a.jpg": MASK, "b.jpg": MASK}, kept=(1, 2, 3, 100))
    np.testing.assert_allclose(shares, [[1, 1 / 2, 2 / 3, 2 / 3], [0, 0, 0, 0]])


def test_the_detector_curve_follows_the_scores_of_all_photographs(store: FeatureStore) -> None:
    recall, precision = detector_curve(store, {"a.jpg": MASK})
    np.testing.assert_allclose(recall, [0.5, 0.5, 1])
    np.testing.assert_allclose(precision, [1, 0.5, 2 / 3])


def test_a_stage_is_trained_once_and_its_weights_make_a_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = world_set(world_config("ci"))
    config = replace(photo_experiment("ci", 0).training.attention, steps=4, validate_every=2)
    first = trained_stage(root, backbone=BackboneConfig(), config=config, seed=0)
    assert (
        sorted(first.accuracy) == [2, 4]
        and sorted(first.losses) == [1, 2, 3, 4]
        and first.best_step in (2, 4)
    )
    monkeypatch.setattr(
        "delfjax.suite.trained_stages.train_stage", None
    )  # a second training would fail
    assert trained_stage(root, backbone=BackboneConfig(), config=config, seed=0) == first
    chosen = system(DelfConfig(), attention=first)
    assert chosen.scorer.kind == "attention"
    assert chosen.scorer.weights.split("@")[0] == str(first.weights)
    assert chosen.backbone == BackboneConfig()
    assert system(DelfConfig()) == override(DelfConfig(), ["scorer.kind=norm"])


def test_masks_are_spread_over_the_split() -> None:
    world = open_world(world_set(world_config("ci")))
    masks = landmark_masks(world, split="query", count=3)
    names = [world.paths[int(row)] for row in world.rows("query")]
    assert [names.index(name) for name in masks] == [0, 4, 7]
    assert all(mask.dtype == bool and mask.any() for mask in masks.values())
    assert len(landmark_masks(world, split="query", count=1000)) == len(names)
