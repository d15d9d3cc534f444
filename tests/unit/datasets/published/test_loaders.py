"""Every dataset, from a miniature in its original layout, and the errors of incomplete copies."""

from __future__ import annotations

import math
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delfjax import paths
from delfjax.config import ConfigError
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.catalogue import CATALOGUE, dataset_root, open_dataset
from delfjax.datasets.checking import count_dataset, verify_dataset
from delfjax.datasets.columns import DatasetError
from delfjax.datasets.images import decode_image
from delfjax.datasets.published.oxford_paris import PARIS_CORRUPT
from delfjax.datasets.query_images import read_query
from delfjax.errors import DelfjaxError
from tests.unit.datasets import miniatures

# What the miniature of each dataset holds.
COUNTS = {
    "oxford5k": {"database": 7, "queries": 3, "landmarks": 2, "good": 5, "ok": 1, "junk": 1},
    "paris6k": {
        "database": 10,
        "queries": 3,
        "landmarks": 3,
        "corrupt": 2,
        "good": 3,
        "ok": 2,
        "junk": 1,
    },
    "oxford105k": {
        "database": 10,
        "distractors": 3,
        "queries": 3,
        "landmarks": 2,
        "good": 5,
        "ok": 1,
        "junk": 1,
    },
    "paris106k": {
        "database": 13,
        "distractors": 3,
        "queries": 3,
        "landmarks": 3,
        "corrupt": 2,
        "good": 3,
        "ok": 2,
        "junk": 1,
    },
    "roxford5k": {"database": 5, "queries": 2, "easy": 2, "hard": 3, "junk": 1},
    "rparis6k": {"database": 5, "queries": 2, "easy": 2, "hard": 3, "junk": 1},
    "roxford5k_r1m": {
        "database": 9,
        "distractors": 4,
        "queries": 2,
        "easy": 2,
        "hard": 3,
        "junk": 1,
    },
    "rparis6k_r1m": {
        "database": 9,
        "distractors": 4,
        "queries": 2,
        "easy": 2,
        "hard": 3,
        "junk": 1,
    },
    "holidays": {"database": 7, "queries": 3, "landmarks": 3, "ok": 4, "junk": 3},
    "holidays_rotated": {"database": 7, "queries": 3, "landmarks": 3, "ok": 4, "junk": 3},
    "google_landmarks_v1": {"database": 2, "queries": 1},
    "google_landmarks_v1_train": {"database": 3, "landmarks": 2},
    "google_landmarks_v2": {"database": 5, "queries": 3, "landmarks": 2, "ok": 3},
    "google_landmarks_v2_recognition": {"database": 4, "queries": 3, "landmarks": 3},
    "google_landmarks_v2_train": {"database": 4, "landmarks": 3},
    "google_landmarks_v2_clean": {"database": 3, "landmarks": 2},
    "landmarks_full": {"database": 6, "landmarks": 4},
    "landmarks_clean": {"database": 4, "landmarks": 3},
    "world": {"database": 8, "distractors": 2, "queries": 5, "landmarks": 3, "ok": 6},
    "world_train": {"database": 4, "landmarks": 2},
    "folder": {"database": 6, "queries": 5, "landmarks": 3, "ok": 8, "junk": 5},
}


def _sets(dataset: RetrievalDataset, query: int) -> dict[str, list[str]]:
    """Names, without folder and extension, under each label of a query."""
    sets = dataset.queries[query].sets
    return {
        label: [Path(dataset.database[i]).stem for i in members.tolist()]
        for label, members in sets.items()
    }


def _open(name: str, external: Path) -> RetrievalDataset:
    return open_dataset(name, miniatures.write(name, external))


