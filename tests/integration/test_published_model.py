"""A TF1 checkpoint of DELF and the files of its PCA become one file, with which images are
described as DELF describes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax.cli import main
from delfjax.config import DelfConfig
from delfjax.features.reduction import reduction_for
from delfjax.features.store import FeatureStore
from delfjax.models.model_files import override_system
from tests.parity.tensorflow_networks import slim, slim_variables
from tests.unit.models.foreign.tensor_bundles import write_bundle, write_datum

# The released model ends at the third block.
RESNET50 = (3, 4, 6)
DIM = 4


def test_a_checkpoint_is_converted_and_extracts_what_its_network_defines(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    named, photos = slim_variables(RESNET50, rng), {}
    (tmp_path / "photos").mkdir()
    for name, size in {"one.png": (96, 70), "two.png": (69, 93)}.items():
        photos[name] = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(photos[name]).save(tmp_path / "photos" / name)
    # Scores on both sides of the published threshold; so far above zero, a softplus is its
    # argument.
    bias = named["attention_block/attention/compute/conv2/biases"]
    bias += 500
    bias += np.float32(100 - np.median(slim(named, photos["one.png"])[1]))
    write_bundle(
        tmp_path / "saved" / "variables" / "variables", named | {"global_step": np.array(1)}
    )
    (tmp_path / "pca").mkdir()
    matrix, mean = np.linalg.qr(rng.normal(size=(1024, 8)))[0].T, rng.normal(0, 0.01, 1024)
    write_datum(tmp_path / "pca" / "mean.datum", mean)
    write_datum(tmp_path / "pca" / "pca_proj_mat.datum", matrix)
    file = tmp_path / "delf.safetensors"
    command = [
        "weights",
        "convert",
        str(tmp_path / "saved"),
        "--out",
        str(file),
        "--pca",
        str(tmp_path / "pca"),
    ]
    assert main([*command, "--set", f"reduction.dim={DIM}"]) == 0
    said = capsys.readouterr().out
    assert "size: 291" in said and "stride: 32" in said and "features.threshold: 100.0" in said

    changes = [f"model={file}", "features.max_side=96", "features.scales=[1.0]"]
    sets = [word for change in changes for word in ("--set", change)]
    assert (
        main(["extract", str(tmp_path / "photos"), "--store", str(tmp_path / "store"), *sets]) == 0
    )
    config, store = override_system(DelfConfig(), changes), FeatureStore.open(tmp_path / "store")
    reduction = reduction_for(store, config=config.reduction, seed=0)
    assert config.reduction.dim == DIM and sorted(store.names) == sorted(photos)
    kept = cut = 0
    for name, pixels in photos.items():
        local = store.get(name).local
        maps, scores = slim(named, pixels)
        cells = np.argwhere(scores >= 100)
        cells = cells[np.argsort(-scores[tuple(cells.T)])]
        kept, cut = kept + len(cells), cut + scores.size - len(cells)
        np.testing.assert_array_equal(local.keypoints_yx, 32 * cells)
        # Scores of about a hundred, float32 through fifty layers.
        np.testing.assert_allclose(local.scores, scores[tuple(cells.T)], rtol=1e-5)
        features = maps[2][tuple(cells.T)]
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        # Stores hold half precision.
        np.testing.assert_allclose(local.descriptors, features, atol=1e-3)
        reduced = (features - mean) @ matrix[:DIM].T
        expected = reduced / np.linalg.norm(reduced, axis=1, keepdims=True)
        np.testing.assert_allclose(reduction(np.asarray(local.descriptors)), expected, atol=2e-2)
    assert kept and cut
