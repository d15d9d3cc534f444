"""How many keypoints are found again and matched rightly where the truth is known exactly: in
photos that are turned or resized, and between photographs of one landmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial import cKDTree
from skimage.transform import resize, warp

from delfjax.config import DelfConfig
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.images import DecodedImage, decode_image
from delfjax.features.dataset_loop import ImageExtractor
from delfjax.features.local_methods import load_local_extractor
from delfjax.ops.half_pixel import resize_matrices
from delfjax.retrieval.search import match_pair
from delfjax.suite.data import true_positions
from delfjax.types import ImageFeatures

# Largest distance of a right match from its true position, pixels of the changed photo. Source: the
# default tolerance of verification.
TOLERANCE_PX = 12.0
# The same of a keypoint that is found again: with hundreds of keypoints in a small photo, some lie
# within the other by chance.
REPEATED_PX = 5.0
# Brightness around a turned photo.
_AROUND = 0.5


@dataclass(frozen=True)
class ChangedPhoto:
    """A photo after a change that is known exactly.

    Attributes:
        pixels: RGB.
        matrix: maps ``(x, y, 1)`` of the photo before to that after.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    matrix: Float[np.ndarray, "3 3"]


def turned(pixels: UInt8[np.ndarray, "h w 3"], degrees: float) -> ChangedPhoto:
    """A photo turned clockwise on a grey canvas that holds all of it."""
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    height, width = pixels.shape[:2]
    # Rounded up, but not by a rounding error of a quarter turn.
    size = [
        int(np.ceil(abs(first * cosine) + abs(second * sine) - 1e-6))
        for first, second in ((height, width), (width, height))
    ]
    middle, other = (np.array([w - 1, h - 1]) / 2 for h, w in ((height, width), size))
    matrix = np.eye(3)
    matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
    matrix[:2, 2] = other - matrix[:2, :2] @ middle
    inverse = np.linalg.inv(matrix)
    changed = warp(pixels / 255, inverse, output_shape=size, order=1, cval=_AROUND)
    return ChangedPhoto(np.round(255 * changed).astype(np.uint8), matrix)


def resized(pixels: UInt8[np.ndarray, "h w 3"], factor: float) -> ChangedPhoto:
    """A photo enlarged or, with antialiasing, reduced by ``factor``."""
    size = [max(1, round(side * factor)) for side in pixels.shape[:2]]
    changed = resize(pixels / 255, size, order=1, anti_aliasing=factor < 1)
    matrix = resize_matrices(np.array([factor]))[0]
    return ChangedPhoto(np.round(255 * changed).astype(np.uint8), matrix)


def matched_shares(
    photos: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    config: DelfConfig,
    change: Callable[[np.ndarray, float], ChangedPhoto],
    amounts: Sequence[float],
) -> dict[float, float]:
    """Amount of a change → mean share of the keypoints that the change keeps within the photo whose
    mutual nearest neighbour lies where they are now, within :data:`TOLERANCE_PX`.

    Args:
        photos: RGB.
        config: the system.
        change: :func:`turned` or :func:`resized`.
        amounts: degrees or factors.
    """
    changed = {
        amount: [change(pixels, amount) for pixels in photos] for amount in dict.fromkeys(amounts)
    }
    # Nothing is reduced before it is extracted.
    sizes = [pixels.shape for pixels in photos]
    sizes += [photo.pixels.shape for of in changed.values() for photo in of]
    longest = max(max(size) for size in sizes)
    config = replace(config, features=replace(config.features, max_side=longest))
    extractor = load_local_extractor(config)
    before = [_features(extractor, pixels) for pixels in photos]
    return {
        amount: float(
            np.mean(
                [
                    _share(extractor, config, features, photo)
                    for features, photo in zip(before, of, strict=True)
                ]
            )
        )
        for amount, of in changed.items()
    }


@dataclass(frozen=True)
class KeypointScores:
    """Scores of the keypoints of pairs of photographs, whose true positions are known.

    Attributes:
        repeatability: share of the keypoints of the first, of those that the second shows, that
            have a keypoint of the second within :data:`REPEATED_PX` of their true position.
        matching_score: share of them whose mutual nearest neighbour lies within
            :data:`TOLERANCE_PX`.
        keypoints: number of keypoints that both show, on average.
    """

    repeatability: float
    matching_score: float
    keypoints: float


def keypoint_scores(
    benchmark: RetrievalDataset, pairs: Sequence[tuple[str, str]], config: DelfConfig
) -> KeypointScores:
    """Scores over all keypoints of some pairs of photographs.

    Source: Mikolajczyk et al. 2005, "A comparison of affine region detectors", with points in place
        of regions; the matching score of Mikolajczyk and Schmid 2005.

    Args:
        benchmark: a dataset with exact correspondences: the landmark world.
        pairs: paths of the first and of the second photograph of each pair.
        config: the system.
    """
    extractor = load_local_extractor(config)
    side = config.features.max_side
    shown = repeated = matched = 0
    for first, second in pairs:
        before, after = (
            extractor.dispatch([decode_image(benchmark.root / name, max_side=side)]).result()[0]
            for name in (first, second)
        )
        place = true_positions(benchmark, first, second, np.asarray(before.local.keypoints_yx))
        if place is None:
            continue
        place = place[np.isfinite(place).all(axis=1)]
        shown += len(place)
        if len(place) and len(after.local.scales):
            away, _ = cKDTree(np.asarray(after.local.keypoints_yx)).query(place)
            repeated += int((away <= REPEATED_PX).sum())
        found = match_pair(before, after, verification=config.verification, max_side=side)
        expected = true_positions(benchmark, first, second, found.query_yx)
        if expected is not None and len(expected):
            apart = np.hypot(*(expected - found.database_yx).T)
            matched += int((apart <= TOLERANCE_PX).sum())
    total = max(1, shown)
    return KeypointScores(repeated / total, matched / total, shown / max(1, len(pairs)))


def _share(
    extractor: ImageExtractor[ImageFeatures],
    config: DelfConfig,
    before: ImageFeatures,
    changed: ChangedPhoto,
) -> float:
    after = _features(extractor, changed.pixels)
    found = match_pair(
        before, after, verification=config.verification, max_side=config.features.max_side
    )
    place = _mapped(changed.matrix, np.asarray(before.local.keypoints_yx))
    inside = ((place >= 0) & (place <= np.array(changed.pixels.shape[:2]) - 1)).all(axis=1)
    apart = _mapped(changed.matrix, found.query_yx) - found.database_yx
    right = np.hypot(*apart.T) <= TOLERANCE_PX
    return float(min(1.0, right.sum() / max(1, inside.sum())))


def _features(
    extractor: ImageExtractor[ImageFeatures], pixels: UInt8[np.ndarray, "h w 3"]
) -> ImageFeatures:
    image = DecodedImage(pixels, (pixels.shape[0], pixels.shape[1]), "")
    return extractor.dispatch([image]).result()[0]


def _mapped(
    matrix: Float[np.ndarray, "3 3"], points_yx: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    xy1 = np.c_[points_yx[:, ::-1], np.ones(len(points_yx))]
    mapped: np.ndarray = (xy1 @ matrix.T)[:, 1::-1]
    return mapped
