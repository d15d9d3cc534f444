"""PCA of local descriptors: it equals its definition, is deterministic, and is refused where it is
not defined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from delfjax.config import DelfConfig, ReductionConfig, config_hash
from delfjax.features.reduction import ReductionError, fit_from_store, fit_pca
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.types import ImageFeatures, LocalFeatures


def descriptors(rng: np.random.Generator, count: int = 400, channels: int = 12) -> np.ndarray:
    """Correlated rows with a mean, float32."""
    mixing = rng.normal(size=(channels, channels)) * np.geomspace(1, 0.05, channels)[:, None]
    return (rng.normal(size=(count, channels)) @ mixing + rng.normal(size=channels)).astype(
        np.float32
    )


@pytest.mark.parametrize("whiten", [False, True])
def test_a_reduction_equals_pca_by_singular_values_in_double_precision(
    rng: np.random.Generator, whiten: bool
) -> None:
    rows = descriptors(rng)
    reduction = fit_pca(rows, config=ReductionConfig(dim=5, whiten=whiten))
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    expected = centred @ directions[:5].T
    if whiten:
        expected /= singular[:5] / np.sqrt(len(rows) - 1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # Descriptors, mean and projection are float32; twelve products a number.
    np.testing.assert_allclose(reduction(rows), expected, atol=2e-5)
    share = (singular[:5] ** 2).sum() / (singular**2).sum()
    assert reduction.explained == pytest.approx(share, abs=1e-9)


def test_the_number_of_threads_changes_no_bit(rng: np.random.Generator) -> None:
    # So many rows that several threads would share them.
    rows = descriptors(rng, count=40_000, channels=112)
    found = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            reduction = fit_pca(rows, config=ReductionConfig(dim=40))
            found.append(
                (reduction.explained, reduction.projection.tobytes(), reduction(rows).tobytes())
            )
    assert found[0] == found[1] == found[2]


def test_whitening_leaves_uncorrelated_components_of_unit_variance(
    rng: np.random.Generator,
) -> None:
    rows = descriptors(rng)
    reduction = fit_pca(rows, config=ReductionConfig(dim=6, whiten=True))
    whitened = (rows.astype(np.float64) - reduction.mean) @ reduction.projection
    # Rounding of mean and projection to float32.
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(6), atol=1e-4)


def test_reduced_descriptors_have_unit_length(rng: np.random.Generator) -> None:
    rows = descriptors(rng)
    reduced = fit_pca(rows, config=ReductionConfig(dim=3))(rows.astype(np.float16))
    assert reduced.shape == (len(rows), 3) and reduced.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), 1, atol=1e-6)


def test_no_descriptors_reduce_to_no_descriptors(rng: np.random.Generator) -> None:
    reduction = fit_pca(descriptors(rng), config=ReductionConfig(dim=3))
    assert reduction(np.zeros((0, 12), np.float32)).shape == (0, 3)


def test_the_mean_itself_reduces_to_numbers(rng: np.random.Generator) -> None:
    reduction = fit_pca(descriptors(rng), config=ReductionConfig(dim=3))
    assert np.isfinite(reduction(reduction.mean[None])).all()


def test_the_same_descriptors_give_the_same_bytes(rng: np.random.Generator) -> None:
    rows = descriptors(rng)
    one, other = (fit_pca(rows.copy(), config=ReductionConfig(dim=4)) for _ in range(2))
    assert (
        one.mean.tobytes() == other.mean.tobytes()
        and one.projection.tobytes() == other.projection.tobytes()
    )


def test_the_sign_of_a_direction_does_not_depend_on_the_order_of_the_descriptors(
    rng: np.random.Generator,
) -> None:
    rows = descriptors(rng)
    one = fit_pca(rows, config=ReductionConfig(dim=4)).projection
    other = fit_pca(rows[rng.permutation(len(rows))], config=ReductionConfig(dim=4)).projection
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "dim", "allowed"),
    [(400, 13, "at most 12"), (5, 5, "at most 4"), (1, 1, "so few"), (0, 3, "so few")],
)
def test_more_dimensions_than_the_descriptors_span_are_refused(
    rng: np.random.Generator, count: int, dim: int, allowed: str
) -> None:
    with pytest.raises(
        ReductionError, match=f"reduction.dim is {dim}, but there are {count} .*{allowed}"
    ):
        fit_pca(descriptors(rng)[:count], config=ReductionConfig(dim=dim))


def test_as_many_dimensions_as_the_descriptors_span_are_taken(rng: np.random.Generator) -> None:
    reduction = fit_pca(descriptors(rng)[:5], config=ReductionConfig(dim=4))
    assert reduction.explained == pytest.approx(1, abs=1e-9)


def test_equal_descriptors_are_refused() -> None:
    with pytest.raises(ReductionError, match="all 50 descriptors are equal"):
        fit_pca(np.full((50, 4), 0.5, np.float32), config=ReductionConfig(dim=2))


def test_descriptors_of_another_width_are_refused(rng: np.random.Generator) -> None:
    reduction = fit_pca(descriptors(rng), config=ReductionConfig(dim=3))
    with pytest.raises(ReductionError, match="have 11 dimensions, but .* fitted on 12"):
        reduction(np.zeros((2, 11), np.float32))


def store_of(path: Path, images: dict[str, np.ndarray]) -> FeatureStore:
    config = DelfConfig().extraction()
    with StoreWriter(path, config) as writer:
        for group in writer.plan(images):
            features = {name: image_features(images[name]) for name in group.names}
            writer.commit(group, features, {})
        return writer.store()


def image_features(rows: np.ndarray) -> ImageFeatures:
    count = len(rows)
    zeros = np.zeros(count, np.float32)
    local = LocalFeatures(
        np.zeros((count, 2), np.float32), zeros + 1, zeros, rows, np.ones(count, bool)
    )
    return ImageFeatures(local, None, (10, 10), "0")


def test_a_sample_takes_descriptors_of_every_image(tmp_path: Path) -> None:
    # Image i has descriptors along axis i alone: an axis without variance was not sampled.
    rng = np.random.default_rng(0)
    images = {
        f"{i:02d}.jpg": np.eye(8, dtype=np.float32)[[i] * 50] * rng.uniform(1, 2, (50, 1))
        for i in range(8)
    }
    images = {name: rows.astype(np.float32) for name, rows in images.items()}
    store = store_of(tmp_path / "s", images)
    config = ReductionConfig(dim=7, max_samples=24, whiten=False)
    reduction = fit_from_store(store, config=config, seed=0)
    assert (reduction.mean > 0).all()
    # Three of each image: the mean of an axis is an eighth of the mean of three values from 1 to 2.
    assert (reduction.mean >= 1 / 8).all() and (reduction.mean <= 2 / 8).all()
    assert reduction.extraction_hash == store.config_hash == config_hash(DelfConfig().extraction())


def test_a_sample_depends_on_the_seed_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    store = store_of(tmp_path / "s", {f"{i}.jpg": descriptors(rng, 40) for i in range(3)})
    config = ReductionConfig(dim=4, max_samples=60)
    one, same, other = (
        fit_from_store(store, config=config, seed=seed).projection for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_a_store_smaller_than_the_sample_is_used_whole(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    rows = descriptors(rng, 60)
    store = store_of(tmp_path / "s", {"a.jpg": rows[:20], "b.jpg": rows[20:20], "c.jpg": rows[20:]})
    fitted = fit_from_store(store, config=ReductionConfig(dim=4), seed=0)
    # The store keeps float16.
    whole = fit_pca(rows.astype(np.float16), config=ReductionConfig(dim=4))
    assert np.array_equal(fitted.projection, whole.projection)


def test_a_store_without_features_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"a.jpg": np.zeros((0, 5), np.float32)})
    with pytest.raises(ReductionError, match="0 descriptors"):
        fit_from_store(store, config=ReductionConfig(dim=2), seed=0)
    with pytest.raises(ReductionError, match="holds no features"):
        fit_from_store(store_of(tmp_path / "empty", {}), config=ReductionConfig(dim=2), seed=0)
