"""The index of global descriptors: neighbours equal those of brute force, and what cannot be built,
searched or opened is refused in one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from delfjax.config import DelfConfig, config_hash, override
from delfjax.errors import DelfjaxError
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.models.delf import describe_backbone
from delfjax.models.model_files import WHITENING, save_model
from delfjax.ops.whitening import pca_whitening
from delfjax.retrieval import global_index
from delfjax.retrieval.expansion import augmented_database, nearest_by_cosine
from delfjax.retrieval.global_index import (
    GlobalIndex,
    GlobalIndexError,
    build_global_index,
    is_global_index,
    open_global_index,
)
from delfjax.types import ImageFeatures, LocalFeatures

CONFIG = override(DelfConfig(), ["global_features.whitening.kind=none"])
DIM = 16


def random_rows(count: int, seed: int = 3, dim: int = DIM) -> np.ndarray:
    """Descriptors of unit length with positive cosines, as those pooled from a ReLU."""
    rows = np.random.default_rng(seed).uniform(size=(count, dim)) ** 4
    found: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def store_of(
    path: Path, rows: Sequence[np.ndarray | None], *, config: DelfConfig = CONFIG
) -> FeatureStore:
    """A store of these global descriptors."""
    none = np.zeros((0, 2), np.float32)
    local = LocalFeatures(none, none[:, 0], none[:, 0], none, np.zeros(0, bool))
    names = [f"photo ü{number:05d}.jpg" for number in range(len(rows))]
    with StoreWriter(path, config.global_extraction()) as writer:
        for group in writer.plan(names):
            held = {
                name: ImageFeatures(local, rows[names.index(name)], (300, 400), name)
                for name in group.names
            }
            writer.commit(group, held, {})
        return writer.store()


def built(path: Path, rows: np.ndarray, *settings: str) -> GlobalIndex:
    config = override(CONFIG, settings)
    return build_global_index(store_of(path, list(rows), config=config), config=config, photos="p")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> GlobalIndex:
    return built(tmp_path_factory.mktemp("global") / "store", random_rows(50))


@pytest.fixture(scope="module")
def compressed() -> GlobalIndex:
    """Clusters of twenty, the shape of a collection of landmarks."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(500, 32)), 20, axis=0)
    rows = (centres + 0.4 * rng.normal(size=centres.shape)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    config = override(CONFIG, ["global_features.index=ivf_pq", "global_features.pq_subvectors=8"])
    return GlobalIndex(
        config=config,
        names=[f"{number}.jpg" for number in range(len(rows))],
        descriptors=rows.astype(np.float16),
        extraction_hash=config_hash(config.global_extraction()),
        extracted_dim=32,
        codes=global_index._codes(rows, config),
    )


def test_similarities_are_the_cosines_of_every_image(index: GlobalIndex) -> None:
    queries = index.prepared(3 * random_rows(4, seed=8))
    expected = random_rows(4, seed=8).astype(np.float64) @ random_rows(50).astype(np.float64).T
    np.testing.assert_allclose(index.similarities(queries), expected, atol=1e-6)
    for number in range(4):
        alone = index.similarities(queries[number : number + 1])
        np.testing.assert_allclose(alone[0], expected[number], atol=1e-6)


def test_blocks_of_a_large_database_change_nothing(
    index: GlobalIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = index.prepared(random_rows(5, seed=8))
    whole, found = index.similarities(queries), index.nearest(queries, 7)
    monkeypatch.setattr(global_index, "_BLOCK", 8)
    monkeypatch.setattr(global_index, "_QUERIES_AT_A_TIME", 2)
    np.testing.assert_allclose(index.similarities(queries), whole, atol=1e-6)
    assert np.array_equal(index.nearest(queries, 7).images, found.images)


def test_the_nearest_are_those_of_brute_force(index: GlobalIndex) -> None:
    queries = index.prepared(random_rows(9, seed=8))
    found = index.nearest(queries, 10)
    expected = nearest_by_cosine(random_rows(9, seed=8) @ random_rows(50).T, 10)
    assert np.array_equal(found.images, expected.images)
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-6)
    assert index.nearest(queries, 1000).images.shape == (9, 50)
    assert index.nearest(queries[:0], 3).images.shape == (0, 3)


def test_an_image_of_the_database_is_not_its_own_neighbour(index: GlobalIndex) -> None:
    rows = index.descriptors
    assert index.nearest(rows, 1).images[:, 0].tolist() == list(range(50))
    others = index.nearest(rows, 49, own=np.arange(50)).images
    assert not (others == np.arange(50)[:, None]).any() and (others >= 0).all()


def test_pca_whitening_is_fitted_on_the_database_and_applied_to_queries(tmp_path: Path) -> None:
    kept = ["global_features.whitening.kind=pca", "global_features.whitening.dim=5"]
    index = built(tmp_path / "store", random_rows(50), *kept)
    whitening = pca_whitening(random_rows(50), dim=5, shrinkage=10.0)
    queries = random_rows(3, seed=8)
    np.testing.assert_allclose(index.prepared(queries), whitening(queries), atol=1e-6)
    np.testing.assert_allclose(index.descriptors, whitening(random_rows(50)), atol=1e-6)
    assert (index.dim, index.extracted_dim) == (5, DIM)


def test_the_database_is_augmented_before_it_is_indexed(tmp_path: Path) -> None:
    index = built(tmp_path / "store", random_rows(50), "expansion.database_neighbours=6")
    rows = random_rows(50)
    neighbours = nearest_by_cosine(rows @ rows.T, 6, own=np.arange(50))
    np.testing.assert_allclose(index.descriptors, augmented_database(rows, neighbours), atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["global_features.whitening.kind=pca", "global_features.whitening.dim=5"],
        ["expansion.database_neighbours=3"],
    ],
)
def test_a_saved_index_gives_the_same_answers(tmp_path: Path, settings: list[str]) -> None:
    index = built(tmp_path / "store", random_rows(50), *settings)
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")
    opened = open_global_index(tmp_path / "index")
    queries = random_rows(4, seed=8)
    ours = index.similarities(index.prepared(queries))
    assert np.array_equal(opened.similarities(opened.prepared(queries)), ours)
    for name in ("config", "names", "photos", "content_hashes", "seconds", "extraction_hash"):
        assert getattr(opened, name) == getattr(index, name), name
    assert is_global_index(tmp_path / "index") and not is_global_index(tmp_path)


