"""The local index: neighbours equal those of brute force, grouping equals its definition, and
damaged or foreign folders are refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from delfjax.config import ConfigError, DelfConfig, IndexConfig, config_hash, override
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.retrieval.local_index import (
    LocalIndex,
    LocalIndexError,
    PutativeMatches,
    build_index,
    open_local_index,
    require_replaceable,
)
from delfjax.types import ImageFeatures, LocalFeatures
from tests.kills import kill_at_every_step

CONFIG = override(DelfConfig(), ["reduction.dim=10", "reduction.whiten=false"])
# Image 2 has none.
COUNTS = (30, 41, 0, 17, 60)


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32."""
    rows: np.ndarray = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    return rows


def store_of(path: Path, images: list[np.ndarray], *, config: DelfConfig = CONFIG) -> FeatureStore:
    """A store with these descriptors; keypoints are random, sizes a function of the number."""
    rng = np.random.default_rng(7)
    with StoreWriter(path, config.extraction()) as writer:
        names = [f"photo ü{number:02d}.jpg" for number in range(len(images))]
        for group in writer.plan(names):
            features = {
                name: image_features(images[names.index(name)], rng) for name in group.names
            }
            writer.commit(group, features, {})
        return writer.store()


def image_features(rows: np.ndarray, rng: np.random.Generator) -> ImageFeatures:
    count = len(rows)
    local = LocalFeatures(
        keypoints_yx=rng.uniform(0, 400, (count, 2)).astype(np.float32),
        scales=rng.choice([0.5, 1.0], count).astype(np.float32),
        scores=np.ones(count, np.float32),
        descriptors=rows,
        valid=np.ones(count, bool),
    )
    return ImageFeatures(local, None, (300 + count, 400), "0")


def random_images(counts: tuple[int, ...] = COUNTS, channels: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [unit_rows(rng.normal(size=(count, channels)) + 0.3) for count in counts]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> LocalIndex:
    store = store_of(tmp_path_factory.mktemp("index") / "store", random_images())
    return build_index(store, config=CONFIG, photos="somewhere")


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return unit_rows(np.random.default_rng(5).normal(size=(25, 10)))


def vectors_of(index: LocalIndex) -> np.ndarray:
    """The reduced descriptors an exact index holds."""
    held: np.ndarray = index.vectors.reconstruct_n(0, index.vectors.ntotal)
    return held


def by_definition(
    index: LocalIndex, queries: np.ndarray, neighbours: int
) -> list[tuple[int, dict[int, int]]]:
    """Images best first, each with {query feature: database feature}, in plain Python."""
    cosines = queries.astype(np.float64) @ vectors_of(index).astype(np.float64).T
    image_of = [
        image for image in range(len(index.names)) for _ in range(*index.offsets[image : image + 2])
    ]
    matches: dict[int, dict[int, int]] = {}
    for query, row in enumerate(cosines.tolist()):
        for feature in sorted(range(len(row)), key=lambda j: -row[j])[:neighbours]:
            matches.setdefault(image_of[feature], {}).setdefault(query, feature)

    def rank(image: int) -> tuple[int, float]:
        return -len(matches[image]), -sum(
            cosines[query, feature] for query, feature in matches[image].items()
        )

    return [(image, matches[image]) for image in sorted(matches, key=rank)]


def as_lists(found: PutativeMatches) -> list[tuple[int, dict[int, int]]]:
    pairs = list(zip(found.query_index.tolist(), found.database_index.tolist(), strict=True))
    ends = found.starts.tolist()
    return [
        (image, dict(pairs[start:end]))
        for image, start, end in zip(found.images.tolist(), ends[:-1], ends[1:], strict=True)
    ]


@pytest.mark.parametrize("neighbours", [1, 7, 60, 10_000])
def test_putative_matches_equal_their_definition_by_brute_force(
    index: LocalIndex, queries: np.ndarray, neighbours: int
) -> None:
    found = index.putative_matches(queries, neighbours=neighbours)
    assert as_lists(found) == by_definition(index, queries, neighbours)
    assert found.votes.tolist() == [len(matches) for _, matches in as_lists(found)]
    cosines = (queries[found.query_index] * vectors_of(index)[found.database_index]).sum(axis=1)
    # 1 − d²/2 of float32 rows whose length is one to seven digits.
    np.testing.assert_allclose(found.cosine, cosines, atol=2e-6)
    sums = [
        found.cosine[a:b].sum() for a, b in zip(found.starts[:-1], found.starts[1:], strict=True)
    ]
    np.testing.assert_allclose(found.similarity, sums, atol=1e-4)


def test_an_image_gets_one_vote_a_query_feature_however_many_neighbours_it_has(
    index: LocalIndex, queries: np.ndarray
) -> None:
    found = index.putative_matches(queries, neighbours=sum(COUNTS))
    # Everything is a neighbour: each image with features gets every query feature once.
    assert sorted(found.images.tolist()) == [0, 1, 3, 4]
    assert found.votes.tolist() == [len(queries)] * 4
    assert (np.diff(found.similarity) <= 0).all()


def test_a_query_without_features_has_no_matches(index: LocalIndex) -> None:
    found = index.putative_matches(np.zeros((0, 10), np.float32), neighbours=60)
    assert len(found.images) == len(found.cosine) == 0 and found.starts.tolist() == [0]


def test_a_feature_of_the_database_finds_itself(index: LocalIndex) -> None:
    rows = vectors_of(index)
    found = index.putative_matches(rows, neighbours=1)
    assert np.array_equal(np.sort(found.database_index), np.arange(len(rows)))
    assert np.array_equal(found.query_index, found.database_index)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-6)


