"""Precision and recall on Google-Landmarks as the paper measures them, by position.

The results of all queries are pooled, and one threshold of the score is swept over them. A
retrieved image counts as right if the centre of its landmark lies within 25 km of where the query
was taken. Positions are ``(latitude, longitude)`` in degrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from delfjax.datasets.geography import haversine_km, unit_vectors
from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.protocol import ProtocolId, ProtocolResult

# Distance up to which a landmark counts as the query's, km. Source: Noh et al. 2017.
RADIUS_KM = 25.0
# Distances computed at a time, which take tens of megabytes.
_BLOCK = 2**22


@dataclass(frozen=True)
class LandmarkDatabase:
    """The images of a database, their landmarks, and the positions of the landmarks.

    Attributes:
        images: distinct names of the images.
        landmark: landmark of each image, an index into ``centres_deg``; −1 for an image that shows
            none.
        centres_deg: centre of each landmark, latitude and longitude, degrees.
    """

    images: Sequence[str]
    landmark: Int[np.ndarray, " images"]
    centres_deg: Float[np.ndarray, "landmarks 2"]


@dataclass(frozen=True)
class ScoredList:
    """What was retrieved for a query, in any order.

    Attributes:
        images: names of images of the database.
        scores: score of each, larger is better; comparable between queries, for instance numbers
            of inliers.
    """

    images: Sequence[str]
    scores: Float[np.ndarray, " images"]


@dataclass(frozen=True)
class CurvePoint:
    """Precision and recall of everything that scores at least ``threshold``.

    Attributes:
        threshold: lowest score that counts.
        retrieved: number of landmarks retrieved, over all queries.
        true_positives: number of them that are right; the paper calls this count recall.
        precision: ``true_positives / retrieved``; NaN where nothing is retrieved.
        recall_rate: ``true_positives`` divided by the number of queries with a match; NaN if no
            query has one. It can exceed 1, because a query with several landmarks within reach may
            have several true positives.
    """

    threshold: float
    retrieved: int
    true_positives: int
    precision: float
    recall_rate: float


@dataclass(frozen=True)
class LandmarkCurve:
    """Precision against recall, one point for each score that occurs, highest first.

    The curve begins at the highest score: above it nothing is retrieved and precision is undefined.
    It therefore has no point at recall zero, unless the best-scoring landmarks are all wrong. If
    nothing was retrieved, it has no point at all.

    An *entry* is a landmark retrieved for a query. Entries are ordered by falling score.

    Attributes:
        protocol: the rules.
        queries: names of the queries.
        has_match: which queries have a landmark of the database within reach.
        entry_query: query of each entry, an index into ``queries``.
        entry_score: best score among the landmark's images retrieved for the query.
        entry_correct: whether the landmark is the query's.
    """

    protocol: ProtocolId
    queries: tuple[str, ...]
    has_match: Bool[np.ndarray, " queries"]
    entry_query: Int[np.ndarray, " entries"]
    entry_score: Float[np.ndarray, " entries"]
    entry_correct: Bool[np.ndarray, " entries"]

    @property
    def thresholds(self) -> Float[np.ndarray, " points"]:
        """The scores that occur, in falling order."""
        return np.asarray(self.entry_score[self._ends()])

    @property
    def retrieved(self) -> Int[np.ndarray, " points"]:
        """Number of landmarks retrieved at each threshold, over all queries."""
        return self._ends() + 1

    @property
    def true_positives(self) -> Int[np.ndarray, " points"]:
        """Number of retrieved landmarks that are right; the paper calls this count recall."""
        return np.asarray(np.cumsum(self.entry_correct)[self._ends()])

    @property
    def precision(self) -> Float[np.ndarray, " points"]:
        """Share of the retrieved landmarks that are right."""
        return np.asarray(self.true_positives / self.retrieved)

    @property
    def recall_rate(self) -> Float[np.ndarray, " points"]:
        """True positives divided by the number of queries with a match; NaN if no query has one."""
        matched = int(self.has_match.sum())
        return self.true_positives / matched if matched else np.full(self.retrieved.shape, np.nan)

    def at(self, threshold: float) -> CurvePoint:
        """The point of any threshold, whether or not a score equals it."""
        count = self._count(threshold)
        right = int(self.entry_correct[:count].sum())
        matched = int(self.has_match.sum())
        precision = right / count if count else np.nan
        rate = right / matched if matched else np.nan
        return CurvePoint(float(threshold), count, right, precision, rate)

    def area(self) -> float:
        """Area under the curve of precision against the rate of recall.

        Each right landmark adds the precision at its score; landmarks of equal score share the
        precision after all of them. NaN if no query has a match.
        """
        rates, precision = self.recall_rate, self.precision
        if not self.has_match.any():
            return float("nan")
        return float(np.sum(np.diff(rates, prepend=0.0) * precision))

    def last_with(self, precision: float) -> CurvePoint | None:
        """The point with most true positives whose precision is at least ``precision``, if any."""
        good = np.flatnonzero(self.precision >= precision)
        return self.at(float(self.thresholds[good[-1]])) if good.size else None

    def result_at(self, threshold: float) -> ProtocolResult:
        """Counts of true and false positives of each query, for intervals and paired tests."""
        count = self._count(threshold)
        right = self.entry_correct[:count]
        queries = self.entry_query[:count]
        size = len(self.queries)
        scores = {
            name: np.bincount(queries[chosen], minlength=size).astype(np.float64)
            for name, chosen in (("true positives", right), ("false positives", ~right))
        }
        return ProtocolResult(self.protocol, self.queries, scores)

    def _ends(self) -> Int[np.ndarray, " points"]:
        """Last entry of each score, because entries of equal score pass a threshold together."""
        if not self.entry_score.size:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(np.append(np.diff(self.entry_score) != 0, True))

    def _count(self, threshold: float) -> int:
        return int(np.count_nonzero(self.entry_score >= threshold))


def landmark_centres(
    landmark: Int[np.ndarray, " images"],
    positions_deg: Float[np.ndarray, "images 2"],
    *,
    count: int,
) -> Float[np.ndarray, "landmarks 2"]:
    """Centre of each landmark: the mean direction of its images with a known position.

    Args:
        landmark: landmark of each image, −1 for none.
        positions_deg: latitude and longitude of each image, degrees; NaN where unknown.
        count: number of landmarks.

    Returns:
        Latitude and longitude, degrees; NaN for a landmark without any such image.
    """
    known = (landmark >= 0) & ~np.isnan(positions_deg).any(axis=1)
    points = unit_vectors(positions_deg[known])
    sums = np.stack(
        [np.bincount(landmark[known], weights=axis, minlength=count) for axis in points.T], axis=-1
    )
    latitude = np.arctan2(sums[:, 2], np.hypot(sums[:, 0], sums[:, 1]))
    centres = np.degrees(np.stack([latitude, np.arctan2(sums[:, 1], sums[:, 0])], axis=-1))
    placed = np.bincount(landmark[known], minlength=count) > 0
    return np.where(placed[:, None], centres, np.nan)


def landmark_precision_recall(
    retrieved: Mapping[str, ScoredList],
    *,
    queries_deg: Mapping[str, tuple[float, float] | None],
    database: LandmarkDatabase,
    benchmark: str = "google-landmarks",
    radius_km: float = RADIUS_KM,
) -> LandmarkCurve:
    """Pool the results of all queries and sweep one threshold of the score over them.

    For each query only the best-scoring image of a landmark counts; an image retrieved twice
    counts once. An image without a landmark counts by itself and is wrong. A query without a match
    (no landmark within reach, or no position) can only add false positives.

    Args:
        retrieved: query → what was retrieved; a query for which nothing was has an empty list.
        queries_deg: query → latitude and longitude where it was taken, degrees; ``None`` for a
            query that matches nothing.
        database: images and landmarks.
        benchmark: name of the dataset; the protocol's identifier adds the radius to it.
        radius_km: largest distance between a query and the centre of its landmark, inclusive.

    Raises:
        EvaluationError: a query has no list; a list is of something other than a query, names an
            image outside the database or has a score that is not finite; or the database or a
            position is invalid.

    Source: Noh et al. 2017, "Large-Scale Image Retrieval with Attentive Deep Local Features",
        evaluation.
    """
    index = _checked_database(database)
    names = tuple(queries_deg)
    positions = _positions(queries_deg)
    query, image, score = _pooled(retrieved, names, index)
    landmark = database.landmark[image].astype(np.int64)
    count = len(database.centres_deg)
    # An image without a landmark counts as a landmark of its own, numbered after all others.
    kept = _best(query, np.where(landmark < 0, count + image, landmark), score)
    query, landmark, score = query[kept], landmark[kept], score[kept]
    correct = landmark >= 0
    correct[correct] = (
        haversine_km(positions[query[correct]], database.centres_deg[landmark[correct]])
        <= radius_km
    )
    present = database.centres_deg[np.unique(database.landmark[database.landmark >= 0])]
    identifier = ProtocolId(
        f"{benchmark}-{radius_km:g}km", "full", "best-per-landmark", "threshold-ties"
    )
    return LandmarkCurve(
        identifier, names, _within(positions, present, radius_km), query, score, correct
    )


def _checked_database(database: LandmarkDatabase) -> pd.Index:
    index = pd.Index(np.asarray(database.images, dtype=object), dtype=object)
    if not index.is_unique:
        raise EvaluationError(
            f"database: {index[index.duplicated()][0]!r} appears twice; names must be distinct"
        )
    if len(database.landmark) != len(index):
        raise EvaluationError(
            f"database: {len(index)} images but {len(database.landmark)} landmarks of images, "
            "expected one for each"
        )
    strange = (database.landmark < -1) | (database.landmark >= len(database.centres_deg))
    if strange.any():
        place = int(np.argmax(strange))
        raise EvaluationError(
            f"database: {index[place]!r} shows landmark {database.landmark[place]}; there are "
            f"{len(database.centres_deg)}, counted from 0, and -1 stands for none"
        )
    _check_degrees(
        database.centres_deg,
        [f"centre of landmark {number}" for number in range(len(database.centres_deg))],
    )
    return index


def _positions(
    queries_deg: Mapping[str, tuple[float, float] | None],
) -> Float[np.ndarray, "queries 2"]:
    """Positions of the queries; NaN for a query without one."""
    known = {name: position for name, position in queries_deg.items() if position is not None}
    found = np.array(list(known.values()), dtype=np.float64).reshape(-1, 2)
    _check_degrees(found, [f"query {name!r}" for name in known])
    positions = np.full((len(queries_deg), 2), np.nan)
    positions[[position is not None for position in queries_deg.values()]] = found
    return positions


def _check_degrees(positions: Float[np.ndarray, "n 2"], names: Sequence[str]) -> None:
    outside = ~(np.abs(positions) <= np.array([90.0, 180.0])).all(axis=-1)
    if outside.any():
        place = int(np.argmax(outside))
        raise EvaluationError(
            f"{names[place]}: position {tuple(positions[place].tolist())}, "
            "expected a latitude within ±90 and a longitude within ±180 degrees"
        )


def _pooled(
    retrieved: Mapping[str, ScoredList], names: Sequence[str], index: pd.Index
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Query, image and score of each item of all lists, one list after the other."""
    asked = frozenset(names)
    stranger = next((name for name in retrieved if name not in asked), None)
    missing = next((name for name in names if name not in retrieved), None)
    if stranger is not None:
        raise EvaluationError(f"retrieved: {stranger!r} is not a query of the ground truth")
    if missing is not None:
        raise EvaluationError(
            f"retrieved: nothing for the query {missing!r}; a failed query has an empty list"
        )
    images = []
    scores = [np.zeros(0)]
    for name in names:
        found = retrieved[name]
        codes = np.asarray(
            index.get_indexer(np.asarray(found.images, dtype=object)), dtype=np.int64
        )
        if len(found.scores) != len(codes) or not np.isfinite(found.scores).all():
            raise EvaluationError(
                f"retrieved for {name!r}: each of {len(codes)} images needs one finite score"
            )
        if (codes < 0).any():
            raise EvaluationError(
                f"retrieved for {name!r}: "
                f"{found.images[int(np.argmin(codes))]!r} is not in the database"
            )
        images.append(codes)
        scores.append(found.scores.astype(np.float64))
    query = np.repeat(np.arange(len(names)), [len(codes) for codes in images])
    return query, np.concatenate([np.zeros(0, dtype=np.int64), *images]), np.concatenate(scores)


def _best(
    query: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> Int[np.ndarray, " entries"]:
    """The best-scoring item of each group of a query, by falling score."""
    order = np.lexsort((-score, group, query))
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (np.diff(query[order]) != 0) | (np.diff(group[order]) != 0)
    kept = order[begins]
    return kept[np.argsort(-score[kept], kind="stable")]


def _within(
    positions: Float[np.ndarray, "queries 2"],
    centres: Float[np.ndarray, "landmarks 2"],
    radius_km: float,
) -> Bool[np.ndarray, " queries"]:
    """Which positions have a centre within the radius; never one that is unknown (NaN)."""
    within = np.zeros(len(positions), dtype=bool)
    if not len(centres):
        return within
    points = unit_vectors(centres).T
    step = max(1, _BLOCK // len(centres))
    for start in range(0, len(positions), step):
        block = positions[start : start + step]
        # The nearest centre has the largest inner product, so one exact distance per query is
        # enough.
        nearest = np.argmax(unit_vectors(np.nan_to_num(block)) @ points, axis=1)
        within[start : start + step] = haversine_km(block, centres[nearest]) <= radius_km
    return within
