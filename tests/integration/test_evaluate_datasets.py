"""``delfjax evaluate --dataset NAME`` on miniatures of all datasets with queries, some damaged.

The scores are computed again from the JSON and the ground truth alone, by their definitions and
without the library.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from delfjax.cli import main
from delfjax.config import DelfConfig, override, preset
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.catalogue import CATALOGUE, open_dataset
from delfjax.datasets.query_images import crop_name, read_query
from delfjax.evaluation import dataset_protocols
from delfjax.evaluation.dataset_protocols import PROTOCOLS
from delfjax.features.extractor import load_extractor
from delfjax.features.store import FeatureStore
from delfjax.pipeline.dataset_features import default_store, query_store
from delfjax.retrieval.local_index import build_index
from delfjax.retrieval.search import search
from delfjax.retrieval.system_index import open_index
from tests.unit.datasets import miniatures

SETTINGS = (
    "features.max_side=64",
    "features.scales=[0.5,1.0]",
    "features.max_features=40",
    "reduction.dim=8",
    "search.neighbours=6",
    "search.shortlist=4",
    "verification.threshold_px=5",
    "verification.pair_hypotheses=64",
    "verification.refined=16",
)
CONFIG: DelfConfig = override(preset("ci"), SETTINGS)
OPTIONS = ("--preset", "ci", *(part for setting in SETTINGS for part in ("--set", setting)))

CROPPED = "crop/junk-removed/stable-ties"
IDS = {
    "oxford5k": {"classic": f"oxford5k/{CROPPED}"},
    "paris6k": {"classic": f"paris6k/{CROPPED}"},
    "oxford105k": {"classic": f"oxford105k/{CROPPED}"},
    "paris106k": {"classic": f"paris106k/{CROPPED}"},
    **{
        name: {setup: f"{name}-{setup}/{CROPPED}" for setup in ("easy", "medium", "hard")}
        for name in ("roxford5k", "rparis6k", "roxford5k_r1m", "rparis6k_r1m")
    },
    "holidays": {"holidays": "holidays/full/self-removed/stable-ties"},
    "holidays_rotated": {"holidays": "holidays_rotated/full/self-removed/stable-ties"},
    "google_landmarks_v1": {
        "precision-recall": "google_landmarks_v1-25km/full/best-per-landmark/threshold-ties"
    },
    "google_landmarks_v2": {"retrieval": "google_landmarks_v2/full/repeats-wrong/stable-ties"},
    "google_landmarks_v2_recognition": {
        "recognition": "google_landmarks_v2_recognition/full/non-landmark-wrong/key-ties"
    },
    "world": {
        "average-precision": "world/full/junk-removed/stable-ties",
        "precision-recall": "world-25km/full/best-per-landmark/threshold-ties",
    },
    "folder": {"folder": "folder-by-landmark/full/junk-removed/stable-ties"},
}
TRAINING = tuple(name for name in CATALOGUE if name not in IDS)
# Setup → labels that are positive, labels that are ignored.
LABELS = {
    "classic": (("good", "ok"), ("junk",)),
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
    "holidays": (("ok",), ("junk",)),
    "folder": (("ok",), ("junk",)),
    "average-precision": (("ok",), ("junk",)),
}


class Evaluate(Protocol):
    """Evaluates a dataset by name."""

    def __call__(self, name: str, *, intact: bool = False) -> Evaluated: ...


@dataclass(frozen=True)
class Evaluated:
    """A miniature, its damaged images, and what the command line printed about it."""

    dataset: RetrievalDataset
    damaged: frozenset[str]
    damaged_query: str
    result: dict[str, Any]
    out: str
    err: str


def delfjax(*arguments: str | Path) -> tuple[str, str]:
    """Output and messages of a command that succeeds."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    assert code == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


