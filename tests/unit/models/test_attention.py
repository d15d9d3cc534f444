"""The attention scorer against its definition in double precision."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from delfjax.models.attention import AttentionScorer, feature_norm
from delfjax.models.layers import FeatureMap
from delfjax.models.tensors import abstract, named_shapes, with_tensors


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """Weights and statistics as after training."""
    rng = np.random.default_rng(2)
    shapes = named_shapes(abstract(lambda rngs: AttentionScorer(24, hidden=16, rngs=rngs)))
    drawn = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    return drawn | {
        name: np.abs(drawn[name]) + np.float32(0.1) for name in shapes if name.endswith("norm.var")
    }


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return (3 * np.random.default_rng(3).normal(size=(2, 5, 6, 24))).astype(np.float32)


def scorer(tensors: dict[str, np.ndarray]) -> nnx.Module:
    return with_tensors(abstract(lambda rngs: AttentionScorer(24, hidden=16, rngs=rngs)), tensors)


def score(tensors: dict[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    model = scorer(tensors)
    model.eval()
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(FeatureMap.full(x)))
    return np.asarray(run(state, values))


def by_definition(tensors: dict[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    """1×1 convolution, batch norm, ReLU, 1×1 convolution, softplus, in float64."""
    t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    hidden = values.astype(np.float64) @ t["hidden.kernel"] - t["hidden.norm.mean"]
    hidden = (
        hidden / np.sqrt(t["hidden.norm.var"] + 1e-5) * t["hidden.norm.scale"]
        + t["hidden.norm.bias"]
    )
    raw = np.maximum(hidden, 0) @ t["score.kernel"] + t["score.bias"]
    result: np.ndarray = np.logaddexp(0, raw)[..., 0]
    return result


def test_scores_equal_their_definition(tensors: dict[str, np.ndarray], values: np.ndarray) -> None:
    # 24 and 16 float32 products a cell.
    np.testing.assert_allclose(
        score(tensors, values), by_definition(tensors, values), rtol=1e-4, atol=1e-5
    )


def test_scores_are_never_negative_nor_infinite(
    tensors: dict[str, np.ndarray], values: np.ndarray
) -> None:
    for factor in (1.0, 1e3, -1e3):
        scores = score(tensors, values * np.float32(factor))
        assert scores.shape == (2, 5, 6) and (scores >= 0).all() and np.isfinite(scores).all()


def test_a_score_depends_on_the_length_of_a_feature(
    tensors: dict[str, np.ndarray], values: np.ndarray
) -> None:
    unit = values / np.linalg.norm(values, axis=-1, keepdims=True)
    assert not np.allclose(score(tensors, values), score(tensors, unit), rtol=1e-2)


def test_a_cell_is_scored_by_itself(tensors: dict[str, np.ndarray], values: np.ndarray) -> None:
    other = values.copy()
    other[0, 2, 3] += 1
    changed = score(tensors, other) != score(tensors, values)
    assert changed[0, 2, 3] and changed.sum() == 1


def test_the_norm_of_a_zero_feature_is_zero() -> None:
    np.testing.assert_array_equal(
        jax.jit(feature_norm)(np.zeros((1, 2, 3, 4), np.float32)), np.zeros((1, 2, 3))
    )