def test_every_dataset_has_a_miniature() -> None:
    assert set(CATALOGUE) == set(miniatures.PARTS) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_the_original_layout_opens_and_every_image_is_where_it_should_be(
    name: str, tmp_path: Path
) -> None:
    dataset = _open(name, tmp_path)
    assert dataset.name == name
    assert {what: count for what, count in count_dataset(dataset).items() if count} == COUNTS[name]
    check = verify_dataset(dataset, {}, decode=True)
    assert check.complete and check.problems == () and check.known_corrupt == len(dataset.corrupt)
    last = len(dataset.database) - dataset.distractors
    for members in dataset.queries.sets.values():
        assert (members.indices < last).all() and not np.isin(
            members.indices, dataset.corrupt
        ).any()
    for query in dataset.queries:
        assert query.in_database is None or dataset.database[query.in_database] == query.path
        assert read_query(dataset, query.number, max_side=64).pixels.size


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "folder"])
def test_a_dataset_is_found_in_its_default_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    root = miniatures.write(name, paths.data_root() / "external")
    assert dataset_root(name) is not None and (dataset_root(name) or root).samefile(root)
    assert len(open_dataset(name).database) == COUNTS[name]["database"]


def test_oxford_queries_lose_their_prefix_and_boxes_become_rows_and_columns(tmp_path: Path) -> None:
    dataset = _open("oxford5k", tmp_path)
    query = dataset.queries[0]
    assert query.path == "all_souls_000013.jpg" and query.box == (4.1, 6.5, 40.7, 48.5)
    assert _sets(dataset, 0) == {
        "good": ["all_souls_000026"],
        "ok": ["all_souls_000013"],
        "junk": [],
    }
    shown = [dataset.landmark_names[query.landmarks[0]] for query in dataset.queries]
    assert shown == ["all_souls", "all_souls", "christ_church"]
    assert read_query(dataset, 0, max_side=100).original_size == (37, 42)


def test_the_damaged_images_of_paris_carry_no_label(tmp_path: Path) -> None:
    dataset = _open("paris6k", tmp_path)
    assert [Path(dataset.database[i]).stem for i in dataset.corrupt] == list(
        miniatures.PARIS_DAMAGED
    )
    assert _sets(dataset, 2)["good"] == ["paris_louvre_000000"]
    assert dataset.notes == ("2 images known to be damaged are in the database",)


def test_paris_opens_where_its_damaged_images_were_deleted(tmp_path: Path) -> None:
    root = miniatures.write("paris6k", tmp_path)
    for name in miniatures.PARIS_DAMAGED:
        (root / "paris" / "louvre" / f"{name}.jpg").unlink()
    dataset = open_dataset("paris6k", root)
    assert len(dataset.database) == 8 and len(dataset.corrupt) == 0 and dataset.notes == ()
    assert _sets(dataset, 2)["good"] == ["paris_louvre_000000"]


def test_an_image_damaged_beyond_the_known_ones_is_found_by_decoding(tmp_path: Path) -> None:
    root = miniatures.write("paris6k", tmp_path)
    (root / "paris" / "eiffel" / "paris_eiffel_000002.jpg").write_bytes(miniatures.WEB_PAGE)
    dataset = open_dataset("paris6k", root)
    assert verify_dataset(dataset, {}).complete
    check = verify_dataset(dataset, {}, decode=True)
    assert [path for path, _ in check.problems] == [
        "paris/eiffel/paris_eiffel_000002.jpg"
    ] and check.known_corrupt == 2


def test_distractors_from_flickr_come_last(tmp_path: Path) -> None:
    dataset = _open("oxford105k", tmp_path)
    assert all(path.startswith("flickr100k/oxc1_100k/") for path in dataset.database[7:])
    assert dataset.queries[0].path == "oxford5k/all_souls_000013.jpg" and dataset.root == tmp_path


def test_revisited_queries_are_not_in_the_database(tmp_path: Path) -> None:
    dataset = _open("roxford5k", tmp_path)
    query = dataset.queries[0]
    assert (
        query.in_database is None
        and query.path not in dataset.database
        and query.box == (4.1, 6.5, 40.7, 48.5)
    )
    assert {label: members.tolist() for label, members in query.sets.items()} == {
        "easy": [0, 2],
        "hard": [3],
        "junk": [1],
    }


