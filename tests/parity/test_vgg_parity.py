"""VGG16 against a float64 forward pass written from the definition, and against PyTorch where it is
installed."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from delfjax.config import BackboneConfig
from delfjax.models.delf import load_backbone
from delfjax.models.layers import FeatureMap
from delfjax.models.tensors import named_tensors

# "M" is a pooling. Source: Simonyan and Zisserman 2015, column D.
LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
# Layers before each output.
BEFORE = {"conv4": 13, "conv5": 17, "pool5": 18}
# float32 rounding of a sum of up to 4608 products, through thirteen layers; measured, about 1e-6 of
# the largest value.
TOLERANCE = 1e-4


def feature_maps(pixels: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Every output for RGB in 0 … 255 ``[h, w, 3]`` by ours, and the network's tensors."""
    model = load_backbone(BackboneConfig(name="vgg16", output="conv5"))
    graph, state = nnx.split(model)

    @jax.jit
    def forward(state: Any, pixels: jax.Array) -> dict[str, jax.Array]:
        merged = nnx.merge(graph, state)
        x = FeatureMap.full(merged.normalise(pixels))
        return {output: merged(x, output=output).values for output in BEFORE}

    maps = forward(state, pixels[None].astype(np.float32))
    return {output: np.asarray(values)[0] for output, values in maps.items()}, named_tensors(model)


def defined(pixels: np.ndarray, named: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The map after each layer, in float64: a sum over taps for each convolution."""
    x = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    maps, number = [], 0
    for layer in LAYERS:
        if layer == "M":
            rows, columns = x.shape[0] // 2, x.shape[1] // 2
            x = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1).max(axis=(1, 3))
        else:
            kernel = named[f"convolutions.{number}.kernel"].astype(np.float64)
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            rows, columns = x.shape[:2]
            taps = [
                padded[i : i + rows, j : j + columns] @ kernel[i, j]
                for i in range(3)
                for j in range(3)
            ]
            x = np.maximum(sum(taps) + named[f"convolutions.{number}.bias"], 0)
            number += 1
        maps.append(x)
    return maps


def test_vgg16_equals_its_definition_in_float64(rng: np.random.Generator) -> None:
    # Odd at the first pooling, and at later ones.
    pixels = rng.integers(0, 256, (45, 70, 3)).astype(np.float64)
    ours, named = feature_maps(pixels)
    maps = defined(pixels, named)
    for output, before in BEFORE.items():
        reference = maps[before - 1]
        assert ours[output].shape == reference.shape
        largest = np.abs(reference).max()
        assert largest > 0.5
        np.testing.assert_allclose(ours[output], reference, rtol=0, atol=TOLERANCE * largest)


def test_vgg16_equals_plain_pytorch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch", reason="the extra `bench` is not installed")
    pixels = rng.integers(0, 256, (97, 130, 3)).astype(np.float32)
    ours, named = feature_maps(pixels)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = ((pixels / 255 - mean) / deviation).astype(np.float32)
    x, number, maps = torch.from_numpy(normalised.transpose(2, 0, 1)[None]), 0, []
    with torch.no_grad():
        for layer in LAYERS:
            if layer == "M":
                x = torch.nn.functional.max_pool2d(x, 2, 2)
            else:
                kernel = named[f"convolutions.{number}.kernel"].transpose(3, 2, 0, 1).copy()
                bias = torch.from_numpy(named[f"convolutions.{number}.bias"].copy())
                x = torch.relu(
                    torch.nn.functional.conv2d(x, torch.from_numpy(kernel), bias, padding=1)
                )
                number += 1
            maps.append(x.numpy()[0].transpose(1, 2, 0))
    for output, before in BEFORE.items():
        reference = maps[before - 1]
        largest = np.abs(reference).max()
        np.testing.assert_allclose(ours[output], reference, rtol=0, atol=TOLERANCE * largest)
