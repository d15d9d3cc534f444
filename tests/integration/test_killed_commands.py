"""Commands that replace a result, killed at every step: the old result or the new one is there
whole, and the same command, run again, leaves nothing of the killed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax.cli import main
from delfjax.config import DelfConfig, override
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.models.weights import load_weights, save_weights
from delfjax.retrieval.system_index import open_index
from delfjax.types import ImageFeatures, LocalFeatures
from tests.integration.extraction_process import extract
from tests.kills import kill_at_every_step

CONFIG = override(DelfConfig(), ["reduction.dim=8"])
SCORES = """{"dataset": "folder", "config_hash": "0123456789", "results": {},
"tiers": {"easy": {"inliers": 0.5}}}"""


def write_store(folder: Path) -> None:
    """A store of three images with random features."""
    rng = np.random.default_rng(4)
    with StoreWriter(folder, CONFIG.extraction()) as writer:
        for group in writer.plan(["a.jpg", "b.jpg", "c.jpg"]):
            features = {
                name: ImageFeatures(_local(rng), None, (90, 90), "0") for name in group.names
            }
            writer.commit(group, features, {})


def _local(rng: np.random.Generator) -> LocalFeatures:
    rows = rng.normal(size=(40, 16)).astype(np.float32)
    return LocalFeatures(
        keypoints_yx=rng.uniform(0, 90, (40, 2)).astype(np.float32),
        scales=np.ones(40, np.float32),
        scores=np.ones(40, np.float32),
        descriptors=rows / np.linalg.norm(rows, axis=1, keepdims=True),
        valid=np.ones(40, bool),
    )


def killed(place: Path, *words: str, check: Callable[[], object]) -> None:
    """Kill a command at every step."""
    kill_at_every_step(
        place,
        setup="import sys; from delfjax.cli import main; import delfjax.pipeline.photos",
        action=f"sys.exit(main({list(words)!r}))",
        check=check,
        size_limits=(1000,),
    )


@pytest.mark.slow
def test_index_leaves_the_old_index_or_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "place"
    write_store(place / "store")
    index = ["index", str(place / "store"), "--out", str(place / "index")]
    assert main([*index, "--set", "reduction.dim=8"]) == 0

    def check() -> None:
        assert open_index(place / "index").reduction.projection.shape[1] in (8, 4)

    killed(place, "index", "store", "--out", "index", "--set", "reduction.dim=4", check=check)


@pytest.mark.slow
def test_weights_record_leaves_the_card_with_or_without_the_scores(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    tensors = {"kernel": np.arange(12, dtype=np.float32)}
    save_weights(place / "model.safetensors", tensors, {"name": "attention"})
    (place / "scores.json").write_text(SCORES)

    def check() -> None:
        found, about = load_weights(place / "model.safetensors")
        np.testing.assert_array_equal(found["kernel"], tensors["kernel"])
        assert len(about.get("scores", [])) <= 1

    killed(place, "weights", "record", "model.safetensors", "scores.json", check=check)


@pytest.mark.slow
def test_weights_export_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    model = place / "model.safetensors"
    save_weights(model, {"kernel": np.zeros(3, np.float32)}, {"name": "attention"})

    def check() -> None:
        assert load_weights(model)[1]["name"] in ("attention", "delf")

    killed(place, "weights", "export", "model.safetensors", check=check)


@pytest.mark.slow
def test_an_extraction_loses_nothing_and_follows_its_folder(tmp_path: Path) -> None:
    """Photos are new, renamed, changed and deleted since the first extraction."""
    photos, store = tmp_path / "place" / "photos", tmp_path / "place" / "store"
    photos.mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 90, 20)).save(photos / f"{number}.png")
    extract("histograms", photos, store)
    (photos / "0.png").unlink()
    (photos / "1.png").rename(photos / "renamed.png")
    Image.new("RGB", (40, 30), (5, 5, 250)).save(photos / "2.png")
    (photos / "cut.png").write_bytes((photos / "3.png").read_bytes()[:40])
    Image.new("RGB", (30, 40), (1, 2, 3)).save(photos / "new.png")
    kept = {"3.png", "4.png", "5.png"}

    def check() -> None:
        held = FeatureStore.open(store)
        held.verify()
        assert kept <= set(held.names)
        assert all(held.get(name).local.descriptors.shape == (3, 256) for name in held.names)

    kills = kill_at_every_step(
        tmp_path / "place",
        setup="from pathlib import Path; from tests.integration.extraction_process import extract",
        action="extract('histograms', Path('photos'), Path('store'))",
        check=check,
        size_limits=(100, 2000),
    )
    assert kills > 10
    held = FeatureStore.open(store)
    assert set(held.names) == kept | {"renamed.png", "2.png", "new.png"}
    assert list(held.failures()) == ["cut.png"]
