"""The receptive field composed from the layers is the support of the gradient."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from delfjax.models.efficientnet_lite import EfficientNetLite0
from delfjax.models.layers import FeatureMap
from delfjax.models.tensors import abstract, named_shapes, with_tensors
from delfjax.ops import convolution
from delfjax.ops.receptive_field import ReceptiveField, Window, boxes_px, compose


def test_two_layers_compose_as_by_hand() -> None:
    assert compose([Window(3, 2, 1), Window(3, 1, 1)]) == ReceptiveField(7, 2, 0.0)
    assert compose([Window(3, 2, 0)]) == ReceptiveField(3, 2, 1.0)


def test_boxes_shrink_as_the_scale_grows() -> None:
    boxes = boxes_px(ReceptiveField(291, 32, 0.0), jnp.zeros((2, 2)), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(boxes, [[-145, -145, 145, 145], [-72.5, -72.5, 72.5, 72.5]])


@pytest.mark.parametrize(("output", "size", "stride"), [("conv4", 339, 16), ("conv5", 851, 32)])
def test_the_gradient_of_a_cell_fills_its_receptive_field(
    output: str, size: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The gradient of the kernels is not needed here and would take long to trace.
    monkeypatch.setattr(convolution, "_MOST_ROWS", 2)
    monkeypatch.setattr(convolution, "_FEW_ROWS", 2)
    field = compose(abstract(_efficientnet).windows(output))
    assert (field.size, field.stride) == (size, stride)
    assert_gradient_fills(_efficientnet, output, field)


def _efficientnet(rngs: nnx.Rngs) -> EfficientNetLite0:
    return EfficientNetLite0(rngs=rngs)


def assert_gradient_fills(
    build: Callable[[nnx.Rngs], nnx.Module], output: str, field: ReceptiveField
) -> None:
    """Check along each axis that the input gradient of one cell is nonzero exactly in its field."""
    side = (field.size // field.stride + 4) * field.stride
    shapes = named_shapes(abstract(build))
    # Averaging kernels on a small positive image: a gradient vanishes only where no path exists.
    tensors = {
        name: np.full(shape, _averaging(name, shape), np.float32) for name, shape in shapes.items()
    }
    model = with_tensors(abstract(build), tensors)
    model.eval()
    cell = side // field.stride // 2

    def value(pixels: jax.Array) -> jax.Array:
        features = model(FeatureMap.full(pixels), output=output)
        return features.values[0, cell, cell].sum()

    pixels = np.full((1, side, side, 3), 1e-3, np.float32)
    support = np.abs(np.asarray(jax.jit(jax.grad(value))(pixels))).sum(axis=(0, 3)) > 0
    rows, columns = np.flatnonzero(support.any(axis=1)), np.flatnonzero(support.any(axis=0))
    for touched in (rows, columns):
        assert touched[-1] - touched[0] + 1 == field.size
        assert (touched[0] + touched[-1]) / 2 == cell * field.stride + field.offset


def _averaging(name: str, shape: tuple[int, ...]) -> float:
    kind = name.rsplit(".", 1)[-1]
    if kind == "kernel":
        return 1 / max(1, int(np.prod(shape[:-1])))
    return 1.0 if kind in ("scale", "var") else 0.0
