"""A model's parameters and statistics as a flat dictionary of named arrays, and back.

Names are attribute paths joined by dots: ``blocks.3.expand.norm.scale``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

M = TypeVar("M", bound=nnx.Module)


class _OneKey(nnx.RngStream):
    """The same key at every call, which is as good as any other where nothing is drawn: each step
    of a count of keys that is traced costs a walk through all that was traced before, in ResNet101
    seconds."""

    def __call__(self) -> jax.Array:
        key: jax.Array = self.key[...]
        return key


class _Keys(nnx.Rngs):
    """Where the parameters of a model that holds shapes take their key from."""

    params: nnx.RngStream

    def __init__(self) -> None:
        super().__init__(0)
        self.params = _OneKey(0, tag="params")


def abstract(build: Callable[[nnx.Rngs], M]) -> M:
    """The model with shapes in place of arrays: nothing is computed or compiled."""
    model: M = nnx.eval_shape(lambda: build(_Keys()))
    return model


def named_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and statistic, by name."""
    return {_name(path): tuple(variable.shape) for path, variable in _variables(model)}


def named_tensors(model: nnx.Module) -> dict[str, np.ndarray]:
    """Every parameter and statistic, by name."""
    return {_name(path): np.asarray(variable[...]) for path, variable in _variables(model)}


def with_tensors(model: M, tensors: Mapping[str, np.ndarray]) -> M:
    """A copy of ``model`` (which may be abstract) holding ``tensors``; names and shapes must agree
    exactly.

    Raises:
        KeyError: a name is missing; callers report mismatches by name beforehand.
    """
    graph, state = nnx.split(model)
    flat = [
        (path, variable.replace(np.asarray(tensors[_name(path)])))
        for path, variable in nnx.to_flat_state(state)
    ]
    merged: M = nnx.merge(graph, nnx.from_flat_state(flat))
    return merged


def _variables(model: nnx.Module) -> list[tuple[tuple[object, ...], Any]]:
    return list(nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))))


def _name(path: tuple[object, ...]) -> str:
    return ".".join(str(part) for part in path)
