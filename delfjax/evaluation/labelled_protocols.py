"""Protocols with labelled images: Oxford and Paris, classic and revisited, and Holidays.

They differ only in which labels are positive and which are ignored (junk). A
:class:`LabelProtocol` says that; :func:`score_rankings` does the rest, with
:func:`~delfjax.evaluation.average_precision.junk_free_ranks` for the ignored images. The rules are
the same for all protocols:

- every query has a ranking, which may be cut short or empty; positives left out were not found;
- a ranking names images of the database, each once; anything else is refused by name;
- a query without positives scores NaN and is left out of the means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from delfjax.evaluation.average_precision import (
    EvaluationError,
    average_precision,
    junk_free_ranks,
    precision_at,
)
from delfjax.evaluation.protocol import ProtocolId, ProtocolResult

# Names of images, best first, or their indices in the database.
Ranking = Sequence[str] | np.ndarray

# Setup → labels that are positive, labels that are ignored. Source: Radenović et al. 2018.
_SETUPS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
# k of mP@k. Source: ibid.
_CUTOFFS = (1, 5, 10)
# The numbers of images of one scene differ in the last two digits only; 00 is the query.
_HOLIDAYS_GROUP = 100

_POSITIVE, _IGNORED = 1, 2


@dataclass(frozen=True)
class LabelledQuery:
    """One query of a ground truth.

    Attributes:
        name: the query.
        labels: label → database images that carry it for this query; images without a label are
            negatives.
    """

    name: str
    labels: Mapping[str, Collection[str]]


@dataclass(frozen=True)
class LabelProtocol:
    """Which labels answer a query, and which are neither rewarded nor penalised.

    Attributes:
        id: the rules, as recorded with the result.
        positives: labels of images that answer the query.
        ignored: labels of images that are removed from the ranking.
        cutoffs: values of ``k`` for which mP@k is reported as well.
    """

    id: ProtocolId
    positives: tuple[str, ...]
    ignored: tuple[str, ...]
    cutoffs: tuple[int, ...] = ()

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores of a query: ``mAP``, and ``mP@k`` for each cutoff."""
        return ("mAP", *(f"mP@{cutoff}" for cutoff in self.cutoffs))


def classic_protocol(benchmark: str, *, query: str = "crop") -> LabelProtocol:
    """Oxford5k, Paris6k and their enlarged versions: good and ok are positive, junk is removed.

    The query's image is in the database and among its positives; it stays in the ranking.

    Args:
        benchmark: name of the dataset, for instance ``oxford5k`` or ``paris106k``.
        query: ``crop``, as published, or ``full``.

    Raises:
        EvaluationError: as :class:`~delfjax.evaluation.protocol.ProtocolId`.

    Source: Philbin et al. 2007 and 2008; labels ``good``, ``ok`` and ``junk`` of the ground-truth
        files.
    """
    return LabelProtocol(
        ProtocolId(benchmark, query, "junk-removed", "stable-ties"), ("good", "ok"), ("junk",)
    )


def holidays_protocol(benchmark: str = "holidays") -> LabelProtocol:
    """Holidays: the other images of the query's scene are positive, the query itself is removed.

    Args:
        benchmark: name of the dataset; it should say whether the photos were turned upright by
            hand.

    Raises:
        EvaluationError: as :class:`~delfjax.evaluation.protocol.ProtocolId`.

    Source: Jégou, Douze and Schmid 2008, and its evaluation program.
    """
    return LabelProtocol(
        ProtocolId(benchmark, "full", "self-removed", "stable-ties"), ("scene",), ("self",)
    )


def revisited_protocol(benchmark: str, setup: str, *, query: str = "crop") -> LabelProtocol:
    """Revisited Oxford and Paris: mean average precision and mP@1, mP@5 and mP@10 of one setup.

    - Easy: easy images are positive, hard ones ignored.
    - Medium: both are positive.
    - Hard: hard images are positive, easy ones ignored.

    Junk is always ignored. The queries' images are not in the database.

    Args:
        benchmark: ``roxford5k`` or ``rparis6k``, or the name of a version with distractors.
        setup: ``easy``, ``medium`` or ``hard``.
        query: ``crop``, as published, or ``full``.

    Raises:
        EvaluationError: the setup is unknown, or as
            :class:`~delfjax.evaluation.protocol.ProtocolId`.

    Source: Radenović et al. 2018, "Revisiting Oxford and Paris".
    """
    if setup not in _SETUPS:
        raise EvaluationError(f"setup {setup!r}; there are: {', '.join(_SETUPS)}")
    positives, ignored = _SETUPS[setup]
    identifier = ProtocolId(f"{benchmark}-{setup}", query, "junk-removed", "stable-ties")
    return LabelProtocol(identifier, positives, ignored, _CUTOFFS)