def test_revisited_images_may_lie_with_the_classic_dataset(tmp_path: Path) -> None:
    root = miniatures.write("rparis6k", tmp_path)
    (root / "jpg").rename(tmp_path / "paris6k")
    dataset = open_dataset("rparis6k", root)
    assert dataset.root == tmp_path / "paris6k" and verify_dataset(dataset, {}).complete
    (tmp_path / "paris6k" / "paris_louvre_000001.jpg").unlink()
    with pytest.raises(
        DatasetError,
        match="image 'paris_louvre_000001' is missing; unpack the images of paris6k again",
    ):
        open_dataset("rparis6k", root)


def test_boxes_and_labels_may_be_numpy_arrays(tmp_path: Path) -> None:
    root = miniatures.write("roxford5k", tmp_path)
    content = pickle.loads((root / "gnd_roxford5k.pkl").read_bytes())
    for entry in content["gnd"]:
        entry.update(
            {
                key: np.asarray(values, float if key == "bbx" else int)
                for key, values in entry.items()
            }
        )
    miniatures.write_gnd(root / "gnd_roxford5k.pkl", content)
    assert open_dataset("roxford5k", root).queries[0].box == (4.1, 6.5, 40.7, 48.5)


def test_the_answers_of_holidays_are_the_other_images_of_the_group(tmp_path: Path) -> None:
    dataset = _open("holidays", tmp_path)
    assert _sets(dataset, 1) == {"ok": ["100101", "100102"], "junk": ["100100"]}
    assert dataset.queries[1].in_database == 2


def test_google_landmarks_v2_answers_are_images_of_the_index(tmp_path: Path) -> None:
    dataset = _open("google_landmarks_v2", tmp_path)
    assert (
        dataset.database[0] == f"index/b/0/0/b{0:015x}.jpg"
        and dataset.queries[2].path == f"test/c/0/0/c{2:015x}.jpg"
    )
    assert [query.sets["ok"].tolist() for query in dataset.queries] == [[0, 1], [], [3]]
    assert dataset.queries.split is not None and dataset.queries.split.tolist() == [
        "Public",
        "Ignored",
        "Private",
    ]
    assert dataset.landmarks is not None and dataset.landmarks.tolist() == [1, 1, 2, 2, -1]


def test_google_landmarks_v2_recognition_queries_show_any_number_of_landmarks(
    tmp_path: Path,
) -> None:
    dataset = _open("google_landmarks_v2_recognition", tmp_path)
    assert [query.landmarks.tolist() for query in dataset.queries] == [[7, 9], [], [203093]]
    assert dataset.landmarks is not None and dataset.landmarks.tolist() == [7, 7, 9, 203093]


def test_the_clean_training_set_follows_its_own_list(tmp_path: Path) -> None:
    dataset = _open("google_landmarks_v2_clean", tmp_path)
    assert [Path(path).stem[-1] for path in dataset.database] == ["0", "1", "3"]
    assert dataset.landmarks is not None and dataset.landmarks.tolist() == [7, 7, 203093]


def test_an_image_of_google_landmarks_v1_without_a_landmark_has_minus_one(tmp_path: Path) -> None:
    dataset = _open("google_landmarks_v1_train", tmp_path)
    assert (
        dataset.landmarks is not None
        and dataset.landmarks.tolist() == [6651, -1, 14950]
        and dataset.gps is None
    )