def test_the_index_knows_names_sizes_keypoints_and_where_the_photos_are(index: LocalIndex) -> None:
    assert index.names == [f"photo ü{number:02d}.jpg" for number in range(5)]
    assert index.image_sizes.tolist() == [[300 + count, 400] for count in COUNTS]
    assert np.diff(index.offsets).tolist() == list(COUNTS)
    assert index.photos == "somewhere" and set(index.seconds) == {"reduction", "index"}


def test_a_saved_index_gives_the_same_matches(
    tmp_path: Path, index: LocalIndex, queries: np.ndarray
) -> None:
    index.save(tmp_path / "index")
    opened = open_local_index(tmp_path / "index")
    ours, theirs = (each.putative_matches(queries, neighbours=20) for each in (index, opened))
    for name, values in vars(ours).items():
        assert np.array_equal(values, getattr(theirs, name)), name
    assert (opened.config, opened.names, opened.photos) == (index.config, index.names, index.photos)
    for name in ("image_sizes", "offsets", "keypoints_yx", "scales"):
        assert np.array_equal(getattr(opened, name), getattr(index, name)), name
    unreduced = random_images()[0]
    assert np.array_equal(opened.reduction(unreduced), index.reduction(unreduced))
    assert opened.reduction.extraction_hash == config_hash(CONFIG.extraction())
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


def test_an_older_index_is_replaced_and_stays_readable_where_it_is_open(
    tmp_path: Path, index: LocalIndex, queries: np.ndarray
) -> None:
    index.save(tmp_path / "index")
    opened = open_local_index(tmp_path / "index")
    opened.save(tmp_path / "index")
    again = open_local_index(tmp_path / "index")
    assert as_lists(again.putative_matches(queries, neighbours=5)) == as_lists(
        index.putative_matches(queries, neighbours=5)
    )
    assert np.array_equal(opened.scales, again.scales)


def test_nothing_but_an_index_is_ever_replaced(tmp_path: Path, index: LocalIndex) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "dear.jpg").write_bytes(b"x")
    with pytest.raises(LocalIndexError, match="photos: exists and is not an index"):
        index.save(photos)
    with pytest.raises(LocalIndexError, match="dear.jpg: exists and is not a folder"):
        index.save(photos / "dear.jpg")
    assert (photos / "dear.jpg").read_bytes() == b"x"
    (tmp_path / "empty").mkdir()
    index.save(tmp_path / "empty")
    assert open_local_index(tmp_path / "empty").names == index.names


def stored(folder: Path, part: str) -> Path:
    """The file of a part of a saved index, whose name holds its digest."""
    (file,) = folder.glob(f"{Path(part).stem}-*{Path(part).suffix}")
    return file


def truncate(folder: Path) -> None:
    file = stored(folder, "vectors.faiss")
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_byte(folder: Path) -> None:
    file = stored(folder, "keypoints_yx.npy")
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(bytes(content))


