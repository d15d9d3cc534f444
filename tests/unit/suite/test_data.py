"""The dataset of a notebook is made once and completely, and its known ground truth is exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delfjax import paths
from delfjax.datasets.catalogue import open_dataset
from delfjax.datasets.skimage_photos import (
    PhotoSetError,
    homography_between,
    load_homographies,
    map_points_yx,
)
from delfjax.suite.data import photo_set, suite_dataset, true_errors_px, world_set
from delfjax.suite.settings import PhotoExperiment, photo_experiment
from delfjax.world.knobs import world_config
from delfjax.world.reading import correspondences, open_world


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhotoExperiment:
    """One object and one distractor at 96 pixels, under a separate data root."""
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    return replace(
        photo_experiment("ci", 3, dataset="embedded"),
        objects=("coffee",),
        distractors=("moon",),
        photo_side=96,
    )


def test_photographs_are_written_once(tiny: PhotoExperiment) -> None:
    first = photo_set(tiny)
    before = {name: (first.root / name).stat().st_mtime_ns for name in first.names}
    assert photo_set(tiny) == first
    assert before == {name: (first.root / name).stat().st_mtime_ns for name in first.names}
    assert len(first.names) == 7
    assert photo_set(replace(tiny, photo_side=64)).root != first.root


def test_a_photograph_that_went_missing_is_written_again(tiny: PhotoExperiment) -> None:
    photos = photo_set(tiny)
    files = [photos.path(name) for name in photos.names]
    before = [file.read_bytes() for file in files]
    files[0].unlink()
    files[1].write_bytes(before[1][:-5])
    assert photo_set(tiny) == photos
    assert [file.read_bytes() for file in files] == before


def test_photographs_that_could_not_be_written_leave_nothing(
    tiny: PhotoExperiment, tmp_path: Path
) -> None:
    with pytest.raises(PhotoSetError, match="'unknown' is not one of"):
        photo_set(replace(tiny, objects=("coffee",), distractors=("unknown",)))
    assert list((tmp_path / "cache" / "photos").iterdir()) == []


def test_a_world_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "cache_root", lambda: tmp_path)
    few = {
        "landmarks": 1,
        "train_landmarks": 0,
        "database_views": 1,
        "query_views": 1,
        "distractors": 0,
        "no_match": 0,
    }
    config = world_config("ci", **few)
    root = world_set(config)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")}
    assert len(before) == 2 and world_set(config) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")} == before


def test_true_positions_of_matches_are_known_for_the_embedded_photographs(
    tiny: PhotoExperiment,
) -> None:
    benchmark = suite_dataset(tiny)
    source, shrunk = "images/coffee/source.jpg", "images/coffee/scale.jpg"
    homography = homography_between(load_homographies(benchmark.root), source, shrunk)
    points = np.array([[20.0, 30.0], [50.0, 40.0]])
    true = map_points_yx(homography, points)
    errors = true_errors_px(
        benchmark, source, shrunk, first_yx=points, second_yx=true + np.array([[3, 4], [0, 0]])
    )
    np.testing.assert_allclose(errors, [5, 0], atol=1e-9)
    assert (
        true_errors_px(benchmark, source, "distractors/moon.jpg", first_yx=points, second_yx=true)
        is None
    )


def test_correspondences_of_the_rendered_world_are_known_to_the_pixel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "cache_root", lambda: tmp_path)
    few = {
        "landmarks": 1,
        "train_landmarks": 0,
        "database_views": 3,
        "query_views": 1,
        "distractors": 0,
        "no_match": 0,
    }
    root = world_set(world_config("ci", **few))
    benchmark, world = open_dataset("world", root), open_world(root)
    pairs = {(a, b): correspondences(world, a, b) for a in range(3) for b in range(3) if a != b}
    (first, second), known = max(pairs.items(), key=lambda item: len(item[1].first_yx))
    names = world.paths[first], world.paths[second]
    off = known.second_yx + np.array([[0.0, 2.0]])
    np.testing.assert_allclose(
        true_errors_px(benchmark, *names, first_yx=known.first_yx, second_yx=off), 2
    )
    away = np.array([[-500.0, -500.0]])
    assert true_errors_px(benchmark, *names, first_yx=away, second_yx=away).tolist() == [np.inf]
