"""Oxford and Paris, as published and revisited, and Holidays: average precision over images
labelled for each query.

The three differ in which labels are positive and which are ignored; :class:`LabelProtocol` says
that, and :func:`score_rankings` does the rest. The rules are the same for all:

- every query has a ranking, possibly a cut or empty one; positives left out are positives not
found;
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

from delfjax.evaluation.average_precision import EvaluationError, average_precision, precision_at
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
# Images of one scene share their number but for the last two digits; the first of them is the
# query.
_HOLIDAYS_GROUP = 100

_POSITIVE, _IGNORED = 1, 2


@dataclass(frozen=True)
class LabelledQuery:
    """One query of a ground truth.

    Attributes:
        name: the query.
        labels: label → images of the database that carry it for this query; images without a label
            are negatives.
    """

    name: str
    labels: Mapping[str, Collection[str]]


@dataclass(frozen=True)
class LabelProtocol:
    """Which labels answer a query, and which are neither rewarded nor punished.

    Attributes:
        id: the rules, as they are recorded with the result.
        positives: labels of images that answer the query.
        ignored: labels of images that are taken out of the ranking.
        cutoffs: numbers of ranks at which the precision is reported as well.
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
    """Oxford5k, Paris6k and their enlarged versions: good and ok images are positive, junk is
    removed.

    The query's image is part of the database and one of its positives; it stays in the ranking.

    Args:
        benchmark: name of the dataset, for instance ``oxford5k`` or ``paris106k``.
        query: ``crop``, as published, or ``full``.

    Raises:
        EvaluationError: as :class:`~delfjax.evaluation.protocol.ProtocolId`.

    Source: Philbin et al. 2007 and 2008; labels ``good``, ``ok`` and ``junk`` of the ground truth
        files.
    """
    return LabelProtocol(
        ProtocolId(benchmark, query, "junk-removed", "stable-ties"), ("good", "ok"), ("junk",)
    )


def holidays_protocol(benchmark: str = "holidays") -> LabelProtocol:
    """Holidays: the other images of the query's scene are positive, and the query leaves its own
    ranking.

    Args:
        benchmark: name of the dataset; whether the photos were turned upright by hand belongs into
            it.

    Raises:
        EvaluationError: as :class:`~delfjax.evaluation.protocol.ProtocolId`.

    Source: Jégou, Douze and Schmid 2008, and its evaluation program.
    """
    return LabelProtocol(
        ProtocolId(benchmark, "full", "self-removed", "stable-ties"), ("scene",), ("self",)
    )


def revisited_protocol(benchmark: str, setup: str, *, query: str = "crop") -> LabelProtocol:
    """Revisited Oxford and Paris: mean average precision and mP@1, mP@5 and mP@10 of one setup.

    Easy: easy images are positive, hard ones ignored. Medium: both are positive. Hard: hard ones
        are positive, easy ones ignored. Junk is always ignored, and the queries' images are not in
        the database.

    Args:
        benchmark: ``roxford5k``, ``rparis6k``, or a name of theirs with distractors.
        setup: ``easy``, ``medium`` or ``hard``.
        query: ``crop``, as published, or ``full``.

    Raises:
        EvaluationError: another setup, or as :class:`~delfjax.evaluation.protocol.ProtocolId`.

    Source: Radenović et al. 2018, "Revisiting Oxford and Paris".
    """
    if setup not in _SETUPS:
        raise EvaluationError(f"setup {setup!r}; there are: {', '.join(_SETUPS)}")
    positives, ignored = _SETUPS[setup]
    identifier = ProtocolId(f"{benchmark}-{setup}", query, "junk-removed", "stable-ties")
    return LabelProtocol(identifier, positives, ignored, _CUTOFFS)