def change(**fields: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "index.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return apply


def change_the_config(folder: Path) -> None:
    header = json.loads((folder / "index.json").read_text())
    header["config"]["features"]["max_side"] = 512
    (folder / "index.json").write_text(json.dumps(header))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated vectors": (
        truncate,
        r"vectors-[0-9a-f]{32}\.faiss: missing or damaged \(it holds \d+ bytes, expected",
    ),
    "a flipped bit": (
        flip_a_byte,
        r"keypoints_yx-\w{32}\.npy: missing or damaged \(its digest is not",
    ),
    "a missing file": (
        lambda folder: stored(folder, "offsets.npy").unlink(),
        r"offsets-\w{32}\.npy: missing or damaged \(no such file",
    ),
    "another version": (
        change(version=3),
        "index.json: index format is 3, this .* 1 and 2",
    ),
    "a changed config": (change_the_config, "index.json: damaged or modified"),
    "a changed name": (change(names=["a"] * 5), "index.json: damaged or modified"),
    "no list of files": (change(files={}), "index.json: damaged or modified"),
    "another format": (change(format="x"), "index.json: damaged, or not the header of an index"),
    "a list": (
        lambda folder: (folder / "index.json").write_text("[]"),
        "index.json: damaged, or not the header",
    ),
    "no JSON": (
        lambda folder: (folder / "index.json").write_bytes(b"\xff{"),
        "index.json: damaged",
    ),
    "half a header": (
        lambda folder: (folder / "index.json").write_text('{"format": '),
        "index.json: damaged",
    ),
    "no header": (
        lambda folder: (folder / "index.json").unlink(),
        "not an index \\(index.json is missing\\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_index_is_refused_by_the_name_of_its_file(
    tmp_path: Path, index: LocalIndex, damage: str
) -> None:
    index.save(tmp_path / "index")
    apply, message = DAMAGE[damage]
    apply(tmp_path / "index")
    with pytest.raises(LocalIndexError, match=message) as refused:
        open_local_index(tmp_path / "index")
    assert str(tmp_path / "index") in str(refused.value) and "\n" not in str(refused.value)


def test_a_store_of_another_extraction_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", random_images())
    other = override(CONFIG, ["features.max_side=512"])
    needed = config_hash(other.extraction())
    expected = f"config {store.config_hash}, but the index needs {needed}"
    with pytest.raises(LocalIndexError, match=expected):
        build_index(store, config=other)


def test_a_store_extracted_with_other_random_weights_is_refused(tmp_path: Path) -> None:
    drawn = override(CONFIG, ["backbone.weights=random"])
    store = store_of(tmp_path / "s", random_images(), config=drawn)
    assert build_index(store, config=drawn).names
    with pytest.raises(LocalIndexError, match="extract again"):
        build_index(store, config=override(drawn, ["seed=1"]))
    # Trained weights are the same under every seed.
    trained = store_of(tmp_path / "t", random_images())
    assert build_index(trained, config=override(CONFIG, ["seed=1"])).config.seed == 1


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """24 images of 150 features in 40 clusters: what inverted lists and quantisers are made for."""
    rng = np.random.default_rng(11)
    centres = rng.normal(size=(40, 16))
    images = [
        unit_rows(centres[rng.integers(0, 40, 150)] + 0.15 * rng.normal(size=(150, 16)))
        for _ in range(24)
    ]
    return store_of(tmp_path_factory.mktemp("clustered") / "store", images)


# Recall of the true ten nearest among those found. Sixteen probed lists of about 90 lose next to
# nothing; 50 bits cannot order the members of a cluster, but find the cluster.
@pytest.mark.parametrize(("kind", "least"), [("ivf", {10: 0.95}), ("ivf_pq", {10: 0.3, 100: 0.8})])
def test_compressed_indexes_find_most_of_the_exact_neighbours(
    clustered: FeatureStore, kind: str, least: dict[int, float]
) -> None:
    exact = build_index(clustered, config=override(CONFIG, ["index.kind=exact"]))
    index = build_index(clustered, config=override(CONFIG, [f"index.kind={kind}"]))
    rows = unit_rows(
        vectors_of(exact)[::37] + 0.02 * np.random.default_rng(2).normal(size=(98, 10))
    )
    true = exact.vectors.search(rows, 10)[1]
    for neighbours, recall in least.items():
        found = index.vectors.search(rows, neighbours)[1]
        shared = [
            len(set(a) & set(b)) / 10 for a, b in zip(true.tolist(), found.tolist(), strict=True)
        ]
        assert np.mean(shared) >= recall
    if kind == "ivf_pq":
        # The paper's code: ten sub-vectors of five bits, rounded up to whole bytes.
        assert (index.vectors.pq.M, index.vectors.pq.nbits, index.vectors.code_size) == (10, 5, 7)


