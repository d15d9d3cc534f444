"""SIFT features, as OpenCV computes them, with RootSIFT descriptors.

OpenCV is an optional extra. Its SIFT takes a twentieth to a fortieth of the time that
scikit-image's takes.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from delfjax.config import DelfConfig, SiftConfig
from delfjax.datasets.images import DecodedImage
from delfjax.device import processors
from delfjax.errors import DelfjaxError
from delfjax.ops.half_pixel import to_original_px
from delfjax.types import ImageFeatures, LocalFeatures

# Extractors that stay loaded.
_LOADED = 4
_MOST_THREADS = 8
_DIMENSIONS = 128
# OpenCV gives the diameter of a keypoint.
_DIAMETER = 2.0


class MissingOpenCVError(DelfjaxError):
    """SIFT was asked for, but OpenCV is not installed."""


@dataclass(frozen=True)
class PendingSift:
    """Images being described on threads."""

    futures: tuple[Future[ImageFeatures], ...]

    def result(self) -> list[ImageFeatures]:
        """Wait for the images; returns the features of each."""
        return [future.result() for future in self.futures]


class SiftExtractor:
    """SIFT on threads, one image each.

    The scale of a keypoint is the factor that makes it as large as the smallest that the first
    octave of the image itself holds; the octave of the doubled image holds smaller ones.
    """

    batch_size = 1

    def __init__(self, config: DelfConfig) -> None:
        """Set up the threads.

        Args:
            config: only the sections ``sift`` and ``features`` matter.

        Raises:
            MissingOpenCVError: OpenCV is not installed.
        """
        try:
            self._cv2: Any = importlib.import_module("cv2")
        except ImportError:
            raise MissingOpenCVError(
                "SIFT needs OpenCV, which is not installed; install it with"
                " `pip install 'delfjax[sift]'`"
            ) from None
        self.config = config
        self.max_side = config.features.max_side
        threads = min(_MOST_THREADS, len(processors()))
        self.in_flight = threads + 1
        self._threads = ThreadPoolExecutor(threads, "sift")

    @property
    def extraction(self) -> dict[str, Any]:
        """The plain values that determine the features."""
        return self.config.extraction()

    def canvas(self, height: int, width: int) -> Hashable:
        """A key of an image's size; images of any size can follow each other.

        Args:
            height: rows of the image, pixels.
            width: columns of the image, pixels.
        """
        del height, width
        return ()

    def dispatch(self, images: Sequence[DecodedImage]) -> PendingSift:
        """Start the extraction of images and return without waiting for it."""
        return PendingSift(tuple(self._threads.submit(self._extract, image) for image in images))

    def _extract(self, image: DecodedImage) -> ImageFeatures:
        settings, count = self.config.sift, self.config.features.max_features
        # One detector for each image: it holds buffers of its own.
        detector = self._cv2.SIFT_create(
            nfeatures=count,
            nOctaveLayers=settings.scales_per_octave,
            contrastThreshold=settings.contrast,
            edgeThreshold=settings.edge_ratio,
            sigma=settings.sigma,
            # Without it, positions in the doubled image are a quarter of a pixel off.
            enable_precise_upscale=True,
        )
        grey = self._cv2.cvtColor(image.pixels, self._cv2.COLOR_RGB2GRAY)
        points, found = detector.detectAndCompute(grey, None)
        factor = np.array(image.pixels.shape[:2]) / np.array(image.original_size)
        local = _local_features(points, found, settings, count=count, factor=factor)
        return ImageFeatures(local, None, image.original_size, image.content_hash)


def load_sift(config: DelfConfig) -> SiftExtractor:
    """The extractor of ``config``; a process loads it once.

    Args:
        config: only the sections ``sift`` and ``features`` matter.

    Raises:
        MissingOpenCVError: OpenCV is not installed.
    """
    return _loaded(DelfConfig(features=config.features, sift=config.sift))


@lru_cache(maxsize=_LOADED)
def _loaded(config: DelfConfig) -> SiftExtractor:
    return SiftExtractor(config)


def _local_features(
    points: Sequence[Any],
    found: np.ndarray | None,
    settings: SiftConfig,
    *,
    count: int,
    factor: np.ndarray,
) -> LocalFeatures:
    """OpenCV's keypoints and histograms, the strongest first.

    Args:
        points: keypoints.
        found: their histograms; ``None`` if there are no keypoints.
        settings: how to normalise them.
        count: most features; of equally strong keypoints, OpenCV returns more.
        factor: scale of the image, of the original, along y and x.
    """
    rows = np.zeros((0, _DIMENSIONS), np.float32) if found is None else found
    values = np.array([(*p.pt, p.size, math.radians(p.angle), p.response) for p in points])
    x, y, size, angle, strength = values.reshape(-1, 5).T
    # Equal ones in the order of their places, whatever the order in which threads found them.
    order = np.lexsort((angle, x, y, -strength))[:count]
    rows = rows[order].astype(np.float32)
    if settings.root:
        rows = np.sqrt(rows / np.maximum(np.abs(rows).sum(axis=1, keepdims=True), 1e-12))
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    at_yx = np.stack([y, x], axis=1)[order]
    return LocalFeatures(
        keypoints_yx=np.asarray(to_original_px(at_yx, factor), np.float32),
        scales=np.asarray(settings.sigma * _DIAMETER / size[order], np.float32),
        scores=np.asarray(strength[order], np.float32),
        descriptors=rows,
        valid=np.ones(len(order), bool),
        orientations=np.asarray(angle[order], np.float32),
    )
