"""Fusion: one ranking of two, by local features and by global descriptors.

The scores of a query are brought to a common range over the whole database, because inliers and
cosines have nothing in common but their order, and then averaged. A score that is the same for all
images orders nothing and becomes zero for all of them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from delfjax.config import RankingConfig
from delfjax.errors import DelfjaxError

KINDS = ("minmax", "rank", "log", "zscore")


class FusionError(DelfjaxError):
    """Scores cannot be normalised or fused."""


def normalised_scores(
    scores: Float[np.ndarray, "q n"] | Int[np.ndarray, "q n"],
    kind: str,
    *,
    most: int | None = None,
) -> Float[np.ndarray, "q n"]:
    """Scores of each query in a range that does not depend on what they measure.

    Args:
        scores: of each query and database image; greater is better.
        kind: "minmax", from 0 for the least to 1 for the greatest score of the query; "rank", the
            share of the other images that score less, so that 1 is the first alone and images with
            equal scores stay equal; "log", "minmax" of ``log(1 + score)``, for scores of zero or
            more; "zscore", standard deviations above the mean.
        most: greater scores count as this one in "minmax" and "zscore", where a single large one
            would push all others together; "rank" and "log" do without.

    Returns:
        Zeros for a query with the same score for every image, and for a database of one image.

    Raises:
        FusionError: ``kind`` is unknown, or a score is not finite, or negative in "log".
    """
    values = np.asarray(scores, np.float64)
    if kind not in KINDS:
        raise FusionError(f"normalisation is {kind!r}, expected one of {', '.join(KINDS)}")
    if not np.isfinite(values).all():
        raise FusionError(f"a score is {values[~np.isfinite(values)][0]}, expected finite scores")
    if not values.size:
        return values
    if kind == "rank":
        below: np.ndarray = rankdata(values, method="min", axis=1) - 1
        return np.asarray(below / max(values.shape[1] - 1, 1))
    if kind == "log":
        if values.min() < 0:
            raise FusionError(f"a score is {values.min():g}, expected 0 or more for 'log'")
        values = np.log1p(values)
    elif most is not None:
        values = np.minimum(values, most)
    least, greatest = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    # Compared exactly: the deviation of equal values may differ from zero by rounding.
    varies = greatest > least
    if kind == "zscore":
        above, spread = values - values.mean(axis=1, keepdims=True), values.std(axis=1)[:, None]
    else:
        above, spread = values - least, greatest - least
    return np.where(varies, above / np.where(varies & (spread > 0), spread, 1), 0.0)


def fused(
    inliers: Float[np.ndarray, "q n"] | Int[np.ndarray, "q n"],
    cosines: Float[np.ndarray, "rows columns"],
    config: RankingConfig,
) -> Float[np.ndarray, "q n"]:
    """The weighted mean of local and global scores, each normalised per query.

    Args:
        inliers: local scores of each query and database image: inliers, expanded or not; zero where
            an image was not verified.
        cosines: of the global descriptors. They have no logarithm: where ``config`` says "log",
            they are normalised by "minmax".
        config: normalisation, weight of the local scores and the inliers that count at most.

    Raises:
        FusionError: the two are not of the same queries and images, or a score is not finite.
    """
    if np.shape(inliers) != np.shape(cosines):
        raise FusionError(
            f"the local scores have shape {np.shape(inliers)}, but the global ones have"
            f" {np.shape(cosines)}"
        )
    kind = config.normalisation
    local = normalised_scores(inliers, kind, most=config.most_inliers)
    pooled = normalised_scores(cosines, "minmax" if kind == "log" else kind)
    return config.local_weight * local + (1 - config.local_weight) * pooled
