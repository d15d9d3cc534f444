"""Search and pairwise matching on handmade features: the order of the ranked list, and the
transforms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from delfjax.config import DelfConfig, SearchConfig, override
from delfjax.features.store import StoreWriter
from delfjax.retrieval.local_index import LocalIndex, build_index
from delfjax.retrieval.search import RankedList, compare, match_pair, search
from delfjax.types import ImageFeatures, LocalFeatures

CHANNELS = 32
# Light: a few dozen matches that agree exactly need few hypotheses.
CONFIG = override(
    DelfConfig(),
    [
        "reduction.dim=16",
        "search.neighbours=4",
        "verification.pair_hypotheses=256",
        "verification.refined=32",
    ],
)
SIZE = (500, 500)
SHIFT_YX = np.array([40.0, -25.0], np.float32)
# Number of the query's features that each database image shows: "moved" as they lie, "scattered"
# anywhere.
MOVED = {"all": 40, "half": 20, "few": 12}
SCATTERED = {"scattered": 38}


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32."""
    rows: np.ndarray = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    return rows


def features(keypoints_yx: np.ndarray, descriptors: np.ndarray) -> ImageFeatures:
    count = len(keypoints_yx)
    ones = np.ones(count, np.float32)
    local = LocalFeatures(
        keypoints_yx.astype(np.float32), ones, ones, descriptors, np.ones(count, bool)
    )
    return ImageFeatures(local, None, SIZE, "0")


@pytest.fixture(scope="module")
def query() -> ImageFeatures:
    rng = np.random.default_rng(0)
    return features(rng.uniform(0, 400, (40, 2)), unit_rows(rng.normal(size=(40, CHANNELS))))


@pytest.fixture(scope="module")
def database(query: ImageFeatures) -> dict[str, ImageFeatures]:
    rng = np.random.default_rng(1)
    images: dict[str, ImageFeatures] = {}
    shown = np.asarray(query.local.descriptors)
    for name, count in MOVED.items():
        rest = 5 if name == "few" else 30
        noise = unit_rows(rng.normal(size=(rest, CHANNELS)))
        keypoints = np.concatenate(
            [
                np.asarray(query.local.keypoints_yx)[:count] + SHIFT_YX,
                rng.uniform(0, 400, (rest, 2)),
            ]
        )
        images[name] = features(keypoints, np.concatenate([shown[:count], noise]))
    for name, count in SCATTERED.items():
        images[name] = features(rng.uniform(0, 4000, (count, 2)), shown[:count])
    for name in ("other1", "other2"):
        # The opposite of what is searched for: among the nearest only when everything else has been
        # taken.
        images[name] = features(rng.uniform(0, 400, (30, 2)), unit_rows(-shown[:30]))
    images["nothing"] = features(np.zeros((0, 2)), np.zeros((0, CHANNELS), np.float32))
    return images


@pytest.fixture(scope="module")
def index(
    tmp_path_factory: pytest.TempPathFactory, database: dict[str, ImageFeatures]
) -> LocalIndex:
    with StoreWriter(tmp_path_factory.mktemp("search") / "store", CONFIG.extraction()) as writer:
        for group in writer.plan(database):
            images = {name: database[name] for name in group.names}
            writer.commit(group, images, {})
        return build_index(writer.store(), config=CONFIG)


@pytest.fixture(scope="module")
def ranked(index: LocalIndex, query: ImageFeatures) -> RankedList:
    return search(index, query, config=CONFIG.search, verification=CONFIG.verification)


def names(index: LocalIndex, images: np.ndarray) -> list[str]:
    return [index.names[image] for image in images]


def test_images_are_ranked_by_the_matches_that_agree(index: LocalIndex, ranked: RankedList) -> None:
    assert names(index, ranked.images)[:3] == ["all", "half", "few"]
    assert ranked.inliers[:3].tolist() == list(MOVED.values())
    # Before verification, 38 matches anywhere beat 12 that agree.
    before = names(index, ranked.by_votes)
    assert before.index("scattered") < before.index("few")