def test_a_compressed_index_finds_most_of_the_nearest(compressed: GlobalIndex) -> None:
    queries = compressed.descriptors[::101].astype(np.float32)
    found = compressed.nearest(queries, 10)
    exact = replace(compressed, codes=None).nearest(queries, 10)
    shared = [len({*a} & {*b}) / 10 for a, b in zip(found.images, exact.images, strict=True)]
    # A cluster has twenty members, and a hundred candidates are ranked by their descriptors.
    assert np.mean(shared) > 0.95
    both = found.images == exact.images
    np.testing.assert_allclose(found.cosines[both], exact.cosines[both], atol=1e-6)
    others = compressed.nearest(queries, 10, own=np.arange(0, len(compressed.names), 101))
    assert np.array_equal(others.images[:, :9], found.images[:, 1:])


def test_more_than_a_compressed_index_finds_is_filled_up_with_none(compressed: GlobalIndex) -> None:
    found = compressed.nearest(compressed.descriptors[:2].astype(np.float32), 10_000)
    assert found.images.shape == (2, 10_000)
    missing = found.images < 0
    assert missing.any() and (found.cosines[missing] == -1).all()
    assert (np.diff(missing.astype(int), axis=1) >= 0).all()


def test_a_saved_compressed_index_gives_the_same_answers(
    tmp_path: Path, compressed: GlobalIndex
) -> None:
    compressed.save(tmp_path / "index")
    opened = open_global_index(tmp_path / "index")
    queries = compressed.descriptors[:40].astype(np.float32)
    ours, theirs = compressed.nearest(queries, 10), opened.nearest(queries, 10)
    assert np.array_equal(ours.images, theirs.images)
    assert np.array_equal(ours.cosines, theirs.cosines)
    # One byte for each of eight parts.
    assert opened.codes.code_size == 8


def test_a_database_of_one_image_is_searched(tmp_path: Path) -> None:
    index = built(tmp_path / "store", random_rows(1), "expansion.database_neighbours=20")
    found = index.nearest(index.prepared(random_rows(2, seed=8)), 10)
    assert found.images.tolist() == [[0], [0]]
    alone = index.nearest(index.descriptors, 10, own=np.array([0]))
    assert alone.images.tolist() == [[-1]]


def test_a_descriptor_of_zeros_resembles_nothing(index: GlobalIndex) -> None:
    zero = index.prepared(np.zeros((1, DIM), np.float32))
    assert not index.similarities(zero).any()


