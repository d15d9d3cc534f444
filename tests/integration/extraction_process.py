"""Extractions in processes of their own, for tests that kill them. Run as a script.

It imports everything once. For each line ``[extractor, photos, store]``, as JSON, it forks a
process and prints its id; at the next line it waits for that process and prints its exit code:
minus the signal, if it was killed. Until then the id is not given to another process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delfjax.config import override, preset
from delfjax.datasets.images import DecodedImage
from delfjax.datasets.photo_folder import scan_folder
from delfjax.device import use_compilation_cache
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.extractor import Extractor
from delfjax.models.delf import load_delf
from delfjax.types import ImageFeatures, LocalFeatures

CONFIG = override(
    preset("ci"), ["features.max_side=64", "features.scales=[0.5,1.0]", "features.max_features=40"]
)
SHARD_SIZE = 4
# A device that takes this long for a batch, so that kills fall into every part of a run, seconds.
_BATCH_SECONDS = 0.02


@dataclass(frozen=True)
class _Pending:
    images: tuple[DecodedImage, ...]

    def result(self) -> list[ImageFeatures]:
        time.sleep(_BATCH_SECONDS)
        return [_histogram(image) for image in self.images]


def _histogram(image: DecodedImage) -> ImageFeatures:
    """One feature per colour channel: its histogram."""
    counts = [
        np.bincount(image.pixels[..., channel].ravel(), minlength=256) for channel in range(3)
    ]
    ones = np.ones(3, np.float32)
    local = LocalFeatures(
        keypoints_yx=np.zeros((3, 2), np.float32),
        scales=ones,
        scores=ones,
        descriptors=(np.stack(counts) / image.pixels[..., 0].size).astype(np.float32),
        valid=np.ones(3, bool),
    )
    return ImageFeatures(local, None, image.original_size, image.content_hash)


class Histograms:
    """An extractor without a network: what the loop needs, and quick to start."""

    batch_size = 2
    max_side = 64
    in_flight = 2
    extraction: dict[str, Any] = CONFIG.extraction()

    def canvas(self, height: int, width: int) -> Hashable:
        return height > width

    def dispatch(self, images: Sequence[DecodedImage]) -> _Pending:
        return _Pending(tuple(images))


def extract(extractor: str, photos: Path, store: Path) -> None:
    """One run of the dataset loop."""
    if extractor == "histograms":
        extract_dataset(
            Histograms(),
            scan_folder(photos),
            store,
            shard_size=SHARD_SIZE,
            num_threads=2,
            progress=False,
        )
        return
    use_compilation_cache()
    delf = Extractor(CONFIG, load_delf(CONFIG))
    extract_dataset(
        delf, scan_folder(photos), store, shard_size=SHARD_SIZE, num_threads=2, progress=False
    )


def main() -> None:
    """Serve jobs until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        extractor, photos, store = json.loads(line)
        process = os.fork()
        if process == 0:
            extract(extractor, Path(photos), Path(store))
            os._exit(0)
        print(process, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