def holidays_queries(database: Sequence[str]) -> tuple[LabelledQuery, ...]:
    """The ground truth of Holidays, read from the numbers that its images are named by.

    Image 123400 is a query; 123401, 123402, … are its positives.

    Args:
        database: names of the images, with or without a suffix (``123400.jpg``), possibly in
            folders.

    Returns:
        The queries in the order of their numbers, with labels ``scene`` and ``self``.

    Raises:
        EvaluationError: a name is not a number, two images have the same number, or a scene lacks
            its query.
    """
    numbered: dict[int, str] = {}
    for name in database:
        stem = PurePosixPath(name).stem
        if not stem.isdecimal():
            raise EvaluationError(
                f"database: the name of {name!r} is not a number; "
                "Holidays names its images 123400, 123401 …"
            )
        if int(stem) in numbered:
            raise EvaluationError(
                f"database: {numbered[int(stem)]!r} and {name!r} have the same number"
            )
        numbered[int(stem)] = name
    scenes: dict[int, list[str]] = {}
    for number in sorted(numbered):
        scene = number // _HOLIDAYS_GROUP
        if number % _HOLIDAYS_GROUP == 0:
            scenes[scene] = []
        elif scene not in scenes:
            raise EvaluationError(
                f"database: {numbered[number]!r} belongs to a scene whose query, "
                f"{scene * _HOLIDAYS_GROUP}, is missing"
            )
        else:
            scenes[scene].append(numbered[number])
    names = {scene: numbered[scene * _HOLIDAYS_GROUP] for scene in scenes}
    return tuple(
        LabelledQuery(names[scene], {"scene": tuple(others), "self": (names[scene],)})
        for scene, others in scenes.items()
    )


def score_rankings(
    rankings: Mapping[str, Ranking],
    *,
    protocol: LabelProtocol,
    queries: Sequence[LabelledQuery],
    database: Sequence[str],
) -> ProtocolResult:
    """Trapezoidal average precision (``mAP``) of every query, and its ``mP@k`` for each cutoff.

    Args:
        rankings: query → database images, best first and each at most once, as names or as an
            array of indices. The order is taken as it is; images of equal score should stand in
            the order of the database (:func:`~delfjax.evaluation.protocol.stable_ranking`). A
            query that failed has an empty ranking.
        protocol: what is positive and what is ignored.
        queries: the ground truth.
        database: names of all images that could be ranked.

    Returns:
        The scores of each query, in the order of the ground truth; NaN for one without positives.

    Raises:
        EvaluationError: a query has no ranking; a ranking is of something other than a query,
            names an image outside the database, or names an image twice; or the ground truth has
            a label, an image or a query that does not fit.

    Source: the protocols' own; the trapezoid is that of
        :func:`~delfjax.evaluation.average_precision.average_precision`.
    """
    index = _unique(database, what="database")
    asked = _unique([query.name for query in queries], what="queries")
    stranger = next((name for name in rankings if name not in asked), None)
    if stranger is not None:
        raise EvaluationError(f"rankings: {stranger!r} is not a query of the ground truth")
    table = np.full((len(queries), len(protocol.score_names)), np.nan)
    for row, query in zip(table, queries, strict=True):
        if query.name not in rankings:
            raise EvaluationError(
                f"rankings: none for the query {query.name!r}; a failed query has an empty ranking"
            )
        labels = {
            label: _indices(sorted(images), index, what=f"query {query.name!r}, label {label!r}")
            for label, images in query.labels.items()
        }
        ranked = _indices(rankings[query.name], index, what=f"ranking of {query.name!r}")
        row[:] = score_ranking(
            ranked, protocol=protocol, query=query.name, labels=labels, database=index
        )
    scores = {name: table[:, place].copy() for place, name in enumerate(protocol.score_names)}
    return ProtocolResult(protocol.id, tuple(asked), scores)