def test_ties_of_inliers_are_broken_by_votes(index: LocalIndex, ranked: RankedList) -> None:
    keys = [
        (-inliers, -votes)
        for inliers, votes in zip(ranked.inliers.tolist(), ranked.votes.tolist(), strict=True)
    ]
    assert keys == sorted(keys)
    # A rule that nothing here puts to the test would not have been tested.
    assert len({inliers for inliers, _ in keys}) < len(set(keys))


def test_every_image_of_the_database_is_ranked_once(index: LocalIndex, ranked: RankedList) -> None:
    for order in (ranked.images, ranked.by_votes):
        assert sorted(order.tolist()) == list(range(len(index.names)))


def test_images_without_a_match_come_last_in_their_own_order(
    index: LocalIndex, query: ImageFeatures
) -> None:
    one = SearchConfig(neighbours=1, crowded_cosine=1.0)
    ranked = search(index, query, config=one, verification=CONFIG.verification)
    unmatched = ranked.images[ranked.votes == 0]
    assert "nothing" in names(index, unmatched) and len(unmatched) >= 3
    assert ranked.images[-len(unmatched) :].tolist() == sorted(unmatched.tolist())
    assert (ranked.inliers[-len(unmatched) :] == 0).all()


def test_an_image_beyond_the_shortlist_keeps_its_place_by_votes(
    index: LocalIndex, query: ImageFeatures
) -> None:
    ranked = search(
        index,
        query,
        config=SearchConfig(neighbours=4, shortlist=2),
        verification=CONFIG.verification,
    )
    assert names(index, ranked.images)[0] == "all"
    assert ranked.images[2:].tolist() == ranked.by_votes[2:].tolist()
    assert ranked.inliers[2:].max() == 0 and set(ranked.correspondences) == set(
        ranked.by_votes[:2].tolist()
    )


def test_correspondences_are_those_of_the_image_they_are_keyed_by(
    index: LocalIndex, ranked: RankedList, query: ImageFeatures, database: dict[str, ImageFeatures]
) -> None:
    assert set(ranked.correspondences) == set(ranked.images[ranked.votes > 0].tolist())
    for image, inliers, votes in zip(
        ranked.images.tolist(), ranked.inliers, ranked.votes, strict=True
    ):
        if not votes:
            continue
        found = ranked.correspondences[image]
        assert (found.inlier.sum(), len(found.inlier)) == (inliers, votes)
        own = {
            tuple(point)
            for point in np.asarray(database[index.names[image]].local.keypoints_yx).tolist()
        }
        assert {tuple(point) for point in found.database_yx.tolist()} <= own
        assert {tuple(p) for p in found.query_yx.tolist()} <= {
            tuple(p) for p in np.asarray(query.local.keypoints_yx).tolist()
        }


def test_the_inliers_of_a_moved_object_moved_by_that_much(
    index: LocalIndex, ranked: RankedList
) -> None:
    found = ranked.correspondences[index.names.index("half")]
    moved = found.database_yx[found.inlier] - found.query_yx[found.inlier]
    np.testing.assert_allclose(moved, np.tile(SHIFT_YX, (20, 1)), atol=1e-3)


def test_a_query_without_features_ranks_every_image_with_nothing(index: LocalIndex) -> None:
    empty = features(np.zeros((0, 2)), np.zeros((0, CHANNELS), np.float32))
    ranked = search(index, empty, config=CONFIG.search, verification=CONFIG.verification)
    assert ranked.images.tolist() == list(range(len(index.names)))
    assert not ranked.votes.any() and not ranked.inliers.any() and ranked.correspondences == {}


def test_the_same_search_gives_the_same_answer(
    index: LocalIndex, ranked: RankedList, query: ImageFeatures
) -> None:
    again = search(index, query, config=CONFIG.search, verification=CONFIG.verification)
    for name in ("images", "votes", "inliers", "by_votes"):
        assert np.array_equal(getattr(again, name), getattr(ranked, name)), name
    for image, found in ranked.correspondences.items():
        assert np.array_equal(found.transform, again.correspondences[image].transform)


