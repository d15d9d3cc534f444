"""The embedded photo set: the homographies are true, the ground truth loads, the bytes repeat."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax.datasets.photo_folder import load_groundtruth
from delfjax.datasets.skimage_photos import (
    DISTRACTORS,
    OBJECTS,
    PhotoSet,
    PhotoSetError,
    homography_between,
    load_homographies,
    map_points_yx,
    object_views,
    source_photo,
    view_through,
    write_photo_set,
)

TIERS = ("homography", "crop", "occlusion", "lighting", "scale")


@pytest.fixture(scope="module")
def photo_set(tmp_path_factory: pytest.TempPathFactory) -> PhotoSet:
    return write_photo_set(
        tmp_path_factory.mktemp("photos"), objects=("chelsea", "motorcycle"), distractors=("moon",)
    )


def _grey(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / name) as image:
        return np.asarray(image.convert("L"), dtype=np.float64)


def _patches(image: np.ndarray, centres_yx: np.ndarray, steps_yx: np.ndarray) -> np.ndarray:
    """Pixel values of the patch around each centre, one patch a row.

    ``steps_yx`` holds the offsets of the pixels from the centre.
    """
    points = np.round(centres_yx[:, None] + steps_yx).astype(int)
    return np.asarray(image[points[..., 0], points[..., 1]])


def _likeness(photo_set: PhotoSet, tier: str, homography: np.ndarray) -> float:
    """Upper quartile of the correlation between patches of the source and of a view.

    ``homography`` says where a patch of the source is in the view. The quartile is robust to
    occlusion: at least a quarter of the patches is visible even in the occluded view.
    """
    source = _grey(photo_set.folder, "images/chelsea/source.jpg")
    view = _grey(photo_set.folder, f"images/chelsea/{tier}.jpg")
    window = np.stack(
        np.meshgrid(np.arange(-12, 13, 3), np.arange(-12, 13, 3), indexing="ij"), axis=-1
    ).reshape(-1, 2)
    centres = np.stack(
        np.meshgrid(np.arange(16, 280, 8), np.arange(16, 430, 8), indexing="ij"), axis=-1
    ).reshape(-1, 2)
    points = (centres[:, None] + window).reshape(-1, 2).astype(np.float64)
    mapped = map_points_yx(homography, points).reshape(len(centres), len(window), 2)
    inside = np.all((mapped >= 0) & (mapped <= np.array(view.shape) - 1), axis=(1, 2))
    assert inside.sum() > 100, "the homography maps the source out of the view"
    before = _patches(
        source, centres[inside], np.broadcast_to(window, (int(inside.sum()), *window.shape))
    )
    after = _patches(view, np.zeros((int(inside.sum()), 2)), mapped[inside])
    before, after = (p - p.mean(axis=1, keepdims=True) for p in (before, after))
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    return float(np.quantile((before * after).sum(axis=1) / np.maximum(norms, 1e-9), 0.75))


@pytest.mark.parametrize("tier", TIERS)
def test_patches_correlate_where_the_homography_puts_them(photo_set: PhotoSet, tier: str) -> None:
    homography = photo_set.homographies[f"images/chelsea/{tier}.jpg"]
    # Noise, and reading the nearest pixel of the view, cost the rest.
    assert _likeness(photo_set, tier, homography) > 0.9


@pytest.mark.parametrize("tier", TIERS)
def test_a_homography_that_is_off_or_inverted_does_not_correlate(
    photo_set: PhotoSet, tier: str
) -> None:
    homography = photo_set.homographies[f"images/chelsea/{tier}.jpg"]
    true = _likeness(photo_set, tier, homography)
    shifted = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 3.0], [0.0, 0.0, 1.0]]) @ homography
    assert _likeness(photo_set, tier, shifted) < true - 0.05
    if tier != "scale":  # The inverse of the reduction leads out of the view altogether.
        assert _likeness(photo_set, tier, np.linalg.inv(homography)) < true - 0.3


def test_a_view_of_a_ramp_is_exact_to_the_pixel_centre() -> None:
    """Interpolation preserves a linear ramp, so its values tell where each pixel came from."""
    rows, columns = np.mgrid[0:100, 0:120]
    ramp = np.stack([2 * rows, 2 * columns, rows + columns], axis=-1).astype(np.uint8)
    homography = np.array([[1.1, 0.15, -9.0], [-0.1, 1.2, 2.0], [1e-4, -2e-4, 1.0]])
    view = view_through(ramp, homography, height=80, width=90)
    points = np.stack(np.mgrid[0:80, 0:90], axis=-1).reshape(-1, 2).astype(np.float64)
    came_from = map_points_yx(np.linalg.inv(homography), points)
    inside = np.all((came_from > 3) & (came_from < np.array([96, 116])), axis=1)
    assert inside.sum() > 4000
    # Rounding to whole values moves a value by half at most: a quarter of a pixel.
    assert np.abs(view.reshape(-1, 3)[inside, :2] / 2 - came_from[inside]).max() <= 0.25 + 1e-6


def test_a_halved_view_averages_pairs_of_pixels() -> None:
    """By the half-pixel convention the outer edges coincide, not the centres of corner pixels."""
    photo = np.broadcast_to(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (40, 100, 3))
    half = np.diag([0.5, 0.5, 1.0])
    half[:2, 2] = 0.5 * 0.5 - 0.5
    view = view_through(photo, half, height=20, width=50)
    middle = slice(5, 45)
    expected = (photo[::2, ::2, :].astype(np.float64) + photo[1::2, 1::2, :]) / 2
    # Values are rounded to whole numbers.
    assert np.abs(view[5:15, middle].astype(np.float64) - expected[5:15, middle]).max() <= 0.5


def test_a_third_of_an_occluded_view_is_hidden_and_the_rest_is_not() -> None:
    view = object_views("coffee")["occlusion"]
    height, width = view.image.shape[:2]
    open_view = view_through(source_photo("coffee"), view.homography, height=height, width=width)
    changed = np.any(np.abs(view.image.astype(int) - open_view) > 4, axis=-1).mean()
    assert 0.3 < changed < 0.6


def test_the_homography_between_two_views_goes_through_the_source(photo_set: PhotoSet) -> None:
    first, second, source = (
        f"images/chelsea/{view}.jpg" for view in ("crop", "homography", "source")
    )
    points = np.array([[10.0, 20.0], [150.5, 99.0]])
    through = map_points_yx(photo_set.homographies[second], points)
    direct = map_points_yx(
        homography_between(photo_set.homographies, first, second),
        map_points_yx(homography_between(photo_set.homographies, source, first), points),
    )
    np.testing.assert_allclose(direct, through, atol=1e-9)  # float64, coordinates below 1000


def test_a_homography_between_unrelated_images_is_refused(photo_set: PhotoSet) -> None:
    with pytest.raises(PhotoSetError, match="none is known for 'images/motorcycle/stereo.jpg'"):
        homography_between(
            photo_set.homographies, "images/motorcycle/source.jpg", "images/motorcycle/stereo.jpg"
        )
    with pytest.raises(PhotoSetError, match="different objects"):
        homography_between(
            photo_set.homographies, "images/motorcycle/source.jpg", "images/chelsea/crop.jpg"
        )


def test_every_view_is_a_query_answered_by_the_others(
    photo_set: PhotoSet,
) -> None:
    truth = load_groundtruth(photo_set.folder)
    assert truth.imlist == photo_set.images
    assert Counter(query.tier for query in truth.queries) == dict.fromkeys(TIERS, 2) | {"stereo": 1}
    for query in truth.queries:
        shown = {truth.imlist[i] for i in query.ok}
        everything = {path for path in truth.imlist if path.startswith(f"images/{query.landmark}/")}
        assert shown == everything - {query.path}
        assert query.junk == (query.index,)


def test_a_written_set_reads_back(photo_set: PhotoSet) -> None:
    written = load_homographies(photo_set.folder)
    assert written.keys() == photo_set.homographies.keys()
    for path, homography in written.items():
        np.testing.assert_array_equal(homography, photo_set.homographies[path])
    for name in photo_set.images:
        assert 0 < max(_grey(photo_set.folder, name).shape) <= 512


def test_a_smaller_set_is_a_subset_byte_by_byte_and_another_seed_is_another_set(
    photo_set: PhotoSet, tmp_path: Path
) -> None:
    same = write_photo_set(tmp_path / "same", objects=("chelsea",), distractors=())
    other = write_photo_set(tmp_path / "other", seed=1, objects=("chelsea",), distractors=())
    for name in same.images:
        assert (same.folder / name).read_bytes() == (photo_set.folder / name).read_bytes()
        if not name.endswith("source.jpg"):
            assert (same.folder / name).read_bytes() != (other.folder / name).read_bytes()


def test_every_photograph_is_inside_the_installed_package() -> None:
    shapes = {
        name: source_photo(name, max_side=64).shape
        for name in (*OBJECTS, "motorcycle_right", *DISTRACTORS)
    }
    assert len(shapes) == 20
    assert all(max(shape) == 64 and shape[2] == 3 for shape in shapes.values())


def test_names_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotoSetError, match="'dog' is unknown; there are: astronaut"):
        source_photo("dog")
    with pytest.raises(PhotoSetError, match="'moon' is not one of astronaut"):
        write_photo_set(tmp_path, objects=("moon",))
    assert not any(tmp_path.iterdir())
