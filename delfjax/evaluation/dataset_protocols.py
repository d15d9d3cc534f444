"""Which protocols a dataset is scored by, and scorers that take one query at a time.

A scorer is handed one answer at a time and keeps only a few numbers of it: the rankings of a
hundred thousand queries over a million images would not fit the memory together. The rules
themselves are in :mod:`~delfjax.evaluation.labelled_protocols` (average precision with junk),
:mod:`~delfjax.evaluation.gldv2_protocol` and :mod:`~delfjax.evaluation.landmark_curve`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from delfjax.config import require_known
from delfjax.datasets.benchmark import DatasetQuery, RetrievalDataset
from delfjax.evaluation.average_precision import EvaluationError, mean_average_precision_by_landmark
from delfjax.evaluation.gldv2_protocol import (
    CUTOFF,
    global_average_precision,
    retrieval_mean_average_precision,
)
from delfjax.evaluation.labelled_protocols import (
    LabelProtocol,
    classic_protocol,
    holidays_protocol,
    revisited_protocol,
    score_ranking,
)
from delfjax.evaluation.landmark_curve import (
    LandmarkCurve,
    LandmarkDatabase,
    ScoredList,
    landmark_centres,
    landmark_precision_recall,
)
from delfjax.evaluation.protocol import ProtocolId, ProtocolResult

# Ranks of a labelled query that are reported; all ranks are scored.
_LONGEST_RANKING = 1000
# Ranks of a query of Google-Landmarks, which has too many queries to look further. Source: Weyand
# et al. 2020; for version 1, our choice.
_LONGEST_LIST = CUTOFF
# Precision at which the poster reads its curves (DELF: about 500 true positives at half).
_READ_AT = 0.5
# Tier of the queries of a folder without tiers.
_ONE_TIER = "all"
# Usage of the queries that the solutions of Google-Landmarks v2 leave unscored.
_IGNORED = "Ignored"


@dataclass(frozen=True)
class Answer:
    """What was found for one query; empty if the query could not be read.

    Attributes:
        images: database indices, best first, each once.
        scores: votes or inliers of each, in falling order; 0 for an image without any.
    """

    images: Int[np.ndarray, " n"]
    scores: Int[np.ndarray, " n"]


@runtime_checkable
class Scorer(Protocol):
    """Scores of one protocol, collected query by query."""

    @property
    def longest(self) -> int:
        """Number of ranks of an answer that are reported.

        Together with the ranks of labelled images further down, they determine the score.
        """

    def add(self, name: str, query: DatasetQuery, answer: Answer) -> None:
        """Score the answer to the query called ``name``."""

    def record(self) -> dict[str, Any]:
        """``protocol``, ``means`` and ``queries`` of everything added, as JSON can hold them.

        ``None`` stands for an undefined score.
        """


class _LabelScorer:
    """Average precision over the labels of each query."""

    longest = _LONGEST_RANKING

    def __init__(
        self,
        dataset: RetrievalDataset,
        protocol: LabelProtocol,
        *,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """``names`` maps labels of the dataset to those of the protocol, where they differ."""
        self._protocol = protocol
        self._database = dataset.database
        self._label_names = names or {}
        self._rows: dict[str, np.ndarray] = {}

    def add(self, name: str, query: DatasetQuery, answer: Answer) -> None:
        """See :class:`Scorer`."""
        labels = {
            self._label_names.get(label, label): members for label, members in query.sets.items()
        }
        self._rows[name] = score_ranking(
            answer.images,
            protocol=self._protocol,
            query=name,
            labels=labels,
            database=self._database,
        )

    def result(self) -> ProtocolResult:
        """Scores of everything that was added."""
        table = np.array(list(self._rows.values())).reshape(
            len(self._rows), len(self._protocol.score_names)
        )
        scores = {score: table[:, place] for place, score in enumerate(self._protocol.score_names)}
        return ProtocolResult(self._protocol.id, tuple(self._rows), scores)

    def record(self) -> dict[str, Any]:
        """See :class:`Scorer`."""
        return self.result().record()


class _FolderScorer(_LabelScorer):
    """Average precision, averaged over a landmark's queries first, then over a tier's landmarks."""

    def __init__(self, dataset: RetrievalDataset, database: Sequence[str]) -> None:
        identifier = ProtocolId("folder-by-landmark", "full", "junk-removed", "stable-ties")
        super().__init__(dataset, LabelProtocol(identifier, ("ok",), ("junk",)))
        self._landmark_names = dataset.landmark_names
        self._split = dataset.queries.split
        self._landmarks: list[str] = []
        self._tiers: list[str] = []

    def add(self, name: str, query: DatasetQuery, answer: Answer) -> None:
        """See :class:`Scorer`."""
        super().add(name, query, answer)
        self._landmarks.append(self._landmark_names[query.landmarks[0]])
        self._tiers.append(_ONE_TIER if self._split is None else str(self._split[query.number]))

    def record(self) -> dict[str, Any]:
        """See :class:`Scorer`."""
        result = self.result()
        precisions = result.scores["mAP"].tolist()
        tiers = mean_average_precision_by_landmark(
            precisions, landmarks=self._landmarks, tiers=self._tiers
        )
        return {**result.record(), "means": tiers}


class _RetrievalScorer:
    """Average precision among the first hundred images."""

    longest = _LONGEST_LIST

    def __init__(self, dataset: RetrievalDataset, database: Sequence[str]) -> None:
        self._benchmark = dataset.name
        self._database = database
        self._predictions: dict[str, list[str]] = {}
        self._solution: dict[str, list[str]] = {}

    def add(self, name: str, query: DatasetQuery, answer: Answer) -> None:
        """See :class:`Scorer`."""
        self._predictions[name] = [self._database[image] for image in answer.images[:CUTOFF]]
        self._solution[name] = [self._database[image] for image in query.sets["ok"]]

    def record(self) -> dict[str, Any]:
        """See :class:`Scorer`."""
        result = retrieval_mean_average_precision(
            self._predictions, solution=self._solution, benchmark=self._benchmark
        )
        return result.record()


class _RecognitionScorer:
    """Each query is recognised as the landmark of its best image, whose score is the confidence."""

    longest = _LONGEST_LIST

    def __init__(self, dataset: RetrievalDataset, database: Sequence[str]) -> None:
        if dataset.landmarks is None:
            raise EvaluationError(
                f"{dataset.name}: the images of the database have no landmarks, "
                "so none can be recognised"
            )
        self._benchmark = dataset.name
        self._landmarks = dataset.landmarks
        self._predictions: list[tuple[str, int, float]] = []
        self._solution: dict[str, list[int]] = {}

    def add(self, name: str, query: DatasetQuery, answer: Answer) -> None:
        """See :class:`Scorer`."""
        self._solution[name] = query.landmarks.tolist()
        # No prediction is made for a query whose best image has no votes or inliers.
        if answer.scores.size and answer.scores[0] > 0:
            self._predictions.append(
                (name, int(self._landmarks[answer.images[0]]), float(answer.scores[0]))
            )

    def record(self) -> dict[str, Any]:
        """See :class:`Scorer`."""
        result = global_average_precision(
            [name for name, _, _ in self._predictions],
            classes=np.array([landmark for _, landmark, _ in self._predictions], np.int64),
            confidences=np.array([score for _, _, score in self._predictions], np.float64),
            solution=self._solution,
            benchmark=self._benchmark,
        )
        return result.record()


class _LandmarkScorer:
    """Precision and recall by position, over each query's first hundred images.

    Images without votes or inliers are left out.
    """

    longest = _LONGEST_LIST

    def __init__(self, dataset: RetrievalDataset, database: Sequence[str]) -> None:
        columns = {
            "landmarks of the database images": dataset.landmarks,
            "positions of the database images": dataset.gps,
            "positions of the queries": dataset.queries.gps,
        }
        missing = next((what for what, column in columns.items() if column is None), None)
        if dataset.landmarks is None or dataset.gps is None or dataset.queries.gps is None:
            raise EvaluationError(
                f"{dataset.name}: the {missing} are missing; the paper's protocol judges by them, "
                "but they were never published. Put them into the columns landmark_id, latitude "
                "and longitude of index.csv, and latitude and longitude of test.csv"
            )
        self._benchmark = dataset.name
        self._positions = dataset.queries.gps
        self._names = database
        self._database = _landmark_database(dataset.name, database, dataset.landmarks, dataset.gps)
        self._retrieved: dict[str, ScoredList] = {}
        self._queries_deg: dict[str, tuple[float, float] | None] = {}

    def add(self, name: str, query: DatasetQuery, answer: Answer) -> None:
        """See :class:`Scorer`."""
        kept = np.flatnonzero(answer.scores[:_LONGEST_LIST] > 0)
        images = [self._names[image] for image in answer.images[kept]]
        self.add_list(name, query, ScoredList(images, answer.scores[kept].astype(np.float64)))

    def add_list(self, name: str, query: DatasetQuery, found: ScoredList) -> None:
        """Keep what was found for a query, whatever its scores mean."""
        self._retrieved[name] = found
        latitude, longitude = self._positions[query.number].tolist()
        self._queries_deg[name] = (
            None if math.isnan(latitude + longitude) else (latitude, longitude)
        )

    def curve(self) -> LandmarkCurve:
        """The curve of everything that was added."""
        return landmark_precision_recall(
            self._retrieved,
            queries_deg=self._queries_deg,
            database=self._database,
            benchmark=self._benchmark,
        )

    def record(self) -> dict[str, Any]:
        """As :class:`Scorer`, and the whole curve.

        The scores of a query are its counts at the threshold that the means are read at.
        """
        curve = self.curve()
        point = curve.last_with(_READ_AT) or curve.at(math.inf)
        means = {
            "area": curve.area(),
            "TP@P50": float(point.true_positives),
            "recall@P50": point.recall_rate,
        }
        return {
            **curve.result_at(point.threshold).record(),
            "means": {name: _number(value) for name, value in means.items()},
            "threshold": point.threshold if math.isfinite(point.threshold) else None,
            "curve": {
                "threshold": curve.thresholds.tolist(),
                "retrieved": curve.retrieved.tolist(),
                "true_positives": curve.true_positives.tolist(),
                "precision": curve.precision.tolist(),
                "recall_rate": [_number(value) for value in curve.recall_rate.tolist()],
            },
        }


def _classic(dataset: RetrievalDataset, database: Sequence[str]) -> Scorer:
    return _LabelScorer(dataset, classic_protocol(dataset.name))


def _revisited(dataset: RetrievalDataset, database: Sequence[str], *, setup: str) -> Scorer:
    return _LabelScorer(dataset, revisited_protocol(dataset.name, setup))


def _holidays(dataset: RetrievalDataset, database: Sequence[str]) -> Scorer:
    return _LabelScorer(
        dataset, holidays_protocol(dataset.name), names={"ok": "scene", "junk": "self"}
    )


def _world(dataset: RetrievalDataset, database: Sequence[str]) -> Scorer:
    return _LabelScorer(
        dataset,
        LabelProtocol(
            ProtocolId("world", "full", "junk-removed", "stable-ties"), ("ok",), ("junk",)
        ),
    )


_Maker = Callable[[RetrievalDataset, Sequence[str]], Scorer]
_REVISITED: Mapping[str, _Maker] = {
    setup: partial(_revisited, setup=setup) for setup in ("easy", "medium", "hard")
}
# Dataset → its protocols. Datasets of the catalogue that are missing here are training sets.
PROTOCOLS: Mapping[str, Mapping[str, _Maker]] = {
    "world": {"average-precision": _world, "precision-recall": _LandmarkScorer},
    "oxford5k": {"classic": _classic},
    "paris6k": {"classic": _classic},
    "oxford105k": {"classic": _classic},
    "paris106k": {"classic": _classic},
    "roxford5k": _REVISITED,
    "rparis6k": _REVISITED,
    "roxford5k_r1m": _REVISITED,
    "rparis6k_r1m": _REVISITED,
    "holidays": {"holidays": _holidays},
    "holidays_rotated": {"holidays": _holidays},
    "google_landmarks_v1": {"precision-recall": _LandmarkScorer},
    "google_landmarks_v2": {"retrieval": _RetrievalScorer},
    "google_landmarks_v2_recognition": {"recognition": _RecognitionScorer},
    "folder": {"folder": _FolderScorer},
}
# Dataset → the protocol and the mean to show where there is room for one number only. For a folder
# it is the mean of its tiers.
HEADLINES: Mapping[str, tuple[str, str]] = {
    "world": ("average-precision", "mAP"),
    **dict.fromkeys(("oxford5k", "paris6k", "oxford105k", "paris106k"), ("classic", "mAP")),
    **dict.fromkeys(("roxford5k", "rparis6k", "roxford5k_r1m", "rparis6k_r1m"), ("medium", "mAP")),
    **dict.fromkeys(("holidays", "holidays_rotated"), ("holidays", "mAP")),
    "google_landmarks_v1": ("precision-recall", "area"),
    "google_landmarks_v2": ("retrieval", f"mAP@{CUTOFF}"),
    "google_landmarks_v2_recognition": ("recognition", "GAP"),
    "folder": ("folder", "mAP"),
}


def make_scorers(
    dataset: RetrievalDataset, database: Sequence[str], protocols: Sequence[str] = ()
) -> dict[str, Scorer]:
    """A new scorer for each protocol of a dataset.

    Args:
        dataset: the dataset, whose name decides which protocols it has.
        database: names of its database images, as plain text, which is faster to look up.
        protocols: which of its protocols; all if empty.

    Raises:
        EvaluationError: the dataset has no queries or no protocol, or lacks the columns that its
            protocol needs.
        ConfigError: the dataset does not have one of ``protocols``; the message suggests the
            nearest.
    """
    if not len(dataset.queries):
        raise EvaluationError(_without_queries(dataset))
    if dataset.name not in PROTOCOLS:
        raise EvaluationError(
            f"{dataset.name}: no protocol is known for a dataset of this name; "
            f"there are protocols for: {', '.join(PROTOCOLS)}"
        )
    makers = PROTOCOLS[dataset.name]
    for protocol in protocols:
        require_known(f"{dataset.name}: protocol", protocol, makers)
    return {
        name: make(dataset, database)
        for name, make in makers.items()
        if not protocols or name in protocols
    }


def dataset_curve(dataset: RetrievalDataset, found: Mapping[str, ScoredList]) -> LandmarkCurve:
    """Precision and recall of any scores by the paper's protocol, queries without a match included.

    Args:
        dataset: a benchmark whose images and queries have positions.
        found: query → images of the database with scores that are comparable between queries.

    Raises:
        EvaluationError: a query has no list, or a list is of something else, names an image outside
            the database or has a score that is not finite; or the dataset lacks positions or
            landmarks.
    """
    names = query_names(dataset)
    stranger = next((name for name in found if name not in frozenset(names)), None)
    missing = next(
        (names[number] for number in scored_queries(dataset) if names[number] not in found), None
    )
    if stranger is not None or missing is not None:
        raise EvaluationError(
            f"{dataset.name}: "
            + (f"{stranger!r} is no query of it" if missing is None else f"no list for {missing!r}")
        )
    scorer = _LandmarkScorer(dataset, tuple(dataset.database))
    for number in scored_queries(dataset):
        scorer.add_list(names[number], dataset.queries[number], found[names[number]])
    return scorer.curve()


def scored_queries(dataset: RetrievalDataset) -> list[int]:
    """Numbers of the queries that are scored: all but those a solution marks as ignored."""
    split = dataset.queries.split
    if split is None or not dataset.name.startswith("google_landmarks_v2"):
        return list(range(len(dataset.queries)))
    numbers: list[int] = np.flatnonzero(split != _IGNORED).tolist()
    return numbers


def query_names(dataset: RetrievalDataset) -> list[str]:
    """Name of each query in results: its path, followed by ``#`` and its number if not unique."""
    paths = list(dataset.queries.paths)
    seen: set[str] = set()
    repeated: set[str] = set()
    for path in paths:
        (repeated if path in seen else seen).add(path)
    return [f"{path}#{number}" if path in repeated else path for number, path in enumerate(paths)]


def _without_queries(dataset: RetrievalDataset) -> str:
    if dataset.name == "folder":
        return (
            f"{dataset.root}: no queries, so nothing can be scored; add a groundtruth.json, "
            "or put the images of each landmark into a folder of their own"
        )
    return (
        f"{dataset.name}: no queries, so nothing can be scored: it is for training; "
        "`extract` and `index` accept it"
    )


def _landmark_database(
    name: str, database: Sequence[str], landmarks: Int[np.ndarray, " images"], gps: np.ndarray
) -> LandmarkDatabase:
    ids, codes = np.unique(landmarks[landmarks >= 0], return_inverse=True)
    landmark = np.full(len(landmarks), -1, np.int64)
    landmark[landmarks >= 0] = codes
    centres = landmark_centres(landmark, gps, count=len(ids))
    lost = np.isnan(centres).any(axis=1)
    if lost.any():
        number = int(ids[int(np.argmax(lost))])
        raise EvaluationError(
            f"{name}: no image of landmark {number} has a position, "
            "which every landmark needs to be scored"
        )
    return LandmarkDatabase(database, landmark, centres)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