def test_a_pair_related_by_a_translation_gives_that_translation(
    query: ImageFeatures, database: dict[str, ImageFeatures]
) -> None:
    found = match_pair(query, database["half"], verification=CONFIG.verification, max_side=1024)
    assert found.inlier.sum() == 20
    expected = np.array([[1, 0, SHIFT_YX[1]], [0, 1, SHIFT_YX[0]], [0, 0, 1]])
    # Float32 keypoints up to 400 px, exact but for rounding.
    np.testing.assert_allclose(found.transform, expected, atol=2e-2)
    np.testing.assert_allclose(
        found.database_yx[found.inlier] - found.query_yx[found.inlier],
        np.tile(SHIFT_YX, (20, 1)),
        atol=1e-3,
    )


def test_matching_the_other_way_round_gives_the_inverse(
    query: ImageFeatures, database: dict[str, ImageFeatures]
) -> None:
    forth = match_pair(query, database["half"], verification=CONFIG.verification, max_side=1024)
    back = match_pair(database["half"], query, verification=CONFIG.verification, max_side=1024)
    assert back.inlier.sum() == forth.inlier.sum()
    np.testing.assert_allclose(back.transform @ forth.transform, np.eye(3), atol=5e-2)


def test_a_pair_that_shows_different_things_has_few_inliers(
    query: ImageFeatures, database: dict[str, ImageFeatures]
) -> None:
    found = match_pair(
        query, database["scattered"], verification=CONFIG.verification, max_side=1024
    )
    assert len(found.inlier) == 38 and found.inlier.sum() < CONFIG.verification.min_inliers


def indexed(folder: Path, images: dict[str, ImageFeatures], *settings: str) -> LocalIndex:
    config = override(CONFIG, settings)
    with StoreWriter(folder / "store", config.extraction()) as writer:
        for group in writer.plan(images):
            writer.commit(group, {name: images[name] for name in group.names}, {})
        return build_index(writer.store(), config=config)


def evidence(index: LocalIndex, query: ImageFeatures, name: str) -> float:
    image = index.names.index(name)
    [found] = compare(index, query, [image], verification=CONFIG.verification)
    return found.evidence


def test_a_photo_compared_on_its_own_gives_what_the_pair_gives(
    index: LocalIndex, query: ImageFeatures, database: dict[str, ImageFeatures]
) -> None:
    images = [index.names.index(name) for name in ("half", "scattered", "nothing")]
    half, scattered, nothing = compare(index, query, images, verification=CONFIG.verification)
    pair = match_pair(query, database["half"], verification=CONFIG.verification, max_side=1024)
    np.testing.assert_allclose(half.transform, pair.transform, atol=2e-2)
    # The 20 descriptors are the query's own, so each inlier counts in full.
    assert half.inlier.sum() == 20 and half.evidence == pytest.approx(20, abs=0.1)
    assert scattered.inlier.sum() < 10 and nothing.evidence == 0
    assert compare(index, query, [], verification=CONFIG.verification) == []


def test_the_evidence_of_a_photo_does_not_depend_on_how_many_others_are_indexed(
    query: ImageFeatures, tmp_path: Path
) -> None:
    """Unrelated photos: alone in an index, each gets a vote from every feature of the query."""
    rng = np.random.default_rng(5)
    strangers = {
        f"stranger{number}": features(
            rng.uniform(0, 400, (200, 2)), unit_rows(rng.normal(size=(200, CHANNELS)))
        )
        for number in range(12)
    }
    lone = indexed(tmp_path / "lone", {"stranger0": strangers["stranger0"]})
    many = indexed(tmp_path / "many", strangers)
    alone, among = (evidence(index, query, "stranger0") for index in (lone, many))
    assert max(alone, among) < CONFIG.verification.required_evidence(1) == 6.0
    assert CONFIG.verification.required_evidence(1000) == pytest.approx(13.5)


