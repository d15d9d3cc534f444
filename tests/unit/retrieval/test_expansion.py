"""Query expansion where there is little to expand by, and the graph of links."""

from __future__ import annotations

import numpy as np
import pytest

from delfjax.config import ExpansionConfig
from delfjax.retrieval.expansion import (
    ExpansionError,
    LinkGraph,
    Neighbours,
    alpha_query,
    augmented_database,
    average_query,
    expand_links,
    nearest_by_cosine,
)

QUERY = np.array([[0.6, 0.8]], np.float32)
NONE = Neighbours(np.zeros((1, 0), np.int64), np.zeros((1, 0)))
CONFIG = ExpansionConfig(links="verified", hops=2, decay=0.7, min_inliers=20)


def graph(count: int, *links: tuple[int, int, int]) -> LinkGraph:
    first, second, inliers = np.array(links, np.int64).reshape(-1, 3).T
    return LinkGraph.of_pairs(count, first, second, inliers)


def test_the_nearest_come_best_first_and_equal_ones_by_their_numbers() -> None:
    cosines = np.array([[0.1, 0.9, 0.5, 0.9, 0.5, 0.5], [0, 0, 0, 0, 0, 0.2]])
    found = nearest_by_cosine(cosines, 4)
    assert found.images.tolist() == [[1, 3, 2, 4], [5, 0, 1, 2]]
    assert found.cosines.tolist() == [[0.9, 0.9, 0.5, 0.5], [0.2, 0, 0, 0]]
    assert nearest_by_cosine(cosines, 10).images.shape == (2, 6)
    assert nearest_by_cosine(cosines, 0).images.shape == (2, 0)


def test_an_image_is_not_its_own_neighbour() -> None:
    cosines = np.array([[1.0, 0.5, 0.7], [0.2, 0.3, 0.1]])
    found = nearest_by_cosine(cosines, 2, own=np.array([0, -1]))
    assert found.images.tolist() == [[2, 1], [1, 0]]
    everything = nearest_by_cosine(cosines, 3, own=np.array([0, -1]))
    assert everything.images.tolist() == [[2, 1, -1], [1, 0, 2]]
    assert everything.cosines[0, 2] == -1


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_query_with_an_empty_list_stays_as_it_is(size: int) -> None:
    database = np.tile(np.array([[1.0, 0.0]], np.float32), (size, 1))
    for neighbours in (NONE, Neighbours(np.full((1, 4), -1), np.full((1, 4), -1.0))):
        assert np.array_equal(average_query(QUERY, database, neighbours), QUERY)
        np.testing.assert_allclose(alpha_query(QUERY, database, neighbours, alpha=3.0), QUERY)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
def test_a_query_that_resembles_nothing_stays_as_it_is(alpha: float) -> None:
    database = np.array([[-0.6, -0.8], [-1, 0], [0.8, -0.6]], np.float32)
    neighbours = nearest_by_cosine(np.round(QUERY @ database.T, 6), 3)
    assert neighbours.cosines.max() == 0
    assert np.array_equal(average_query(QUERY, database, neighbours), QUERY)
    np.testing.assert_allclose(alpha_query(QUERY, database, neighbours, alpha=alpha), QUERY)


def test_neighbours_that_point_elsewhere_are_left_out_of_the_mean() -> None:
    database = np.array([[1, 0], [0, -1]], np.float32)
    neighbours = nearest_by_cosine(QUERY @ database.T, 2)
    np.testing.assert_allclose(average_query(QUERY, database, neighbours), [[0.8, 0.4]], atol=1e-7)


def test_a_database_of_one_image_is_not_augmented_and_expands_a_query() -> None:
    only = np.array([[1, 0]], np.float32)
    alone = nearest_by_cosine(only @ only.T, 20, own=np.array([0]))
    assert np.array_equal(augmented_database(only, alone), only)
    found = average_query(QUERY, only, nearest_by_cosine(QUERY @ only.T, 10))
    np.testing.assert_allclose(found, [[0.8, 0.4]], atol=1e-7)


def test_a_descriptor_of_zeros_stays_zero() -> None:
    zero = np.zeros((1, 2), np.float32)
    assert np.array_equal(
        alpha_query(zero, QUERY, nearest_by_cosine(zero @ QUERY.T, 1), alpha=3.0), zero
    )


