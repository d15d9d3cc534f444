"""The optimiser, its learning-rate schedule, and the loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from delfjax.config import OptimiserConfig

Parameters = dict[str, Array]


def make_schedule(config: OptimiserConfig, steps: int) -> optax.Schedule:
    """Learning rate of each step: a linear rise over ``warmup_steps``, then a decay until
    ``steps``."""
    left = max(1, steps - config.warmup_steps)
    if config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(config.learning_rate, left)
    elif config.schedule == "linear":
        schedule = optax.linear_schedule(config.learning_rate, 0.0, left)
    else:
        drops = {left // 3: 0.2, 2 * left // 3: 0.2} if config.schedule == "fifths" else {}
        schedule = optax.piecewise_constant_schedule(
            config.learning_rate, drops or {left // 2: 0.1}
        )
    if config.warmup_steps:
        rise = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
        schedule = optax.join_schedules([rise, schedule], [config.warmup_steps])
    return schedule


def make_optimiser(config: OptimiserConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by the global norm, then SGD with momentum or AdamW; weight decay applies to kernels
    only."""
    schedule = make_schedule(config, steps)
    if config.name == "adamw":
        descent = optax.adamw(schedule, weight_decay=config.weight_decay, mask=_kernels)
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask=_kernels)
        descent = optax.chain(decay, optax.sgd(schedule, momentum=config.momentum))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), descent)


def cross_entropy(
    logits: Float[Array, "b classes"], labels: Int[Array, " b"], *, smoothing: float = 0.0
) -> Float[Array, ""]:
    """Mean softmax cross-entropy; a share ``smoothing`` of each label is spread over the
    classes."""
    targets = optax.smooth_labels(
        jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype), smoothing
    )
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def _kernels(parameters: Parameters) -> dict[str, bool]:
    return {name: name.endswith("kernel") for name in parameters}