def test_queries_that_cannot_be_compared_are_refused(index: GlobalIndex) -> None:
    with pytest.raises(GlobalIndexError, match="has 8 dimensions, but those of the index have 16"):
        index.prepared(random_rows(1, dim=8))
    broken = random_rows(2)
    broken[1, 3] = np.nan
    with pytest.raises(GlobalIndexError, match="not finite"):
        index.prepared(broken)


def test_stores_that_cannot_be_indexed_are_refused_in_one_line(tmp_path: Path) -> None:
    rows = list(random_rows(5))
    broken = rows[1].copy()
    broken[3] = np.nan
    other = override(CONFIG, ["global_features.pooling=mac"])
    pca = override(CONFIG, ["global_features.whitening.kind=pca"])
    cases: dict[str, tuple[list[Any], DelfConfig, str]] = {
        "empty": ([], CONFIG, "holds no image"),
        "without": ([rows[0], None], CONFIG, "1 of 2 images have no global descriptor"),
        "nan": ([rows[0], broken], CONFIG, "'photo ü00001.jpg' holds values that are not finite"),
        "lengths": ([rows[0], rows[1][:7]], CONFIG, r"lengths \[7, 16\]"),
        "config": (rows, other, "but the index needs global descriptors of"),
        "one": (rows[:1], pca, "needs at least 2 descriptors, got 1"),
        "equal": ([rows[0]] * 3, pca, "all 3 descriptors are equal"),
        "few": (
            rows,
            override(CONFIG, ["global_features.index=ivf_pq", "global_features.pq_subvectors=8"]),
            "needs 9984 images, but there are only 5; use global_features.index=exact",
        ),
        "parts": (
            rows,
            override(CONFIG, ["global_features.index=ivf_pq", "global_features.pq_subvectors=5"]),
            "pq_subvectors is 5, which does not divide the 16 dimensions",
        ),
    }
    for name, (held, config, message) in cases.items():
        store = store_of(tmp_path / name, held)
        with pytest.raises(DelfjaxError, match=message) as refused:
            build_global_index(store, config=config)
        assert ("\n" not in str(refused.value) and str(tmp_path / name) in str(refused.value)) or (
            name in ("few", "parts")
        )


def learned(path: Path, dim: int, **backbone: str) -> str:
    """The file of a learned whitening, which was made for a backbone."""
    projection = pca_whitening(random_rows(60, seed=5, dim=dim))
    described = {**describe_backbone(CONFIG.global_features.backbone), **backbone}
    tensors = {"shift": projection.shift, "matrix": projection.matrix}
    save_model(path, {WHITENING: (tensors, {"backbone": described})}, system={}, about={})
    return f"global_features.whitening.weights={path}"


def test_a_learned_whitening_is_read_from_its_file(tmp_path: Path) -> None:
    settings = [
        "global_features.whitening.kind=learned",
        "global_features.whitening.dim=4",
        learned(tmp_path / "lw.safetensors", DIM),
    ]
    index = built(tmp_path / "store", random_rows(50), *settings)
    expected = pca_whitening(random_rows(60, seed=5), dim=4)
    np.testing.assert_allclose(index.prepared(random_rows(3)), expected(random_rows(3)), atol=1e-6)


@pytest.mark.parametrize(("dim", "backbone"), [(8, {}), (DIM, {"output": "conv4"})])
def test_a_learned_whitening_for_another_extraction_is_refused(
    tmp_path: Path, dim: int, backbone: dict[str, str]
) -> None:
    weights = learned(tmp_path / "lw.safetensors", dim, **backbone)
    with pytest.raises(DelfjaxError, match=r"lw.safetensors") as refused:
        built(tmp_path / "store", random_rows(9), "global_features.whitening.kind=learned", weights)
    assert "\n" not in refused.value.message


def stored(folder: Path, part: str) -> Path:
    (file,) = folder.glob(f"{Path(part).stem}-*{Path(part).suffix}")
    return file


def sign(folder: Path, header: dict[str, Any]) -> None:
    header.pop("header_hash", None)
    signed = {**header, "header_hash": config_hash(header)}
    (folder / "index.json").write_text(json.dumps(signed), encoding="utf-8")


def with_valid_digests(folder: Path, part: str, content: bytes) -> None:
    """Exchange the content of a part, and record its new digest."""
    old = stored(folder, part)
    digest = hashlib.blake2b(content).hexdigest()[:32]
    old.unlink()
    old.with_name(f"{Path(part).stem}-{digest}{Path(part).suffix}").write_bytes(content)
    header = json.loads((folder / "index.json").read_text())
    header["files"][part] = {"digest": digest, "bytes": len(content)}
    sign(folder, header)


