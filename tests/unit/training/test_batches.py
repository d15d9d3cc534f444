"""Training data: labels are checked, some photographs are held out, and batches are a function of
the step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax.config import TrainingConfig
from delfjax.training.batches import (
    LabelledPhotos,
    MapBatches,
    PhotoBatches,
    TrainingError,
    held_out,
)

CONFIG = TrainingConfig(square_side=40, crop_side=32, rescales=(0.5, 1.0), batch_size=8)


@pytest.fixture
def photos(tmp_path: Path) -> LabelledPhotos:
    """Nine oblong photographs of three landmarks, each landmark in its own shade of grey."""
    names = []
    for number in range(9):
        names.append(f"{number}.png")
        Image.fromarray(np.full((48, 60 + number, 3), 60 * (number % 3) + 20, np.uint8)).save(
            tmp_path / names[-1]
        )
    return LabelledPhotos(tmp_path, names, np.arange(9) % 3, 3)


def test_a_label_out_of_range_names_its_photograph(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="b.jpg: label 2, expected 0 to 1"):
        LabelledPhotos(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], np.array([0, 2, 1]), 2)


def test_a_landmark_without_a_photograph_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="landmark 1 has no photo; 1 of 3"):
        LabelledPhotos(tmp_path, ["a.jpg", "b.jpg"], np.array([0, 2]), 3)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.99])
def test_every_landmark_is_held_out_in_part_and_never_whole(share: float) -> None:
    labels = np.repeat(np.arange(5), [2, 3, 10, 20, 1])
    chosen = held_out(labels, share, seed=1)
    for label, count in enumerate([2, 3, 10, 20, 1]):
        expected = min(max(1, int(share * count)), count - 1)
        assert chosen[labels == label].sum() == expected


def test_a_batch_depends_on_the_seed_and_the_step_alone(photos: LabelledPhotos) -> None:
    batches = PhotoBatches(photos, config=CONFIG, seed=3)
    again = PhotoBatches(photos, config=CONFIG, seed=3)
    backwards = [again.at(step) for step in reversed(range(4))][::-1]
    for step, batch in enumerate(backwards):
        assert np.array_equal(batches.at(step).inputs, batch.inputs)
        assert np.array_equal(batches.at(step).members, batch.members)
    other = PhotoBatches(photos, config=CONFIG, seed=4)
    assert any(
        not np.array_equal(other.at(step).members, batch.members)
        for step, batch in enumerate(backwards)
    )


def test_a_batch_is_resized_as_a_whole_and_shows_what_its_labels_say(
    photos: LabelledPhotos,
) -> None:
    batches = PhotoBatches(photos, config=CONFIG, seed=0)
    sides = set()
    for step in range(12):
        batch = batches.at(step)
        sides.add(batch.inputs.shape[1:3])
        assert np.array_equal(batch.inputs[:, 5, 5, 0], 60 * batch.labels + 20)
        assert not batches.validation[batch.members].any()
    # Squares stay squares: nothing is stretched.
    assert sides == {(16, 16), (32, 32)}


def test_landmarks_are_drawn_alike_however_many_photographs_they_have(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], [100, 4])
    maps = [np.zeros((104, 4, 4, 2), np.float16)]
    photos = LabelledPhotos(tmp_path, [f"{k}.jpg" for k in range(104)], labels, 2)
    config = replace(CONFIG, rescales=(1.0,), batch_size=100)
    balanced = np.concatenate(
        [MapBatches(photos, maps, config=config, seed=0).at(k).labels for k in range(5)]
    )
    plain = replace(config, class_balanced=False)
    natural = np.concatenate(
        [MapBatches(photos, maps, config=plain, seed=0).at(k).labels for k in range(5)]
    )
    assert 0.4 < balanced.mean() < 0.6 and natural.mean() < 0.1


def test_crops_of_maps_lie_inside_and_are_mirrored_as_a_whole(tmp_path: Path) -> None:
    cells = np.arange(36, dtype=np.float16).reshape(1, 6, 6, 1).repeat(4, axis=0)
    photos = LabelledPhotos(tmp_path, list("abcd"), np.array([0, 0, 1, 1]), 2)
    batches = MapBatches(photos, [cells], config=replace(CONFIG, rescales=(1.0,)), seed=0)
    corners, directions = set(), set()
    for step in range(40):
        for crop in batches.at(step).inputs[..., 0]:
            assert crop.shape == (5, 5)
            direction = int(crop[0, 1] - crop[0, 0])
            assert (np.diff(crop, axis=1) == direction).all() and (np.diff(crop, axis=0) == 6).all()
            directions.add(direction)
            corners.add(int(crop[0].min()))
    assert directions == {-1, 1} and corners == {0, 1, 6, 7}


def test_a_broken_photograph_is_replaced_by_another_of_its_landmark_and_reported(
    photos: LabelledPhotos,
) -> None:
    batches = PhotoBatches(photos, config=CONFIG, seed=0)
    victim = int(np.flatnonzero((photos.labels == 1) & ~batches.validation)[0])
    (photos.root / photos.paths[victim]).write_bytes(b"no image")
    for step in range(8):
        batch = batches.at(step)
        assert np.array_equal(batch.inputs[:, 5, 5, 0], 60 * batch.labels + 20)
    assert (
        list(batches.failures) == [photos.paths[victim]] and batches.failures[photos.paths[victim]]
    )


def test_a_landmark_without_a_readable_photograph_is_an_error(photos: LabelledPhotos) -> None:
    batches = PhotoBatches(photos, config=CONFIG, seed=0)
    for name, label in zip(photos.paths, photos.labels, strict=True):
        if label == 2:
            (photos.root / name).write_bytes(b"no image")
    with pytest.raises(TrainingError, match="landmark 2: none of its 2 photos can be read"):
        for step in range(8):
            batches.at(step)
