"""The training loop of all stages: batches in, a trained network out. A run that was killed resumes
with the same numbers.

A step runs two compiled programs on all local devices; the parameters are replicated and the batch
is divided among the devices. The first program computes the gradient and is compiled once for every
size of feature map. The second applies the optimiser's update, is compiled once, and reuses the
memory of the arrays it replaces. Threads prepare batches while the device computes.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int64, PyTree
from tqdm.auto import tqdm

from delfjax.config import GlobalTrainingConfig, TrainingConfig
from delfjax.errors import DelfjaxWarning
from delfjax.files import append_json_line, parse_json, write_json_lines
from delfjax.ops.whitening import Projection
from delfjax.records import Number, Record, Whole, require_record
from delfjax.training.batches import (
    Batch,
    Batches,
    LabelledPhotos,
    PaddedPhotos,
    TrainingError,
)
from delfjax.training.checkpoints import Checkpoints
from delfjax.training.networks import Network
from delfjax.training.optimiser import make_optimiser, make_schedule
from delfjax.training.tuple_batches import RoundBatches, TupleBatches
from delfjax.training.tuples import retrieval_precision
from delfjax.types import Array

METRICS = "metrics.jsonl"
# Names that the validation scores have in the metrics file.
_SCORES = {
    "loss": "validation_loss",
    "accuracy": "validation_accuracy",
    "precision": "validation_precision",
}
# Number of batches prepared ahead.
_AHEAD = 3
# Platforms that are fastest when images are computed one by one, because the feature maps of one
# image stay in the processor's cache.
_ONE_BY_ONE = ("cpu",)
# Above this many parameters, reading the weights dominates, so a few images (_SHARING) are computed
# together. Measured for crops of 224 px on two cores: EfficientNet-Lite0 with single images is 2.2
# times faster than with a batch of 32 at once and 1.15 times faster than with pairs; ResNet50 in
# groups of four is 2 times faster than with the whole batch, 1.04 times faster than with pairs and
# 1.07 times faster than with single images.
_MANY_PARAMETERS = 1 << 23
_SHARING = 4
# Photos that a device describes in one call.
_DESCRIBED = 8
Tensors = dict[str, Array]
Inputs = jax.Array | PaddedPhotos


@dataclass(frozen=True)
class TrainingReport:
    """The result of a call of :func:`train`.

    Attributes:
        network: the trained network at the best checkpoint.
        steps: number of steps of the whole run.
        resumed_at: number of steps done by earlier calls.
        best_step: number of steps done at the best checkpoint, or at the last one if no photo is
            held out.
        validation: step → loss and accuracy on the held-out photos, or the mean average precision
            of retrieval among those of held-out landmarks; empty if there are none.
        seconds: wall time of this call.
        images_per_second: throughput of this call.
        failures: photo → reason, for photos that could not be read.
        whitening: the learned whitening of the network's global descriptors, if there is one.
    """

    network: Network
    steps: int
    resumed_at: int
    best_step: int
    validation: dict[int, dict[str, float]]
    seconds: float
    images_per_second: float
    failures: dict[str, str]
    whitening: Projection | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainingState:
    """The arrays that a step changes, tensors by dotted name.

    Attributes:
        learnt: trained parameters.
        statistics: batch norm statistics that are learned.
        optimiser: state of the optimiser.
        drawn: the tuples of the present round, by "tuples"; empty where there are no tuples.
    """

    learnt: PyTree
    statistics: PyTree
    optimiser: PyTree
    drawn: PyTree = field(default_factory=dict)


class Parts:
    """A network split into trained parameters, learned statistics and fixed tensors, each by dotted
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
            if not network.learns(path):
                group = self.fixed
            elif isinstance(variable, nnx.Param):
                group = self.learnt
            else:
                group = self.statistics
            group[name] = np.asarray(variable[...])

    def network(self, tensors: Mapping[str, Any], *, training: bool) -> Network:
        """The network with ``tensors``, which must include every tensor."""
        flat = [
            (path, variable.replace(tensors[name]))
            for name, (path, variable) in self._variables.items()
        ]
        merged: Network = nnx.merge(
            self._training if training else self._evaluating, nnx.from_flat_state(flat)
        )
        return merged

    def statistics_of(self, network: Network) -> Tensors:
        """The learned statistics of a network, which a call may have updated."""
        flat = {
            ".".join(map(str, path)): variable
            for path, variable in nnx.to_flat_state(nnx.state(network))
        }
        return {name: flat[name][...] for name in self.statistics}


def _drawn(
    trainer: Trainer, state: TrainingState, batches: TupleBatches, step: int, lines: _Lines
) -> tuple[TrainingState, RoundBatches]:
    """The state with the tuples of the round that begins at ``step``, and their batches."""
    lines.settle(batches.photos)
    state = trainer.mine(state, batches, step)
    return state, batches.of(state.drawn["tuples"])


