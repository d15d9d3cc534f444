"""A shared pass keeps for each system what an extraction with that system alone would have kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from delfjax.config import ConfigError, DelfConfig, override
from delfjax.datasets.photo_folder import PhotoFolder, scan_folder
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.extractor import Extractor
from delfjax.features.many_stores import StoreWriters
from delfjax.features.shared_pass import SharedPass
from delfjax.features.store import FeatureStore, Source, StoreError, StoreWriter
from delfjax.models.attention import AutoencodedScorer
from delfjax.models.branches import BranchedBackbone
from delfjax.models.delf import describe_backbone, load_backbone, load_delf
from delfjax.models.model_files import override_system
from delfjax.models.tensors import named_tensors, with_tensors
from delfjax.models.weights import save_weights
from delfjax.types import LocalFeatures

CONFIG = override(
    DelfConfig(),
    ["features.max_side=160", "features.scales=[0.7071, 1.0]", "features.max_features=60"],
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoFolder:
    """Two photographs and a broken file."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, size in enumerate([(120, 160), (100, 150)]):
        rng = np.random.default_rng(seed)
        coarse = (
            rng.integers(0, 255, (*(side // 16 + 1 for side in size), 3))
            .repeat(16, 0)
            .repeat(16, 1)
        )
        Image.fromarray(coarse[: size[0], : size[1]].astype(np.uint8)).save(folder / f"{seed}.png")
    (folder / "broken.jpg").write_bytes(b"no photograph")
    return scan_folder(folder)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a backbone that differs from ImageNet's in its last two blocks."""
    backbone = load_backbone(CONFIG.backbone)
    rng = np.random.default_rng(0)
    last = tuple(
        f"blocks.{number}." for number in (len(backbone.layers()) - 3, len(backbone.layers()) - 2)
    )
    tensors = {
        name: (values * rng.uniform(0.8, 1.2, values.shape)).astype(np.float32)
        if name.startswith(last)
        else values
        for name, values in named_tensors(backbone).items()
    }
    path = tmp_path_factory.mktemp("weights") / "tuned.safetensors"
    save_weights(path, tensors, {"name": "efficientnet_lite0"})
    return path


@pytest.fixture(scope="module")
def systems(tuned: Path) -> dict[str, DelfConfig]:
    changes: dict[str, list[str]] = {
        "plain": [],
        "tuned": [
            f"backbone.weights={tuned}",
            "scorer.kind=norm",
            "features.scales=[1.0]",
            "features.max_features=20",
        ],
        "small": ["features.max_side=96", "scorer.weights=random", "features.scales=[1.0]"],
    }
    return {name: override_system(CONFIG, change) for name, change in changes.items()}


def test_each_system_keeps_what_an_extraction_keeps(
    systems: dict[str, DelfConfig], photos: PhotoFolder, tmp_path: Path
) -> None:
    stores = {name: tmp_path / name for name in systems}
    SharedPass(systems).extract(photos, stores, progress=False)
    for name, config in systems.items():
        extract_dataset(
            Extractor(config, load_delf(config)), photos, tmp_path / "direct" / name, progress=False
        )
        direct, found = (
            FeatureStore.open(tmp_path / "direct" / name),
            FeatureStore.open(stores[name]),
        )
        assert (
            found.names == direct.names
            and found.failures() == direct.failures()
            and found.config == direct.config
        )
        assert found.failures().keys() == {"broken.jpg"}
        for photo in direct.names:
            _require_alike(direct.get(photo).local, found.get(photo).local)
            assert set(found.get(photo).local.scales) <= set(
                np.asarray(config.features.scales, np.float32)
            )


def _require_alike(expected: LocalFeatures, found: LocalFeatures) -> None:
    assert len(found.scores) == len(expected.scores) > 10
    assert np.all(np.diff(found.scores) <= 0)
    # An accelerator multiplies with fewer bits, and no two programs alike.
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3)
    # Of nearly equal scores the last may change places with the next.
    rows = [_rows(part.keypoints_yx, part.scales) for part in (expected, found)]
    both = rows[0].keys() & rows[1].keys()
    assert len(both) >= len(expected.scores) - 1
    ours, theirs = (
        part.descriptors[[of[key] for key in both]]
        for part, of in zip((expected, found), rows, strict=True)
    )
    np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), atol=1e-3)