def holidays_queries(database: Sequence[str]) -> tuple[LabelledQuery, ...]:
    """The ground truth of Holidays, which is in the numbers of its images: 123400 is a query,
    123401 and on its positives.

    Args:
        database: names of the images, ``123400.jpg`` or without a suffix, possibly in folders.

    Returns:
        The queries in the order of their numbers, labelled ``scene`` and ``self``.

    Raises:
        EvaluationError: a name that is no number, two images of one number, or a scene without its
            query.
    """
    numbered: dict[int, str] = {}
    for name in database:
        stem = PurePosixPath(name).stem
        if not stem.isdecimal():
            raise EvaluationError(
                f"database: {name!r} has no number for a name; Holidays calls its images 123400,"
                " 123401 …"
            )
        if int(stem) in numbered:
            raise EvaluationError(
                f"database: {numbered[int(stem)]!r} and {name!r} have the same number"
            )
        numbered[int(stem)] = name
    scenes: dict[int, list[str]] = {}
    for number in sorted(numbered):
        if number % _HOLIDAYS_GROUP == 0:
            scenes[number // _HOLIDAYS_GROUP] = []
        elif number // _HOLIDAYS_GROUP not in scenes:
            raise EvaluationError(f"database: {numbered[number]!r} is of a scene without its query")
        else:
            scenes[number // _HOLIDAYS_GROUP].append(numbered[number])
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
    """Score every query: trapezoidal average precision (``mAP``), and ``mP@k`` where the protocol
    has cutoffs.

    Args:
        rankings: query → images of the database, best first and each at most once, as names or as
            an array of their indices. A query that failed has an empty one. Images of one score
            stand in the order of the database
            (:func:`~delfjax.evaluation.protocol.stable_ranking`); what is given here is taken in
            the order it has.
        protocol: what is positive and what is ignored.
        queries: the ground truth.
        database: names of all images that could be ranked.

    Returns:
        A score for each query, in the order of the ground truth; NaN for one without positives.

    Raises:
        EvaluationError: a query without a ranking; a ranking of something that is no query, of an
            image that is not in the database, or with an image twice; a ground truth with a label,
            an image or a query that does not fit.

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
                f"rankings: none for the query {query.name!r}; one that failed has an empty list"
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
    """Score one query of many, so that their rankings need not be held together.

    Args:
        ranking: database indices, best first and each at most once; possibly cut or empty.
        protocol: what is positive and what is ignored.
        query: its name, for messages.
        labels: label → database indices that carry it.
        database: names of all images that could be ranked; read for their number and for messages
            alone.

    Returns:
        One number for each of ``protocol.score_names``; NaN without positives.

    Raises:
        EvaluationError: as :func:`score_rankings`.
    """
    roles = _roles(labels, protocol, database, query=query)
    ranks = _positive_ranks(ranking, roles, database, what=f"ranking of {query!r}")
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
    """What each image of the database is to the query: positive, ignored or neither."""
    unknown = set(labels) - {*protocol.positives, *protocol.ignored}
    if unknown:
        known = ", ".join((*protocol.positives, *protocol.ignored))
        raise EvaluationError(
            f"query {query!r}: label {min(unknown)!r} is not of {protocol.id}; there are: {known}"
        )
    roles = np.zeros(len(database), dtype=np.int8)
    for role, names in ((_POSITIVE, protocol.positives), (_IGNORED, protocol.ignored)):
        for label in names:
            codes = labels.get(label, np.zeros(0, dtype=np.int64))
            both = codes[(roles[codes] != 0) & (roles[codes] != role)]
            if both.size:
                raise EvaluationError(
                    f"query {query!r}: {database[both[0]]!r} is positive and ignored; it may be"
                    " only one"
                )
            roles[codes] = role
    return roles


def _positive_ranks(
    codes: Int[np.ndarray, " images"],
    roles: Int[np.ndarray, " database"],
    database: Sequence[str] | pd.Index,
    *,
    what: str,
) -> Int[np.ndarray, " hits"]:
    """Ranks of the positives among the images that are not ignored."""
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
    kinds = roles[codes]
    ranks = np.cumsum(kinds != _IGNORED) - 1
    return np.asarray(ranks[kinds == _POSITIVE])


def _indices(images: Ranking, index: pd.Index, *, what: str) -> Int[np.ndarray, " images"]:
    """Places of the images in the database; indices are taken as they are."""
    if isinstance(images, np.ndarray) and images.ndim != 1:
        raise EvaluationError(
            f"{what}: an array of shape {images.shape}; one row of images is needed"
        )
    if isinstance(images, np.ndarray) and images.dtype.kind in "iu":
        return images.astype(np.int64)
    codes = np.asarray(index.get_indexer(np.asarray(images, dtype=object)), dtype=np.int64)
    if (codes < 0).any():
        named = images.tolist() if isinstance(images, np.ndarray) else images
        raise EvaluationError(f"{what}: {named[int(np.argmin(codes))]!r} is not in the database")
    return codes
