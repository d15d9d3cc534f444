"""Oxford, Paris, their revisited versions and Holidays, on cases small enough to score by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.labelled_protocols import (
    LabelledQuery,
    LabelProtocol,
    Ranking,
    classic_protocol,
    holidays_protocol,
    holidays_queries,
    revisited_protocol,
    score_ranking,
    score_rankings,
)
from delfjax.evaluation.protocol import ProtocolResult

DATABASE = ["g1", "g2", "o1", "j1", "j2", "x1", "x2", "x3"]
CLASSIC = classic_protocol("oxford5k")
TOWER = LabelledQuery("tower", {"good": {"g1", "g2"}, "ok": {"o1"}, "junk": {"j1", "j2"}})
REVISITED = LabelledQuery("tower", {"easy": ("g1",), "hard": ("g2", "o1"), "junk": ("j1",)})


def _score(
    ranking: Ranking,
    *,
    query: LabelledQuery = TOWER,
    protocol: LabelProtocol = CLASSIC,
    database: Sequence[str] = DATABASE,
) -> dict[str, float]:
    result = score_rankings(
        {query.name: ranking}, protocol=protocol, queries=[query], database=database
    )
    return {name: float(values[0]) for name, values in result.scores.items()}


def _of_two(ranking: Sequence[str]) -> float:
    return _score(ranking, query=LabelledQuery("pair", {"good": ["g1"], "ok": ["o1"]}))["mAP"]


def test_good_and_ok_images_are_equally_positive() -> None:
    assert _score(["o1", "g2", "g1", "x1"]) == {"mAP": 1.0}


def test_junk_before_a_perfect_ranking_costs_nothing() -> None:
    assert _score(["j2", "g1", "j1", "o1", "g2"]) == {"mAP": 1.0}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_one_positive_below_the_head_scores_half_its_precision(rank: int) -> None:
    ranking = [*["x1", "x2", "x3"][:rank], "j1", "g1"]
    query = LabelledQuery("one", {"good": {"g1"}, "junk": {"j1"}})
    assert _score(ranking, query=query)["mAP"] == pytest.approx(1 / (2 * (rank + 1)), rel=1e-15)


def test_two_positives_at_ranks_zero_and_two() -> None:
    assert _of_two(["g1", "x1", "o1"]) == pytest.approx(19 / 24, rel=1e-15)


def test_positives_never_ranked_cost_their_share() -> None:
    assert _of_two(["g1", "x1"]) == 0.5
    assert _of_two([]) == 0.0


def test_the_image_of_a_classic_query_is_in_the_database_and_counts() -> None:
    itself = LabelledQuery("g1", {"good": {"g1", "g2"}})
    assert _score(["g1", "x1", "g2"], query=itself)["mAP"] == pytest.approx(19 / 24)


def test_names_and_indices_of_the_database_score_alike() -> None:
    names = ["x1", "j1", "g2", "x2", "o1"]
    assert _score(np.array([DATABASE.index(name) for name in names], dtype=np.int32)) == _score(
        names
    )
    assert _score(np.array(names)) == _score(names)


@pytest.mark.parametrize(
    ("setup", "score"),
    [
        # Of x1, g1, j1, g2, x2, o1 — easy: g1 behind x1. Medium: ranks 1, 2, 4. Hard: ranks 1 and 3
        # without g1.
        ("easy", 1 / 4),
        ("medium", ((0 + 1 / 2) + (1 / 2 + 2 / 3) + (2 / 4 + 3 / 5)) / 6),
        ("hard", ((0 + 1 / 2) + (1 / 3 + 2 / 4)) / 4),
    ],
)
def test_each_setup_has_its_own_positives_and_ignores_its_own_images(
    setup: str, score: float
) -> None:
    protocol = revisited_protocol("roxford5k", setup)
    assert str(protocol.id) == f"roxford5k-{setup}/crop/junk-removed/stable-ties"
    found = _score(["x1", "g1", "j1", "g2", "x2", "o1"], query=REVISITED, protocol=protocol)
    assert found["mAP"] == pytest.approx(score, rel=1e-14)


def test_precision_at_k_does_not_count_beyond_the_last_positive() -> None:
    medium = revisited_protocol("roxford5k", "medium")
    # Positives at ranks 1, 2 and 5 (from 1): mP@5 sees all five, mP@10 no more than those.
    found = _score(["g1", "g2", "j1", "x1", "x2", "o1", "x3"], query=REVISITED, protocol=medium)
    assert {name: found[name] for name in ("mP@1", "mP@5", "mP@10")} == {
        "mP@1": 1.0,
        "mP@5": 0.6,
        "mP@10": 0.6,
    }
    assert _score(["g1", "g2", "o1"], query=REVISITED, protocol=medium)["mP@10"] == 1.0


def test_precision_at_k_gains_nothing_from_a_list_cut_short() -> None:
    medium = revisited_protocol("roxford5k", "medium")
    found = _score(["g1"], query=REVISITED, protocol=medium)
    assert (found["mP@1"], found["mP@5"], found["mP@10"]) == (1.0, 0.2, 0.1)
    nothing = _score([], query=REVISITED, protocol=medium)
    assert nothing == {"mAP": 0.0, "mP@1": 0.0, "mP@5": 0.0, "mP@10": 0.0}


def test_a_query_without_positives_scores_nan_and_is_left_out_of_every_mean() -> None:
    no_easy = LabelledQuery("arch", {"hard": ["o1"], "junk": []})
    result = score_rankings(
        {"tower": ["g1", "x1"], "arch": ["o1"]},
        protocol=revisited_protocol("roxford5k", "easy"),
        queries=[REVISITED, no_easy],
        database=DATABASE,
    )
    assert all(math.isnan(values[1]) for values in result.scores.values())
    assert result.means == {"mAP": 1.0, "mP@1": 1.0, "mP@5": 1.0, "mP@10": 1.0}


SCENES = ["100002.jpg", "100000.jpg", "100001.jpg", "100100.jpg", "100101.jpg"]


def _holidays(rankings: Mapping[str, Ranking]) -> ProtocolResult:
    queries = holidays_queries(SCENES)
    return score_rankings(rankings, protocol=holidays_protocol(), queries=queries, database=SCENES)


def test_scenes_of_holidays_are_read_from_the_numbers() -> None:
    first, second = holidays_queries(SCENES)
    assert (first.name, second.name) == ("100000.jpg", "100100.jpg")
    assert first.labels == {"scene": ("100001.jpg", "100002.jpg"), "self": ("100000.jpg",)}


def test_the_query_leaves_its_own_ranking_and_no_other() -> None:
    result = _holidays(
        {
            # Positives at ranks 0 and 2, whether or not the query was found.
            "100000.jpg": ["100000.jpg", "100001.jpg", "100100.jpg", "100002.jpg"],
            # The query of the other scene takes up a rank.
            "100100.jpg": ["100000.jpg", "100100.jpg", "100101.jpg"],
        }
    )
    assert result.scores["mAP"] == pytest.approx([19 / 24, 1 / 4], rel=1e-14)
    assert str(result.protocol) == "holidays/full/self-removed/stable-ties"


def test_holidays_needs_every_query() -> None:
    with pytest.raises(EvaluationError, match="none for the query '100100.jpg'"):
        _holidays({"100000.jpg": ["100001.jpg"]})


@pytest.mark.parametrize(
    ("database", "message"),
    [
        (["100000.jpg", "beach.jpg"], "the name of 'beach.jpg' is not a number"),
        (["100000.jpg", "a/100000.png"], "'100000.jpg' and 'a/100000.png' have the same number"),
        (
            ["100000.jpg", "100201.jpg"],
            "'100201.jpg' belongs to a scene whose query, 100200, is",
        ),
    ],
)
def test_a_folder_that_is_not_holidays_is_refused_by_name(
    database: list[str], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        holidays_queries(database)


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        (["g1", "elsewhere"], "ranking of 'tower': 'elsewhere' is not in the database"),
        (["x1", "g1", "x2", "g1", "x1"], "ranking of 'tower': 'g1' appears twice"),
        (["j1", "j1"], "'j1' appears twice"),
        (np.array([0, 8]), "ranking of 'tower': 8 is not in the database"),
        (np.array([-1]), "-1 is not in the database"),
        (
            np.zeros((1, 2), dtype=np.int64),
            "array of shape (1, 2)".replace("(", r"\(").replace(")", r"\)"),
        ),
    ],
)
def test_a_ranking_that_cannot_be_scored_is_refused_by_name(ranking: Ranking, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        _score(ranking)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"good": ["g1"], "bad": ["x1"]},
            "oxford5k.* has no label 'bad'; there are: good, ok, junk",
        ),
        (
            {"good": ["elsewhere"]},
            "query 'tower', label 'good': 'elsewhere' is not in the database",
        ),
        ({"ok": ["g1"], "junk": ["g1"]}, "'g1' is positive and ignored"),
    ],
)
def test_a_ground_truth_that_does_not_fit_is_refused_by_name(
    labels: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        _score([], query=LabelledQuery("tower", labels))


def test_an_image_may_carry_two_positive_labels() -> None:
    assert (
        _score(["g1"], query=LabelledQuery("tower", {"good": ["g1"], "ok": ["g1"]}))["mAP"] == 1.0
    )


def test_repeated_and_unknown_names_are_refused() -> None:
    with pytest.raises(EvaluationError, match="database: 'g1' appears twice"):
        _score([], database=[*DATABASE, "g1"])
    with pytest.raises(EvaluationError, match="queries: 'tower' appears twice"):
        score_rankings({"tower": []}, protocol=CLASSIC, queries=[TOWER, TOWER], database=DATABASE)
    with pytest.raises(EvaluationError, match="rankings: 'bridge' is not a query"):
        score_rankings(
            {"tower": [], "bridge": []}, protocol=CLASSIC, queries=[TOWER], database=DATABASE
        )


def test_a_setup_that_does_not_exist_is_refused() -> None:
    with pytest.raises(EvaluationError, match="setup 'extreme'; there are: easy, medium, hard"):
        revisited_protocol("roxford5k", "extreme")


def test_a_cutoff_below_one_is_refused() -> None:
    with pytest.raises(EvaluationError, match="cutoffs: got"):
        _score([], protocol=LabelProtocol(CLASSIC.id, ("good", "ok"), ("junk",), (0,)))


def test_one_ranking_by_indices_scores_as_among_many_by_names() -> None:
    labels = {
        label: np.array([DATABASE.index(image) for image in sorted(images)])
        for label, images in TOWER.labels.items()
    }
    ranking = np.array([DATABASE.index(image) for image in ("x1", "j1", "g1", "o1")])
    scores = score_ranking(
        ranking, protocol=CLASSIC, query="tower", labels=labels, database=DATABASE
    )
    assert CLASSIC.score_names == ("mAP",) and scores.tolist() == [
        _score(["x1", "j1", "g1", "o1"])["mAP"]
    ]
    with pytest.raises(EvaluationError, match="ranking of 'tower': 99 is not in the database"):
        score_ranking(
            np.array([0, 99]), protocol=CLASSIC, query="tower", labels=labels, database=DATABASE
        )
