"""Conversion of a model's parameters and statistics to a flat dictionary of named arrays, and back.

A name is an attribute path joined by dots: ``blocks.3.expand.norm.scale``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

M = TypeVar("M", bound=nnx.Module)


class _OneKey(nnx.RngStream):
    """A stream that returns the same key at every call, for models whose weights are never drawn.

    A traced key counter walks through everything traced so far at each step, which takes seconds
    for ResNet101.
    """

    def __call__(self) -> jax.Array:
        key: jax.Array = self.key[...]
        return key


class _Keys(nnx.Rngs):
    """Random streams for building a model that holds shapes in place of weights."""

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
    """A copy of ``model``, which may be abstract, that holds ``tensors``.

    Callers check names and shapes first, with :func:`delfjax.models.weights.require_match`.

    Raises:
        KeyError: a name is missing.
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
