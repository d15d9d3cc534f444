"""The one loop of all stages: batches in, a trained network out; a run that is killed goes on with
the same numbers.

A step is two compiled programs over all local devices, with the parameters on each and the batch
divided among them: the gradient, for each size of maps, and the optimiser's update, one for all
sizes, to which what it changes is given up. Batches are prepared by threads while the device
computes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from tqdm.auto import tqdm

from delfjax.config import TrainingConfig, to_dict
from delfjax.files import append_json_line, read_json_lines, write_json_lines
from delfjax.training.batches import Batch, Batches, LabelledPhotos, TrainingError
from delfjax.training.checkpoints import Checkpoints
from delfjax.training.networks import Network
from delfjax.training.optimiser import make_optimiser, make_schedule
from delfjax.types import Array

METRICS = "metrics.jsonl"
# Batches prepared ahead.
_AHEAD = 3
# Platforms that are fastest with one image after another: its maps stay in the processor's cache.
# From so many parameters on, a few images share the reading of them. Measured for crops of 224 px
# on two cores: EfficientNet-Lite0 with single images is 2.2 times faster than with a batch of 32 at
# once and 1.15 times faster than with pairs; ResNet50 with fours is 2 times faster than with all,
# 1.04 times than with pairs and 1.07 times than with single images.
_ONE_BY_ONE, _MANY_PARAMETERS, _SHARING = ("cpu",), 1 << 23, 4
Tensors = dict[str, Array]


@dataclass(frozen=True)
class TrainingReport:
    """What a call has done.

    Attributes:
        network: the trained network, of the best checkpoint.
        steps: of the whole training.
        resumed_at: steps that were done before.
        best_step: steps done at the best checkpoint.
        validation: step → loss and accuracy on the photographs held out.
        seconds: wall time of this call.
        images_per_second: of this call.
        failures: photographs that could not be read, and why.
    """

    network: Network
    steps: int
    resumed_at: int
    best_step: int
    validation: dict[int, dict[str, float]]
    seconds: float
    images_per_second: float
    failures: dict[str, str]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainingState:
    """What a step changes: parameters, statistics of batch norm, and the optimiser's memory;
    tensors by dotted name."""

    learnt: PyTree
    statistics: PyTree
    optimiser: PyTree


class Parts:
    """A network taken apart: what learns, statistics, and what stays as it is, each by dotted
    name."""

    def __init__(self, network: Network) -> None:
        network.set_mode(training=True)
        self._training = nnx.graphdef(network)
        network.set_mode(training=False)
        self._evaluating, state = nnx.split(network)
        self._variables = {
            ".".join(map(str, path)): (path, variable)
            for path, variable in nnx.to_flat_state(state)
        }
        self.learnt: Tensors = {}
        self.statistics: Tensors = {}
        self.fixed: Tensors = {}
        for name, (path, variable) in self._variables.items():
            parameter = isinstance(variable, nnx.Param)
            group = (
                self.fixed
                if not network.learns(path)
                else self.learnt
                if parameter
                else self.statistics
            )
            group[name] = np.asarray(variable[...])

    def network(self, tensors: Mapping[str, Any], *, training: bool) -> Network:
        """The network with ``tensors``, all of them."""
        flat = [
            (path, variable.replace(tensors[name]))
            for name, (path, variable) in self._variables.items()
        ]
        merged: Network = nnx.merge(
            self._training if training else self._evaluating, nnx.from_flat_state(flat)
        )
        return merged

    def statistics_of(self, network: Network) -> Tensors:
        """Statistics that a call has updated."""
        flat = {
            ".".join(map(str, path)): variable
            for path, variable in nnx.to_flat_state(nnx.state(network))
        }
        return {name: flat[name][...] for name in self.statistics}


def train(
    network: Network,
    batches: Batches,
    *,
    config: TrainingConfig,
    folder: Path,
    about: Mapping[str, Any] | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> TrainingReport:
    """Train a network, or go on where an earlier call was stopped.

    Args:
        network: of the stage that ``config`` names, before its first step.
        batches: what it learns from.
        config: how.
        folder: of the checkpoints and :data:`METRICS`; one training's alone.
        about: plain values beside ``config`` that decide the result, such as the seed: a folder of
            others is refused.
        devices: where; all local ones otherwise.
        progress: show a progress bar.

    Raises:
        TrainingError: a loss that is no number (the step and its photographs are named), a batch
            that the devices or the parts cannot share evenly, or a folder of another training.
    """
    started = time.perf_counter()
    trainer = Trainer(network, config, list(jax.local_devices() if devices is None else devices))
    validation: dict[int, dict[str, float]] = {}
    with Checkpoints(folder, {**to_dict(config), **(about or {})}) as checkpoints:
        state, first = trainer.start(), checkpoints.last or 0
        if first:
            state = checkpoints.restore(first, state)
        lines = _Lines(folder / METRICS, until=first, config=config)
        validation.update(lines.validation)
        with tqdm(
            total=config.steps, initial=first, desc=config.stage, unit="step", disable=not progress
        ) as bar:
            for step, batch in _prepared(batches, range(first, config.steps)):
                state, metrics = trainer.step(state, batch)
                done = step + 1
                lines.add(done, metrics, batch, batches.photos)
                bar.update()
                if done % config.validate_every == 0 or done == config.steps:
                    lines.settle(batches.photos)
                    validation[done] = trainer.validate(state, batches)
                    lines.write(
                        {
                            "step": done,
                            **{
                                f"validation_{name}": value
                                for name, value in validation[done].items()
                            },
                        }
                    )
                    checkpoints.save(done, state, validation[done])
                    rate = (done - first) * config.batch_size / (time.perf_counter() - started)
                    bar.set_postfix({**validation[done], "images/s": round(rate)}, refresh=False)
        best = checkpoints.best or config.steps
        trained = trainer.trained(checkpoints.restore(best, state))
    seconds = time.perf_counter() - started
    images = (config.steps - first) * config.batch_size
    return TrainingReport(
        trained, config.steps, first, best, validation, seconds, images / seconds, batches.failures
    )


class Trainer:
    """The compiled programs of a training, and where its arrays lie."""

    def __init__(self, network: Network, config: TrainingConfig, devices: list[jax.Device]) -> None:
        if config.batch_size % (config.accumulate * len(devices)):
            raise TrainingError(
                f"batch_size {config.batch_size} is not a multiple of accumulate × devices,"
                f" {config.accumulate} × {len(devices)}"
            )
        self._config, self._parts = config, Parts(network)
        self._one_by_one, self._devices = devices[0].platform in _ONE_BY_ONE, len(devices)
        self._accumulate = max(
            config.accumulate, self._cuts(config.batch_size) if network.images_apart else 1
        )
        mesh = Mesh(np.array(devices), ("batch",))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._divided = NamedSharding(mesh, PartitionSpec("batch"))
        self._optimiser = make_optimiser(config.optimiser, config.steps)
        self._fixed = jax.device_put(self._parts.fixed, self._everywhere)
        self._gradient = jax.jit(self._mean_gradient)
        self._update = jax.jit(self._updated, donate_argnums=(0, 1))
        self._score = jax.jit(self._scored)

    def start(self) -> TrainingState:
        """The state before the first step."""
        parts = self._parts

        @partial(jax.jit, out_shardings=self._everywhere)
        def begun(learnt: Tensors, statistics: Tensors) -> TrainingState:
            return TrainingState(learnt, statistics, self._optimiser.init(learnt))

        # Copies: the state is given up to the first step, and the network that was handed in keeps
        # its own.
        state: TrainingState = begun(*jax.tree.map(np.array, (parts.learnt, parts.statistics)))
        return state

    def step(
        self, state: TrainingState, batch: Batch
    ) -> tuple[TrainingState, dict[str, jax.Array]]:
        """The state after one more step, and its loss and accuracy; returns at once."""
        inputs, labels = jax.device_put(
            (batch.inputs, batch.labels.astype(np.int32)), self._divided
        )
        slope, statistics, metrics = self._gradient(
            state.learnt, state.statistics, self._fixed, inputs, labels
        )
        learnt, optimiser = self._update(state.learnt, state.optimiser, slope)
        return TrainingState(learnt, statistics, optimiser), metrics

    def validate(self, state: TrainingState, batches: Batches) -> dict[str, float]:
        """Mean loss and accuracy over the photographs held out, at every rescale."""
        members, size = np.flatnonzero(batches.validation), self._config.batch_size
        total = np.zeros(3)
        for rescale in range(len(self._config.rescales)):
            for start in range(0, len(members), size):
                part = members[start : start + size]
                batch = batches.central(np.resize(part, size), rescale)
                weight = (np.arange(size) < len(part)).astype(np.float32)
                placed = jax.device_put(
                    (batch.inputs, batch.labels.astype(np.int32), weight), self._divided
                )
                total += np.array(
                    jax.device_get(self._score(state, self._fixed, *placed)), np.float64
                )
        loss, right, count = total
        return {"loss": float(loss / max(count, 1)), "accuracy": float(right / max(count, 1))}

    def trained(self, state: TrainingState) -> Network:
        """The network of a state, on the host."""
        tensors = jax.device_get({**self._parts.fixed, **state.learnt, **state.statistics})
        return self._parts.network(tensors, training=False)

    def _mean_gradient(
        self,
        learnt: Tensors,
        statistics: Tensors,
        fixed: Tensors,
        inputs: jax.Array,
        labels: jax.Array,
    ) -> tuple[Tensors, Tensors, dict[str, jax.Array]]:
        """Gradient of a batch, statistics of batch norm after it, and its loss and accuracy."""
        gradient = jax.value_and_grad(self._loss, has_aux=True)

        def add_part(
            so_far: tuple[Tensors, Tensors], part: tuple[jax.Array, ...]
        ) -> tuple[tuple[Tensors, Tensors], tuple[jax.Array, jax.Array]]:
            before, total = so_far
            images, their_labels = part
            (loss, (after, right)), slope = gradient(learnt, before, fixed, images, their_labels)
            return (after, jax.tree.map(jnp.add, total, slope)), (loss, right)

        parts = _divided(inputs, self._accumulate), _divided(labels, self._accumulate)
        start = statistics, jax.tree.map(jnp.zeros_like, learnt)
        (after, total), (losses, right) = jax.lax.scan(add_part, start, parts)
        mean = jax.tree.map(lambda value: value / self._accumulate, total)
        return mean, after, {"loss": losses.mean(), "accuracy": right.mean()}

    def _updated(
        self, learnt: Tensors, optimiser: PyTree, slope: Tensors
    ) -> tuple[Tensors, PyTree]:
        # optax promotes its whole-number counts by itself.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimiser = self._optimiser.update(slope, optimiser, learnt)
        return optax.apply_updates(learnt, updates), optimiser

    def _loss(
        self,
        learnt: Tensors,
        statistics: Tensors,
        fixed: Tensors,
        inputs: jax.Array,
        labels: jax.Array,
    ) -> tuple[jax.Array, tuple[Tensors, jax.Array]]:
        network = self._parts.network({**learnt, **statistics, **fixed}, training=True)
        loss, logits = network.loss(
            self._maps(network, inputs), labels, smoothing=self._config.label_smoothing
        )
        right = jnp.mean((logits.argmax(axis=-1) == labels).astype(jnp.float32))
        return loss, (self._parts.statistics_of(network), right)

    def _scored(
        self,
        state: TrainingState,
        fixed: Tensors,
        inputs: jax.Array,
        labels: jax.Array,
        weight: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        network = self._parts.network({**state.learnt, **state.statistics, **fixed}, training=False)
        logits = self._each(lambda images: network(self._maps(network, images)), inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        right = (logits.argmax(axis=-1) == labels).astype(jnp.float32)
        return jnp.sum(losses * weight), jnp.sum(right * weight), jnp.sum(weight)

    def _cuts(self, count: int) -> int:
        """Parts of ``count`` images to compute one after another: one of all, or of an image or a
        few for each device."""
        if not self._one_by_one:
            return 1
        each = count // self._devices
        tensors = {**self._parts.learnt, **self._parts.fixed}
        many = sum(tensor.size for tensor in tensors.values()) >= _MANY_PARAMETERS
        return each // math.gcd(each, _SHARING) if many else each

    def _each(self, function: Callable[[jax.Array], jax.Array], inputs: jax.Array) -> jax.Array:
        """``function`` of inputs that do not need each other: all at once, or one after another on
        each device."""
        parts: jax.Array = jax.lax.map(function, _divided(inputs, self._cuts(len(inputs))))
        return parts.swapaxes(0, 1).reshape(len(inputs), *parts.shape[2:])

    def _maps(self, network: Network, inputs: jax.Array) -> jax.Array:
        """What the network learns from: maps that were cached, or those of photographs."""
        dtype = self._config.dtype
        if inputs.dtype == jnp.uint8:
            inputs = self._each(
                lambda photographs: network.fixed(photographs.astype(jnp.float32), dtype), inputs
            )
        return jax.lax.stop_gradient(inputs).astype(jnp.dtype(dtype))


def _divided(batch: jax.Array, parts: int) -> jax.Array:
    """A batch in parts, ``[parts, …]``: every parts-th image each, so that each device holds its
    share of every part."""
    return batch.reshape(-1, parts, *batch.shape[1:]).swapaxes(0, 1)


def _prepared(batches: Batches, steps: range) -> Iterator[tuple[int, Batch]]:
    """The batches of ``steps`` in order, a few prepared ahead by threads."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        ahead = {step: pool.submit(batches.at, step) for step in steps[:_AHEAD]}
        for step in steps:
            batch = ahead.pop(step).result()
            if step + _AHEAD in steps:
                ahead[step + _AHEAD] = pool.submit(batches.at, step + _AHEAD)
            yield step, batch


