"""The local index: neighbours equal those of brute force, grouping equals its definition, and
damaged or foreign folders are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from delfjax.config import ConfigError, DelfConfig, IndexConfig, config_hash, override
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.retrieval.local_index import (
    LocalIndex,
    LocalIndexError,
    PutativeMatches,
    build_index,
    open_index,
)
from delfjax.types import ImageFeatures, LocalFeatures

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
    opened = open_index(tmp_path / "index")
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
    opened = open_index(tmp_path / "index")
    opened.save(tmp_path / "index")
    again = open_index(tmp_path / "index")
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
    assert open_index(tmp_path / "empty").names == index.names


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
        open_index(tmp_path / "index")
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
    one, two = (open_index(tmp_path / name) for name in ("one", "two"))
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
