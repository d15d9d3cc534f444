"""A model's parameters and statistics as a flat dictionary of named arrays, and back.

Names are attribute paths joined by dots: ``blocks.3.expand.norm.scale``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from flax import nnx

M = TypeVar("M", bound=nnx.Module)


def abstract(build: Callable[[nnx.Rngs], M]) -> M:
    """The model with shapes in place of arrays: nothing is computed or compiled."""
    model: M = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    return model


def named_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and statistic, by name."""
    return {_name(path): tuple(variable.shape) for path, variable in _variables(model)}


def named_tensors(model: nnx.Module) -> dict[str, np.ndarray]:
    """Every parameter and statistic, by name."""
    return {_name(path): np.asarray(variable[...]) for path, variable in _variables(model)}


def with_tensors(model: M, tensors: Mapping[str, np.ndarray]) -> M:
    """A copy of ``model`` (which may be abstract) holding ``tensors``; names and shapes must agree exactly.

    Raises:
        KeyError: a name is missing; callers report mismatches by name beforehand.
    """
    graph, state = nnx.split(model)
    flat = [(path, variable.replace(np.asarray(tensors[_name(path)]))) for path, variable in nnx.to_flat_state(state)]
    merged: M = nnx.merge(graph, nnx.from_flat_state(flat))
    return merged


def _variables(model: nnx.Module) -> list[tuple[tuple[object, ...], Any]]:
    return list(nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))))


def _name(path: tuple[object, ...]) -> str:
    return ".".join(str(part) for part in path)
