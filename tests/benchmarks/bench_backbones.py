"""Backbone passes over the image pyramid: this library against plain PyTorch eager, in one run.

Same network, shapes, threads and batch of one image; PyTorch channels-last in inference mode. Needs
the extra ``bench``.

    .venv/bin/pip install -e '.[bench]' && .venv/bin/python tests/benchmarks/bench_backbones.py
    [--size 512] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from delfjax.config import PYRAMID, BackboneConfig
from delfjax.models.delf import Delf, load_backbone
from delfjax.models.layers import FeatureMap, fold_batch_norm
from delfjax.ops.pyramid import level_size

Shape = tuple[int, int]
BLOCKS = {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23)}
_STAGES = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
)


def _unit(
    features_in: int, features_out: int, kernel: int, activation: nn.Module | None, **options: int
) -> nn.Module:
    layers = [
        nn.Conv2d(features_in, features_out, kernel, padding=kernel // 2, bias=False, **options),
        nn.BatchNorm2d(features_out),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


class _Residual(nn.Module):
    def __init__(self, branch: nn.Module, shortcut: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.last = branch, shortcut, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.branch(x) + self.shortcut(x))


def torch_resnet(blocks: tuple[int, ...]) -> nn.Module:
    layers = [_unit(3, 64, 7, nn.ReLU(), stride=2), nn.MaxPool2d(3, 2, 1)]
    features = 64
    for stage, (width, repeats) in enumerate(zip((64, 128, 256), blocks, strict=True)):
        for repeat in range(repeats):
            stride = 2 if stage and not repeat else 1
            branch = nn.Sequential(
                _unit(features, width, 1, nn.ReLU()),
                _unit(width, width, 3, nn.ReLU(), stride=stride),
                _unit(width, 4 * width, 1, None),
            )
            shortcut = (
                nn.Identity() if repeat else _unit(features, 4 * width, 1, None, stride=stride)
            )
            layers.append(_Residual(branch, shortcut, nn.ReLU()))
            features = 4 * width
    return nn.Sequential(*layers)


def torch_efficientnet() -> nn.Module:
    layers, features = [_unit(3, 32, 3, nn.ReLU6(), stride=2)], 32
    for expansion, width, kernel, first, repeats in _STAGES:
        for repeat in range(repeats):
            stride, hidden = (1 if repeat else first), features * expansion
            branch = nn.Sequential(
                nn.Identity() if expansion == 1 else _unit(features, hidden, 1, nn.ReLU6()),
                _unit(hidden, hidden, kernel, nn.ReLU6(), stride=stride, groups=hidden),
                _unit(hidden, width, 1, None),
            )
            skip = stride == 1 and features == width
            layers.append(_Residual(branch, nn.Identity(), nn.Identity()) if skip else branch)
            features = width
    return nn.Sequential(*layers)


def _ours(name: str) -> Callable[[np.ndarray, np.ndarray], jax.Array]:
    weights = "imagenet" if name == "efficientnet_lite0" else "random"
    backbone = load_backbone(BackboneConfig(name=name, weights=weights))
    model = fold_batch_norm(Delf(backbone, None, output="conv4"))
    graph, state = nnx.split(model)
    state = jax.device_put(state)

    def run(state: nnx.State, pixels: jax.Array, extent: jax.Array) -> jax.Array:
        return nnx.merge(graph, state).backbone(FeatureMap(pixels, extent), output="conv4").values

    return partial(jax.jit(run), state)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _race(name: str, shapes: list[Shape], rounds: int) -> tuple[float, float, float]:
    """Best seconds for the whole pyramid, ours and PyTorch's, in turn; and the multiply-adds of our
    programs."""
    ours = _ours(name)
    theirs = (
        torch_efficientnet() if name == "efficientnet_lite0" else torch_resnet(BLOCKS[name])
    ).eval()
    theirs = theirs.to(memory_format=torch.channels_last)
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(1, *shape, 3)).astype(np.float32) for shape in shapes]
    extents = [np.array([shape], np.int32) for shape in shapes]
    tensors = [
        torch.from_numpy(image).permute(0, 3, 1, 2).to(memory_format=torch.channels_last)
        for image in images
    ]

    def run_ours() -> None:
        jax.block_until_ready(
            [ours(image, extent) for image, extent in zip(images, extents, strict=True)]
        )

    def run_theirs() -> None:
        with torch.inference_mode():
            for tensor in tensors:
                theirs(tensor)

    run_ours()
    run_theirs()
    pairs = [(seconds(run_ours), seconds(run_theirs)) for _ in range(rounds)]
    return min(p[0] for p in pairs), min(p[1] for p in pairs), _multiply_adds(theirs, tensors)


def _multiply_adds(model: nn.Module, tensors: list[torch.Tensor]) -> float:
    total = 0.0

    def count(module: nn.Conv2d, _: object, result: torch.Tensor) -> None:
        nonlocal total
        total += result.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        for tensor in tensors:
            model(tensor)
    for hook in hooks:
        hook.remove()
    return total


def _matrix_peak() -> float:
    """Multiply-adds a second of a 2048³ float32 matrix product."""
    matrix = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    return 2048**3 / min(
        seconds(lambda: product(matrix, matrix).block_until_ready()) for _ in range(10)
    )


def main() -> None:
    """Print one row a backbone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, default=512, help="longer side of the 4:3 image at scale 1, pixels"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--backbones", nargs="+", default=["efficientnet_lite0", "resnet50", "resnet101"]
    )
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shapes = [level_size((options.size * 3 // 4, options.size), scale) for scale in PYRAMID]
    peak = _matrix_peak()
    print(
        f"{jax.devices()[0].device_kind}, {torch.get_num_threads()} threads, jax {jax.__version__},"
        f" torch {torch.__version__}"
    )
    print(
        f"pyramid of a {options.size} px photo, conv4, float32; matrix-product peak"
        f" {2 * peak / 1e9:.0f} GFLOP/s"
    )
    print(f"{'backbone':20s} {'ours ms':>9s} {'torch ms':>9s} {'ratio':>6s} {'of peak':>8s}")
    for name in options.backbones:
        ours, theirs, work = _race(name, shapes, options.rounds)
        print(
            f"{name:20s} {ours * 1e3:9.1f} {theirs * 1e3:9.1f} {theirs / ours:6.2f}"
            f" {work / ours / peak:8.0%}"
        )


if __name__ == "__main__":
    main()