@pytest.mark.parametrize("kind", ["exact", "ivf", "ivf_pq"])
def test_an_index_returns_the_features_of_an_image(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    images = {
        f"{number}": features(
            rng.uniform(0, 400, (count, 2)), unit_rows(rng.normal(size=(count, CHANNELS)))
        )
        for number, count in enumerate((300, 0, 500))
    }
    settings = (f"index.kind={kind}", "index.pq_subvectors=4", "index.pq_bits=4")
    index = indexed(tmp_path, images, *settings)
    for number, name in enumerate(index.names):
        held, given = index.features(number), images[name].local
        np.testing.assert_array_equal(held.keypoints_yx, given.keypoints_yx)
        reduced = index.reduction(np.asarray(given.descriptors))
        cosine = (np.asarray(held.descriptors) * reduced).sum(axis=1)
        # The store keeps 16 bits of a descriptor; 4 bits for every 4 values keep less.
        least = 0.5 if kind == "ivf_pq" else 0.999
        assert (cosine > least).sum() >= 0.9 * len(cosine)


def test_copies_of_one_photo_leave_room_for_another_that_shows_the_same(
    query: ImageFeatures, database: dict[str, ImageFeatures], tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)

    def copy(image: ImageFeatures) -> ImageFeatures:
        descriptors = np.asarray(image.local.descriptors)
        noise = unit_rows(rng.normal(size=descriptors.shape))
        local = dataclasses.replace(image.local, descriptors=unit_rows(descriptors + 0.05 * noise))
        return dataclasses.replace(image, local=local)

    def doubtful(image: ImageFeatures) -> ImageFeatures:
        descriptors = np.asarray(image.local.descriptors)
        noise = unit_rows(rng.normal(size=descriptors.shape))
        local = dataclasses.replace(image.local, descriptors=unit_rows(descriptors + 0.6 * noise))
        return dataclasses.replace(image, local=local)

    copies = {f"copy{number:02d}": copy(database["all"]) for number in range(20)}
    index = indexed(tmp_path, {**copies, "other": doubtful(database["half"])})
    few = SearchConfig(neighbours=4, shortlist=5)
    ranked = search(index, query, config=few, verification=CONFIG.verification)
    found = ranked.inliers[: len(copies)]
    assert (found >= CONFIG.verification.min_inliers).all()
    other = index.names.index("other")
    assert other in ranked.correspondences
    assert ranked.correspondences[other].inlier.sum() >= 10
    crowded = dataclasses.replace(few, crowded_cosine=1.0)
    before = search(index, query, config=crowded, verification=CONFIG.verification)
    assert other not in before.correspondences


@pytest.mark.parametrize("empty", ["first", "second", "both"])
def test_a_pair_with_an_image_without_features_has_no_matches(
    query: ImageFeatures, database: dict[str, ImageFeatures], empty: str
) -> None:
    first = database["nothing"] if empty != "second" else query
    second = database["nothing"] if empty != "first" else query
    found = match_pair(first, second, verification=CONFIG.verification, max_side=1024)
    assert len(found.inlier) == len(found.query_yx) == len(found.database_yx) == 0
    np.testing.assert_array_equal(found.transform, np.eye(3))


def test_the_tolerance_grows_with_the_photo_it_was_reduced_from(
    query: ImageFeatures, database: dict[str, ImageFeatures]
) -> None:
    """Photos eight times as large, reduced to the same features: the same inliers, eight times as
    far apart."""

    def enlarged(image: ImageFeatures) -> ImageFeatures:
        keypoints = (np.asarray(image.local.keypoints_yx) + 0.5) * 8 - 0.5
        local = dataclasses.replace(image.local, keypoints_yx=keypoints.astype(np.float32))
        return ImageFeatures(local, None, (4000, 4000), "0")

    options = {"verification": CONFIG.verification, "max_side": 500}
    small = match_pair(query, database["half"], **options)
    large = match_pair(enlarged(query), enlarged(database["half"]), **options)
    assert (large.inlier == small.inlier).all()
    np.testing.assert_allclose(large.transform[:2, 2], 8 * SHIFT_YX[::-1], atol=0.2)
    np.testing.assert_allclose(large.transform[:2, :2], np.eye(2), atol=1e-3)
