"""The dataset of a notebook: made on first use, then opened from the cache, with its exact ground
truth where there is one.

A dataset lies in the cache under a hash of the values that determine its bytes, and never changes
there. A notebook with the same parameters as an earlier one therefore reuses its dataset.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from scipy.spatial import cKDTree

from delfjax import paths
from delfjax.config import config_hash
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.catalogue import open_dataset
from delfjax.datasets.photo_folder import PhotoFolder, load_groundtruth
from delfjax.datasets.skimage_photos import (
    homography_between,
    load_homographies,
    map_points_yx,
    write_photo_set,
)
from delfjax.files import new_folder
from delfjax.suite.settings import PhotoExperiment
from delfjax.world.knobs import WorldConfig
from delfjax.world.reading import World, correspondences, open_world
from delfjax.world.writing import VERSION, build_world, is_whole_jpeg

# Largest distance from a point with a known correspondence at which a keypoint counts as on the
# landmark, pixels: half a cell of the enlarged photograph.
_ON_LANDMARK_PX = 4.0


def suite_dataset(experiment: PhotoExperiment, *, progress: bool = False) -> RetrievalDataset:
    """Open the benchmark of ``experiment``; one that needs no download is made first if missing.

    Raises:
        PhotoSetError: the installed scikit-image lacks a photograph.
        DatasetError: a benchmark is missing, incomplete or malformed.
    """
    if experiment.dataset == "world":
        return open_dataset("world", world_set(experiment.world(), progress=progress))
    if experiment.dataset == "embedded":
        return open_dataset("folder", photo_set(experiment).root)
    return open_dataset(experiment.dataset, experiment.folder)


def photo_set(experiment: PhotoExperiment) -> PhotoFolder:
    """The embedded photographs of ``experiment``, all of which are written first if one is missing
    or cut short.

    Raises:
        PhotoSetError: the installed scikit-image lacks a photograph.
    """
    folder = paths.cache_root() / "photos" / config_hash(experiment.photos())
    if not folder.is_dir():
        _write_photo_set(experiment, folder)
    photos = PhotoFolder(folder, tuple(sorted(load_groundtruth(folder).imlist)))
    if not all(is_whole_jpeg(photos.path(name)) for name in photos.names):
        # The same bytes again, each file in one step.
        _write_photos(experiment, folder)
    return photos


def world_set(config: WorldConfig, *, progress: bool = False) -> Path:
    """Folder of a landmark world in the cache, rendered first if missing or unfinished."""
    folder = paths.cache_root() / "worlds" / config_hash({"version": VERSION, **config.plain()})
    build_world(folder, config, progress=progress)
    return folder


def look_alike_families(benchmark: RetrievalDataset) -> Int64[np.ndarray, " images"] | None:
    """Family of the landmark that each database image of the world shows, distractors included.

    Landmarks of one family look alike. −1 marks a street without a landmark. ``None`` for another
    dataset, whose look-alikes nobody knows.
    """
    if benchmark.name != "world":
        return None
    world, rows = _opened(benchmark.root)
    subjects = np.asarray(world.manifest["subject"])[[rows[name] for name in benchmark.database]]
    return np.array(
        [world.census.family(subject) if subject >= 0 else -1 for subject in subjects.tolist()],
        np.int64,
    )


def true_errors_px(
    benchmark: RetrievalDataset,
    first: str,
    second: str,
    *,
    first_yx: Float[np.ndarray, "n 2"],
    second_yx: Float[np.ndarray, "n 2"],
) -> Float[np.ndarray, " n"] | None:
    """Distances of matches from the true position of the same point in the second image.

    Args:
        benchmark: from :func:`suite_dataset`.
        first: path of an image.
        second: path of another image.
        first_yx: matched points of the first image, pixels.
        second_yx: matched points of the second image, pixels.

    Returns:
        Distances in pixels of the second image; infinite for a point that the second image does not
        show. ``None`` if the true positions are unknown, as for all real photographs.
    """
    true_yx = true_positions(benchmark, first, second, first_yx)
    if true_yx is None:
        return None
    away = np.linalg.norm(true_yx - second_yx, axis=1)
    return np.asarray(np.where(np.isnan(away), np.inf, away))


def true_positions(
    benchmark: RetrievalDataset, first: str, second: str, points_yx: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"] | None:
    """Where points of one image are in another.

    Args:
        benchmark: from :func:`suite_dataset`.
        first: path of an image.
        second: path of another image.
        points_yx: points of the first image, pixels.

    Returns:
        Pixels of the second image; NaN for a point that it does not show. ``None`` if the true
        positions are unknown, as for all real photographs.
    """
    if benchmark.name == "world":
        world, rows = _opened(benchmark.root)
        known = correspondences(world, rows[first], rows[second])
        if not len(known.first_yx):
            return np.full((len(points_yx), 2), np.nan)
        away, nearest = cKDTree(known.first_yx).query(points_yx)
        true_yx = known.second_yx[nearest] + points_yx - known.first_yx[nearest]
        return np.asarray(np.where((away <= _ON_LANDMARK_PX)[:, None], true_yx, np.nan))
    homographies = _homographies(benchmark.root) if benchmark.name == "folder" else {}
    if first not in homographies or second not in homographies:
        return None
    return np.asarray(
        map_points_yx(homography_between(homographies, first, second), points_yx.astype(np.float64))
    )


@cache
def _opened(root: Path) -> tuple[World, dict[str, int]]:
    world = open_world(root)
    return world, {path: row for row, path in enumerate(world.paths)}


@cache
def _homographies(root: Path) -> dict[str, Float[np.ndarray, "3 3"]]:
    return load_homographies(root)


def _write_photo_set(experiment: PhotoExperiment, folder: Path) -> None:
    try:
        with new_folder(folder) as unfinished:
            _write_photos(experiment, unfinished)
    except OSError:
        # Another process may have been faster; it wrote the same bytes.
        if not folder.is_dir():
            raise


def _write_photos(experiment: PhotoExperiment, folder: Path) -> None:
    write_photo_set(
        folder,
        seed=experiment.config.seed,
        objects=experiment.objects,
        distractors=experiment.distractors,
        max_side=experiment.photo_side,
    )