def train(
    network: Network,
    batches: Batches | TupleBatches,
    *,
    config: TrainingConfig,
    checkpoints: Checkpoints,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> TrainingReport:
    """Train a network, or resume where an earlier call was stopped.

    Args:
        network: the network of the stage that ``config`` names, before its first step.
        batches: the training and validation batches.
        config: settings of the stage.
        checkpoints: the checkpoints of this run, entered; :data:`METRICS` lies beside them.
        devices: devices to train on; by default, all local ones.
        progress: show a progress bar.

    Raises:
        TrainingError: a loss is not finite (the message names the step and its photos), a batch
            cannot be divided evenly among devices and parts, or a checkpoint cannot be read.
        OSError: a checkpoint or the metrics cannot be written, for instance because the disk is
            full; the error names the file, and the next call resumes.
    """
    started = time.perf_counter()
    trainer = Trainer(network, config, list(jax.local_devices() if devices is None else devices))
    first, state = checkpoints.resume(_without_tuples(trainer.start(), batches))
    lines = _Lines(checkpoints.folder / METRICS, until=first, config=config)
    validation = {**lines.validation, **checkpoints.validated}
    together = 1

    def validated(state: TrainingState, done: int) -> dict[str, float] | None:
        scores = trainer.validate(state, batches)
        if scores is not None:
            validation[done] = scores
            lines.write({"step": done, **{_SCORES[name]: v for name, v in scores.items()}})
        return scores

    if isinstance(batches, TupleBatches):
        together = batches.none_drawn.shape[1]
        if not first:
            validated(state, 0)
    with tqdm(
        total=config.steps, initial=first, desc=config.stage, unit="step", disable=not progress
    ) as bar:
        for steps in _rounds(range(first, config.steps), config):
            source: Batches | RoundBatches
            if isinstance(batches, TupleBatches):
                state, source = _drawn(trainer, state, batches, steps.start, lines)
            else:
                source = batches
            for step, batch in _prepared(source, steps):
                state, metrics = trainer.step(state, batch)
                done = step + 1
                lines.add(done, metrics, batch, batches.photos)
                bar.update()
                if done % config.validate_every == 0 or done == config.steps:
                    lines.settle(batches.photos)
                    scores = validated(state, done)
                    checkpoints.save(done, state, scores)
                    images = (done - first) * config.batch_size * together
                    rate = images / (time.perf_counter() - started)
                    bar.set_postfix({**(scores or {}), "images/s": round(rate)}, refresh=False)
    best = checkpoints.best or config.steps
    trained = trainer.trained(checkpoints.restore(best, state))
    seconds = time.perf_counter() - started
    images = (config.steps - first) * config.batch_size * together
    return TrainingReport(
        trained, config.steps, first, best, validation, seconds, images / seconds, batches.failures
    )


class Trainer:
    """The compiled programs of a training run, and the placement of its arrays on the devices."""

    def __init__(self, network: Network, config: TrainingConfig, devices: list[jax.Device]) -> None:
        if config.batch_size % (config.accumulate * len(devices)):
            raise TrainingError(
                f"batch_size {config.batch_size} is not a multiple of accumulate × devices,"
                f" {config.accumulate} × {len(devices)}"
            )
        self._config = config
        self._parts = Parts(network)
        self._one_by_one = devices[0].platform in _ONE_BY_ONE
        self._devices = len(devices)
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
        self._describe = jax.jit(self._described)

    def start(self) -> TrainingState:
        """The state before the first step."""
        parts = self._parts

        @partial(jax.jit, out_shardings=self._everywhere)
        def begun(learnt: Tensors, statistics: Tensors) -> TrainingState:
            return TrainingState(learnt, statistics, self._optimiser.init(learnt))

        # The first step donates the arrays of the state; copying them leaves the caller's network
        # intact.
        state: TrainingState = begun(*jax.tree.map(np.array, (parts.learnt, parts.statistics)))
        return state

    def step(
        self, state: TrainingState, batch: Batch
    ) -> tuple[TrainingState, dict[str, jax.Array]]:
        """The state after one more step, and the loss and accuracy of the step; returns without
        waiting for them."""
        inputs, labels = jax.device_put(
            (batch.inputs, batch.labels.astype(np.int32)), self._divided
        )
        slope, statistics, metrics = self._gradient(
            state.learnt, state.statistics, self._fixed, inputs, labels
        )
        learnt, optimiser = self._update(state.learnt, state.optimiser, slope)
        return replace(state, learnt=learnt, statistics=statistics, optimiser=optimiser), metrics

    def mine(self, state: TrainingState, batches: TupleBatches, step: int) -> TrainingState:
        """The state with new tuples if a round begins with ``step``; if not, it has those of the
        round already.

        Raises:
            TrainingError: descriptors are not finite.
        """
        assert isinstance(self._config, GlobalTrainingConfig)
        if step % self._config.tuples.mine_every:
            return state
        drawn = batches.drawn(step, partial(self.describe, state, batches))
        return replace(state, drawn={"tuples": drawn})

    def describe(
        self, state: TrainingState, batches: TupleBatches, members: Int64[np.ndarray, " m"]
    ) -> Float[np.ndarray, "m d"]:
        """Descriptors of photos.

        Raises:
            TrainingError: one is not finite.
        """
        size = _DESCRIBED * self._devices
        found = []
        for start in range(0, len(members), size):
            part = members[start : start + size]
            photos = batches.take(np.resize(part, size))
            placed = jax.device_put(photos, self._divided)
            found.append((self._describe(state, self._fixed, placed), len(part)))
        descriptors = np.concatenate([np.asarray(values)[:count] for values, count in found])
        finite = np.isfinite(descriptors).all(axis=1)
        if not finite.all():
            name = batches.photos.paths[members[int(np.argmin(finite))]]
            raise TrainingError(f"the descriptor of {name} is not finite")
        return descriptors

    def validate(
        self, state: TrainingState, batches: Batches | TupleBatches
    ) -> dict[str, float] | None:
        """Mean loss and accuracy over the held-out photos at every rescale, or the mean average
        precision of retrieval among the photos of held-out landmarks; ``None`` if there are no such
        photos.

        Raises:
            TrainingError: the loss or a descriptor is not finite.
        """
        members = np.flatnonzero(batches.validation)
        if not members.size:
            return None
        if isinstance(batches, TupleBatches):
            descriptors = self.describe(state, batches, members)
            return {"precision": retrieval_precision(descriptors, batches.photos.labels[members])}
        size = self._config.batch_size
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
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss on the {len(members)} photos held out is {loss}, not a finite number"
            )
        return {"loss": float(loss / count), "accuracy": float(right / count)}

    def trained(self, state: TrainingState) -> Network:
        """The network of a state, on the host."""
        tensors = jax.device_get({**self._parts.fixed, **state.learnt, **state.statistics})
        return self._parts.network(tensors, training=False)

    def _mean_gradient(
        self,
        learnt: Tensors,
        statistics: Tensors,
        fixed: Tensors,
        inputs: Inputs,
        labels: jax.Array,
    ) -> tuple[Tensors, Tensors, dict[str, jax.Array]]:
        """Gradient of a batch, the batch norm statistics after it, and its loss and accuracy."""
        gradient = jax.value_and_grad(self._loss, has_aux=True)

        def add_part(
            so_far: tuple[Tensors, Tensors], part: tuple[Inputs, jax.Array]
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
        # optax relies on implicit promotion of its integer counters.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimiser = self._optimiser.update(slope, optimiser, learnt)
        return optax.apply_updates(learnt, updates), optimiser

    def _loss(
        self,
        learnt: Tensors,
        statistics: Tensors,
        fixed: Tensors,
        inputs: Inputs,
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

    def _described(self, state: TrainingState, fixed: Tensors, inputs: PaddedPhotos) -> jax.Array:
        network = self._parts.network({**state.learnt, **state.statistics, **fixed}, training=False)
        found: jax.Array = self._each(lambda photos: network(self._maps(network, photos)), inputs)
        return found

    def _cuts(self, count: int) -> int:
        """Number of sequential parts to split ``count`` images into.

        It is 1 on accelerators. On a CPU it is large enough that each part holds one image per
        device, or up to four for a large network.
        """
        if not self._one_by_one:
            return 1
        each = count // self._devices
        tensors = {**self._parts.learnt, **self._parts.fixed}
        many = sum(tensor.size for tensor in tensors.values()) >= _MANY_PARAMETERS
        return each // math.gcd(each, _SHARING) if many else each

    def _each(self, function: Callable[[Any], Any], inputs: Any) -> Any:
        """``function`` of inputs that are independent of each other, computed all at once or part
        by part on each device."""
        count = len(jax.tree.leaves(inputs)[0])
        parts = jax.lax.map(function, _divided(inputs, self._cuts(count)))
        return jax.tree.map(lambda part: part.swapaxes(0, 1).reshape(count, *part.shape[2:]), parts)

    def _maps(self, network: Network, inputs: Any) -> Any:
        """The feature maps that the network learns from: cached ones, or those of the photos."""
        dtype = jnp.dtype(self._config.dtype)
        if jax.tree.leaves(inputs)[0].dtype == jnp.uint8:
            inputs = self._each(
                lambda photographs: network.fixed(_floats(photographs, jnp.float32), dtype.name),
                inputs,
            )
        return jax.lax.stop_gradient(_floats(inputs, dtype))


def _floats(inputs: Any, dtype: Any) -> Any:
    """Inputs of type ``dtype``; extents, if there are any, stay whole numbers."""
    if isinstance(inputs, PaddedPhotos):
        return PaddedPhotos(inputs.values.astype(dtype), inputs.extent)
    return inputs.astype(dtype)


def _divided(batch: Any, parts: int) -> Any:
    """A batch cut into parts, ``[parts, …]``.

    A part takes every ``parts``-th image, so each device already holds its share of every part. Of
    a batch of tuples, it takes every ``parts``-th tuple.
    """
    return jax.tree.map(lambda each: each.reshape(-1, parts, *each.shape[1:]).swapaxes(0, 1), batch)


def _rounds(steps: range, config: TrainingConfig) -> Iterator[range]:
    """The steps in parts: each ends before the tuples are drawn anew; one part without tuples."""
    start = steps.start
    while start < steps.stop:
        stop = steps.stop
        if isinstance(config, GlobalTrainingConfig):
            every = config.tuples.mine_every
            stop = min(stop, (start // every + 1) * every)
        yield range(start, stop)
        start = stop


def _without_tuples(state: TrainingState, batches: Batches | TupleBatches) -> TrainingState:
    """The state before the first step, with room for the tuples of a round."""
    if isinstance(batches, TupleBatches):
        return replace(state, drawn={"tuples": batches.none_drawn})
    return state


def _prepared(batches: Batches | RoundBatches, steps: range) -> Iterator[tuple[int, Batch]]:
    """The batches of ``steps`` in order; threads prepare a few ahead."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        ahead = {step: pool.submit(batches.at, step) for step in steps[:_AHEAD]}
        for step in steps:
            batch = ahead.pop(step).result()
            if step + _AHEAD in steps:
                ahead[step + _AHEAD] = pool.submit(batches.at, step + _AHEAD)
            yield step, batch


def metric_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file that are as they were written; a warning counts the others, which
    training does not depend on."""
    if not file.is_file():
        return []
    whole = []
    damaged = 0
    for line in file.read_bytes().splitlines():
        try:
            values = parse_json(line, where=str(file), error=TrainingError)
            require_record(values, _Line, where=str(file), error=TrainingError)
        except TrainingError:
            damaged += 1
        else:
            whole.append(values)
    if damaged:
        warnings.warn(
            f"{file}: lines left out because they are damaged: {damaged} of {damaged + len(whole)}",
            DelfjaxWarning,
            stacklevel=2,
        )
    return whole


@dataclass
class _Line(Record):
    """A line of the metrics file."""

    step: Whole
    loss: Number = 0.0
    accuracy: Number = 0.0
    learning_rate: Number = 0.0
    validation_loss: Number = 0.0
    validation_accuracy: Number = 0.0
    validation_precision: Number = 0.0


class _Lines:
    """The metrics file, one JSON object per line: losses of some steps, and every validation."""

    def __init__(self, file: Path, *, until: int, config: TrainingConfig) -> None:
        """Keep the lines about the first ``until`` steps; later steps will be written again."""
        self._file = file
        self._config = config
        self._schedule = make_schedule(config.optimiser, config.steps)
        lines = [line for line in metric_lines(file) if line["step"] <= until] if until else []
        write_json_lines(file, lines)
        self.validation = {
            line["step"]: {name: line[key] for name, key in _SCORES.items() if key in line}
            for line in lines
            if not line.keys().isdisjoint(_SCORES.values())
        }
        self._waiting: tuple[int, dict[str, jax.Array], Batch] | None = None

    def add(
        self, done: int, metrics: dict[str, jax.Array], batch: Batch, photos: LabelledPhotos
    ) -> None:
        """Record a step, after waiting for the step before it and checking its loss."""
        self.settle(photos)
        self._waiting = done, metrics, batch

    def settle(self, photos: LabelledPhotos) -> None:
        """Wait for the most recent step, check its loss and log it if ``log_every`` is due.

        Raises:
            TrainingError: the loss is not finite.
        """
        if self._waiting is None:
            return
        done, metrics, batch = self._waiting
        self._waiting = None
        values = {name: float(value) for name, value in metrics.items()}
        if not math.isfinite(values["loss"]):
            files = ", ".join(photos.paths[member] for member in batch.members)
            raise TrainingError(
                f"step {done}: the loss is {values['loss']}, not a finite number; the batch held"
                f" {files}"
            )
        if done % self._config.log_every == 0:
            self.write({"step": done, **values, "learning_rate": float(self._schedule(done - 1))})

    def write(self, line: Mapping[str, int | float]) -> None:
        """Append one line to the file."""
        append_json_line(self._file, line)
