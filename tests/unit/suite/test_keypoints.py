"""Keypoints found again: the changes of a photo are known exactly, and so is what is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delfjax.config import DelfConfig
from delfjax.datasets.catalogue import open_dataset
from delfjax.models.model_files import override_system
from delfjax.suite.keypoints import keypoint_scores, matched_shares, resized, turned
from delfjax.world.knobs import world_config
from delfjax.world.writing import build_world

CONFIG = override_system(DelfConfig(), ["system=congas", "features.max_features=80"])


def photo(size: tuple[int, int] = (80, 100), seed: int = 0) -> np.ndarray:
    """Smooth blots, different everywhere."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.full((*size, 3), 120.0)
    for _ in range(60):
        at, width = rng.uniform((0, 0), size), rng.uniform(1.5, 5)
        bell = np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * width**2))
        image += bell[..., None] * rng.uniform(-70, 70)
    return np.clip(image, 0, 255).astype(np.uint8)


def mapped(matrix: np.ndarray, at_yx: tuple[float, float]) -> np.ndarray:
    return (matrix @ [at_yx[1], at_yx[0], 1])[1::-1]


def test_a_quarter_turn_moves_every_pixel_to_its_place() -> None:
    pixels = photo()
    found = turned(pixels, 90.0)
    assert np.abs(found.pixels.astype(int) - np.rot90(pixels, -1)).max() <= 1
    # The upper left corner is now the upper right one.
    np.testing.assert_allclose(mapped(found.matrix, (0, 0)), (0, 79), atol=1e-9)


@pytest.mark.parametrize("degrees", [30.0, 135.0])
def test_a_turned_photo_has_its_pixels_where_the_matrix_says(degrees: float) -> None:
    pixels = photo()
    found = turned(pixels, degrees)
    for at in ((20, 30), (61, 77)):
        y, x = np.round(mapped(found.matrix, at)).astype(int)
        inverse = np.linalg.inv(found.matrix)
        there = mapped(inverse, (y, x))
        near = pixels[tuple(np.round(there).astype(int))]
        assert np.abs(found.pixels[y, x].astype(int) - near).max() < 25
    corners = [mapped(found.matrix, (y, x)) for y in (0, 79) for x in (0, 99)]
    assert np.min(corners) >= 0
    assert (np.max(corners, axis=0) <= np.array(found.pixels.shape[:2]) - 1).all()


def test_a_resized_photo_has_pixel_centres_at_integers() -> None:
    found = resized(photo(), 0.5)
    assert found.pixels.shape == (40, 50, 3)
    # The middle of the first two pixels is the middle of the first one.
    np.testing.assert_allclose(mapped(found.matrix, (0.5, 0.5)), (0, 0), atol=1e-9)
    assert resized(photo(), 2.0).pixels.shape == (160, 200, 3)


def test_what_does_not_change_is_matched_and_what_turns_less_so() -> None:
    shares = matched_shares([photo(), photo(seed=1)], CONFIG, turned, [0.0, 180.0, 30.0])
    assert shares[0.0] == 1
    assert shares[180.0] > 0.7
    assert 0.3 < shares[30.0] < 1
    # An image without a keypoint has nothing to match.
    flat = np.full((60, 60, 3), 99, np.uint8)
    assert matched_shares([flat], CONFIG, turned, [90.0]) == {90.0: 0.0}


def test_scores_of_pairs_of_the_world(tmp_path: Path) -> None:
    build_world(tmp_path / "w", world_config("ci", seed=0, train_landmarks=0, train_views=0))
    world = open_dataset("world", tmp_path / "w")
    query = next(query for query in world.queries if query.answers.size)
    first = world.database[int(query.answers[0])]
    same = keypoint_scores(world, [(first, first)], CONFIG)
    assert same.repeatability == same.matching_score == 1
    assert same.keypoints > 5
    other = keypoint_scores(world, [(query.path, first)], CONFIG)
    assert 0 <= other.matching_score <= other.repeatability <= 1
    stranger = next(i for i in range(len(world.database)) if i not in query.answers)
    none = keypoint_scores(world, [(query.path, world.database[stranger])], CONFIG)
    assert none.keypoints == none.matching_score == 0
