"""DELF and DELG imported from TensorFlow's checkpoints equal the published networks, whatever the
parity of an image's sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from delfjax.models import tensors
from delfjax.models.attention import AttentionScorer, AutoencodedScorer
from delfjax.models.delf import Delf, Scorer, describe
from delfjax.models.foreign.delf_release import recognise
from delfjax.models.foreign.importing import import_tensorflow
from delfjax.models.layers import FeatureMap, fold_batch_norm
from delfjax.models.resnet import ResNet, StrideLayout
from delfjax.ops.receptive_field import ReceptiveField, compose
from tests.parity.tensorflow_networks import (
    CODE,
    HIDDEN,
    keras,
    keras_variables,
    slim,
    slim_variables,
)
from tests.unit.models.foreign.tensor_bundles import write_bundle, write_objects

# A stage's last block with and without a projection, and conv5.
BLOCKS = (2, 1, 2, 1)
# Odd and even, and odd and even after the first convolution: (32, 24), (25, 32), (31, 23).
SIZES = np.array([[63, 48], [49, 64], [62, 45]], np.int32)
# Relative to the largest value: float32 rounding through thirty layers; measured, about 2e-6. A
# window one cell aside is an error of a fifth.
TOLERANCE = 1e-4

Outputs = tuple[FeatureMap, FeatureMap, jax.Array, jax.Array]


def imported(path: Path, layout: StrideLayout, *, coded: bool = False) -> Delf:
    """The model of a checkpoint, ready for extraction."""

    def build(rngs: nnx.Rngs) -> Delf:
        scorer: Scorer = AttentionScorer(1024, hidden=HIDDEN, rngs=rngs)
        if coded:
            scorer = AutoencodedScorer(
                1024, code_dim=CODE, code_bias=True, hidden=HIDDEN, rngs=rngs
            )
        return Delf(ResNet(BLOCKS, stride_layout=layout, rngs=rngs), scorer, output="conv4")

    found, abstract = recognise(path), tensors.abstract(build)
    assert layout in found.layouts and found.coded == coded
    ours = import_tensorflow(
        found.tensors, tensors.named_shapes(abstract), naming=found.naming, source=path
    )
    return fold_batch_norm(tensors.with_tensors(abstract, ours))


def outputs(model: Delf, canvas: np.ndarray) -> Outputs:
    """conv4 and conv5 of images in the corners of canvases, scores and descriptors of conv4, by one
    program."""
    graph, state = nnx.split(model)

    @jax.jit
    def run(state: Any, canvas: jax.Array) -> Outputs:
        merged = nnx.merge(graph, state)
        features, scores = merged(canvas, SIZES)
        normal = FeatureMap(merged.backbone.normalise(canvas), SIZES)
        flat = features.values.reshape(len(SIZES), -1, features.values.shape[-1])
        described = describe(merged.scorer, flat).reshape(*features.values.shape[:3], -1)
        return features, merged.backbone(normal, output="conv5"), scores, described

    found: Outputs = run(state, canvas)
    return found


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max()
    assert largest > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * largest)


@pytest.fixture
def canvas(rng: np.random.Generator) -> np.ndarray:
    """Images in the upper left corners, and values beyond them that must not matter."""
    return rng.uniform(0, 255, (len(SIZES), 64, 64, 3)).astype(np.float32)


def assert_equal_to(
    model: Delf,
    found: Outputs,
    theirs: list[tuple[list[np.ndarray], np.ndarray, np.ndarray | None]],
) -> None:
    """Each image, alone in ``theirs``, equals its part of the canvases."""
    conv4, conv5, scores, described = found
    stride, lost = model.receptive_field.stride, model.backbone.lost_px(model.output)
    np.testing.assert_array_equal(conv4.extent, -(-(SIZES - lost) // stride))
    for slot, (maps, alone, codes) in enumerate(theirs):
        for ours, expected in ((conv4, maps[2]), (conv5, maps[3])):
            rows, columns = np.asarray(ours.extent)[slot]
            assert_close(np.asarray(ours.values)[slot, :rows, :columns], expected)
        rows, columns = alone.shape
        assert_close(np.asarray(scores)[slot, :rows, :columns], alone)
        assert_close(
            np.asarray(described)[slot, :rows, :columns], maps[2] if codes is None else codes
        )


def test_tf1_delf_equals_its_definition_in_float64(
    canvas: np.ndarray, rng: np.random.Generator, tmp_path: Path
) -> None:
    named = slim_variables(BLOCKS, rng)
    extras = {
        "global_step": np.array(7, np.int64),
        "attention_block/logits/weights": np.zeros((1, 1, 1024, 5), np.float32),
    }
    extras |= {
        f"{name}/Momentum": tensor
        for name, tensor in named.items()
        if name.endswith("conv1/BatchNorm/beta")
    }
    model = imported(write_bundle(tmp_path / "model.ckpt-7", named | extras), "slim")
    theirs = [
        (*slim(named, canvas[slot, :rows, :columns]), None)
        for slot, (rows, columns) in enumerate(SIZES)
    ]
    assert_equal_to(model, outputs(model, canvas), theirs)
    # 11 after the pool, then two 3×3 at every 4th pixel, one at every 8th and two at every 16th.
    assert compose(model.backbone.windows()) == ReceptiveField(size=107, stride=32, offset=0.0)


@pytest.mark.parametrize(("layout", "coded"), [("keras", False), ("keras_strided", True)])
def test_tf2_delf_and_delg_equal_their_definition_in_float64(
    layout: StrideLayout, coded: bool, canvas: np.ndarray, rng: np.random.Generator, tmp_path: Path
) -> None:
    named = keras_variables(BLOCKS, rng, coded=coded)
    extras = {
        "optimizer/iter": np.array(7, np.int64),
        "model/desc_classification/kernel": np.zeros((2048, 5), np.float32),
        "model/backbone/embedding_layer/bias": np.zeros(2048, np.float32),
        "save_counter": np.array(1, np.int64),
    }
    held = {f"model/{name}": tensor for name, tensor in named.items()} | extras
    model = imported(write_objects(tmp_path / "ckpt-1", held), layout, coded=coded)
    theirs = [
        keras(named, canvas[slot, :rows, :columns], block3_strides=layout == "keras_strided")
        for slot, (rows, columns) in enumerate(SIZES)
    ]
    assert_equal_to(model, outputs(model, canvas), theirs)
    assert model.channels == (CODE if coded else 1024)
