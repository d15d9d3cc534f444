"""ResNet: geometry composed from the layers and seen in the gradient, padded canvases, the
classifier."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from delfjax.models import tensors
from delfjax.models.layers import FeatureMap
from delfjax.models.resnet import BLOCKS, ResNet, StrideLayout
from delfjax.models.weights import WeightsError
from delfjax.ops.receptive_field import ReceptiveField, compose


def abstract(
    blocks: tuple[int, ...], *, stride_layout: StrideLayout, classes: int | None = None
) -> ResNet:
    return tensors.abstract(
        lambda rngs: ResNet(blocks, stride_layout=stride_layout, classes=classes, rngs=rngs)
    )


# Source: 291/16 and 483/32 of the He et al. layout, 267/16 and 427/32 of torchvision's, published
# for both. By hand: in v1.5 the 3×3 of the first block of conv3, conv4 (and conv5) precedes the
# stride and reaches 8 + 16 (+ 32) pixels less. TensorFlow's are those of DELF's code, which has 291
# at stride 32 for both its networks.
@pytest.mark.parametrize(
    ("stride_layout", "output", "size", "stride"),
    [
        ("he", "conv4", 291, 16),
        ("v1.5", "conv4", 267, 16),
        ("he", "conv5", 483, 32),
        ("v1.5", "conv5", 427, 32),
        ("slim", "conv4", 291, 32),
        ("slim", "conv5", 483, 32),
        ("keras", "conv4", 291, 16),
        ("keras", "conv5", 483, 32),
        ("keras_strided", "conv4", 291, 32),
        ("keras_strided", "conv5", 483, 32),
    ],
)
def test_the_receptive_field_of_resnet50_is_the_published_one(
    stride_layout: StrideLayout, output: str, size: int, stride: int
) -> None:
    model = abstract(BLOCKS["resnet50"], stride_layout=stride_layout)
    # Symmetric padding keeps the centre of cell 0 on pixel 0.
    assert compose(model.windows(output)) == ReceptiveField(size=size, stride=stride, offset=0.0)


@pytest.mark.parametrize("stride_layout", ["he", "v1.5"])
def test_the_gradient_reaches_exactly_the_composed_receptive_field(
    stride_layout: StrideLayout, rng: np.random.Generator
) -> None:
    model = abstract((1, 1, 1, 1), stride_layout=stride_layout)
    # Positive kernels and neutral norms: every ReLU is open and no two paths from a pixel to the
    # cell cancel.
    kernels = {
        n: np.full(s, 0.01, np.float32)
        for n, s in tensors.named_shapes(model).items()
        if n.endswith("kernel")
    }
    model = tensors.with_tensors(model, neutral_norms(model) | kernels)
    model.eval()
    graph, state = nnx.split(model)
    cell, field = 4, compose(model.windows("conv4"))

    @jax.jit
    def gradient(state: Any, images: jax.Array) -> jax.Array:
        def one_cell(images: jax.Array) -> jax.Array:
            return (
                nnx.merge(graph, state)(FeatureMap.full(images), output="conv4")
                .values[:, cell, cell]
                .sum()
            )

        # The max pool lets only its largest input through, so each image shows a part of the
        # support.
        return jnp.abs(jax.grad(one_cell)(images)).sum(axis=(0, 3))

    images = rng.uniform(0.5, 1, (4, 128, 128, 3)).astype(np.float32)
    rows, columns = np.nonzero(np.asarray(gradient(state, images)))
    first = cell * field.stride + field.offset - (field.size - 1) / 2
    assert (rows.min(), rows.max()) == (first, first + field.size - 1)
    assert (columns.min(), columns.max()) == (first, first + field.size - 1)


def neutral_norms(model: ResNet) -> dict[str, np.ndarray]:
    """Batch norm that changes nothing (but for its epsilon)."""
    ones = ("norm.scale", "norm.var")
    shapes = {
        name: shape for name, shape in tensors.named_shapes(model).items() if ".norm." in name
    }
    return {
        name: np.full(shape, float(name.endswith(ones)), np.float32)
        for name, shape in shapes.items()
    }


def test_the_classifier_averages_over_the_image_and_not_over_its_canvas(
    rng: np.random.Generator,
) -> None:
    model = abstract((1, 1, 1, 1), stride_layout="v1.5", classes=5)
    shapes = tensors.named_shapes(model)
    # Biases, so that cells outside the image are not zero by themselves.
    statistics = ("norm.scale", "norm.mean", "norm.var")
    drawn = {
        n: rng.normal(0, 0.05, s).astype(np.float32)
        for n, s in shapes.items()
        if not n.endswith(statistics)
    }
    model = tensors.with_tensors(model, neutral_norms(model) | drawn)
    model.eval()
    graph, state = nnx.split(model)
    classify = jax.jit(lambda state, x: nnx.merge(graph, state).classify(x))
    canvas = rng.normal(size=(1, 96, 96, 3)).astype(np.float32)
    alone = classify(state, FeatureMap.full(canvas[:, :40, :70]))
    padded = classify(state, FeatureMap(canvas, np.array([[40, 70]], np.int32)))
    assert alone.shape == (1, 5)
    # The same sums, possibly in another order: float32 rounding through twelve layers.
    np.testing.assert_allclose(padded, alone, rtol=0, atol=1e-5 * float(np.abs(alone).max()))
    assert np.abs(alone).max() > 1e-3


def test_a_resnet_without_classes_classifies_nothing() -> None:
    model = abstract((1, 1, 1, 1), stride_layout="v1.5")
    with pytest.raises(ValueError, match="classes=1000"):
        model.classify(FeatureMap.full(np.zeros((1, 32, 32, 3), np.float32)))


def test_normalised_imagenet_mean_is_zero_and_one_deviation_above_it_is_one() -> None:
    mean, deviation = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    pixels = np.stack([mean, mean + deviation])[None].astype(np.float32)
    normalised = jax.jit(abstract((1, 1, 1, 1), stride_layout="v1.5").normalise)(pixels[:, :, None])
    # Half a unit in the last place of 255, divided by a deviation of about 58.
    np.testing.assert_allclose(np.asarray(normalised)[0, :, 0], [[0, 0, 0], [1, 1, 1]], atol=1e-6)


@pytest.mark.parametrize("stride_layout", ["slim", "keras", "keras_strided"])
def test_the_networks_of_tensorflow_see_numbers_from_minus_one_to_one(
    stride_layout: StrideLayout,
) -> None:
    pixels = (
        np.array([0, 128, 192], np.float32)[None, None, :, None]
        * np.ones(3, np.float32)[None, None, None]
    )
    normalised = jax.jit(abstract((1, 1, 1), stride_layout=stride_layout).normalise)(pixels)
    np.testing.assert_array_equal(
        np.asarray(normalised)[0, 0, :, 0], np.array([-1, 0, 0.5], np.float32), strict=True
    )


def test_a_resnet_that_ends_at_conv4_has_no_conv5() -> None:
    model = abstract((1, 1, 1), stride_layout="slim")
    assert len(model.layers("conv4")) == 4
    with pytest.raises(WeightsError, match="backbone.output is conv5, but these weights end at"):
        model.layers("conv5")