@pytest.mark.parametrize("kind", ["ivf", "ivf_pq"])
def test_the_same_store_and_seed_give_the_same_compressed_index(
    tmp_path: Path, clustered: FeatureStore, kind: str
) -> None:
    config = override(CONFIG, [f"index.kind={kind}", "index.train_samples=2000"])
    for name in ("one", "two"):
        build_index(clustered, config=config).save(tmp_path / name)
    one, two = (open_local_index(tmp_path / name) for name in ("one", "two"))
    files = [{file.name for file in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1] and len(files[0]) == 9
    rows = np.asarray(one.reduction(random_images()[0]))
    assert as_lists(one.putative_matches(rows, neighbours=9)) == as_lists(
        two.putative_matches(rows, neighbours=9)
    )


def test_missing_neighbours_do_not_become_matches(clustered: FeatureStore) -> None:
    index = build_index(
        clustered, config=override(CONFIG, ["index.kind=ivf", "index.lists=80", "index.probes=1"])
    )
    found = index.putative_matches(np.asarray(index.reduction(random_images()[0])), neighbours=3000)
    # One list of 80 cannot hold 3000: FAISS fills up with −1, which must not become a feature.
    assert 0 < len(found.database_index) < 30 * 24
    assert (
        found.database_index.min() >= 0
        and np.isfinite(found.cosine).all()
        and (found.cosine > -1.01).all()
    )


def test_an_index_grows_into_inverted_lists_by_itself(clustered: FeatureStore) -> None:
    small = build_index(clustered, config=override(CONFIG, ["index.auto_exact_below=3600"]))
    large = build_index(clustered, config=override(CONFIG, ["index.auto_exact_below=3599"]))
    assert not hasattr(small.vectors, "nlist") and large.vectors.nlist == 3600 // 39


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["index.kind=ivf", "index.lists=200"],
            "index.lists is 200, but 3600 training descriptors allow 92",
        ),
        (
            ["index.kind=ivf", "index.lists=50", "index.train_samples=1000"],
            "1000 training descriptors allow 25",
        ),
        (
            ["index.kind=ivf_pq", "index.pq_subvectors=7"],
            "index.pq_subvectors is 7, which does not divide .* 10",
        ),
        (
            ["index.kind=ivf_pq", "index.pq_bits=8"],
            "index.pq_bits is 8, which needs 9984 training .* are only 3600",
        ),
    ],
)
def test_an_index_that_cannot_be_trained_is_refused_with_the_setting_to_change(
    clustered: FeatureStore, settings: list[str], message: str
) -> None:
    with pytest.raises(LocalIndexError, match=message):
        build_index(clustered, config=override(CONFIG, settings))


def test_an_unknown_kind_of_index_is_refused() -> None:
    with pytest.raises(ConfigError, match="index.kind"):
        override(CONFIG, ["index.kind=flat"])
    assert IndexConfig().kind == "auto"


def save_as_version_1(index: LocalIndex, folder: Path) -> None:
    """An index as it was written before file names held digests."""
    index.save(folder)
    header = json.loads((folder / "index.json").read_text())
    for part, entry in header["files"].items():
        stored(folder, part).rename(folder / part)
        header["files"][part] = entry["digest"]
    header["version"] = 1
    del header["header_hash"]
    header["header_hash"] = config_hash(header)
    (folder / "index.json").write_text(json.dumps(header))
    (folder / "writer.lock").unlink()


