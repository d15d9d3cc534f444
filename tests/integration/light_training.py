"""Training without its arithmetic, for tests that kill it: all that it reads and writes is real,
and what it learns depends on every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flax import nnx

from delfjax import paths
from delfjax.config import Config, TrainingConfig, override
from delfjax.models.resnet import ResNet
from delfjax.models.tensors import abstract, named_shapes, with_tensors
from delfjax.training import loop, maps, stages
from delfjax.training.batches import Batch, Batches
from delfjax.training.loop import Parts, TrainingState
from delfjax.training.networks import Network, make_network
from tests.unit.models.random_networks import random_tensors

_CHANNELS = 3
# Side of a cell of a feature map, pixels.
_STRIDE = 16


class LightTrainer:
    """Learns the mean of each batch instead of its landmarks."""

    def __init__(self, network: Network, config: TrainingConfig, devices: object) -> None:
        self._parts = Parts(network)

    def start(self) -> TrainingState:
        """The state before the first step; each step moves every tensor."""
        return TrainingState(
            dict(self._parts.learnt), dict(self._parts.statistics), {"count": np.zeros(1)}
        )

    def step(self, state: TrainingState, batch: Batch) -> tuple[TrainingState, dict[str, Any]]:
        """The state after one more step."""
        mean = np.float32(batch.inputs.astype(np.float64).mean() + batch.labels.mean())
        learnt = {name: (value + mean) / 2 for name, value in state.learnt.items()}
        optimiser = {"count": state.optimiser["count"] + 1}
        after = TrainingState(learnt, state.statistics, optimiser)
        return after, {"loss": mean, "accuracy": mean / 300}

    def validate(self, state: TrainingState, batches: Batches) -> dict[str, float]:
        """Scores of which the best is neither the first nor the last."""
        step = int(state.optimiser["count"][0])
        batch = batches.central(np.flatnonzero(batches.validation), 0)
        return {"loss": float(batch.inputs.mean()), "accuracy": 1 / (2 + abs(step - 2))}

    def trained(self, state: TrainingState) -> Network:
        """The network of a state."""
        tensors = {**self._parts.fixed, **state.learnt, **state.statistics}
        return self._parts.network(tensors, training=False)


def _light_maps(
    graph: object, state: object, inputs: np.ndarray, *, layers: Any, side: int
) -> Iterator[np.ndarray]:
    cells = max(1, side // _STRIDE)
    for photo in inputs.astype(np.float32):
        yield np.full((1, cells, cells, _CHANNELS), photo.mean() / 256, np.float16)


def prepare(data: Path, classes: int, changes: list[str], stage: str) -> None:
    """Let this process train lightly.

    Args:
        data: the data root, where feature maps are cached; compiled programs stay where they are.
        classes: number of landmarks.
        changes: assignments of the config of the training.
        stage: the stage that is trained.
    """
    programs, compiled = paths.program_cache(), paths.compilation_cache()
    setattr(paths, "program_cache", lambda: programs)  # noqa: B010 - mypy refuses an assignment
    setattr(paths, "compilation_cache", lambda: compiled)  # noqa: B010 - mypy refuses an assignment
    os.environ["DELFJAX_DATA"] = str(data)
    config = override(TrainingConfig(stage=stage), changes)  # type: ignore[arg-type]  # the name of a stage
    override(Config(), ["seed=1"])

    def build(rngs: nnx.Rngs) -> Network:
        backbone = ResNet((1, 1, 1), rngs=rngs)
        return make_network(backbone, classes, config=config, output="conv4", rngs=rngs)

    shapes = abstract(build)
    rng = np.random.default_rng(4)
    network = with_tensors(shapes, random_tensors(named_shapes(shapes), rng))
    light: dict[Any, dict[str, Any]] = {
        loop: {"Trainer": LightTrainer, "make_schedule": lambda *parts: lambda step: 0.5**step},
        maps: {"_maps": _light_maps, "fold_batch_norm": lambda backbone: backbone},
        stages: {
            "load_backbone": lambda *parts, **options: None,
            "make_network": lambda *parts, **options: network,
            # Random numbers are drawn by a device, whose start takes long.
            "nnx": SimpleNamespace(Rngs=lambda seed: seed),
        },
    }
    for module, parts in light.items():
        for name, part in parts.items():
            assert hasattr(module, name)
            setattr(module, name, part)
