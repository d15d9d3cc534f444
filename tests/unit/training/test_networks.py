"""Which parameters each stage trains, and which it leaves unchanged."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from delfjax.config import BackboneConfig, DelgConfig, TrainingConfig
from delfjax.models.delf import Backbone, load_backbone
from delfjax.models.efficientnet_lite import EfficientNetLite0
from delfjax.models.layers import FeatureMap
from delfjax.models.resnet import BLOCKS, ResNet
from delfjax.models.tensors import abstract
from delfjax.training.loop import Parts
from delfjax.training.networks import (
    AttentionNetwork,
    DelgNetwork,
    FinetuneNetwork,
    Network,
    make_network,
)
from delfjax.training.optimiser import cross_entropy
from tests.unit.models.random_networks import small_resnet


@pytest.fixture(scope="module")
def backbone() -> EfficientNetLite0:
    loaded = load_backbone(BackboneConfig())
    assert isinstance(loaded, EfficientNetLite0)
    return loaded


@pytest.fixture(scope="module")
def resnet() -> ResNet:
    return small_resnet()


def attention(backbone: Backbone, *, pooling: str = "mean") -> AttentionNetwork:
    config = TrainingConfig(stage="attention", hidden=16, pooling=pooling)
    network = make_network(backbone, 3, config=config, output="conv4", rngs=nnx.Rngs(1))
    assert isinstance(network, AttentionNetwork)
    return network


def _gradient_of_everything(network: Network, pixels: np.ndarray) -> dict[str, float]:
    """Largest entry of the loss's gradient, for every parameter, frozen ones included."""
    parts = Parts(network)

    def loss(tensors: dict[str, jax.Array], statistics: dict[str, jax.Array]) -> jax.Array:
        whole = parts.network({**tensors, **statistics}, training=True)
        return cross_entropy(
            whole(jax.lax.stop_gradient(whole.fixed(jnp.asarray(pixels)))), jnp.array([0, 1])
        )

    slopes = jax.jit(jax.grad(loss))({**parts.learnt, **parts.fixed}, parts.statistics)
    return {name: float(np.abs(slope).max()) for name, slope in slopes.items()}


def test_the_attention_loss_reaches_the_scorer_and_no_parameter_of_the_backbone(
    resnet: ResNet,
) -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    slopes = _gradient_of_everything(attention(resnet), pixels)
    assert all(slope == 0 for name, slope in slopes.items() if name.startswith("backbone."))
    assert all(
        slopes[name] > 0
        for name in ("scorer.hidden.kernel", "scorer.score.kernel", "classifier.kernel")
    )


def test_finetuning_learns_the_layers_that_are_read_out_and_not_frozen(
    backbone: EfficientNetLite0,
) -> None:
    network = FinetuneNetwork(backbone, 3, output="conv4", frozen_layers=9, rngs=nnx.Rngs(1))
    learnt = set(Parts(network).learnt)
    layers = backbone.layers("conv4")
    blocks = {name.split(".")[2] for name in learnt if name.startswith("backbone.blocks.")}
    assert blocks == {str(number) for number in range(8, len(layers) - 1)}
    assert {"classifier.kernel", "classifier.bias"} < learnt
    assert not any(
        name.startswith(("backbone.stem", "backbone.head", "backbone.classifier"))
        for name in learnt
    )


def test_a_resnet_is_finetuned_from_any_of_its_layers() -> None:
    def build(rngs: nnx.Rngs) -> FinetuneNetwork:
        return FinetuneNetwork(
            ResNet(BLOCKS["resnet50"], rngs=rngs), 2, output="conv4", frozen_layers=8, rngs=rngs
        )

    network = abstract(build)
    learnt = {
        path[1:3]
        for path, _ in nnx.to_flat_state(nnx.state(network))
        if path[0] == "backbone" and network.learns(path)
    }
    # The stem, three and four blocks are frozen: what learns is conv4.
    assert learnt == {("stages", 2)}


def test_a_network_cut_in_two_is_the_whole(backbone: EfficientNetLite0) -> None:
    pixels = jnp.asarray(
        np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    )

    def logits(frozen: int) -> np.ndarray:
        network = FinetuneNetwork(
            backbone, 3, output="conv4", frozen_layers=frozen, rngs=nnx.Rngs(1)
        )
        network.set_mode(training=False)
        return np.asarray(nnx.jit(lambda network: network(network.fixed(pixels)))(network))

    np.testing.assert_allclose(logits(9), logits(0), rtol=1e-5, atol=1e-6)


def test_logits_are_the_classified_mean_of_weighted_unit_features(
    backbone: EfficientNetLite0,
) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 112)).astype(np.float32)
    network = attention(backbone)
    network.set_mode(training=False)
    kernel, bias, mean, var = (
        np.asarray(part[...], np.float64)
        for part in (
            network.scorer.hidden.norm.scale,
            network.scorer.hidden.norm.bias,
            network.scorer.hidden.norm.mean,
            network.scorer.hidden.norm.var,
        )
    )
    hidden = maps @ np.asarray(network.scorer.hidden.kernel[...], np.float64)
    hidden = np.maximum((hidden - mean) / np.sqrt(var + 1e-5) * kernel + bias, 0)
    score = hidden @ np.asarray(network.scorer.score.kernel[...], np.float64) + np.asarray(
        network.scorer.score.bias[...]
    )
    alpha = np.log1p(np.exp(score))
    unit = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
    pooled = (alpha * unit).mean(axis=(1, 2))
    expected = pooled @ np.asarray(network.classifier.kernel[...]) + np.asarray(
        network.classifier.bias[...]
    )
    np.testing.assert_allclose(
        np.asarray(network(jnp.asarray(maps))), expected, rtol=1e-4, atol=1e-5
    )


