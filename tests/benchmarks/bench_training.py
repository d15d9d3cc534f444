"""Training steps of both stages: this library's loop against a plain PyTorch step of the same
network, in one run.

Same network, batch, arithmetic and optimiser (SGD with momentum, clipped gradient), batches made
beforehand; PyTorch eager and channels-last, batch norm of the backbone in inference mode in both.
Needs the extra ``bench``; a GPU is used where both see one.

    .venv/bin/pip install -e '.[bench]' && .venv/bin/python tests/benchmarks/bench_training.py
    [--batch 32] [--steps 10]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from bench_backbones import BLOCKS, seconds, torch_efficientnet, torch_resnet
from flax import nnx
from torch import nn

from delfjax.config import BackboneConfig, OptimiserConfig, TrainingConfig
from delfjax.models.delf import load_backbone
from delfjax.training.batches import Batch
from delfjax.training.loop import Trainer
from delfjax.training.networks import make_network

_CLASSES = 586
_RATE, _MOMENTUM, _CLIP = 0.01, 0.9, 10.0


class _Finetune(nn.Module):
    """Backbone, mean of the features, classifier."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone.eval(), nn.Linear(channels, _CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(x).mean(dim=(2, 3)))


class _Attention(nn.Module):
    """Frozen backbone, scorer, weighted mean of the normalised features, classifier."""

    def __init__(self, backbone: nn.Module, channels: int, hidden: int = 512) -> None:
        super().__init__()
        self.backbone, self.classifier = (
            backbone.eval().requires_grad_(False),
            nn.Linear(channels, _CLASSES),
        )
        self.scorer = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, 1, 1),
            nn.Softplus(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        weighted = self.scorer(features) * nn.functional.normalize(features, dim=1)
        return self.classifier(weighted.mean(dim=(2, 3)))


def _ours(name: str, config: TrainingConfig, batch: Batch) -> Callable[[int], None]:
    weights = "imagenet" if name == "efficientnet_lite0" else "random"
    network = make_network(
        load_backbone(BackboneConfig(name=name, weights=weights)),
        _CLASSES,
        config=config,
        output="conv4",
        rngs=nnx.Rngs(0),
    )
    trainer = Trainer(network, config, jax.local_devices())
    state = trainer.start()

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = trainer.step(state, batch)
        jax.block_until_ready((state, metrics))

    return run


def _theirs(name: str, config: TrainingConfig, batch: Batch, device: str) -> Callable[[int], None]:
    backbone = torch_efficientnet() if name == "efficientnet_lite0" else torch_resnet(BLOCKS[name])
    channels = 112 if name == "efficientnet_lite0" else 1024
    network = (_Finetune if config.stage == "finetune" else _Attention)(backbone, channels)
    network = network.to(device, memory_format=torch.channels_last)
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(learnt, lr=_RATE, momentum=_MOMENTUM, weight_decay=1e-4)
    inputs, labels = torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
    dtype = getattr(torch, config.dtype)

    def run(steps: int) -> None:
        for _ in range(steps):
            pixels = (inputs.to(device).permute(0, 3, 1, 2).float() - 127) / 128
            with torch.autocast(device, dtype=dtype, enabled=config.dtype != "float32"):
                loss = nn.functional.cross_entropy(network(pixels), labels.to(device))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learnt, _CLIP)
            optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Print one row a network and stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224, help="side of the crops, pixels")
    parser.add_argument("--steps", type=int, default=3, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", default=["efficientnet_lite0", "resnet50"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__} on"
        f" {device}"
    )
    print(f"batches of {options.batch} crops of {options.side} px, {_CLASSES} classes")
    print(f"images a second: median of {options.rounds} rounds, and the best")
    heads = f"{'ours':>8s} {'torch':>8s} {'ratio':>6s}"
    print(f"{'backbone':20s} {'stage':10s} {'dtype':9s} {heads}   {heads}")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (options.batch, options.side, options.side, 3), np.uint8)
    labels = rng.integers(0, _CLASSES, options.batch)
    batch = Batch(pixels, labels, np.arange(options.batch))
    base = TrainingConfig(
        batch_size=options.batch,
        optimiser=OptimiserConfig(learning_rate=_RATE, momentum=_MOMENTUM, clip_norm=_CLIP),
    )
    for name in options.backbones:
        for stage in ("finetune", "attention"):
            for dtype in options.dtypes:
                changes: dict[str, Any] = {"stage": stage, "dtype": dtype}
                config = replace(base, **changes)
                runs = (_ours(name, config, batch), _theirs(name, config, batch, device))
                for run in runs:
                    run(2)
                pairs = [
                    [seconds(partial(run, options.steps)) for run in runs]
                    for _ in range(options.rounds)
                ]
                rates = options.batch * options.steps / np.array(pairs)
                both = (np.median(rates, axis=0), rates.max(axis=0))
                columns = (
                    f"{ours:8.1f} {theirs:8.1f} {ours / theirs:6.2f}" for ours, theirs in both
                )
                print(f"{name:20s} {stage:10s} {dtype:9s} {'   '.join(columns)}", flush=True)


if __name__ == "__main__":
    main()