def score_ranking(
    ranking: Int[np.ndarray, " images"],
    *,
    protocol: LabelProtocol,
    query: str,
    labels: Mapping[str, Int[np.ndarray, " _"]],
    database: Sequence[str] | pd.Index,
) -> Float[np.ndarray, " scores"]:
    """Score a single query, for callers that do not hold all rankings at once.

    Args:
        ranking: database indices, best first and each at most once; possibly cut short or empty.
        protocol: what is positive and what is ignored.
        query: its name, for messages.
        labels: label → database indices that carry it.
        database: names of all images that could be ranked; only their number and, for messages,
            their names are used.

    Returns:
        One number for each of ``protocol.score_names``; NaN without positives.

    Raises:
        EvaluationError: as :func:`score_rankings`.
    """
    roles = _roles(labels, protocol, database, query=query)
    _require_ranked_once(ranking, database, what=f"ranking of {query!r}")
    ranked = roles[ranking]
    ranks = junk_free_ranks(ranked == _POSITIVE, ranked == _IGNORED)
    count = int(np.count_nonzero(roles == _POSITIVE))
    precisions = precision_at(ranks, num_positives=count, cutoffs=protocol.cutoffs)
    return np.concatenate([[average_precision(ranks, num_positives=count)], precisions])


def _unique(names: Sequence[str], *, what: str) -> pd.Index:
    index = pd.Index(np.asarray(names, dtype=object), dtype=object)
    if not index.is_unique:
        raise EvaluationError(
            f"{what}: {index[index.duplicated()][0]!r} appears twice; names must be distinct"
        )
    return index


def _roles(
    labels: Mapping[str, Int[np.ndarray, " _"]],
    protocol: LabelProtocol,
    database: Sequence[str] | pd.Index,
    *,
    query: str,
) -> Int[np.ndarray, " database"]:
    """What each database image is to the query: positive, ignored, or (0) neither."""
    unknown = set(labels) - {*protocol.positives, *protocol.ignored}
    if unknown:
        known = ", ".join((*protocol.positives, *protocol.ignored))
        raise EvaluationError(
            f"query {query!r}: {protocol.id} has no label {min(unknown)!r}; there are: {known}"
        )
    roles = np.zeros(len(database), dtype=np.int8)
    for role, names in ((_POSITIVE, protocol.positives), (_IGNORED, protocol.ignored)):
        for label in names:
            codes = labels.get(label, np.zeros(0, dtype=np.int64))
            both = codes[(roles[codes] != 0) & (roles[codes] != role)]
            if both.size:
                raise EvaluationError(
                    f"query {query!r}: {database[both[0]]!r} is positive and ignored; "
                    "expected only one of the two"
                )
            roles[codes] = role
    return roles


def _require_ranked_once(
    codes: Int[np.ndarray, " images"], database: Sequence[str] | pd.Index, *, what: str
) -> None:
    """Refuse a ranking that leaves the database or names an image twice."""
    outside = (codes < 0) | (codes >= len(database))
    if outside.any():
        raise EvaluationError(
            f"{what}: {int(codes[int(np.argmax(outside))])} is not in the database"
        )
    if codes.size and np.bincount(codes).max() > 1:
        repeated = pd.Series(codes).duplicated().to_numpy()
        raise EvaluationError(
            f"{what}: {database[codes[repeated][0]]!r} appears twice; each image may be ranked once"
        )


def _indices(images: Ranking, index: pd.Index, *, what: str) -> Int[np.ndarray, " images"]:
    """Database indices of the images; indices pass through unchanged."""
    if isinstance(images, np.ndarray) and images.ndim != 1:
        raise EvaluationError(f"{what}: an array of shape {images.shape}, expected one dimension")
    if isinstance(images, np.ndarray) and images.dtype.kind in "iu":
        return images.astype(np.int64)
    codes = np.asarray(index.get_indexer(np.asarray(images, dtype=object)), dtype=np.int64)
    if (codes < 0).any():
        named = images.tolist() if isinstance(images, np.ndarray) else images
        raise EvaluationError(f"{what}: {named[int(np.argmin(codes))]!r} is not in the database")
    return codes