class _Lines:
    """The metrics on disk, one JSON object a line: losses of some steps, and every validation."""

    def __init__(self, file: Path, *, until: int, config: TrainingConfig) -> None:
        """Keep what was written about the first ``until`` steps; what came after them will come
        again."""
        self._file, self._config = file, config
        self._schedule = make_schedule(config.optimiser, config.steps)
        held = read_json_lines(file, error=TrainingError) if until and file.is_file() else []
        lines = [line for line in held if line["step"] <= until]
        write_json_lines(file, lines)
        self.validation = {
            line["step"]: {"loss": line["validation_loss"], "accuracy": line["validation_accuracy"]}
            for line in lines
            if "validation_loss" in line
        }
        self._waiting: tuple[int, dict[str, jax.Array], Batch] | None = None

    def add(
        self, done: int, metrics: dict[str, jax.Array], batch: Batch, photos: LabelledPhotos
    ) -> None:
        """Note a step; the one before it is waited for, and checked."""
        self.settle(photos)
        self._waiting = done, metrics, batch

    def settle(self, photos: LabelledPhotos) -> None:
        """Wait for the last step that was noted.

        Raises:
            TrainingError: its loss is no number.
        """
        if self._waiting is None:
            return
        (done, metrics, batch), self._waiting = self._waiting, None
        values = {name: float(value) for name, value in metrics.items()}
        if not math.isfinite(values["loss"]):
            files = ", ".join(photos.paths[member] for member in batch.members)
            raise TrainingError(
                f"step {done}: the loss is {values['loss']}; the batch held {files}"
            )
        if done % self._config.log_every == 0:
            self.write({"step": done, **values, "learning_rate": float(self._schedule(done - 1))})

    def write(self, line: Mapping[str, int | float]) -> None:
        """Append one line."""
        append_json_line(self._file, line)
