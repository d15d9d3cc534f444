"""Lists whose scores mean the same for every query."""

from __future__ import annotations

import numpy as np

from delfjax.config import RankingConfig
from delfjax.pipeline.scoring import DatasetScores, comparable_lists


def scores(stages: dict[str, dict[str, dict[str, float]]]) -> DatasetScores:
    """Stage → query → image → score."""
    ranked = {
        stage: {
            query: sorted(of, key=lambda image, of=of: -of[image]) for query, of in found.items()
        }
        for stage, found in stages.items()
    }
    *earlier, last = stages
    return DatasetScores(
        dataset="world",
        stages=list(stages),
        tiers={},
        results={},
        rankings=ranked[last],
        earlier_rankings={stage: ranked[stage] for stage in earlier},
        scores={
            stage: {
                query: [of[image] for image in ranked[stage][query]] for query, of in found.items()
            }
            for stage, found in stages.items()
        },
        beyond={},
        query_failures={},
    )


def test_a_global_descriptor_is_judged_by_its_cosines() -> None:
    found = scores({"cosine": {"q": {"a": 0.2, "b": 0.9}, "r": {}}})
    lists = comparable_lists(found, RankingConfig(), top=10)
    assert lists["q"].images == ["b", "a"] and lists["q"].scores.tolist() == [0.9, 0.2]
    assert comparable_lists(found, RankingConfig(), top=1)["q"].images == ["b"]
    assert len(lists["r"].images) == len(lists["r"].scores) == 0


def test_local_features_are_judged_by_their_inliers() -> None:
    found = scores({"votes": {"q": {"a": 7.0, "b": 1.0}}, "inliers": {"q": {"a": 3, "b": 12}}})
    lists = comparable_lists(found, RankingConfig(), top=10)
    assert lists["q"].images == ["b", "a"] and lists["q"].scores.tolist() == [12, 3]


def test_both_are_judged_by_a_mean_that_knows_no_other_query() -> None:
    ranking = RankingConfig(by="fused", local_weight=0.75, most_inliers=60)
    found = scores(
        {
            "cosine": {"q": {"a": 0.8, "b": 0.4}, "r": {"a": 0.1}},
            "votes": {"q": {"a": 1.0}, "r": {}},
            # c has inliers, but its cosine was not reported: at most the least that was.
            "inliers": {"q": {"a": 30, "c": 90}, "r": {}},
            # The first of every list has the same fused score.
            "fused": {"q": {"a": 1.0, "b": 0.0}, "r": {"a": 1.0}},
        }
    )
    lists = comparable_lists(found, ranking, top=10)
    by_image = dict(zip(lists["q"].images, lists["q"].scores.tolist(), strict=True))
    expected = {"a": 0.75 * 0.5 + 0.25 * 0.8, "b": 0.25 * 0.4, "c": 0.75 + 0.25 * 0.4}
    assert by_image.keys() == expected.keys()
    np.testing.assert_allclose([by_image[image] for image in expected], list(expected.values()))
    np.testing.assert_allclose(lists["r"].scores, [0.25 * 0.1])
    assert comparable_lists(found, ranking, top=2)["q"].images == ["c", "a"]