def test_google_landmarks_v1_reads_positions_if_its_lists_have_them(tmp_path: Path) -> None:
    root = miniatures.write("google_landmarks_v1", tmp_path)
    names = ["1" * 15 + digit for digit in "ab"]
    miniatures.lines(
        root / "index.csv", "id,latitude,longitude", f"{names[0]},48.85,2.35", f"{names[1]},,"
    )
    gps = open_dataset("google_landmarks_v1", root).gps
    assert gps is not None and gps[0].tolist() == [48.85, 2.35] and np.isnan(gps[1]).all()
    miniatures.lines(root / "index.csv", "id,latitude,longitude", f"{names[0]},148.85,2.35")
    with pytest.raises(
        DatasetError, match="index.csv: row 1: latitude 148.85 and longitude 2.35, expected degrees"
    ):
        open_dataset("google_landmarks_v1", root)


def test_images_listed_by_url_are_where_wget_puts_them(
    tmp_path: Path,
) -> None:
    dataset = _open("landmarks_clean", tmp_path)
    assert dataset.database[3] == "images/photos.example.org/b/photo0.jpg" and dataset.notes == (
        "3 train + 1 val",
    )
    assert dataset.landmarks is not None and dataset.landmarks.tolist() == [0, 1, 2, 2]


def test_a_folder_with_ground_truth_keeps_its_tiers(tmp_path: Path) -> None:
    root = miniatures.write("folder", tmp_path)
    query = (
        '{"query": 1, "path": "bridge/b.jpg", "landmark": "bridge", "tier": "easy", "ok": [0],'
        ' "junk": [1]}'
    )
    (root / "groundtruth.json").write_text(
        f'{{"imlist": ["bridge/a.jpg", "bridge/b.jpg"], "gnd": [{query}]}}'
    )
    dataset = open_dataset("folder", root)
    assert len(dataset.database) == 2 and _sets(dataset, 0) == {"ok": ["a"], "junk": ["b"]}
    assert dataset.queries.split is not None and dataset.queries.split.tolist() == ["easy"]
    assert dataset.queries[0].in_database == 1 and dataset.landmark_names == ("bridge",)


def test_the_image_of_a_class_of_one_is_not_a_query(tmp_path: Path) -> None:
    dataset = _open("folder", tmp_path)
    assert "alone/x.jpg" in dataset.database and "alone/x.jpg" not in dataset.queries.paths
    assert _sets(dataset, 0) == {"ok": ["b", "c"], "junk": ["a"]}


def test_loose_photos_are_a_dataset_without_queries(tmp_path: Path) -> None:
    miniatures.image(tmp_path / "a.jpg")
    miniatures.image(tmp_path / "c.jpg")
    dataset = open_dataset("folder", tmp_path)
    assert list(dataset.database) == ["a.jpg", "c.jpg"] and len(dataset.queries) == 0


def _edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return edit


def _remove(file: str) -> Callable[[Path], None]:
    return lambda root: (root / file).unlink()


def _binary(file: str) -> Callable[[Path], None]:
    return lambda root: (root / file).write_bytes(b"\xff\xfe\x00\x81" * 10) and None


def _pairs(depth: int) -> tuple[Any, Any]:
    pair: tuple[Any, Any] = (1, 2)
    for _ in range(depth):
        pair = (pair, pair)
    return pair


