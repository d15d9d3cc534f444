"""Answers that are known to be right or wrong: what a model of their probability is fitted to and
tested on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from tqdm.auto import tqdm

from delfjax.config import DelfConfig, RejectionConfig
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.catalogue import open_dataset
from delfjax.datasets.columns import DatasetError
from delfjax.datasets.photo_folder import PhotoFolder
from delfjax.datasets.world_benchmark import load_world_rehearsal
from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.dataset_protocols import query_names, scored_queries
from delfjax.evaluation.landmark_curve import ScoredList
from delfjax.features.local_methods import load_local_extractor
from delfjax.features.store import FeatureStore
from delfjax.models.model_files import pinned
from delfjax.pipeline.answers import FoundPhoto
from delfjax.pipeline.dataset_features import DatasetFeatures, default_store, extract_features
from delfjax.pipeline.photos import extract_photos, search
from delfjax.retrieval.local_index import LocalIndex, build_index
from delfjax.retrieval.rejection import answer_probability, answer_terms
from delfjax.retrieval.search import VerifiedMatches, match_pair
from delfjax.rng import named_generator
from delfjax.world.reading import open_world

_COLUMNS = ("query", "inliers", "evidence", "photos", "right")
# Families in the smaller databases of a rehearsal, of which a third is not in the database.
_FEW_FAMILIES = 3
# Photos of a ranked list that are judged: those that `delfjax search` shows.
TOP = 10


@dataclass(frozen=True)
class JudgedAnswers:
    """The photos that searches found, one row for each photo of each list.

    Junk, photos that were not verified, and the query itself are left out.

    Attributes:
        queries: names of all queries, those for which nothing was found included.
        answerable: which of them have an answer in their database.
        query: query of each photo, an index into ``queries``.
        images: name of each photo.
        inliers: its inliers in the ranked list.
        evidence: sum of the squared cosines of its mutual inliers.
        photos: number of photos in the database.
        right: whether it is an answer.
        cosine: cosine of its global descriptor with the query's; ``None`` without descriptors.
    """

    queries: tuple[str, ...]
    answerable: Bool[np.ndarray, " queries"]
    query: Int[np.ndarray, " n"]
    images: tuple[str, ...]
    inliers: Int[np.ndarray, " n"]
    evidence: Float[np.ndarray, " n"]
    photos: Int[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    cosine: Float[np.ndarray, " n"] | None = None

    @property
    def terms(self) -> Float[np.ndarray, "n terms"]:
        """What speaks for each photo, as the model takes it."""
        return answer_terms(
            evidence=self.evidence, inliers=self.inliers, photos=self.photos, cosine=self.cosine
        )

    def probability(self, config: RejectionConfig) -> Float[np.ndarray, " n"]:
        """Probability of each photo that it is an answer, by the models of searches."""
        return answer_probability(config, self.terms)

    def scored(self, scores: Num[np.ndarray, " n"], *, top: int = TOP) -> dict[str, ScoredList]:
        """Query → the ``top`` photos with the largest ``scores``, for a curve of precision and
        recall."""
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        rows = [order[self.query[order] == number][:top] for number in range(len(self.queries))]
        return {
            name: ScoredList([self.images[row] for row in found], scores[found].astype(np.float64))
            for name, found in zip(self.queries, rows, strict=True)
        }


def judge_answers(
    dataset: RetrievalDataset,
    index: LocalIndex,
    features: DatasetFeatures,
    *,
    config: DelfConfig | None = None,
    progress: bool = True,
) -> JudgedAnswers:
    """Search with every query of a dataset and judge the first ten photos of each list.

    Args:
        dataset: a benchmark.
        index: index of its database.
        features: features of its queries.
        config: only its sections ``search`` and ``verification`` are used; by default those of the
            index.
        progress: show a progress bar.

    Raises:
        EvaluationError: the dataset has no queries.
    """
    numbers = scored_queries(dataset)
    if not numbers:
        raise EvaluationError(f"{dataset.name}: no queries, so no answers can be judged")
    number_of = {name: number for number, name in enumerate(dataset.database)}
    ignored = {
        number: {query.in_database, *query.sets.get("junk", np.empty(0, np.int64)).tolist()}
        for number, query in ((number, dataset.queries[number]) for number in numbers)
    }
    # As many for every query, because another number of photos to compare compiles another program.
    top = TOP + max(len(images) for images in ignored.values())
    rows: list[tuple[int, FoundPhoto, bool]] = []
    for place, number in enumerate(tqdm(numbers, "search", unit="query", disable=not progress)):
        query = dataset.queries[number]
        known = features.of(query)
        if known is None:
            continue
        right = set(query.answers.tolist())
        found = search(index, known, top=top, config=config)
        kept = [photo for photo in found if number_of[photo.image] not in ignored[number]][:TOP]
        rows += [
            (place, photo, number_of[photo.image] in right)
            for photo in kept
            if photo.evidence is not None
        ]
    names = query_names(dataset)
    return JudgedAnswers(
        queries=tuple(names[number] for number in numbers),
        answerable=np.array([dataset.queries[number].answers.size > 0 for number in numbers]),
        images=tuple(photo.image for _, photo, _ in rows),
        query=np.array([place for place, _, _ in rows], np.int64),
        inliers=np.array([photo.inliers for _, photo, _ in rows], np.int64),
        evidence=np.array([photo.evidence for _, photo, _ in rows], np.float64),
        photos=np.full(len(rows), len(index.names), np.int64),
        right=np.array([right for _, _, right in rows], bool),
    )


def judge_system(
    dataset: RetrievalDataset, config: DelfConfig, *, progress: bool = True
) -> JudgedAnswers:
    """Extract or reuse the features of a dataset in the cache, index, search with every query and
    judge the answers.

    Raises:
        EvaluationError: the dataset has no queries.
        StoreError: the store is damaged, or another process is writing it.
        ReductionError: there are too few features to fit the reduction.
    """
    config = pinned(config)
    features, _ = extract_features(
        dataset,
        load_local_extractor(config),
        default_store(dataset, config.extraction()),
        progress=progress,
    )
    index = build_index(features.database, config=config)
    return judge_answers(dataset, index, features, progress=progress)


@dataclass(frozen=True)
class Rehearsal:
    """Answers among the training landmarks of a world, to fit models of their probability to.

    Attributes:
        found: the photos that searches found, in databases of several sizes.
        pairs: pairs of photos that were matched on their own, each of a query and its photo: one
            right and one wrong for each query. Half of the wrong ones show a look-alike.
    """

    found: JudgedAnswers
    pairs: JudgedAnswers


def rehearse(root: Path, config: DelfConfig, *, seed: int = 0, progress: bool = True) -> Rehearsal:
    """Search for the training landmarks of a world among themselves and judge the answers.

    A third of each landmark's photographs ask. A third of the landmarks, whole families of
    look-alikes, only ask and are in no database, like the queries without a match of the world
    itself. The same photographs are searched in databases of few and of many landmarks, with one
    view of each, half of the views, or all. So a model learns what the number of photos does, and
    trusts in no number of right ones. Their features are kept in the cache.

    Args:
        root: folder of the world.
        config: the whole system.
        seed: seed of all choices.
        progress: show progress bars.

    Raises:
        DatasetError: the world is missing or damaged, or has fewer than two families of training
            landmarks.
        StoreError: the store is damaged, or another process is writing it.
        ReductionError: a database has too few features to fit the reduction.
    """
    config = pinned(config)
    train = open_dataset("world_train", root)
    photos = PhotoFolder(root, tuple(train.database))
    store = extract_photos(
        photos, default_store(train, config.extraction()), config=config, progress=progress
    )
    benchmarks = list(_rehearsals(root, seed))
    parts = []
    for benchmark in tqdm(benchmarks, "rehearse", unit="database", disable=not progress):
        features = DatasetFeatures(store.subset(benchmark.database), store)
        index = build_index(features.database, config=config)
        parts.append(judge_answers(benchmark, index, features, progress=False))
    return Rehearsal(
        joined_answers(parts), _judged_pairs(benchmarks[-1], store, config=config, seed=seed)
    )


def _judged_pairs(
    benchmark: RetrievalDataset, store: FeatureStore, *, config: DelfConfig, seed: int
) -> JudgedAnswers:
    """Each query with an answer, matched with one right and one wrong photo."""
    rng = named_generator(seed, "rehearsed pairs")
    landmarks = benchmark.landmarks
    assert landmarks is not None
    families = landmarks // open_world(benchmark.root).census.config.family_size
    asked = [query for query in benchmark.queries if query.answers.size and query.path in store]
    rows: list[tuple[int, int, bool, VerifiedMatches]] = []
    for place, query in enumerate(asked):
        wrong = np.setdiff1d(
            np.arange(len(benchmark.database)), np.concatenate([*query.sets.values()])
        )
        family = families[query.answers[0]]
        alike = wrong[families[wrong] == family]
        for image, right in (
            (rng.choice(query.answers), True),
            (rng.choice(alike if place % 2 and alike.size else wrong), False),
        ):
            pair = match_pair(
                store.get(query.path),
                store.get(benchmark.database[image]),
                verification=config.verification,
                max_side=config.features.max_side,
            )
            rows.append((place, int(image), right, pair))
    return JudgedAnswers(
        queries=tuple(query.path for query in asked),
        answerable=np.ones(len(asked), bool),
        images=tuple(benchmark.database[image] for _, image, _, _ in rows),
        query=np.array([place for place, _, _, _ in rows], np.int64),
        inliers=np.array([pair.inlier.sum() for *_, pair in rows], np.int64),
        evidence=np.array([pair.evidence for *_, pair in rows], np.float64),
        photos=np.ones(len(rows), np.int64),
        right=np.array([right for _, _, right, _ in rows], bool),
    )


def joined_answers(parts: Sequence[JudgedAnswers]) -> JudgedAnswers:
    """The answers of several databases together; a query asked in several is one in each."""
    starts = np.cumsum([0, *(len(part.queries) for part in parts)])
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in (*_COLUMNS, "answerable")
    }
    shift = np.repeat(starts[:-1], [len(part.query) for part in parts])
    cosines = [part.cosine for part in parts if part.cosine is not None]
    return JudgedAnswers(
        **{**columns, "query": columns["query"] + shift},
        queries=tuple(
            f"{name} in {number}" for number, part in enumerate(parts) for name in part.queries
        ),
        images=tuple(itertools.chain.from_iterable(part.images for part in parts)),
        cosine=np.concatenate(cosines) if len(cosines) == len(parts) else None,
    )


def _rehearsals(root: Path, seed: int) -> Iterator[RetrievalDataset]:
    """Databases of training landmarks: of a few and of two thirds of all, each with one view of
    every landmark, with half of its views, and last with all of them."""
    config = open_world(root).census.config
    families = np.arange(config.train_landmarks) // config.family_size
    count = int(families.max(initial=-1)) + 1
    if count < 2:
        raise DatasetError(
            f"{root}: the world has {count} families of training landmarks, at least 2 are needed"
        )
    order = named_generator(seed, "rehearsal").permutation(count)
    query_views = max(1, config.train_views // 3)
    database_views = config.train_views - query_views
    few = min(_FEW_FAMILIES, count)
    densities = dict.fromkeys((1, max(1, database_views // 2), database_views))
    for size, views in itertools.product(dict.fromkeys((few, count)), densities):
        for start in range(0, count - size + 1, size):
            group = order[start : start + size]
            asked_alone = max(1, size // 3)
            yield load_world_rehearsal(
                root,
                held=np.flatnonzero(np.isin(families, group[asked_alone:])).tolist(),
                absent=np.flatnonzero(np.isin(families, group[:asked_alone])).tolist(),
                query_views=query_views,
                database_views=views,
            )