def test_a_sum_is_the_mean_times_the_cells(backbone: EfficientNetLite0) -> None:
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4, 112)).astype(np.float32))
    mean, total = attention(backbone), attention(backbone, pooling="sum")
    for network in (mean, total):
        network.set_mode(training=False)
    np.testing.assert_allclose(
        np.asarray(total(maps)), 12 * np.asarray(mean(maps)), rtol=1e-4, atol=1e-5
    )


def delg(resnet: ResNet, **weights: float) -> DelgNetwork:
    """A DELG network whose conv4 and conv5 are trained."""
    settings = DelgConfig(code_dim=8, embedding_dim=16, **weights)
    config = TrainingConfig(stage="delg", hidden=16, frozen_layers=3, delg=settings)
    network = make_network(resnet, 3, config=config, output="conv4", rngs=nnx.Rngs(1))
    assert isinstance(network, DelgNetwork)
    return network


MAPS = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 4, 4, 512)).astype(np.float32))
LABELS = jnp.array([0, 2])


def _delg_slopes(network: DelgNetwork) -> dict[str, np.ndarray]:
    parts = Parts(network)

    def loss(learnt: dict[str, jax.Array], rest: dict[str, jax.Array]) -> jax.Array:
        return parts.network({**learnt, **rest}, training=True).loss(MAPS, LABELS, smoothing=0.0)[0]

    slopes = jax.jit(jax.grad(loss))(parts.learnt, {**parts.statistics, **parts.fixed})
    return {name: np.asarray(slope) for name, slope in slopes.items()}


def test_neither_attention_nor_autoencoder_reaches_the_backbone(resnet: ResNet) -> None:
    every, alone = (
        _delg_slopes(delg(resnet)),
        _delg_slopes(delg(resnet, attention_weight=0.0, reconstruction_weight=0.0)),
    )
    of_backbone = [name for name in every if name.startswith("backbone.")]
    assert any(np.abs(every[name]).max() > 0 for name in of_backbone)
    for name in (*of_backbone, "embedding.kernel", "landmarks.kernel"):
        np.testing.assert_array_equal(every[name], alone[name], err_msg=name)
    assert not np.any(alone["scorer.attention.score.kernel"]) and not np.any(
        alone["scorer.encoder.kernel"]
    )
    assert np.any(every["scorer.attention.score.kernel"]) and np.any(every["scorer.encoder.kernel"])


def test_the_losses_of_delg_equal_their_definition(resnet: ResNet) -> None:
    """In double precision; two cosines are moved close to −1, where the margin would turn back."""
    network = delg(resnet)
    network.set_mode(training=False)
    cosines = np.array([[0.3, -0.2, 0.9], [0.1, 0.5, -0.9999]])
    angle = np.arccos(cosines[0, 0]) + 0.1
    expected = 45.25 * cosines
    expected[0, 0] = 45.25 * np.cos(angle)
    np.testing.assert_allclose(
        network._with_margin(jnp.asarray(cosines, jnp.float32), LABELS), expected, rtol=1e-5
    )
    # Compiled at once: one operation after another would be compiled one by one.
    total, logits = nnx.jit(lambda network: network.loss(MAPS, LABELS, smoothing=0.0))(network)
    values = {name: np.asarray(value, np.float64) for name, value in Parts(network).learnt.items()}
    features = np.asarray(
        nnx.jit(lambda network: network._features(MAPS).values)(network), np.float64
    )
    rebuilt = (
        features @ values["scorer.encoder.kernel"] @ values["scorer.decoder.kernel"]
        + values["scorer.decoder.bias"]
    )
    rebuilt = np.maximum(rebuilt, 0)
    scores = np.asarray(
        network.scorer.attention(FeatureMap.full(jnp.asarray(rebuilt, jnp.float32))), np.float64
    )
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    local = (scores[..., None] * unit).mean((1, 2)) @ values["classifier.kernel"] + values[
        "classifier.bias"
    ]
    margined = np.asarray(network._with_margin(logits / 45.25, LABELS), np.float64)
    parts = [
        _cross_entropy(margined),
        _cross_entropy(local),
        10 * np.mean((rebuilt - features) ** 2) / np.mean(features**2),
    ]
    np.testing.assert_allclose(total, sum(parts), rtol=1e-4)
    np.testing.assert_allclose(nnx.jit(lambda network: network(MAPS))(network), logits, rtol=1e-5)
    assert np.abs(np.asarray(logits)).max() <= 45.25 * (1 + 1e-5)


def _cross_entropy(logits: np.ndarray) -> float:
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(-np.log(shares[np.arange(2), np.asarray(LABELS)]).mean())
