"""Six small photographs with features made by hand, in a real store and a real index: two places,
three views of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from delfjax.config import DelfConfig, override
from delfjax.datasets.images import hash_file
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.retrieval.local_index import LocalIndex, build_index
from delfjax.types import ImageFeatures, LocalFeatures

CONFIG = override(
    DelfConfig(),
    [
        "reduction.dim=16",
        "search.neighbours=5",
        "verification.pair_hypotheses=256",
        "verification.refined=32",
    ],
)
PLACES, VIEWS, FEATURES, CHANNELS = ("bridge", "tower"), 3, 40, 32
SIZE = (90, 120)
NAMES = tuple(f"{place}/view {view}.png" for place in PLACES for view in range(VIEWS))
TRUTH = {
    name: {other for other in NAMES if other != name and other[:6] == name[:6]} for name in NAMES
}


def write_collection(folder: Path) -> tuple[FeatureStore, LocalIndex]:
    """Write ``photos``, ``store`` and ``index`` into ``folder``; views of a place differ by a shift
    of all keypoints."""
    rng = np.random.default_rng(5)
    images = {}
    for place in PLACES:
        keypoints, descriptors = (
            rng.uniform(5, 70, (FEATURES, 2)),
            _unit_rows(rng.normal(size=(FEATURES, CHANNELS))),
        )
        colours = rng.integers(0, 255, (FEATURES, 3), np.uint8)
        for view in range(VIEWS):
            file = folder / "photos" / place / f"view {view}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            moved = (keypoints + 5 * view).astype(np.float32)
            # Views further away share fewer features, so that the order is known.
            shared = np.arange(FEATURES) < FEATURES - 8 * view
            own = np.where(
                shared[:, None], descriptors, _unit_rows(rng.normal(size=(FEATURES, CHANNELS)))
            )
            Image.fromarray(_painted(moved, colours)).save(file)
            images[f"{place}/{file.name}"] = _features(moved, own, hash_file(file))
    with StoreWriter(folder / "store", CONFIG.extraction()) as writer:
        for group in writer.plan(images):
            writer.commit(group, {name: images[name] for name in group.names}, {})
        store = writer.store()
    index = build_index(store, config=CONFIG, photos=str(folder / "photos"))
    index.save(folder / "index")
    return store, index


def _painted(keypoints_yx: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A square of its own colour around every keypoint."""
    pixels = np.full((*SIZE, 3), 128, np.uint8)
    for (y, x), colour in zip(keypoints_yx.astype(int), colours, strict=True):
        pixels[max(0, y - 4) : y + 4, max(0, x - 4) : x + 4] = colour
    return pixels


def _features(
    keypoints_yx: np.ndarray, descriptors: np.ndarray, content_hash: str
) -> ImageFeatures:
    ones, scores = np.ones(FEATURES, np.float32), np.linspace(1, 0.1, FEATURES, dtype=np.float32)
    local = LocalFeatures(keypoints_yx, ones, scores, descriptors, np.ones(FEATURES, bool))
    return ImageFeatures(local, None, SIZE, content_hash)


def _unit_rows(values: np.ndarray) -> np.ndarray:
    rows: np.ndarray = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    return rows
