"""A folder of photographs as a benchmark: what has a class, and what is said about the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from delfjax.datasets.columns import DatasetError
from delfjax.datasets.folder_benchmark import load_folder


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_images_beside_class_folders_have_no_class_and_are_named(tmp_path: Path) -> None:
    _touch(tmp_path, "cover.jpg", "a/1.jpg", "a/2.jpg", "b/deep/3.jpg", "b/4.jpg", "z.png")
    dataset = load_folder(tmp_path)
    assert list(dataset.database) == [
        *("a/1.jpg", "a/2.jpg", "b/4.jpg", "b/deep/3.jpg"),
        *("cover.jpg", "z.png"),
    ]
    assert dataset.landmarks is not None and dataset.landmarks.tolist() == [0, 0, 1, 1, -1, -1]
    assert dataset.landmark_names == ("a", "b") and dataset.distractors == 2
    assert [query.path for query in dataset.queries] == list(dataset.database)[:4]
    assert [query.answers.tolist() for query in dataset.queries] == [[1], [0], [3], [2]]
    (note,) = dataset.notes
    assert note.endswith(
        "2 of 6 images lie beside the folders and have no class, for instance 'cover.jpg'"
    )


def test_thumbnails_of_a_system_are_no_class(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.jpg", "a/2.jpg", "a/@eaDir/1.jpg/S.jpg", "@eaDir/b.jpg", "list.txt")
    dataset = load_folder(tmp_path)
    assert dataset.landmark_names == ("a",) and list(dataset.database) == ["a/1.jpg", "a/2.jpg"]
    note, _ = dataset.notes
    assert "1 other files ('.txt') and 2 hidden files and folders or folders of the system" in note
    assert "'@eaDir', 'a/@eaDir'" in note


def test_a_single_class_without_distractors_is_noted(tmp_path: Path) -> None:
    _touch(tmp_path, "train/gate/1.jpg", "train/tower/2.jpg")
    (note,) = load_folder(tmp_path).notes
    assert "all 2 images are in the folder 'train', so they are one landmark" in note
    assert not load_folder(tmp_path / "train").notes
    _touch(tmp_path, "3.jpg")
    (note,) = load_folder(tmp_path).notes
    assert "1 of 3 images lie beside the folders" in note


def test_a_folder_of_images_alone_has_no_classes_and_no_notes(tmp_path: Path) -> None:
    _touch(tmp_path, "1.jpg", "2.jpg")
    dataset = load_folder(tmp_path)
    assert dataset.landmarks is None and not len(dataset.queries) and not dataset.notes


def test_a_folder_without_images_says_what_else_it_holds(tmp_path: Path) -> None:
    _touch(tmp_path, "1.heic", ".thumbnails/1.jpg")
    with pytest.raises(DatasetError, match="in this folder .1 other files .'.heic'. and 1 hidden"):
        load_folder(tmp_path)


def test_a_ground_truth_none_of_whose_images_is_there_is_refused(tmp_path: Path) -> None:
    query = {"query": 1, "path": "ü.jpg", "landmark": "t", "tier": "t", "ok": [0], "junk": [1]}
    truth = {"imlist": ["a.jpg", "ü.jpg"], "gnd": [query]}
    (tmp_path / "groundtruth.json").write_text(json.dumps(truth), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"none of its 2 images is in this folder.*'a\.jpg'"):
        load_folder(tmp_path)
    _touch(tmp_path, "a.jpg")
    assert len(load_folder(tmp_path).database) == 2
