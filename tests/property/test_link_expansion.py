"""Verified expansion equals the enumeration of all paths, for any graph and any scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delfjax.config import ExpansionConfig
from delfjax.retrieval import expansion
from delfjax.retrieval.expansion import ExpandedScores, LinkGraph, expand_links

# Few values, so that paths of equal worth are common; 9 is one less than the least.
INLIERS = st.sampled_from([0, 9, 10, 11, 15, 20, 40, 80])
LEAST = 10
Case = tuple[np.ndarray, np.ndarray, np.ndarray, ExpansionConfig]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Scores (q, n), inliers of ordered pairs (n, n), own images (q,) and settings."""
    images, queries = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    scores = draw(st.lists(INLIERS, min_size=queries * images, max_size=queries * images))
    pairs = draw(st.lists(INLIERS, min_size=images**2, max_size=images**2))
    own = draw(st.lists(st.integers(-1, images - 1), min_size=queries, max_size=queries))
    config = ExpansionConfig(
        links="verified",
        hops=draw(st.integers(1, 4)),
        decay=draw(st.sampled_from([0.5, 0.7, 1.0])),
        min_inliers=LEAST,
    )
    shape = (queries, images)
    return np.reshape(scores, shape), np.reshape(pairs, (images, images)), np.array(own), config


def expanded(case: Case) -> ExpandedScores:
    scores, pairs, own, config = case
    first, second = np.indices(pairs.shape).reshape(2, -1)
    graph = LinkGraph.of_pairs(len(pairs), first, second, pairs.ravel())
    return expand_links(scores, graph, config, own=own)


def paths(case: Case, query: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every path of a query, as its images, with its worth."""
    scores, pairs, own, config = case
    links = np.maximum(pairs, pairs.T)

    def longer(path: tuple[int, ...], least: int) -> Iterator[tuple[tuple[int, ...], float]]:
        yield path, config.decay ** (len(path) - 1) * least
        if len(path) <= config.hops:
            for image in set(range(len(links))) - {*path, int(own[query])}:
                inliers = int(links[path[-1], image])
                if inliers >= config.min_inliers:
                    yield from longer((*path, image), min(least, inliers))

    for image, inliers in enumerate(scores[query].tolist()):
        if inliers >= config.min_inliers and image != own[query]:
            yield from longer((image,), inliers)


@given(cases())
def test_every_score_is_the_worth_of_the_best_of_all_paths(case: Case) -> None:
    scores, _, _, config = case
    found = expanded(case)
    best = scores.astype(np.float64)
    shortest = np.zeros(scores.shape, np.int64)
    for query in range(len(scores)):
        for path, worth in sorted(paths(case, query), key=lambda each: len(each[0])):
            if worth > best[query, path[-1]]:
                best[query, path[-1]] = worth
                shortest[query, path[-1]] = len(path) - 1
    assert np.array_equal(found.scores, best)
    assert np.array_equal(found.hops, shortest)
    assert found.hops.max() <= config.hops


@given(cases())
def test_the_chain_of_an_image_is_a_path_worth_its_score(case: Case) -> None:
    scores, pairs, own, config = case
    found = expanded(case)
    for query, image in np.ndindex(*scores.shape):
        chain = found.chain(query, image)
        assert len(chain) == found.hops[query, image]
        assert found.predecessors(query)[image] == (chain[-1] if chain else -1)
        if not chain:
            assert found.scores[query, image] == scores[query, image]
            continue
        path = [*chain, image]
        assert own[query] not in path and len({*path}) == len(path)
        links = np.maximum(pairs, pairs.T)[path[:-1], path[1:]]
        assert links.min() >= config.min_inliers
        worth = config.decay ** len(chain) * min(int(scores[query, path[0]]), int(links.min()))
        assert found.scores[query, image] == worth


@given(cases())
def test_queries_do_not_influence_each_other(case: Case) -> None:
    scores, pairs, own, config = case
    together = expanded(case)
    for query in range(len(scores)):
        part = slice(query, query + 1)
        alone = expanded((scores[part], pairs, own[part], config))
        assert np.array_equal(alone.scores[0], together.scores[query])
        assert np.array_equal(alone.predecessors(0), together.predecessors(query))


@given(cases())
def test_blocks_of_paths_change_nothing(case: Case) -> None:
    whole = expanded(case)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(expansion, "_PATHS_AT_A_TIME", 1)
        parts = expanded(case)
    assert np.array_equal(parts.scores, whole.scores)
    for query in range(len(whole.scores)):
        assert np.array_equal(parts.predecessors(query), whole.predecessors(query))
