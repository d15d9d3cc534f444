"""Networks with random tensors drawn by NumPy, because JAX would compile a program for every
shape."""

from __future__ import annotations

import numpy as np

from delfjax.models.resnet import ResNet
from delfjax.models.tensors import abstract, named_shapes, with_tensors


def random_tensors(
    shapes: dict[str, tuple[int, ...]], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Weights and statistics that keep the values of order one from the image to conv5."""

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("kernel"):
            return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        if name.endswith("norm.var"):
            return rng.uniform(0.5, 1.5, shape)
        if name.endswith("norm.scale"):
            # Small gains at the end of the residual branches keep their sum over sixteen blocks
            # bounded.
            return rng.uniform(0.5, 1.5, shape) * (0.3 if ".expand." in name else 1.0)
        return rng.normal(0, 0.1, shape)

    return {name: draw(name, shape).astype(np.float32) for name, shape in sorted(shapes.items())}


def small_resnet() -> ResNet:
    """Of one block a stage."""
    model = abstract(lambda rngs: ResNet((1, 1, 1, 1), rngs=rngs))
    return with_tensors(model, random_tensors(named_shapes(model), np.random.default_rng(0)))