def _gnd(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        content = pickle.loads((root / "gnd_roxford5k.pkl").read_bytes())
        change(content)
        miniatures.write_gnd(root / "gnd_roxford5k.pkl", content)

    return edit


TRUTH = "gt_files_170407"
V2 = "google_landmarks_v2"
SOLUTION = "metadata/retrieval_solution_v2.1.csv"
WRONG = [
    (
        "oxford5k",
        _edit(f"{TRUTH}/all_souls_1_query.txt", "6.5 4.1 48.5 40.7", "48.5 4.1 6.5 40.7"),
        "query.txt: box .*x1 < x2",
    ),
    (
        "oxford5k",
        _edit(f"{TRUTH}/all_souls_1_query.txt", "6.5 4.1 48.5", "6.5 48.5"),
        "expected one line: image x1 y1 x2 y2",
    ),
    (
        "oxford5k",
        _edit(f"{TRUTH}/all_souls_1_query.txt", "6.5", "left"),
        "query.txt: box .* is not four numbers",
    ),
    (
        "oxford5k",
        _edit(f"{TRUTH}/all_souls_1_query.txt", "oxc1_all", "oxc1_small"),
        "names image 'small_souls_000013'",
    ),
    (
        "oxford5k",
        _remove("all_souls_000026.jpg"),
        "all_souls_1_good.txt: names image 'all_souls_000026', which is missing",
    ),
    (
        "oxford5k",
        _remove(f"{TRUTH}/all_souls_1_junk.txt"),
        "all_souls_1_junk.txt: cannot be read: No such file",
    ),
    (
        "oxford5k",
        _edit(f"{TRUTH}/all_souls_2_junk.txt", "000051", "000026"),
        "junk.txt: 'all_souls_000026' is also good or ok",
    ),
    ("oxford5k", _binary(f"{TRUTH}/all_souls_1_good.txt"), "good.txt: not text"),
    (
        "oxford5k",
        lambda root: miniatures.oxford5k(root / "again"),
        "image 'all_souls_000013' is there twice",
    ),
    ("roxford5k", _remove("gnd_roxford5k.pkl"), "gnd_roxford5k.pkl: cannot be read"),
    (
        "roxford5k",
        _gnd(lambda c: c.pop("qimlist")),
        "gnd_roxford5k.pkl has no 'qimlist'; it has: 'gnd', 'imlist'",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["gnd"].pop()),
        "gnd has 1 entries, expected one for each of 2 queries",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["gnd"][0].pop("easy")),
        r"gnd\[0\] has no 'easy'; it has: 'bbx', 'hard', 'junk'",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["gnd"][1].update(hard=[5])),
        r"gnd\[1\].hard holds 5, expected indices into imlist, 0 to 4",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["gnd"][1].update(hard=[0.5])),
        r"gnd\[1\].hard is .*, expected a list of whole numbers",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["gnd"][1].update(hard=[[1], [1, 2]])),
        r"gnd\[1\].hard is \[a list, a list\], expected a list of whole numbers",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["gnd"][1].update(hard=[10**400])),
        r"gnd\[1\].hard holds a very large integer, expected indices into imlist, 0 to 4",
    ),
    (
        # The text of these pairs would never end.
        "roxford5k",
        _gnd(lambda c: c["gnd"][1].update(bbx=[_pairs(60), 1, 2, 3])),
        r"gnd\[1\].bbx: box \[a tuple, 1, 2, 3\] is not four numbers",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["imlist"].append("\ud800")),
        "gnd_roxford5k.pkl: holds half a character",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["gnd"][1].update(junk=[4])),
        r"gnd\[1\]: index 4 is labelled twice",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["gnd"][1].update(bbx=[9, 0, 3, 4])),
        r"gnd\[1\].bbx: box .* expected x1 < x2",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["imlist"].append("../a")),
        "imlist: entry 6 is '../a', expected a path inside",
    ),
    (
        "roxford5k",
        _gnd(lambda c: c["gnd"][0].update(junk=math.pi)),
        r"gnd\[0\].junk is a float, expected a list",
    ),
    (
        "holidays",
        _remove("jpg/100100.jpg"),
        "100101.jpg: the query of its group, 100100, is missing",
    ),
    (
        "holidays",
        _remove("jpg/100001.jpg"),
        "100000.jpg: the other images of its group are missing",
    ),
    (
        "holidays",
        lambda root: miniatures.image(root / "jpg" / "thumb.jpg"),
        "thumb.jpg: name 'thumb' is not six digits",
    ),
    (V2, _remove("index/index.csv"), "index.csv: no such file, nor in 'metadata' or 'index' there"),
    (
        V2,
        _edit(SOLUTION, "Public", "Open"),
        "solution_v2.1.csv: Usage 'Open', expected one of Public",
    ),
    (
        V2,
        _edit(SOLUTION, ",Public", ""),
        "solution_v2.1.csv: CSV parse error: Expected 3 columns, got 2",
    ),
    (V2, _edit(SOLUTION, "b0", "d0"), "names image 'd000000000000000', which index.csv lacks"),
    (V2, _edit("index/index.csv", "id\n", "name\n"), "index.csv: no column 'id'; it has: name"),
    (
        V2,
        _edit("index/index.csv", "b000000000000004", "b000000000000000"),
        "index.csv: 'b0+' occurs 2 times",
    ),
    (
        V2,
        _edit("index/index.csv", "b000000000000004", "../../../../evil"),
        "index.csv: id '../../../../evil', expected 16 hexa",
    ),
    (V2, _binary("index/index.csv"), "index.csv: not text"),
    (
        f"{V2}_train",
        _edit("train/train.csv", ",203093", ",Eiffel"),
        "train.csv: .*error to int64: invalid value 'Eiffel'",
    ),
    (
        f"{V2}_recognition",
        _edit("metadata/recognition_solution_v2.1.csv", "7 9", "7 x"),
        "landmark 'x', expected a whole number",
    ),
    (
        f"{V2}_clean",
        _edit("train/train_clean.csv", " a000000000000001", " a000000000000000"),
        "'a0+' occurs 2 times",
    ),
    (
        "landmarks_full",
        _edit("annotations_landmarks/annotation_full_train.txt", " 0\n", "\n"),
        "train.txt: line 1 is 'http",
    ),
    (
        "landmarks_full",
        _edit("annotations_landmarks/annotation_full_val.txt", "photos.example.org", ".."),
        "entry 1 is .*inside",
    ),
    (
        "landmarks_clean",
        _remove("annotations_landmarks/annotation_clean_val.txt"),
        "annotation_clean_val.txt: no such file",
    ),
    (
        "folder",
        lambda root: (root / "groundtruth.json").write_text("[") and None,
        "groundtruth.json: damaged or not JSON",
    ),
]


