"""The whole compiled extractor: images a second of the seven-scale pyramid, selection included,
decoding not.

.venv/bin/python tests/benchmarks/bench_extraction.py [--side 1024] [--images 32] [--dtypes float32
bfloat16]
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np

from delfjax.config import DelfConfig, override
from delfjax.datasets.images import DecodedImage
from delfjax.features.extractor import Extractor
from delfjax.models.delf import load_delf


def main() -> None:
    """Print one row a backbone and dtype."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--side", type=int, default=1024, help="longer side of the 4:3 images, pixels"
    )
    parser.add_argument("--images", type=int, default=16, help="images of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", default=["efficientnet_lite0", "resnet50"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    options = parser.parse_args()
    print(
        f"{jax.devices()[0].device_kind}, {jax.local_device_count()} devices, jax {jax.__version__}"
    )
    print(f"images of {options.side} px, seven scales, 1000 features; best of {options.rounds}")
    print(f"{'backbone':20s} {'dtype':9s} {'batch':>5s} {'images/s':>9s} {'first s':>8s}")
    rng = np.random.default_rng(0)
    shape = (options.side * 3 // 4, options.side, 3)
    for name in options.backbones:
        for dtype in options.dtypes:
            weights = "imagenet" if name == "efficientnet_lite0" else "random"
            changes = [
                f"backbone.name={name}",
                f"backbone.weights={weights}",
                f"features.dtype={dtype}",
            ]
            config = override(DelfConfig(), [*changes, f"features.max_side={options.side}"])
            extractor = Extractor(config, load_delf(config))
            images = [
                DecodedImage(rng.integers(0, 256, shape, np.uint8), shape[:2], "")
                for _ in range(extractor.batch_size)
            ]
            rounds = max(1, options.images // extractor.batch_size)

            def extract(
                count: int, extractor: Extractor = extractor, images: list[DecodedImage] = images
            ) -> float:
                start = time.perf_counter()
                pending = [extractor.dispatch(images) for _ in range(count)]
                for batch in pending:
                    batch.result()
                return time.perf_counter() - start

            first = extract(1)
            best = min(extract(rounds) for _ in range(options.rounds))
            rate = rounds * extractor.batch_size / best
            print(
                f"{name:20s} {dtype:9s} {extractor.batch_size:5d} {rate:9.1f} {first:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
