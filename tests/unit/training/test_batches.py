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


def test_a_landmark_without_a_readable_photograph_is_replaced_by_the_next(
    photos: LabelledPhotos,
) -> None:
    lost = [name for name, label in zip(photos.paths, photos.labels, strict=True) if label == 2]
    for name in lost:
        (photos.root / name).write_bytes(b"no image")
    batches = PhotoBatches(photos, config=CONFIG, seed=0)
    for step in range(8):
        batch = batches.at(step)
        assert np.array_equal(batch.inputs[:, 5, 5, 0], 60 * batch.labels + 20)
        assert 2 not in batch.labels and not batches.validation[batch.members].any()
    assert set(batches.failures) <= set(lost)


def test_photographs_that_are_missing_at_the_start_are_reported_and_not_held_out(
    photos: LabelledPhotos,
) -> None:
    member = int(np.flatnonzero(PhotoBatches(photos, config=CONFIG, seed=0).validation)[0])
    (photos.root / photos.paths[member]).unlink()
    found = photos.hashed()
    batches = PhotoBatches(found, config=CONFIG, seed=0)
    assert batches.failures == {photos.paths[member]: "cannot be read: No such file or directory"}
    whole = PhotoBatches(photos, config=CONFIG, seed=0)
    assert not batches.validation[member] and batches.validation.sum() == 2
    for step in range(4):
        assert np.array_equal(batches.at(step).inputs, whole.at(step).inputs)


def test_maps_of_photographs_that_could_not_be_read_are_not_drawn(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], 4)
    maps = [
        np.arange(12, dtype=np.float16).reshape(12, 1, 1, 1) * np.ones((1, 4, 4, 2), np.float16)
    ]
    photos = LabelledPhotos(tmp_path, [f"{k}.jpg" for k in range(12)], labels, 3)
    whole = MapBatches(photos, maps, config=replace(CONFIG, rescales=(1.0,)), seed=0)
    lost = int(np.flatnonzero(~whole.validation)[0])
    held = int(np.flatnonzero(whole.validation)[1])
    batches = MapBatches(
        photos,
        maps,
        failures={lost: "why", held: "not"},
        config=replace(CONFIG, rescales=(1.0,)),
        seed=0,
    )
    assert batches.failures == {f"{lost}.jpg": "why", f"{held}.jpg": "not"}
    assert batches.validation.sum() == 2 and not batches.validation[held]
    replaced = 0
    for step in range(8):
        batch, before = batches.at(step), whole.at(step)
        assert np.array_equal(batch.inputs[:, 0, 0, 0], batch.members)
        assert np.array_equal(batch.labels, before.labels), "another of the same landmark"
        changed = batch.members != before.members
        assert (before.members[changed] == lost).all() and lost not in batch.members
        replaced += int(changed.sum())
    assert replaced


@pytest.mark.parametrize("gone", [5, 9])
def test_photographs_of_which_most_are_missing_are_refused(
    photos: LabelledPhotos, gone: int
) -> None:
    for name in photos.paths[:gone]:
        (photos.root / name).unlink()
    with pytest.raises(TrainingError, match=rf"{gone} of 9 photos cannot be read, for instance 0"):
        photos.hashed()


def test_photographs_that_disappear_during_training_end_it_once_most_are_gone(
    photos: LabelledPhotos,
) -> None:
    batches = PhotoBatches(photos.hashed(), config=CONFIG, seed=0)
    for name in photos.paths:
        (photos.root / name).unlink()
    with pytest.raises(TrainingError, match="5 of 9 photos cannot be read"):
        batches.at(0)


def test_one_landmark_is_not_enough(tmp_path: Path, photos: LabelledPhotos) -> None:
    with pytest.raises(TrainingError, match="all photos show the same landmark, expected at least"):
        LabelledPhotos(tmp_path, ["a.jpg", "b.jpg"], np.array([0, 0]), 1)
    two = replace(photos, labels=np.array([0] * 8 + [1]), classes=2)
    (photos.root / photos.paths[8]).unlink()
    with pytest.raises(TrainingError, match="1 of 9 photos cannot be read, for instance 8.png"):
        two.hashed()