def refused(*arguments: str | Path) -> str:
    """The one line that a command ends with."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([str(argument) for argument in arguments]) == 1
    assert out.getvalue() == "" and err.getvalue().count("\n") == 1
    return err.getvalue()


def evaluated(name: str, root: Path, *more: str | Path) -> dict[str, Any]:
    """The JSON of one evaluation."""
    file = root.parent / f"{name}.json"
    delfjax("evaluate", "--dataset", name, "--root", root, *OPTIONS, "--json", file, *more)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def write(name: str, external: Path) -> Path:
    """The miniature of a dataset, of version 1 the one that can be scored."""
    if name != "google_landmarks_v1":
        return miniatures.write(name, external)
    miniatures.google_landmarks_v1_located(external / name)
    return external / name


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory: pytest.TempPathFactory) -> Evaluate:
    """Evaluates a dataset, each once.

    Its last database image and the image of its last query are damaged, unless it is ``intact``.
    """
    done: dict[tuple[str, bool], Evaluated] = {}

    def once(name: str, *, intact: bool = False) -> Evaluated:
        if (name, intact) not in done:
            folder = tmp_path_factory.mktemp(name)
            root = write(name, folder / "external")
            dataset = open_dataset(name, root)
            damaged = set() if intact else {dataset.database[-1], dataset.queries[-1].path}
            for path in damaged:
                (dataset.root / path).write_bytes(miniatures.WEB_PAGE)
            file = folder / "scores.json"
            said = delfjax("evaluate", "--dataset", name, "--root", root, *OPTIONS, "--json", file)
            unusable = frozenset(
                {*damaged, *(dataset.database[image] for image in dataset.corrupt)}
            )
            last = dataset.queries[-1].path
            done[name, intact] = Evaluated(
                dataset, unusable, last, json.loads(file.read_text()), *said
            )
        return done[name, intact]

    return once


def average_precision(ranks: Mapping[str, int], positives: set[str], ignored: set[str]) -> float:
    """Area under precision and recall by trapezes; NaN without positives."""
    if not positives:
        return math.nan
    total, hits = 0.0, 0
    for image, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if image in positives:
            free = rank - sum(ranks[other] < rank for other in ignored & ranks.keys())
            before = hits / free if free else 1.0
            hits += 1
            total += (before + hits / (free + 1)) / 2
    return total / len(positives)


def precision_at(
    ranks: Mapping[str, int], positives: set[str], ignored: set[str], cutoff: int
) -> float:
    """Share of positives down to the cutoff, or to the last positive where that comes first."""
    if not positives:
        return math.nan
    free = sorted(
        1 + ranks[image] - sum(ranks[other] < ranks[image] for other in ignored & ranks.keys())
        for image in positives & ranks.keys()
    )
    reach = min(cutoff, free[-1]) if len(free) == len(positives) else cutoff
    return sum(rank <= reach for rank in free) / reach


def rankings_of(result: Mapping[str, Any], stage: str) -> dict[str, list[str]]:
    """Query → ranking of a stage."""
    found: dict[str, list[str]] = {**result["earlier_rankings"], "inliers": result["rankings"]}[
        stage
    ]
    return found


def ranks_of(result: Mapping[str, Any], stage: str, query: str) -> dict[str, int]:
    """Rank of every image that the JSON reports one for, from 0."""
    rankings = rankings_of(result, stage)
    return {
        **{image: rank for rank, image in enumerate(rankings[query])},
        **result["beyond"][stage].get(query, {}),
    }


def by_label(evaluated: Evaluated, protocol: str, stage: str) -> dict[str, dict[str, float]]:
    """Scores of each query of a protocol with labels."""
    positive, ignore = LABELS[protocol]
    scores: dict[str, dict[str, float]] = {}
    for query in evaluated.dataset.queries:
        sets = {
            label: {evaluated.dataset.database[image] for image in members}
            for label, members in query.sets.items()
        }
        positives, ignored = (
            set().union(*(sets[label] for label in labels)) for labels in (positive, ignore)
        )
        ranks = ranks_of(evaluated.result, stage, query.path)
        scores.setdefault("mAP", {})[query.path] = average_precision(ranks, positives, ignored)
        for cutoff in (1, 5, 10) if protocol in ("easy", "medium", "hard") else ():
            scores.setdefault(f"mP@{cutoff}", {})[query.path] = precision_at(
                ranks, positives, ignored, cutoff
            )
    return scores


def among_hundred(evaluated: Evaluated, stage: str) -> dict[str, dict[str, float]]:
    """mAP@100 of the queries that are not ignored."""
    scores = {}
    for query in evaluated.dataset.queries:
        relevant = {evaluated.dataset.database[image] for image in query.sets["ok"]}
        if relevant:
            ranks = ranks_of(evaluated.result, stage, query.path)
            hits = sorted(ranks[image] for image in relevant & ranks.keys() if ranks[image] < 100)
            precisions = [(number + 1) / (rank + 1) for number, rank in enumerate(hits)]
            scores[query.path] = sum(precisions) / min(len(relevant), 100)
    return {"mAP@100": scores}


def recognised(evaluated: Evaluated, stage: str) -> dict[str, dict[str, float]]:
    """GAP of the landmark of the first image, with its score as the confidence."""
    dataset, result = evaluated.dataset, evaluated.result
    assert dataset.landmarks is not None
    landmark = dict(zip(dataset.database, dataset.landmarks.tolist(), strict=True))
    truth = {query.path: set(query.landmarks.tolist()) for query in dataset.queries}
    shares = {query: 0.0 for query in result["scores"][stage] if truth[query]}
    predictions = []
    for query, scores in result["scores"][stage].items():
        ranking = rankings_of(result, stage)[query]
        if scores and scores[0] > 0:
            predictions.append((-scores[0], query, landmark[ranking[0]]))
    hits = 0
    for rank, (_, query, predicted) in enumerate(sorted(predictions)):
        if predicted in truth[query]:
            hits += 1
            shares[query] = hits / (rank + 1)
    return {"GAP": shares}


def mean(values: Iterable[float]) -> float:
    """Mean of the scores that are not NaN."""
    return float(np.mean([value for value in values if not math.isnan(value)]))


def test_every_dataset_has_a_protocol_or_is_for_training() -> None:
    assert set(IDS) == set(PROTOCOLS) and {name: tuple(PROTOCOLS[name]) for name in IDS} == {
        name: tuple(ids) for name, ids in IDS.items()
    }
    assert (
        all(name.endswith(("_train", "_clean", "_full")) for name in TRAINING)
        and len(TRAINING) == 6
    )


@pytest.mark.parametrize("name", IDS)
def test_every_score_is_recorded_with_its_protocol(evaluate: Evaluate, name: str) -> None:
    found = evaluate(name)
    for stage in ("votes", "inliers"):
        assert {
            key: stages[stage]["protocol"] for key, stages in found.result["results"].items()
        } == IDS[name]
    if name != "folder":
        assert all(identifier in found.out for identifier in IDS[name].values())
    assert (
        found.result["dataset"] == name
        and {"extract", "search", "total"} <= found.result["seconds"].keys()
    )


@pytest.mark.parametrize("stage", ["votes", "inliers"])
@pytest.mark.parametrize("intact", [True, False], ids=["intact", "damaged"])
@pytest.mark.parametrize("name", [name for name in IDS if name != "google_landmarks_v1"])
def test_the_scores_follow_from_the_rankings(
    evaluate: Evaluate, name: str, intact: bool, stage: str
) -> None:
    found = evaluate(name, intact=intact)
    assert bool(found.result["query_failures"]) != intact
    for protocol, stages in found.result["results"].items():
        record = stages[stage]
        if protocol == "precision-recall":
            continue
        if protocol == "retrieval":
            expected = among_hundred(found, stage)
        elif protocol == "recognition":
            expected = recognised(found, stage)
        else:
            expected = by_label(found, protocol, stage)
        assert record["queries"].keys() == expected.keys()
        for score, values in expected.items():
            given = {
                query: math.nan if value is None else value
                for query, value in record["queries"][score].items()
            }
            assert given == pytest.approx(values, abs=1e-12, nan_ok=True)
            if protocol != "folder":
                assert record["means"][score] == pytest.approx(mean(values.values()), abs=1e-12)


def test_a_folder_is_averaged_over_landmarks(evaluate: Evaluate) -> None:
    found = evaluate("folder")
    for stage in ("votes", "inliers"):
        precisions = by_label(found, "folder", stage)["mAP"]
        places = {query.partition("/")[0] for query in precisions}
        means = [
            mean(value for query, value in precisions.items() if query.startswith(place))
            for place in places
        ]
        assert found.result["tiers"]["all"][stage] == pytest.approx(
            float(np.mean(means)), abs=1e-12
        )
    assert found.out.startswith("all          mAP  votes ")


def best_per_landmark(evaluated: Evaluated, stage: str) -> list[tuple[float, str, bool]]:
    """Score, query and correctness of every landmark retrieved."""
    dataset = evaluated.dataset
    assert dataset.landmarks is not None
    landmark = dict(zip(dataset.database, dataset.landmarks.tolist(), strict=True))
    # What lies within 25 km of the only query that has a match.
    near = {7, 12}
    entries = []
    for query, scores in evaluated.result["scores"][stage].items():
        ranking = rankings_of(evaluated.result, stage)[query]
        best: dict[Any, float] = {}
        for image, score in zip(ranking, scores, strict=True):
            key = landmark[image] if landmark[image] >= 0 else image
            if score > 0:
                best[key] = max(score, best.get(key, 0))
        right = query == evaluated.dataset.queries[0].path
        entries += [(float(score), query, right and key in near) for key, score in best.items()]
    return sorted(entries, reverse=True)


@pytest.mark.parametrize("stage", ["votes", "inliers"])
def test_the_curve_of_google_landmarks_follows_from_the_rankings(
    evaluate: Evaluate, stage: str
) -> None:
    found = evaluate("google_landmarks_v1")
    record, entries = (
        found.result["results"]["precision-recall"][stage],
        best_per_landmark(found, stage),
    )
    thresholds = sorted({score for score, _, _ in entries}, reverse=True)
    assert entries and record["curve"]["threshold"] == thresholds
    area, before, read = 0.0, 0, 0
    for place, threshold in enumerate(thresholds):
        passed = [right for score, _, right in entries if score >= threshold]
        precision = sum(passed) / len(passed)
        assert record["curve"]["retrieved"][place] == len(passed)
        assert (
            record["curve"]["true_positives"][place]
            == record["curve"]["recall_rate"][place]
            == sum(passed)
        )
        assert record["curve"]["precision"][place] == pytest.approx(precision, abs=1e-12)
        area, before = area + (sum(passed) - before) * precision, sum(passed)
        read = sum(passed) if precision >= 0.5 else read
    assert record["means"]["area"] == pytest.approx(area, abs=1e-12)
    assert record["means"]["TP@P50"] == record["means"]["recall@P50"] == read > 0
    assert sum(record["queries"]["true positives"].values()) == read


@pytest.mark.parametrize("name", IDS)
def test_a_damaged_image_is_a_failure_and_a_damaged_query_scores_nothing(
    evaluate: Evaluate, name: str
) -> None:
    found = evaluate(name)
    result, dataset = found.result, found.dataset
    unusable = {path for path in found.damaged if path in dataset.database}
    assert result["failures"].keys() == unusable and all(
        "not an image" in why for why in result["failures"].values()
    )
    assert result["num_failed"] == len(unusable) and result["num_images"] == len(
        dataset.database
    ) - len(unusable)
    searched = [query for query, ranking in result["rankings"].items() if ranking]
    assert searched and all(not set(result["rankings"][query]) & unusable for query in searched)
    assert (
        list(result["query_failures"]) == [found.damaged_query]
        and result["rankings"][found.damaged_query] == []
    )
    for stages in result["results"].values():
        for stage in ("votes", "inliers"):
            assert {
                scores[found.damaged_query] for scores in stages[stage]["queries"].values()
            } <= {0.0, None}
    assert f"failed: query {found.damaged_query}: not an image" in found.err


def test_the_damaged_images_of_paris_are_known_failures(evaluate: Evaluate) -> None:
    for name, folder in (("paris6k", ""), ("paris106k", "paris6k/")):
        damaged = {f"{folder}paris/louvre/{stem}.jpg" for stem in miniatures.PARIS_DAMAGED}
        assert evaluate(name, intact=True).result["failures"].keys() == damaged


def test_ignored_queries_are_counted_and_not_searched(evaluate: Evaluate) -> None:
    for name in ("google_landmarks_v2", "google_landmarks_v2_recognition"):
        found = evaluate(name)
        assert found.result["num_ignored"] == 1 and len(found.result["rankings"]) == 2
        assert found.dataset.queries[1].path not in found.result["rankings"]


@pytest.mark.parametrize("name", ["oxford5k", "rparis6k"])
def test_a_query_with_a_box_is_searched_by_its_crop(evaluate: Evaluate, name: str) -> None:
    found = evaluate(name)
    query = found.dataset.queries[0]
    place = default_store(found.dataset, CONFIG.extraction())
    assert place.is_dir() and query_store(place).is_dir()
    extractor = load_extractor(CONFIG)
    crop = extractor.dispatch([read_query(found.dataset, 0, max_side=64)]).result()[0]
    stored = FeatureStore.open(query_store(place)).get(crop_name(query))
    assert stored.image_size == crop.image_size == (37, 42) and len(crop.local.scales) > 0
    np.testing.assert_array_equal(stored.local.keypoints_yx, crop.local.keypoints_yx)
    np.testing.assert_array_equal(
        stored.local.descriptors, np.asarray(crop.local.descriptors, np.float16)
    )
    database = FeatureStore.open(place).subset(found.dataset.database)
    if query.in_database is not None:
        assert database.get(query.path).image_size == miniatures.SIZE
    index = build_index(database, config=CONFIG)
    ranked = search(index, stored, config=CONFIG.search, verification=CONFIG.verification)
    matched = [
        index.names[image]
        for image, votes in zip(ranked.images, ranked.votes, strict=True)
        if votes
    ]
    assert matched and found.result["rankings"][query.path][: len(matched)] == matched


def test_images_beyond_a_cut_ranking_still_count(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate("roxford5k")
    monkeypatch.setattr(dataset_protocols._LabelScorer, "longest", 1)
    result = evaluated("roxford5k", whole.dataset.root)
    assert (
        all(len(ranking) <= 1 for ranking in result["rankings"].values())
        and result["beyond"]["inliers"]
    )
    assert result["results"] == whole.result["results"]
    cut = Evaluated(whole.dataset, whole.damaged, whole.damaged_query, result, "", "")
    for protocol, stages in result["results"].items():
        expected = by_label(cut, protocol, "inliers")["mAP"]
        given = {
            query: math.nan if value is None else value
            for query, value in stages["inliers"]["queries"]["mAP"].items()
        }
        assert given == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_a_second_evaluation_extracts_nothing_and_a_changed_box_one_query(tmp_path: Path) -> None:
    root = miniatures.write("oxford5k", tmp_path / "external")
    store = tmp_path / "store"
    first = evaluated("oxford5k", root, "--store", store)
    shards = {
        file: file.read_bytes()
        for place in (store, query_store(store))
        for file in place.glob("shard-*")
    }
    again = evaluated("oxford5k", root, "--store", store)
    assert {key: again[key] for key in ("results", "rankings")} == {
        key: first[key] for key in ("results", "rankings")
    }
    file = root / "gt_files_170407" / "all_souls_1_query.txt"
    file.write_text(file.read_text().replace("48.5 40.7", "60 44"))
    evaluated("oxford5k", root, "--store", store)
    after = {
        file: file.read_bytes()
        for place in (store, query_store(store))
        for file in place.glob("shard-*")
    }
    fresh = after.keys() - shards.keys()
    assert {file: after[file] for file in shards} == shards and {file.parent for file in fresh} == {
        query_store(store)
    }
    assert len(FeatureStore.open(query_store(store))) == 4 and len(fresh) == 1


def test_an_image_removed_from_a_dataset_is_not_found_through_its_old_store(tmp_path: Path) -> None:
    root = miniatures.write("oxford5k", tmp_path / "external")
    evaluated("oxford5k", root)
    (root / "radcliffe_camera_000519.jpg").unlink()
    result = evaluated("oxford5k", root)
    assert result["num_images"] == 6 and result["failures"] == {}
    assert not any(
        "radcliffe_camera_000519.jpg" in ranking for ranking in result["rankings"].values()
    )


def test_a_repaired_query_is_tried_again(tmp_path: Path) -> None:
    root = miniatures.write("roxford5k", tmp_path / "external")
    path = "jpg/all_souls_000013.jpg"
    (root / path).write_bytes(miniatures.WEB_PAGE)
    assert evaluated("roxford5k", root)["query_failures"].keys() == {path}
    miniatures.image(root / path)
    assert evaluated("roxford5k", root)["query_failures"] == {}


def test_one_protocol_of_several_can_be_asked_for(evaluate: Evaluate, tmp_path: Path) -> None:
    whole = evaluate("roxford5k")
    result = evaluated("roxford5k", whole.dataset.root, "--protocol", "hard")
    assert result["results"] == {"hard": whole.result["results"]["hard"]}
    root = miniatures.write("roxford5k", tmp_path)
    said = refused(
        "evaluate",
        "--dataset",
        "roxford5k",
        "--root",
        root,
        "--store",
        tmp_path / "s",
        "--protocol",
        "hards",
    )
    assert (
        "roxford5k: protocol 'hards' is unknown; did you mean 'hard'? there are: easy, medium, hard"
        in said
    )
    assert not (tmp_path / "s").exists()


def test_version_one_as_published_cannot_be_scored(tmp_path: Path) -> None:
    root = miniatures.write("google_landmarks_v1", tmp_path)
    said = refused(
        "evaluate", "--dataset", "google_landmarks_v1", "--root", root, "--store", tmp_path / "s"
    )
    assert "google_landmarks_v1: the landmarks of the database images are missing" in said
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_set_is_not_evaluated(name: str, tmp_path: Path) -> None:
    root = miniatures.write(name, tmp_path / "external")
    said = refused("evaluate", "--dataset", name, "--root", root, "--store", tmp_path / "store")
    assert f"{name}: no queries, so nothing can be scored: it is for training" in said
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["google_landmarks_v2_clean", "landmarks_full", "oxford105k"])
def test_a_dataset_is_extracted_indexed_and_searched_by_name(name: str, tmp_path: Path) -> None:
    root = miniatures.write(name, tmp_path / "external")
    dataset = open_dataset(name, root)
    (root / dataset.database[1]).write_bytes(miniatures.WEB_PAGE)
    _, said = delfjax("extract", "--dataset", name, "--root", root, *OPTIONS)
    assert f"failed: {dataset.database[1]}: not an image" in said
    assert f"store: {default_store(dataset, CONFIG.extraction())}" in said
    delfjax("index", "--dataset", name, "--root", root, "--out", tmp_path / "index", *OPTIONS)
    index = open_index(tmp_path / "index")
    assert (
        index.names == sorted({*dataset.database} - {dataset.database[1]})
        and Path(index.photos) == dataset.root
    )
    out, _ = delfjax("search", tmp_path / "index", dataset.root / dataset.database[0], "--json")
    assert json.loads(out)["results"][0]["image"] == dataset.database[0]


def rows(lines: str) -> Sequence[str]:
    """The printed lines except for the timings."""
    return [line for line in lines.splitlines() if "extract" not in line]


def test_a_folder_is_evaluated_as_the_dataset_folder(evaluate: Evaluate, tmp_path: Path) -> None:
    found = evaluate("folder")
    out, _ = delfjax("evaluate", found.dataset.root, *OPTIONS, "--json", tmp_path / "scores.json")
    result = json.loads((tmp_path / "scores.json").read_text())
    assert {**result, "seconds": 0} == {**found.result, "seconds": 0} and rows(out) == rows(
        found.out
    )


def test_images_without_landmarks_cannot_be_scored(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        miniatures.image(tmp_path / "photos" / name)
    said = refused("evaluate", tmp_path / "photos", "--store", tmp_path / "store")
    assert "photos: no queries, so nothing can be scored; add a groundtruth.json" in said
    assert not (tmp_path / "store").exists()