def flip_a_byte(folder: Path) -> None:
    file = stored(folder, "descriptors.npy")
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(bytes(content))


def change(**fields: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        header = json.loads((folder / "index.json").read_text())
        sign(folder, {**header, **fields})

    return apply


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flip_a_byte, r"descriptors-\w{32}\.npy: missing or damaged \(its digest"),
    "a missing file": (lambda folder: stored(folder, "shift.npy").unlink(), r"shift-\w{32}\.npy"),
    "another version": (change(version=2), "index format is 2, this delfjax reads 1"),
    "another format": (change(format="delfjax local index"), "not the header of an index of glob"),
    "another extraction": (change(extraction_hash="0123456789"), "made for extraction 0123456789"),
    "another dimension": (change(extracted_dim=7), r"has shape \(50, 16\), but \(50, 7\) goes"),
    "a name too many": (change(names=["a"] * 51), r"but \(51, 16\) goes"),
    "names of another type": (change(names=[1] * 50), "'names' is missing or has another type"),
    "no config": (change(config={"seed": "x"}), "index.json: damaged: config field 'seed'"),
    "digests of other photos": (change(content_hashes=["0"]), "content_hashes is not a digest"),
    "an unsigned change": (
        lambda folder: (folder / "index.json").write_text(
            (folder / "index.json").read_text().replace("00007", "00008")
        ),
        "damaged or modified",
    ),
    "no header": (lambda folder: (folder / "index.json").unlink(), "not an index of global desc"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_foreign_folder_is_refused_in_one_line(
    tmp_path: Path, index: GlobalIndex, name: str
) -> None:
    damage, message = DAMAGE[name]
    index.save(tmp_path / "index")
    damage(tmp_path / "index")
    with pytest.raises(GlobalIndexError, match=message) as refused:
        open_global_index(tmp_path / "index")
    assert "\n" not in str(refused.value) and str(tmp_path / "index") in str(refused.value)


def test_values_that_are_not_finite_are_refused_even_with_valid_digests(
    tmp_path: Path, index: GlobalIndex
) -> None:
    index.save(tmp_path / "index")
    content = bytearray(stored(tmp_path / "index", "descriptors.npy").read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    with_valid_digests(tmp_path / "index", "descriptors.npy", bytes(content))
    with pytest.raises(GlobalIndexError, match="descriptors.npy: damaged: holds values that are"):
        open_global_index(tmp_path / "index")


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_codes_with_valid_digests_and_random_damage_are_refused_or_searched(
    tmp_path: Path, compressed: GlobalIndex, count: int
) -> None:
    place, rng = tmp_path / "index", np.random.default_rng(17)
    compressed.save(place)
    whole = stored(place, "vectors.faiss").read_bytes()
    refused = 0
    for _ in range(count):
        content = bytearray(whole)
        at = int(rng.integers(0, 200 if rng.random() < 0.7 else len(whole) - 8))
        content[at : at + 4] = rng.choice([0, 1, 2**31 - 1, 2**32 - 1]).astype("<u4").tobytes()
        with_valid_digests(place, "vectors.faiss", bytes(content[: rng.choice([-1, len(content)])]))
        try:
            found = open_global_index(place).nearest(np.ones((1, 32), np.float32), 5)
            assert (found.images < len(compressed.names)).all()
        except GlobalIndexError as error:
            assert "vectors.faiss: damaged, or not of this index" in str(error)
            refused += 1
    assert refused > count // 3


def test_vectors_compared_by_distance_are_not_those_of_this_index(
    tmp_path: Path, compressed: GlobalIndex
) -> None:
    compressed.save(tmp_path / "index")
    rows = compressed.descriptors.astype(np.float32)
    coarse = faiss.IndexFlatL2(32)
    other = faiss.IndexIVFPQ(coarse, 32, 8, 8, 8, faiss.METRIC_L2)
    other.cp.niter = other.pq.cp.niter = 1
    other.train(rows)
    other.add(rows)
    with_valid_digests(tmp_path / "index", "vectors.faiss", faiss.serialize_index(other).tobytes())
    with pytest.raises(GlobalIndexError, match="its metric is 1, expected 0"):
        open_global_index(tmp_path / "index")


def test_nothing_but_an_index_is_ever_replaced(tmp_path: Path, index: GlobalIndex) -> None:
    (tmp_path / "dear.jpg").write_bytes(b"x")
    with pytest.raises(GlobalIndexError, match="exists and is not an index of global descriptors"):
        index.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["dear.jpg"]