def test_expansion_refuses_other_dimensions_other_lists_and_what_is_not_finite() -> None:
    with pytest.raises(ExpansionError, match="queries have 2 dimensions, but the database has 3"):
        average_query(QUERY, np.ones((1, 3), np.float32), NONE)
    with pytest.raises(ExpansionError, match="2 queries, but neighbours of 1"):
        average_query(np.tile(QUERY, (2, 1)), QUERY, NONE)
    broken = np.array([[np.nan, 1]], np.float32)
    with pytest.raises(ExpansionError, match="value of a descriptor is nan"):
        average_query(broken, QUERY, NONE)
    with pytest.raises(ExpansionError, match="value of a descriptor is nan"):
        alpha_query(QUERY, broken, Neighbours(np.array([[0]]), np.array([[0.5]])), alpha=3.0)
    with pytest.raises(ExpansionError, match="a cosine is nan"):
        nearest_by_cosine(broken, 1)


def test_of_the_two_directions_of_a_pair_the_one_with_more_inliers_counts() -> None:
    lists = [
        (0, np.array([1, 2]), np.array([30, 0])),
        (1, np.array([0, 1, 3]), np.array([50, 99, 7])),
        (3, np.zeros(0, np.int64), np.zeros(0, np.int64)),
    ]
    found = LinkGraph.of_lists(4, lists)
    assert found.images == 4
    assert found.starts.tolist() == [0, 1, 3, 3, 4]
    assert found.neighbours.tolist() == [1, 0, 3, 1]
    assert found.inliers.tolist() == [50, 50, 7, 7]
    strong = found.at_least(8)
    assert strong.starts.tolist() == [0, 1, 2, 2, 2] and strong.inliers.tolist() == [50, 50]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_graph_may_have_no_links(count: int) -> None:
    assert LinkGraph.of_lists(count, []).starts.tolist() == [0] * (count + 1)
    scores = np.full((2, count), 30)
    found = expand_links(scores, graph(count), CONFIG)
    assert np.array_equal(found.scores, scores) and not found.hops.any()
    assert found.predecessors(1).tolist() == [-1] * count


def test_links_of_images_that_do_not_exist_and_impossible_inliers_are_refused() -> None:
    with pytest.raises(ExpansionError, match="images 0 and 4, but there are 4"):
        graph(4, (0, 4, 30))
    with pytest.raises(ExpansionError, match="-3 inliers"):
        graph(4, (0, 1, -3))
    with pytest.raises(ExpansionError, match="number of inliers is nan"):
        LinkGraph.of_pairs(2, np.array([0]), np.array([1]), np.array([np.nan]))
    with pytest.raises(ExpansionError, match="scores are of 3 images, but the links are of 4"):
        expand_links(np.zeros((1, 3)), graph(4), CONFIG)


def test_an_image_is_found_by_way_of_an_answer() -> None:
    # A figure that can be checked by hand: 0.7 · min(60, 40) and 0.7² · min(60, 40, 50).
    links = graph(4, (0, 1, 40), (1, 2, 50), (2, 3, 90))
    found = expand_links(np.array([[60, 0, 0, 0]]), links, CONFIG)
    np.testing.assert_allclose(found.scores, [[60, 28, 0.49 * 40, 0]])
    assert found.hops.tolist() == [[0, 1, 2, 0]]
    assert found.chain(0, 2) == (0, 1) and found.chain(0, 1) == (0,) and found.chain(0, 0) == ()
    assert found.predecessors(0).tolist() == [-1, 0, 1, -1]


def test_a_shorter_chain_may_pass_an_image_that_has_a_longer_one_itself() -> None:
    # Image 1 is best reached by way of 0; 2 is better reached from the direct answer 1.
    links = graph(3, (0, 1, 100), (1, 2, 25))
    found = expand_links(np.array([[100, 30, 0]]), links, CONFIG)
    np.testing.assert_allclose(found.scores, [[100, 70, 17.5]])
    assert found.chain(0, 1) == (0,) and found.chain(0, 2) == (1,)


def test_weak_answers_and_weak_links_spread_nothing() -> None:
    links = graph(3, (0, 1, 90), (1, 2, 19))
    weak = expand_links(np.array([[19, 0, 0]]), links, CONFIG)
    assert weak.scores.tolist() == [[19, 0, 0]]
    strong = expand_links(np.array([[20, 0, 0]]), links, CONFIG)
    assert strong.scores.tolist() == [[20, 14, 0]]


def test_the_photo_that_is_the_query_does_not_pass_its_links_on() -> None:
    links = graph(3, (0, 1, 90), (1, 2, 90))
    found = expand_links(np.array([[30, 800, 0]]), links, CONFIG, own=np.array([1]))
    assert found.scores.tolist() == [[30, 800, 0]]


def test_fused_scores_are_expanded_by_the_share_of_inliers() -> None:
    links = graph(3, (0, 1, 30), (1, 2, 600))
    found = expand_links(
        np.array([[0.9, 0.1, 0.2]]),
        links,
        CONFIG,
        spreading=np.array([[True, False, False]]),
        most_inliers=60,
    )
    np.testing.assert_allclose(found.scores, [[0.9, 0.35, 0.245]])
