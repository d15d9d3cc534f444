"""The extractor of the local features that a config asks for: DELF's, SIFT's or CONGAS's."""

from __future__ import annotations

from delfjax.config import DelfConfig
from delfjax.features.congas import load_congas
from delfjax.features.dataset_loop import ImageExtractor
from delfjax.features.extractor import load_extractor
from delfjax.features.sift import load_sift
from delfjax.types import ImageFeatures


def load_local_extractor(config: DelfConfig) -> ImageExtractor[ImageFeatures]:
    """The extractor of local features of ``config``; a process loads it once.

    Raises:
        WeightsError: weights are missing or damaged, or do not fit.
        MissingOpenCVError: the method is SIFT, and OpenCV is not installed.
    """
    if config.features.method == "sift":
        return load_sift(config)
    if config.features.method == "congas":
        return load_congas(config)
    return load_extractor(config)