@pytest.mark.parametrize(
    ("name", "spoil", "said"), WRONG, ids=[f"{name}-{said[:40]}" for name, _, said in WRONG]
)
def test_a_wrong_copy_is_refused_in_one_line_that_names_the_file(
    name: str, spoil: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    root = miniatures.write(name, tmp_path)
    spoil(root)
    with pytest.raises(DelfjaxError, match=said) as refused:
        open_dataset(name, root)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "folder"])
def test_a_folder_without_the_dataset_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as refused:
        open_dataset(name, tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


def test_verification_reports_a_listed_image_that_is_missing(tmp_path: Path) -> None:
    root = miniatures.write("google_landmarks_v2", tmp_path)
    (root / f"index/b/0/0/b{2:015x}.jpg").unlink()
    check = verify_dataset(open_dataset("google_landmarks_v2", root), {})
    assert check.problems == ((f"index/b/0/0/b{2:015x}.jpg", "missing"),) and not check.complete


def test_verification_reports_an_empty_image_without_decoding(tmp_path: Path) -> None:
    for name in ("gate/1.jpg", "gate/2.jpg", "tower/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * (name != "gate/2.jpg"))
    check = verify_dataset(open_dataset("folder", tmp_path), {})
    assert check.problems == (("gate/2.jpg", "empty file (0 bytes)"),)


def test_verification_reports_a_box_outside_its_image(tmp_path: Path) -> None:
    root = miniatures.write("oxford5k", tmp_path)
    _edit(f"{TRUTH}/all_souls_1_query.txt", "48.5 40.7", "480.5 40.7")(root)
    check = verify_dataset(open_dataset("oxford5k", root), {}, decode=True)
    assert len(check.problems) == 1 and re.search("leaves its image of 48×64", check.problems[0][1])


def test_a_misspelt_name_suggests_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="dataset 'oxfrod5k' is unknown; did you mean 'r?oxford5k'"
    ):
        open_dataset("oxfrod5k")


def test_the_error_for_a_missing_dataset_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match="no such folder; google_landmarks_v1 comes from .*VANISHED"
    ):
        open_dataset("google_landmarks_v1", tmp_path / "nothing")
    with pytest.raises(DatasetError, match="'folder' has no default folder; say which folder"):
        open_dataset("folder")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("oxford5k", {"database": (5062, 5063), "queries": (55,), "landmarks": (11,)}),
        (
            "paris6k",
            {"database": (6412, 6392), "queries": (55,), "landmarks": (11,), "corrupt": (20, 0)},
        ),
        (
            "roxford5k",
            {
                "database": (4993,),
                "queries": (70,),
                "easy": (3029,),
                "hard": (2497,),
                "junk": (1356,),
            },
        ),
        (
            "rparis6k",
            {
                "database": (6322,),
                "queries": (70,),
                "easy": (6874,),
                "hard": (10350,),
                "junk": (7153,),
            },
        ),
        ("roxford5k_r1m", {"database": (4993 + 1001001,), "distractors": (1001001,)}),
        ("rparis6k_r1m", {"database": (6322 + 1001001,), "distractors": (1001001,)}),
        ("holidays", {"database": (1491,), "queries": (500,), "ok": (991,)}),
        ("google_landmarks_v1_train", {"landmarks": (14951,)}),
        ("google_landmarks_v2", {"database": (761757,), "queries": (117577,)}),
        ("google_landmarks_v2_train", {"database": (4132914,), "landmarks": (203094,)}),
        ("google_landmarks_v2_clean", {"database": (1580470,), "landmarks": (81313,)}),
        ("landmarks_full", {"landmarks": (586,)}),
    ],
)
def test_the_real_datasets_are_expected_to_have_their_published_counts(
    name: str, expected: dict[str, tuple[int, ...]]
) -> None:
    known = CATALOGUE[name].expected
    assert {what: known[what].values for what in expected} == expected
    assert all(known[what].confirmed for what in expected)


