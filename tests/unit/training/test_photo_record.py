"""A training resumes on the photos and labels that it was started on, and on no others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delfjax.datasets.images import ImageError
from delfjax.training.batches import LabelledPhotos, TrainingError
from delfjax.training.photo_record import same_photos

PATHS = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]


@pytest.fixture
def photos(tmp_path: Path) -> LabelledPhotos:
    for number, path in enumerate(PATHS):
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / path).write_bytes(bytes([number]) * 10)
    return LabelledPhotos(tmp_path / "photos", PATHS, np.array([0, 0, 1, 1]), 2).hashed()


@pytest.fixture
def run(tmp_path: Path, photos: LabelledPhotos) -> Path:
    """The folder of a run."""
    (tmp_path / "run").mkdir()
    same_photos(tmp_path / "run", photos, resumed=False)
    return tmp_path / "run"


def refused(run: Path, photos: LabelledPhotos) -> str:
    before = (run / "photos.json").read_bytes()
    with pytest.raises(TrainingError) as error:
        same_photos(run, photos, resumed=True)
    assert (run / "photos.json").read_bytes() == before
    said = str(error.value)
    assert said.startswith(f"{run}: holds a training run on other photos: ")
    assert said.endswith("; choose another folder, or remove this one to start again")
    return said


def again(photos: LabelledPhotos) -> LabelledPhotos:
    """The same list, its files read anew."""
    return replace(photos, contents=()).hashed()


def test_the_same_photos_resume_wherever_they_are(
    run: Path, photos: LabelledPhotos, tmp_path: Path
) -> None:
    same_photos(run, again(photos), resumed=True)
    (tmp_path / "photos").rename(tmp_path / "moved")
    same_photos(run, again(replace(photos, root=tmp_path / "moved")), resumed=True)


def test_two_photos_that_changed_places_are_noticed(run: Path, photos: LabelledPhotos) -> None:
    one, other = photos.root / "a/2.jpg", photos.root / "b/1.jpg"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert ": a/2.jpg and 1 more are another file now;" in refused(run, again(photos))


def test_a_photo_that_was_relabelled_is_named(run: Path, photos: LabelledPhotos) -> None:
    changed = replace(photos, labels=np.array([0, 0, 1, 0]))
    assert ": b/2.jpg is labelled otherwise;" in refused(run, changed)


def test_a_renamed_photo_and_another_order_are_noticed(run: Path, photos: LabelledPhotos) -> None:
    renamed = replace(photos, paths=[*PATHS[:3], "b/9.jpg"])
    assert ": b/2.jpg is gone; b/9.jpg is new;" in refused(run, renamed)
    assert ": their order has changed;" in refused(run, replace(photos, paths=PATHS[::-1]))


def test_a_photo_that_cannot_be_read_for_a_while_keeps_its_digest(
    run: Path, photos: LabelledPhotos
) -> None:
    file = photos.root / "b/1.jpg"
    file.rename(photos.root / "away")
    resumed = same_photos(run, again(photos), resumed=True)
    assert resumed.contents == photos.contents
    file.write_bytes(b"another")
    assert ": b/1.jpg is another file now;" in refused(run, again(photos))


def test_a_photo_that_appears_later_is_not_part_of_the_run(
    tmp_path: Path, photos: LabelledPhotos
) -> None:
    file = photos.root / "a/1.jpg"
    content = file.read_bytes()
    file.unlink()
    began = same_photos(tmp_path, again(photos), resumed=False)
    file.write_bytes(content)
    resumed = same_photos(tmp_path, again(photos), resumed=True)
    assert resumed.contents == began.contents and resumed.unreadable == [0]
    with pytest.raises(ImageError, match="could not be read when the training began|not an image"):
        resumed.square(0, 8)


def test_a_run_without_a_checkpoint_starts_with_the_photos_of_now(
    run: Path, photos: LabelledPhotos
) -> None:
    (photos.root / "a/1.jpg").write_bytes(b"another")
    assert same_photos(run, again(photos), resumed=False).contents == again(photos).contents
    same_photos(run, again(photos), resumed=True)


def test_a_run_of_an_earlier_version_resumes_and_says_what_it_cannot_know(
    tmp_path: Path, photos: LabelledPhotos
) -> None:
    with pytest.warns(UserWarning, match="training resumes with the photos that are there now"):
        same_photos(tmp_path, photos, resumed=True)
    same_photos(tmp_path, photos, resumed=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"paths": ["a"], "labels": 1}'])
def test_a_damaged_record_is_refused_by_name(
    run: Path, photos: LabelledPhotos, content: str
) -> None:
    (run / "photos.json").write_text(content)
    with pytest.raises(TrainingError, match=r"photos\.json: damaged.*remove this file to resume"):
        same_photos(run, photos, resumed=True)


def test_the_record_is_plain_json(run: Path, photos: LabelledPhotos) -> None:
    record = json.loads((run / "photos.json").read_text())
    assert record["paths"] == PATHS and record["labels"] == [0, 0, 1, 1]
    assert record["contents"] == list(photos.contents) and len(set(photos.contents)) == 4