def test_an_index_of_version_1_is_read_and_replaced(
    tmp_path: Path, index: LocalIndex, queries: np.ndarray
) -> None:
    save_as_version_1(index, tmp_path / "index")
    opened = open_local_index(tmp_path / "index")
    assert as_lists(opened.putative_matches(queries, neighbours=20)) == as_lists(
        index.putative_matches(queries, neighbours=20)
    )
    index.save(tmp_path / "new")
    opened.save(tmp_path / "index")
    old, new = ({file.name for file in (tmp_path / name).iterdir()} for name in ("index", "new"))
    assert old == new
    file = tmp_path / "index" / "index.json"
    save_as_version_1(index, tmp_path / "again")
    (tmp_path / "again" / "scales.npy").write_bytes(b"damaged")
    with pytest.raises(LocalIndexError, match=r"scales\.npy: missing or damaged"):
        open_local_index(tmp_path / "again")
    assert file.is_file()


# FAISS must not start threads, which a fork would not have.
SAVE = """
import faiss
from delfjax.retrieval.local_index import open_local_index
faiss.omp_set_num_threads(1)
index = open_local_index({source!r})
"""


@pytest.mark.parametrize(
    "before",
    ["nothing", "an index", pytest.param("an index of version 1", marks=pytest.mark.slow)],
)
def test_an_index_that_is_killed_at_any_step_is_the_old_or_the_new_one(
    tmp_path: Path, index: LocalIndex, clustered: FeatureStore, before: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    other = build_index(clustered, config=CONFIG)
    other.save(tmp_path / "other")
    if before == "an index of version 1":
        save_as_version_1(index, place / "index")
    elif before != "nothing":
        index.save(place / "index")
    # A stranger's file is nobody's leftover.
    if before != "nothing":
        (place / "index" / "scales-notes.npy").write_bytes(b"dear")

    def check() -> None:
        if before == "nothing" and not (place / "index" / "index.json").exists():
            return
        names = open_local_index(place / "index").names
        assert names in (index.names, other.names)
        assert before == "nothing" or (place / "index" / "scales-notes.npy").is_file()

    kills = kill_at_every_step(
        place,
        setup=SAVE.format(source=str(tmp_path / "other")),
        action="index.save('index')",
        check=check,
    )
    assert kills > 30
    assert open_local_index(place / "index").names == other.names


@pytest.mark.parametrize("readings", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_readers_get_one_of_two_indexes_that_take_turns_and_never_a_mixture(
    tmp_path: Path, index: LocalIndex, readings: int
) -> None:
    one = replace(index, photos="one", scales=np.full_like(index.scales, 1))
    two = replace(index, photos="two", scales=np.full_like(index.scales, 2))
    one.save(tmp_path / "index")
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            one.save(tmp_path / "index")
            two.save(tmp_path / "index")

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        found = [open_local_index(tmp_path / "index") for _ in range(readings)]
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert {(each.photos, float(each.scales[0])) for each in found} == {("one", 1.0), ("two", 2.0)}
    assert all((each.scales == each.scales[0]).all() for each in found)


def test_a_full_disk_names_the_file_and_leaves_the_old_index(
    tmp_path: Path, index: LocalIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.save(tmp_path / "index")
    before = sorted(tmp_path.rglob("*"))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for folder in ("index", "new"):
            with pytest.raises(OSError, match="No space left") as caught:
                replace(index, photos="new").save(tmp_path / folder)
            assert Path(caught.value.filename).parent == tmp_path / folder
    assert open_local_index(tmp_path / "index").photos == index.photos
    assert sorted(tmp_path.rglob("*")) == sorted(
        [*before, tmp_path / "new", tmp_path / "new" / "writer.lock"]
    )
    index.save(tmp_path / "new")
    assert open_local_index(tmp_path / "new").photos == index.photos


def test_a_disk_that_is_full_while_the_vectors_are_written_is_an_error_of_the_disk(
    tmp_path: Path, index: LocalIndex
) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        faiss.write_index(index.vectors, faiss.PyCallbackIOWriter(Full().write))


def test_where_an_index_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, index: LocalIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    refused = {
        "file": "is not a folder",
        "broken": "is a link to nothing",
        "file/deeper/index": "file is not a folder that can be written to",
    }
    for name, reason in refused.items():
        with pytest.raises(LocalIndexError, match=f"{name}: .*{reason}"):
            require_replaceable(tmp_path / name)
    # The folder one is in, and a link to a folder, are folders like any other.
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    index.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and open_local_index(
        tmp_path / "empty"
    ).names == index.names
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    require_replaceable(Path("."))
    index.save(".")
    index.save(".")
    assert open_local_index(".").names == index.names


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The content of a file with one random change: a bit, a number, a cut, or a piece that is
    missing or twice there."""
    place = int(rng.integers(0, len(content)))
    if rng.random() < 0.5:
        # Headers, which are the most sensitive, come first.
        place = int(rng.integers(0, min(200, len(content))))
    size = int(rng.choice([1, 4, 8, 40]))
    number = int(rng.choice([0, 1, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1]))
    kind = rng.choice(["bit", "number", "cut", "missing", "twice", "noise"])
    before, after = content[:place], content[place:]
    if kind == "bit":
        return before + bytes([after[0] ^ 1 << int(rng.integers(0, 8))]) + after[1:]
    if kind == "number":
        width = int(rng.choice([4, 8]))
        return before + (number % 2 ** (8 * width)).to_bytes(width, "little") + after[width:]
    if kind == "noise":
        return before + rng.bytes(size) + after[size:]
    return {
        "cut": before,
        "missing": before + after[size:],
        "twice": before + after[:size] + after,
    }[str(kind)]


def with_valid_digests(folder: Path, part: str, content: bytes) -> None:
    """Exchange the content of a part, and record its new digest."""
    old = stored(folder, part)
    digest = hashlib.blake2b(content).hexdigest()[:32]
    old.unlink()
    old.with_name(f"{Path(part).stem}-{digest}{Path(part).suffix}").write_bytes(content)
    header = json.loads((folder / "index.json").read_text())
    header["files"][part] = {"digest": digest, "bytes": len(content)}
    sign(folder, header)


def sign(folder: Path, header: dict[str, Any]) -> None:
    header.pop("header_hash", None)
    (folder / "index.json").write_text(
        json.dumps({**header, "header_hash": config_hash(header)}), encoding="utf-8"
    )


@pytest.mark.parametrize("kind", ["exact", "ivf", "ivf_pq"])
@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_an_index_with_valid_digests_and_damaged_parts_is_refused_or_searched(
    tmp_path: Path, clustered: FeatureStore, kind: str, count: int
) -> None:
    place, rng = tmp_path / "index", np.random.default_rng(17)
    build_index(clustered, config=override(CONFIG, [f"index.kind={kind}"])).save(place)
    whole = {file.name: file.read_bytes() for file in place.iterdir()}
    parts = ["vectors.faiss", "vectors.faiss", "keypoints_yx.npy", "offsets.npy", "projection.npy"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(count):
        part = parts[number % len(parts)]
        with_valid_digests(place, part, mutated(stored(place, part).read_bytes(), rng))
        try:
            found = open_local_index(place)
            with np.errstate(all="ignore"):
                queries = np.asarray(found.reduction(random_images()[0][:3]))
            found.putative_matches(np.nan_to_num(queries), neighbours=5)
        except LocalIndexError as error:
            assert str(place) in str(error) and "\n" not in str(error)
            refused += 1
        for file in place.iterdir():
            file.unlink()
        for name, content in whole.items():
            (place / name).write_bytes(content)
    assert refused > count // 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("names", ["a", 1, None, [], {}]),
        ("names", ["a"] * 4),
        ("names", "abcde"),
        ("files", []),
        ("files", {"vectors.faiss": {"digest": "../elsewhere", "bytes": 1}}),
        ("config", {"features": 3}),
        ("config", []),
        ("explained", "all"),
        ("photos", None),
        ("seconds", [1]),
        ("extraction_hash", 0),
    ],
)
def test_a_header_with_a_valid_hash_and_a_wrong_field_is_refused(
    tmp_path: Path, index: LocalIndex, field: str, value: object
) -> None:
    index.save(tmp_path / "index")
    header = json.loads((tmp_path / "index" / "index.json").read_text())
    sign(tmp_path / "index", {**header, field: value})
    with pytest.raises(LocalIndexError) as refused:
        open_local_index(tmp_path / "index")
    assert str(tmp_path / "index") in str(refused.value) and "\n" not in str(refused.value)
