"""Miniature copies of the real datasets in their exact layout, damaged files included.

Each function writes one dataset into the given folder, as unpacking its archives there would.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from delfjax.world.knobs import world_config
from delfjax.world.writing import build_world

# Rows and columns of every image.
SIZE = (48, 64)
# The damaged files of Paris6k hold a web page where an image should be.
WEB_PAGE = b"<!DOCTYPE HTML><html><head><title>302 Found</title></head></html>"

PARIS_TAGS = {"defense": 3, "eiffel": 3, "louvre": 2}
PARIS_DAMAGED = ("paris_louvre_000136", "paris_louvre_000146")


def image(path: Path) -> None:
    """A JPEG whose pixels follow from its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(path)


def lines(path: Path, *content: str) -> None:
    """A text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in content))


def oxford5k(root: Path) -> None:
    """Seven images side by side, two queries of one landmark and one of another."""
    for name in (
        "all_souls_000013",
        "all_souls_000026",
        "all_souls_000051",
        "christ_church_000179",
        "oxford_002416",
    ):
        image(root / f"{name}.jpg")
    for name in ("christ_church_000190", "radcliffe_camera_000519"):
        image(root / f"{name}.jpg")
    truth = root / "gt_files_170407"
    _query(
        truth,
        "all_souls_1",
        "oxc1_all_souls_000013 6.5 4.1 48.5 40.7",
        good="all_souls_000026",
        ok="all_souls_000013",
    )
    both = "all_souls_000026 all_souls_000013"
    _query(truth, "all_souls_2", "oxc1_oxford_002416 0 0 64 48", good=both, junk="all_souls_000051")
    _query(
        truth,
        "christ_church_1",
        "oxc1_christ_church_000179 10 10 20 20",
        good="christ_church_000179 christ_church_000190",
    )
    lines(truth / "README.txt", "ground truth")


def paris6k(root: Path) -> None:
    """Images in folders by tag; two are damaged, one of them an answer, as in the original."""
    for tag, count in PARIS_TAGS.items():
        for number in range(count):
            image(root / "paris" / tag / f"paris_{tag}_{number:06d}.jpg")
    for name in PARIS_DAMAGED:
        (root / "paris" / "louvre" / f"{name}.jpg").write_bytes(WEB_PAGE)
    truth = root / "paris_120310"
    _query(
        truth,
        "defense_1",
        "paris_defense_000000 1 2 60 40",
        good="paris_defense_000001",
        ok="paris_defense_000000",
    )
    _query(
        truth,
        "eiffel_1",
        "paris_eiffel_000001 5 5 30 45",
        good="paris_eiffel_000000",
        junk="paris_eiffel_000002",
    )
    good = "paris_louvre_000136 paris_louvre_000000"
    _query(truth, "louvre_1", "paris_louvre_000000 5 5 30 45", good=good, ok="paris_louvre_000001")


def flickr100k(root: Path) -> None:
    """Distractors in folders by tag."""
    for tag, number in (("architecture", 1), ("architecture", 2), ("zoo", 17)):
        image(root / "oxc1_100k" / tag / f"{tag}_{number:06d}.jpg")


def roxford5k(root: Path) -> None:
    """Five database images and two other images as queries.

    One box has fractions; one query has no easy answers.
    """
    names = [f"all_souls_{number:06d}" for number in (26, 51, 68)] + [
        "oxford_000317",
        "oxford_002904",
    ]
    _revisited(root, "roxford5k", names, ["all_souls_000013", "oxford_003410"])


def rparis6k(root: Path) -> None:
    """The same shape, with names of Paris."""
    names = [f"paris_defense_{number:06d}" for number in (605, 608, 614)] + [
        "paris_louvre_000001",
        "paris_eiffel_000002",
    ]
    _revisited(root, "rparis6k", names, ["paris_defense_000604", "paris_eiffel_000128"])


def revisitop1m(root: Path) -> None:
    """Distractors, named by a list."""
    names = [f"{folder}/{number:04x}" for folder in ("00", "9f") for number in (1, 2)]
    for name in names:
        image(root / "jpg" / f"{name}.jpg")
    lines(root / "revisitop1m.txt", *(f"{name}.jpg" for name in names))


def holidays(root: Path) -> None:
    """Three groups of two, three and two images."""
    for name in ("100000", "100001", "100100", "100101", "100102", "149900", "149901"):
        image(root / "jpg" / f"{name}.jpg")


def google_landmarks_v2(root: Path) -> None:
    """Four training images (three of them clean), five index images and three test images."""
    train, index, test = (
        [f"{split}{number:015x}" for number in range(count)]
        for split, count in (("a", 4), ("b", 5), ("c", 3))
    )
    for split, ids in (("train", train), ("index", index), ("test", test)):
        for name in ids:
            image(root / split / name[0] / name[1] / name[2] / f"{name}.jpg")
    url = '"http://upload.example.org/a,_b/""c"".jpg"'
    labelled = (
        f"{name},{url},{label}" for name, label in zip(train, (7, 7, 9, 203093), strict=True)
    )
    lines(root / "train" / "train.csv", "id,url,landmark_id", *labelled)
    lines(
        root / "train" / "train_clean.csv",
        "landmark_id,images",
        f"7,{train[0]} {train[1]}",
        f"203093,{train[3]}",
    )
    lines(root / "index" / "index.csv", "id", *index)
    owners = (f"{name},{number}" for name, number in zip(index[:4], (1, 1, 2, 2), strict=True))
    lines(root / "index" / "index_image_to_landmark.csv", "id,landmark_id", *owners)
    lines(root / "test" / "test.csv", "id", *test)
    retrieval = (
        f"{test[0]},{index[0]} {index[1]},Public",
        f"{test[1]},None,Ignored",
        f"{test[2]}, {index[3]} ,Private",
    )
    lines(root / "metadata" / "retrieval_solution_v2.1.csv", "id,images,Usage", *retrieval)
    recognition = (f"{test[0]},7 9,Public", f"{test[1]}, ,Ignored", f"{test[2]},203093,Private")
    lines(root / "metadata" / "recognition_solution_v2.1.csv", "id,landmarks,Usage", *recognition)


def google_landmarks_v1(root: Path) -> None:
    """Three training images (one without a landmark), two index images and one test image."""
    splits = {
        "train": ["0" * 15 + d for d in "abc"],
        "index": ["1" * 15 + d for d in "ab"],
        "test": ["2" * 16],
    }
    for split, ids in splits.items():
        for name in ids:
            image(root / split / f"{name}.jpg")
    url = "http://lh3.example.org/x.jpg"
    rows = (
        f'"{name}","{url}",{label}'
        for name, label in zip(splits["train"], ("6651", "None", "14950"), strict=True)
    )
    lines(root / "train.csv", '"id","url","landmark_id"', *rows)
    for split in ("index", "test"):
        lines(root / f"{split}.csv", '"id","url"', *(f'"{name}","{url}"' for name in splits[split]))


def google_landmarks_v1_located(root: Path) -> None:
    """Version 1 with the columns that were never published.

    Two landmarks are in Paris and one in Rome; one image has no landmark. The first query shows the
    same picture as an image of the index, in Paris. The second was taken in Sydney, far from any
    landmark. The position of the third is unknown.
    """
    ids = ["1" * 15 + digit for digit in "abcdef"]
    rows = (
        "7,48.8584,2.2945",
        "7,48.8530,2.3499",
        "9,41.8902,12.4922",
        "9,,",
        "None,,",
        "12,48.8606,2.3376",
    )
    queries = {ids[0]: "48.85,2.35", "2" * 15 + "b": "-33.8568,151.2153", "2" * 15 + "c": ","}
    for split, names in (("index", ids), ("test", list(queries))):
        for name in names:
            image(root / split / f"{name}.jpg")
    placed = (f"{name},{row}" for name, row in zip(ids, rows, strict=True))
    lines(root / "index.csv", "id,landmark_id,latitude,longitude", *placed)
    lines(
        root / "test.csv",
        "id,latitude,longitude",
        *(f"{name},{position}" for name, position in queries.items()),
    )


def landmarks(root: Path) -> None:
    """Lists of URLs, the clean ones with boxes, and the images where `wget -x` puts them."""
    urls = [
        f"http://photos.example.org/{folder}/photo{number}.jpg"
        for folder in "ab"
        for number in range(3)
    ]
    for url in urls:
        image(root / "images" / url.removeprefix("http://"))
    folder = root / "annotations_landmarks"
    lines(
        folder / "annotation_full_train.txt",
        *(f"{url} {number // 2}" for number, url in enumerate(urls[:5])),
    )
    lines(folder / "annotation_full_val.txt", f"{urls[5]} 585")
    lines(
        folder / "annotation_clean_train.txt",
        *(f"{url} {number} 3 60 2 40" for number, url in enumerate(urls[:3])),
    )
    lines(folder / "annotation_clean_val.txt", f"{urls[3]} 2 3.5 60 2 40")


def folder(root: Path) -> None:
    """Classes of three images, two images, and one."""
    for name in (
        "bridge/a.jpg",
        "bridge/b.jpg",
        "bridge/deep/c.jpg",
        "tower/a.png",
        "tower/b.jpg",
        "alone/x.jpg",
    ):
        image(root / name)


def world(root: Path) -> None:
    """A tiny world: three landmarks, two for training, distractors, queries without a match."""
    config = world_config(
        "ci",
        landmarks=3,
        train_landmarks=2,
        train_views=2,
        database_views=2,
        query_views=1,
        distractors=2,
        no_match=2,
        image_side=128,
    )
    build_world(root, config, progress=False)


# What to write for each dataset: (folder below the data root's `external`, function).
PARTS: dict[str, list[tuple[str, Callable[[Path], None]]]] = {
    "oxford5k": [("oxford5k", oxford5k)],
    "paris6k": [("paris6k", paris6k)],
    "oxford105k": [("oxford5k", oxford5k), ("flickr100k", flickr100k)],
    "paris106k": [("paris6k", paris6k), ("flickr100k", flickr100k)],
    "roxford5k": [("roxford5k", roxford5k)],
    "rparis6k": [("rparis6k", rparis6k)],
    "roxford5k_r1m": [("roxford5k", roxford5k), ("revisitop1m", revisitop1m)],
    "rparis6k_r1m": [("rparis6k", rparis6k), ("revisitop1m", revisitop1m)],
    "holidays": [("holidays", holidays)],
    "holidays_rotated": [("holidays_rotated", holidays)],
    "google_landmarks_v1": [("google_landmarks_v1", google_landmarks_v1)],
    "google_landmarks_v1_train": [("google_landmarks_v1", google_landmarks_v1)],
    "google_landmarks_v2": [("google_landmarks_v2", google_landmarks_v2)],
    "google_landmarks_v2_recognition": [("google_landmarks_v2", google_landmarks_v2)],
    "google_landmarks_v2_train": [("google_landmarks_v2", google_landmarks_v2)],
    "google_landmarks_v2_clean": [("google_landmarks_v2", google_landmarks_v2)],
    "landmarks_full": [("landmarks", landmarks)],
    "landmarks_clean": [("landmarks", landmarks)],
    "world": [("world", world)],
    "world_train": [("world", world)],
    "folder": [("folder", folder)],
}
# Datasets made of several parts, whose root is the folder that contains the folders of the parts.
COMPOSITE = ("oxford105k", "paris106k", "roxford5k_r1m", "rparis6k_r1m")


def write(name: str, external: Path) -> Path:
    """Write the miniature of a dataset under ``external``; returns its root."""
    for place, build in PARTS[name]:
        build(external / place)
    return external if name in COMPOSITE else external / PARTS[name][0][0]


def write_gnd(path: Path, content: Any) -> None:
    """A ground-truth pickle, in the protocol of the originals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def _query(
    truth: Path, name: str, query: str, *, good: str = "", ok: str = "", junk: str = ""
) -> None:
    lines(truth / f"{name}_query.txt", query)
    for label, names in (("good", good), ("ok", ok), ("junk", junk)):
        lines(truth / f"{name}_{label}.txt", *names.split())


def _revisited(root: Path, name: str, imlist: list[str], qimlist: list[str]) -> None:
    for stem in (*imlist, *qimlist):
        image(root / "jpg" / f"{stem}.jpg")
    gnd = [
        {"bbx": [6.5, 4.1, 48.5, 40.7], "easy": [0, 2], "hard": [3], "junk": [1]},
        {"bbx": [0, 0, 64, 48], "easy": [], "hard": [4, 0], "junk": []},
    ]
    write_gnd(root / f"gnd_{name}.pkl", {"gnd": gnd, "imlist": imlist, "qimlist": qimlist})
