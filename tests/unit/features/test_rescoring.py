"""A dense store, rescored, holds what an extraction with that scorer would have kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from delfjax.config import ConfigError, DelfConfig, override
from delfjax.datasets.folder import PhotoFolder, scan_folder
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.extractor import Extractor
from delfjax.features.rescoring import dense_extractor, rescore
from delfjax.features.store import FeatureStore
from delfjax.models.attention import AutoencodedScorer
from delfjax.models.delf import describe_backbone, load_delf
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import save_weights

CONFIG = override(DelfConfig(), ["features.max_side=160", "features.scales=[0.7071, 1.0]", "features.max_features=60"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoFolder:
    """Two photographs and a broken file."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, size in enumerate([(120, 160), (160, 90)]):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 255, (*(side // 16 + 1 for side in size), 3)).repeat(16, 0).repeat(16, 1)
        Image.fromarray(coarse[: size[0], : size[1]].astype(np.uint8)).save(folder / f"{seed}.png")
    (folder / "broken.jpg").write_bytes(b"no photograph")
    return scan_folder(folder)


@pytest.fixture(scope="module")
def dense(photos: PhotoFolder, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    place = tmp_path_factory.mktemp("stores") / "dense"
    extract_dataset(dense_extractor(CONFIG), photos, place, progress=False)
    return FeatureStore.open(place)


def test_it_keeps_what_an_extraction_keeps(dense: FeatureStore, photos: PhotoFolder, tmp_path: Path) -> None:
    extract_dataset(Extractor(CONFIG, load_delf(CONFIG)), photos, tmp_path / "direct", progress=False)
    direct = FeatureStore.open(tmp_path / "direct")
    again = rescore(dense, CONFIG, tmp_path / "again", progress=False)
    assert again.names == direct.names and again.failures() == direct.failures() and again.config == direct.config
    for name in direct.names:
        expected, found = direct.get(name).local, again.get(name).local
        assert len(found.scores) == len(expected.scores) == 60 < len(dense.get(name).local.scores)
        assert np.all(np.diff(found.scores) <= 0)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=5e-3)
        # In half precision the last few of equal score may change places with the next.
        rows = [_rows(part.keypoints_yx, part.scales) for part in (expected, found)]
        both = rows[0].keys() & rows[1].keys()
        assert len(both) >= 57
        cosines = [expected.descriptors[rows[0][key]].astype(np.float32) @ found.descriptors[rows[1][key]] for key in both]
        assert min(cosines) > 0.999


def _rows(keypoints_yx: np.ndarray, scales: np.ndarray) -> dict[tuple[float, ...], int]:
    return {(*map(float, yx), float(scale)): row for row, (yx, scale) in enumerate(zip(keypoints_yx, scales, strict=True))}


def test_a_level_knows_nothing_of_the_others(dense: FeatureStore, tmp_path: Path) -> None:
    found = rescore(dense, override(CONFIG, ["features.scales=[1.0]"]), tmp_path / "store", progress=False)
    for name in found.names:
        whole, kept = dense.get(name).local, found.get(name).local
        level = _rows(whole.keypoints_yx, whole.scales).keys()
        assert set(kept.scales) == {1.0}
        assert len(kept.scores) == min(60, sum(scale == 1.0 for *_, scale in level))
        assert _rows(kept.keypoints_yx, kept.scales).keys() <= level


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("features.scales=[0.5, 1.0]", r"features.scales is \[0.5, 1.0\], the dense store has \[0.7071, 1.0\]"),
        ("features.nms_iou=0.5", "features.nms_iou or features.threshold_kind is set"),
        ("features.threshold_kind=absolute", "features.nms_iou or features.threshold_kind is set"),
    ],
)
def test_what_a_dense_store_cannot_tell_is_refused(change: str, said: str, dense: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        rescore(dense, override(CONFIG, [change]), tmp_path / "store", progress=False)
    assert not (tmp_path / "store").exists()


def test_codes_that_take_the_place_of_features_are_refused(dense: FeatureStore, tmp_path: Path) -> None:
    scorer = AutoencodedScorer(112, code_dim=8, code_bias=True, hidden=4, rngs=nnx.Rngs(0))
    about = {"name": "delg", "code_dim": 8, "backbone": describe_backbone(CONFIG.backbone)}
    save_weights(tmp_path / "delg.safetensors", named_tensors(scorer), about)
    config = override(CONFIG, [f"scorer.weights={tmp_path / 'delg.safetensors'}", "scorer.hidden=4"])
    with pytest.raises(ConfigError, match="codes of its own"):
        rescore(dense, config, tmp_path / "store", progress=False)