def test_counts_from_memory_are_marked_as_unconfirmed() -> None:
    for name, what in (
        ("oxford105k", "distractors"),
        ("oxford105k", "database"),
        ("landmarks_full", "database"),
    ):
        assert not CATALOGUE[name].expected[what].confirmed


def test_twenty_images_of_paris_are_known_to_be_damaged() -> None:
    assert len(PARIS_CORRUPT) == 6412 - 6392 and set(miniatures.PARIS_DAMAGED) <= PARIS_CORRUPT


def test_a_list_of_a_million_images_opens_in_seconds(tmp_path: Path) -> None:
    rows = 1_000_000
    text = "\n".join(
        f'{number:016x},"https://upload.example.org/{number}.jpg",{number % 200_000}'
        for number in range(rows)
    )
    (tmp_path / "train.csv").write_text(f"id,url,landmark_id\n{text}\n")
    begun = time.perf_counter()
    dataset = open_dataset("google_landmarks_v2_train", tmp_path)
    assert dataset.database[rows - 1] == "train/0/0/0/00000000000f423f.jpg"
    assert dataset.landmarks is not None and dataset.landmarks[rows - 1] == (rows - 1) % 200_000
    taken = time.perf_counter() - begun
    # It takes a second on an idle machine; a Python object for each row alone would take longer
    # than this limit.
    assert taken < 10, f"{taken:.1f} s"


def test_the_miniatures_hold_images_and_damaged_files(tmp_path: Path) -> None:
    root = miniatures.write("paris6k", tmp_path)
    assert decode_image(
        root / "paris/eiffel/paris_eiffel_000000.jpg", max_side=64
    ).pixels.shape == (*miniatures.SIZE, 3)
    assert (root / "paris/louvre/paris_louvre_000136.jpg").read_bytes() == miniatures.WEB_PAGE