def _rows(keypoints_yx: np.ndarray, scales: np.ndarray) -> dict[tuple[float, ...], int]:
    return {
        (*map(float, yx), float(scale)): row
        for row, (yx, scale) in enumerate(zip(keypoints_yx, scales, strict=True))
    }


def test_backbones_share_the_layers_that_are_equal(tuned: Path) -> None:
    backbones = [
        load_backbone(replace(CONFIG.backbone, weights=weights))
        for weights in ("imagenet", str(tuned), "imagenet")
    ]
    layers = len(backbones[0].layers())
    assert BranchedBackbone(backbones, output="conv4").shared == layers - 2
    assert BranchedBackbone(backbones[::2], output="conv4").shared == layers
    first = with_tensors(
        backbones[0], {name: values + 1 for name, values in named_tensors(backbones[0]).items()}
    )
    assert BranchedBackbone([backbones[0], first], output="conv4").shared == 0


def test_random_backbones_of_two_seeds_are_two(photos: PhotoFolder, tmp_path: Path) -> None:
    change = ["backbone.weights=random", "scorer.kind=norm", "features.scales=[1.0]"]
    systems = {seed: override(CONFIG, [*change, f"seed={seed}"]) for seed in (0, 1)}
    stores = {seed: tmp_path / str(seed) for seed in systems}
    SharedPass(systems).extract(photos, stores, progress=False)
    first, second = (FeatureStore.open(store) for store in stores.values())
    assert not np.allclose(first.get("0.png").local.scores, second.get("0.png").local.scores)


def test_a_pass_that_was_stopped_resumes(photos: PhotoFolder, tmp_path: Path) -> None:
    norm = override(CONFIG, ["scorer.kind=norm", "features.scales=[1.0]"])
    systems = {"norm": norm, "few": override(norm, ["features.max_features=20"])}
    whole = {name: tmp_path / "whole" / name for name in systems}
    shared = SharedPass(systems)
    shared.extract(photos, whole, progress=False)
    # Stopped after one of the stores had its shard, and before the other had.
    stopped = {name: tmp_path / "stopped" / name for name in systems}
    shared.extract(photos, {**stopped, "few": tmp_path / "elsewhere"}, progress=False)
    with StoreWriter(stopped["few"], systems["few"].extraction()) as writer:
        writer.plan(photos.names)
    before = [path.stat().st_mtime_ns for path in sorted(stopped["norm"].glob("*.arrow"))]
    shared.extract(photos, stopped, progress=False)
    assert [path.stat().st_mtime_ns for path in sorted(stopped["norm"].glob("*.arrow"))] == before
    for name, folder in whole.items():
        expected = {path.name: path.read_bytes() for path in folder.glob("*.arrow")}
        assert {path.name: path.read_bytes() for path in stopped[name].glob("*.arrow")} == expected


@pytest.mark.parametrize("change", ["features.nms_iou=0.5", "features.threshold_kind=absolute"])
def test_settings_that_a_shared_pass_does_not_support_are_refused(change: str) -> None:
    with pytest.raises(ConfigError, match="features.nms_iou or features.threshold_kind is set"):
        SharedPass({0: CONFIG, 1: override(CONFIG, [change])})


def test_codes_that_take_the_place_of_features_are_refused(tmp_path: Path) -> None:
    scorer = AutoencodedScorer(112, code_dim=8, code_bias=True, hidden=4, rngs=nnx.Rngs(0))
    about = {"name": "delg", "code_dim": 8, "backbone": describe_backbone(CONFIG.backbone)}
    save_weights(tmp_path / "delg.safetensors", named_tensors(scorer), about)
    with pytest.raises(ConfigError, match="codes of its own"):
        SharedPass(
            {
                0: override(
                    CONFIG, [f"scorer.weights={tmp_path / 'delg.safetensors'}", "scorer.hidden=4"]
                )
            }
        )


def test_stores_of_different_folders_do_not_share_a_pass(tmp_path: Path) -> None:
    stores = {name: StoreWriter(tmp_path / name, {}) for name in ("one", "other")}
    for name, writer in stores.items():
        with writer:
            writer.record_source(Source(str(tmp_path / "photos of" / name)))
    with pytest.raises(StoreError, match="holds the photos of .* but .* those of"):
        StoreWriters(stores).store()
