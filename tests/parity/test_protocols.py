"""Every protocol against a slow version written from its definition, on random rankings.

There are a thousand rankings for each protocol, with junk, tied scores, items left out and items
repeated. The slow versions go item by item in plain Python and share no code with the library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.gldv2_protocol import (
    global_average_precision,
    retrieval_mean_average_precision,
)
from delfjax.evaluation.labelled_protocols import (
    LabelledQuery,
    LabelProtocol,
    classic_protocol,
    holidays_protocol,
    holidays_queries,
    revisited_protocol,
    score_rankings,
)
from delfjax.evaluation.landmark_curve import (
    LandmarkDatabase,
    ScoredList,
    landmark_precision_recall,
)
from delfjax.evaluation.protocol import stable_ranking

RANKINGS = 1000
# Sums of at most some hundred numbers below 1, in float64.
EXACT = 1e-9


def _slow_order(scores: Sequence[float]) -> list[int]:
    return [index for _, index in sorted((-score, index) for index, score in enumerate(scores))]


def _slow_average_precision(
    ranking: Sequence[str], positives: set[str], ignored: set[str]
) -> float:
    if not positives:
        return math.nan
    area, old_recall, old_precision, hits, seen = 0.0, 0.0, 1.0, 0, 0
    for item in ranking:
        if item in ignored:
            continue
        seen += 1
        if item in positives:
            hits += 1
        recall, precision = hits / len(positives), hits / seen
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def _slow_precision_at(
    ranking: Sequence[str], positives: set[str], ignored: set[str], cutoff: int
) -> float:
    if not positives:
        return math.nan
    counted = [item for item in ranking if item not in ignored]
    last = 0.0
    for item in positives:
        last = max(last, counted.index(item) + 1 if item in counted else math.inf)
    reach = min(last, cutoff)
    hits = 0
    for rank, item in enumerate(counted, start=1):
        if rank <= reach and item in positives:
            hits += 1
    return hits / reach


def _cut_and_repeated(ranking: list[str], rng: np.random.Generator) -> tuple[list[str], str | None]:
    """The list cut at random; in one list of ten an item is repeated, and returned as well."""
    cut = ranking[: int(rng.integers(0, len(ranking) + 1))]
    if not cut or rng.random() > 0.1:
        return cut, None
    again = cut[int(rng.integers(len(cut)))]
    place = int(rng.integers(cut.index(again) + 1, len(cut) + 1))
    return [*cut[:place], again, *cut[place:]], again


@pytest.mark.parametrize(
    ("protocol", "labels"),
    [
        (classic_protocol("oxford5k"), ("good", "ok", "junk")),
        (revisited_protocol("roxford5k", "easy"), ("easy", "hard", "junk")),
        (revisited_protocol("roxford5k", "medium"), ("easy", "hard", "junk")),
        (revisited_protocol("roxford5k", "hard"), ("easy", "hard", "junk")),
    ],
    ids=lambda value: value.id.benchmark if isinstance(value, LabelProtocol) else "",
)
def test_labelled_rankings_score_as_defined(
    protocol: LabelProtocol, labels: tuple[str, ...], rng: np.random.Generator
) -> None:
    undefined = refused = 0
    for _ in range(RANKINGS):
        database = [f"i{number}" for number in range(int(rng.integers(1, 40)))]
        drawn = rng.choice([*labels, "negative"], len(database), p=[0.1, 0.1, 0.2, 0.6])
        by_label = {
            label: {name for name, given in zip(database, drawn, strict=True) if given == label}
            for label in labels
        }
        # Few levels of score: most are shared by several images.
        scores = rng.integers(0, 5, len(database)).astype(np.float64)
        order = _slow_order(scores.tolist())
        assert stable_ranking(scores).tolist() == order
        ranking, again = _cut_and_repeated([database[index] for index in order], rng)
        asked = {
            "rankings": {"q": ranking},
            "protocol": protocol,
            "queries": [LabelledQuery("q", by_label)],
        }
        if again is not None:
            refused += 1
            with pytest.raises(EvaluationError, match=f"'{again}' appears twice"):
                score_rankings(**asked, database=database)
            continue
        result = score_rankings(**asked, database=database)
        positives = set().union(*(by_label[label] for label in protocol.positives))
        ignored = set().union(*(by_label[label] for label in protocol.ignored))
        expected = {"mAP": _slow_average_precision(ranking, positives, ignored)}
        for cutoff in protocol.cutoffs:
            expected[f"mP@{cutoff}"] = _slow_precision_at(ranking, positives, ignored, cutoff)
        undefined += not positives
        found = {name: float(values[0]) for name, values in result.scores.items()}
        assert found == pytest.approx(expected, abs=EXACT, nan_ok=True)
    assert undefined > 10 and refused > 10


def test_holidays_scores_as_defined(rng: np.random.Generator) -> None:
    for _ in range(RANKINGS // 10):
        database = [
            f"{1000 + scene}{view:02d}.jpg"
            for scene in range(10)
            for view in range(int(rng.integers(2, 6)))
        ]
        rng.shuffle(database)
        queries = holidays_queries(database)
        assert len(queries) == 10
        rankings, expected = {}, []
        for query in queries:
            scores = rng.integers(0, 8, len(database)).tolist()
            rankings[query.name] = [database[index] for index in _slow_order(scores)][
                : int(rng.integers(0, 60))
            ]
            scene = {name for name in database if name[:4] == query.name[:4] and name != query.name}
            expected.append(_slow_average_precision(rankings[query.name], scene, {query.name}))
        result = score_rankings(
            rankings, protocol=holidays_protocol(), queries=queries, database=database
        )
        assert result.scores["mAP"] == pytest.approx(expected, abs=EXACT)
        assert result.means["mAP"] == pytest.approx(sum(expected) / 10, abs=EXACT)


def _slow_average_precision_at(predicted: Sequence[str], relevant: set[str]) -> float:
    if not relevant:
        return math.nan
    total, hits, named = 0.0, 0, set()
    for rank, item in enumerate(predicted, start=1):
        if rank > 100:
            break
        if item in relevant and item not in named:
            hits += 1
            total += hits / rank
        named.add(item)
    return total / min(len(relevant), 100)


def test_mean_average_precision_at_a_hundred_is_as_defined(rng: np.random.Generator) -> None:
    names = [f"i{number}" for number in range(160)]
    solution, predictions, expected = {}, {}, []
    for number in range(RANKINGS):
        relevant = set(rng.choice(names, int(rng.choice([0, 1, 5, 130])), replace=False).tolist())
        # With replacement: items named again; up to 150 of them; none for one query in ten.
        predicted = rng.choice(
            names, int(rng.integers(0, 151)), replace=bool(rng.integers(2))
        ).tolist()
        query = f"q{number}"
        solution[query] = relevant
        if rng.random() < 0.9:
            predictions[query] = predicted
        expected.append(_slow_average_precision_at(predictions.get(query, []), relevant))
    result = retrieval_mean_average_precision(predictions, solution=solution)
    np.testing.assert_allclose(result.scores["mAP@100"], expected, atol=EXACT, rtol=0)
    scored = [value for value in expected if not math.isnan(value)]
    assert (
        result.means["mAP@100"] == pytest.approx(sum(scored) / len(scored), abs=EXACT)
        and len(scored) < RANKINGS
    )


def _slow_gap(
    rows: Sequence[tuple[str, int, float]],
    solution: dict[str, set[int]],
    *,
    ignore_non_landmark: bool,
) -> float:
    total, hits, rank, named = 0.0, 0, 0, set()
    for image, landmark, _ in sorted(rows, key=lambda row: (-row[2], row[0], row[1])):
        if ignore_non_landmark and not solution[image]:
            continue
        rank += 1
        if image not in named and landmark in solution[image]:
            hits += 1
            total += hits / rank
        named.add(image)
    landmarks = sum(bool(shown) for shown in solution.values())
    return total / landmarks if landmarks else math.nan


@pytest.mark.parametrize("ignore_non_landmark", [False, True])
def test_global_average_precision_is_as_defined(
    ignore_non_landmark: bool, rng: np.random.Generator
) -> None:
    for _ in range(RANKINGS):
        names = [f"t{number}" for number in rng.permutation(int(rng.integers(1, 15)))]
        solution = {
            name: set(rng.integers(0, 4, int(rng.integers(0, 3))).tolist()) for name in names
        }
        count = int(rng.integers(0, 25))
        rows = list(zip(rng.choice(names, count).tolist(), rng.integers(0, 4, count).tolist(),
                        (rng.integers(0, 4, count) / 4).tolist(), strict=True))  # fmt: skip
        result = global_average_precision(
            [image for image, _, _ in rows],
            classes=np.array([landmark for _, landmark, _ in rows], dtype=np.int64),
            confidences=np.array([confidence for _, _, confidence in rows], dtype=np.float64),
            solution=solution, ignore_non_landmark=ignore_non_landmark,
        )  # fmt: skip
        expected = _slow_gap(rows, solution, ignore_non_landmark=ignore_non_landmark)
        assert result.means["GAP"] == pytest.approx(expected, abs=EXACT, nan_ok=True)


def _slow_distance_km(first: Sequence[float], second: Sequence[float]) -> float:
    """By the chord between two points of the sphere, not by the haversine."""
    ends = []
    for latitude, longitude in (first, second):
        north, east = math.radians(latitude), math.radians(longitude)
        ends.append(
            (math.cos(north) * math.cos(east), math.cos(north) * math.sin(east), math.sin(north))
        )
    return 2 * 6371.0088 * math.asin(min(1.0, math.dist(*ends) / 2))


def _slow_point(
    lists: dict[str, ScoredList],
    places: dict[str, tuple[float, float] | None],
    database: LandmarkDatabase,
    threshold: float,
) -> tuple[int, int]:
    """Landmarks retrieved and right ones at a threshold."""
    retrieved = right = 0
    for query, place in places.items():
        found: set[object] = set()
        for image, score in zip(lists[query].images, lists[query].scores.tolist(), strict=True):
            landmark = int(database.landmark[list(database.images).index(image)])
            if score >= threshold:
                found.add(landmark if landmark >= 0 else image)
        retrieved += len(found)
        for landmark in found:
            if isinstance(landmark, int) and place is not None:
                right += _slow_distance_km(place, database.centres_deg[landmark].tolist()) <= 25.0
    return retrieved, right


def test_the_landmark_curve_is_as_defined_at_every_threshold(rng: np.random.Generator) -> None:
    checked = 0
    while checked < RANKINGS:
        # Within half a degree: some landmarks lie within 25 km of a query, most do not.
        centres = np.array([60.0, 10.0]) + rng.uniform(-0.5, 0.5, (6, 2))
        database = LandmarkDatabase([f"i{n}" for n in range(20)], rng.integers(-1, 6, 20), centres)
        places = {
            f"q{n}": tuple((np.array([60.0, 10.0]) + rng.uniform(-0.7, 0.7, 2)).tolist())
            if rng.random() < 0.8
            else None
            for n in range(8)
        }
        lists = {}
        for query in places:
            count = int(rng.integers(0, 15))
            lists[query] = ScoredList(
                rng.choice(database.images, count).tolist(),
                rng.integers(0, 6, count).astype(np.float64),
            )
        curve = landmark_precision_recall(lists, queries_deg=places, database=database)
        seen = {score for found in lists.values() for score in found.scores.tolist()}
        # The score of a landmark's lesser image adds nothing, so it is not a point of the curve.
        assert set(curve.thresholds.tolist()) <= seen
        for threshold in seen:
            point = curve.at(threshold)
            assert (point.retrieved, point.true_positives) == _slow_point(
                lists, places, database, threshold
            )
        shown = set(database.landmark.tolist()) - {-1}
        match = [
            place is not None
            and any(
                _slow_distance_km(place, centres[landmark].tolist()) <= 25.0 for landmark in shown
            )
            for place in places.values()
        ]
        assert curve.has_match.tolist() == match
        if any(match):
            assert curve.recall_rate == pytest.approx(curve.true_positives / sum(match), abs=EXACT)
        checked += len(places)
