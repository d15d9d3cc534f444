"""The extractor of global descriptors: equal to the native computation, one vector an image of any
size, stored and resumed like local features."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from delfjax.config import ConfigError, DelfConfig, override
from delfjax.datasets.images import DecodedImage, decode_image
from delfjax.datasets.photo_folder import PhotoFolder, scan_folder
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.global_extractor import GlobalExtractor, load_global_extractor
from delfjax.features.store import FeatureStore, StoreError, StoreWriter
from delfjax.models.delf import Backbone, dense_features, describe_backbone, load_backbone
from delfjax.models.layers import fold_batch_norm
from delfjax.models.resnet import ResNet
from delfjax.models.vgg import VGG16
from delfjax.models.weights import WeightsError, save_weights
from delfjax.ops import pooling, pyramid
from delfjax.types import ImageFeatures, LocalFeatures

SECTION = "global_features"
# Canvases up to 256 pixels are square, so there is one program for each of the two sizes.
SIDES = (64, 96)
LITE0 = ["backbone.name=efficientnet_lite0", "backbone.output=conv4", f"sides={list(SIDES)}"]


def configured(*changes: str) -> DelfConfig:
    return override(DelfConfig(), [f"{SECTION}.{change}" for change in (*LITE0, *changes)])


def decoded(pixels: np.ndarray) -> DecodedImage:
    return DecodedImage(pixels, (pixels.shape[0], pixels.shape[1]), "digest")


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random colours in patches: structure at several scales."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(height // 16 + 1, width // 16 + 1, 3)).repeat(16, 0).repeat(16, 1)
    fine = rng.normal(size=(height, width, 3))
    return np.clip(128 + 45 * coarse[:height, :width] + 15 * fine, 0, 255).astype(np.uint8)


def described(extractor: GlobalExtractor, image: np.ndarray) -> np.ndarray:
    found = extractor.dispatch([decoded(image)]).result()[0].global_descriptor
    assert found is not None
    return found


def native_maps(
    backbone: Backbone, config: DelfConfig, image: np.ndarray, sizes: Sequence[tuple[int, int]]
) -> list[np.ndarray]:
    """The feature map of the image alone at each size, without canvas or padding, float64."""
    graph, state = nnx.split(backbone)
    output = config.global_features.backbone.output

    def describe(state: Any, source: jax.Array, target: tuple[int, int]) -> jax.Array:
        whole = np.array([image.shape[:2]], np.int32)
        extent = np.array([target], np.int32)
        pixels = pyramid.resize_onto(
            source, jax.numpy.asarray(whole), jax.numpy.asarray(extent), target
        )
        found = dense_features(nnx.merge(graph, state), pixels, extent, output=output)
        return jax.numpy.asarray(found.values)[0]

    # Another level of optimisation: another path to the same numbers, and quicker to compile.
    compiled = jax.jit(
        describe, static_argnums=2, compiler_options={"xla_backend_optimization_level": 0}
    )
    return [np.asarray(compiled(state, image[None], size), np.float64) for size in sizes]


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def pooled(config: DelfConfig, values: np.ndarray) -> np.ndarray:
    """The definition of each pooling, on the map of one image."""
    settings = config.global_features
    if settings.pooling == "mac":
        return unit(values.max(axis=(0, 1)))
    if settings.pooling == "gem":
        power = settings.gem_exponent
        return unit((np.maximum(values, 1e-6) ** power).mean(axis=(0, 1)) ** (1 / power))
    regions = pooling.rmac_regions(
        *values.shape[:2], levels=settings.rmac_levels, whole_image=settings.rmac_whole_image
    )
    held = [values[y0:y1, x0:x1] for y0, x0, y1, x1 in regions.tolist() if y1 > y0]
    return unit(np.sum([unit(part.max(axis=(0, 1))) for part in held], axis=0))


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return fold_batch_norm(load_backbone(configured().global_features.backbone))


POOLINGS = [
    ["pooling=mac"],
    ["pooling=gem"],
    ["pooling=gem", "gem_exponent=5.5"],
    ["pooling=rmac"],
    ["pooling=rmac", "rmac_levels=2", "rmac_whole_image=true"],
]
# An image larger than both sides, at its two sizes; one between them; and one below both.
SIZES = [
    ((90, 120), [(48, 64), (72, 96)]),
    ((70, 55), [(64, 50), (70, 55)]),
    ((33, 41), [(33, 41)]),
]


@pytest.mark.parametrize(("size", "sizes"), SIZES)
def test_every_pooling_equals_the_native_unpadded_computation(
    lite0: Backbone, size: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    image = photo(*size)
    image = (
        np.asarray(Image.fromarray(image).resize((sizes[-1][1], sizes[-1][0])))
        if max(size) > max(SIDES)
        else image
    )
    maps = native_maps(lite0, configured(), image, sizes)
    for changes in POOLINGS:
        config = configured(*changes)
        expected = unit(np.sum([pooled(config, values) for values in maps], axis=0))
        ours = described(GlobalExtractor(config, lite0), image)
        np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=str(changes))


def _keras(rngs: nnx.Rngs) -> Backbone:
    # Loses pixels to a pool without padding.
    return ResNet((1, 1, 1), stride_layout="keras", rngs=rngs)


def _vgg16(rngs: nnx.Rngs) -> Backbone:
    return VGG16(rngs=rngs)


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (_keras, ["backbone.name=resnet50", "backbone.weights=random"]),
        (_vgg16, ["backbone.name=vgg16", "backbone.weights=random", "backbone.output=conv5"]),
    ],
)
def test_a_network_that_loses_pixels_equals_its_native_computation(
    build: Callable[[nnx.Rngs], Backbone], changes: list[str]
) -> None:
    backbone = fold_batch_norm(build(nnx.Rngs(0)))
    config = configured("sides=[64]", *changes)
    extractor = GlobalExtractor(config, backbone)
    for size in ((64, 49), (63, 34)):
        image = photo(*size, seed=1)
        expected = pooled(config, native_maps(backbone, config, image, [size])[0])
        np.testing.assert_allclose(described(extractor, image), expected, atol=1e-5)
    # Too small for a single cell: nothing is known of the image, so it resembles none.
    none = described(extractor, np.full((1, 1, 3), 200, np.uint8))
    assert none.shape == (extractor.dim,) and not none.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 96), (64, 2)])
def test_an_image_of_few_pixels_has_a_descriptor_of_unit_length(
    lite0: Backbone, size: tuple[int, int]
) -> None:
    for changes in POOLINGS:
        found = described(GlobalExtractor(configured(*changes), lite0), photo(*size))
        assert found.dtype == np.float32 and abs(np.linalg.norm(found) - 1) < 1e-5


def test_no_exponent_makes_the_generalised_mean_overflow(lite0: Backbone) -> None:
    image = photo(64, 64)
    largest = described(GlobalExtractor(configured("pooling=mac"), lite0), image)
    found = described(GlobalExtractor(configured("pooling=gem", "gem_exponent=300"), lite0), image)
    # The generalised mean tends to the maximum, and has no negative values.
    assert found @ unit(np.maximum(largest, 0)) > 0.99


def test_regions_are_projected_by_the_weights_in_a_file(
    lite0: Backbone, tmp_path: Path, rng: np.random.Generator
) -> None:
    shift, matrix = rng.normal(size=112), rng.normal(size=(112, 20))
    tensors = {"shift": shift.astype(np.float32), "matrix": matrix.astype(np.float32)}
    backbone = describe_backbone(configured().global_features.backbone)
    file = tmp_path / "projection.safetensors"
    save_weights(file, tensors, {"name": "projection", "backbone": backbone})
    config = configured("sides=[64]", f"region_projection.weights={file}")
    extractor = load_global_extractor(config)
    assert "@" in extractor.extraction[SECTION]["region_projection"]["weights"]
    image = photo(64, 48)
    values = native_maps(lite0, config, image, [(64, 48)])[0]
    regions = [r for r in pooling.rmac_regions(4, 3).tolist() if r[2] > r[0]]
    parts = [unit(values[y0:y1, x0:x1].max(axis=(0, 1))) for y0, x0, y1, x1 in regions]
    expected = unit(np.sum([unit((part - shift) @ matrix) for part in parts], axis=0))
    np.testing.assert_allclose(described(extractor, image), expected, atol=1e-5)
    assert extractor.dim == 20
    with pytest.raises(ConfigError, match="the pooling is 'gem', which has no regions"):
        load_global_extractor(override(config, [f"{SECTION}.pooling=gem"]))
    other = override(config, [f"{SECTION}.backbone.output=conv5"])
    with pytest.raises(WeightsError, match="its projection was made for the features of"):
        load_global_extractor(other)
    save_weights(
        file, {"shift": tensors["shift"][:9], "matrix": matrix[:9]}, {"name": "projection"}
    )
    with pytest.raises(WeightsError, match="2 misshapen"):
        load_global_extractor(config)


def test_configs_that_differ_only_in_the_index_share_an_extractor() -> None:
    first = load_global_extractor(configured())
    assert load_global_extractor(configured("whitening.kind=pca", "index=ivf_pq")) is first
    assert load_global_extractor(override(configured(), ["search.neighbours=5"])) is first
    assert load_global_extractor(configured("rmac_levels=2")) is not first


def test_a_batch_equals_its_images_one_by_one(lite0: Backbone) -> None:
    images = [photo(50, 64, seed=1), photo(60, 44, seed=2), photo(9, 64, seed=3)]
    extractor = GlobalExtractor(configured("sides=[64]", "batch_size=4"), lite0)
    single = GlobalExtractor(configured("sides=[64]"), lite0)
    found = extractor.dispatch([decoded(image) for image in images]).result()
    for features, image in zip(found, images, strict=True):
        np.testing.assert_allclose(features.global_descriptor, described(single, image), atol=1e-5)
    with pytest.raises(ValueError, match="takes up to 4 images, got 5"):
        extractor.dispatch([decoded(images[0])] * 5)


def test_a_batch_sharded_over_four_devices_equals_one_device() -> None:
    script = """
import jax
import numpy as np
from delfjax.config import DelfConfig, override
from delfjax.datasets.images import DecodedImage
from delfjax.features.global_extractor import GlobalExtractor
from delfjax.models.delf import load_backbone
from delfjax.models.layers import fold_batch_norm
changes = ["backbone.name=efficientnet_lite0", "backbone.output=conv4", "sides=[64]"]
config = override(DelfConfig(), [f"global_features.{change}" for change in changes])
backbone = fold_batch_norm(load_backbone(config.global_features.backbone))
sharded = GlobalExtractor(config, backbone)
single = GlobalExtractor(config, backbone, devices=jax.local_devices()[:1])
assert (sharded.batch_size, single.batch_size) == (4, 1)
pixels = np.random.default_rng(0).integers(0, 256, (3, 50, 64, 3), dtype=np.uint8)
images = [DecodedImage(image, (50, 64), "") for image in pixels]
pending = sharded.dispatch(images)
assert len(pending.computed.global_descriptors.sharding.device_set) == 4
for ours, image in zip(pending.result(), images, strict=True):
    alone = single.dispatch([image]).result()[0]
    np.testing.assert_allclose(ours.global_descriptor, alone.global_descriptor, atol=1e-5)
print("equal")
"""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "XLA_FLAGS": flags},
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr


@pytest.fixture
def photos(tmp_path: Path) -> PhotoFolder:
    """Seven photos of sizes around the sides, and a file that is none."""
    root = tmp_path / "photos"
    root.mkdir()
    for number, size in enumerate(
        [(90, 120), (64, 64), (30, 40), (1, 1), (5, 90), (96, 64), (70, 9)]
    ):
        Image.fromarray(photo(*size, seed=number)).save(root / f"{number}.png")
    (root / "broken.jpg").write_bytes(b"no image")
    return scan_folder(root)


class _Stopped(Exception):
    """The run ends, as by a kill."""


def test_a_store_of_global_descriptors_is_resumed_and_read_in_the_order_of_its_names(
    lite0: Backbone, photos: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = GlobalExtractor(configured(), lite0)

    def extract(folder: str) -> tuple[int, int, int]:
        report = extract_dataset(
            extractor, photos, tmp_path / folder, shard_size=2, num_threads=2, progress=False
        )
        return report.done, report.skipped, report.failed

    assert extract("whole") == (7, 0, 1)
    store = FeatureStore.open(tmp_path / "whole", config=configured().global_extraction())
    assert list(store.failures()) == ["broken.jpg"] and store.counts().sum() == 0
    descriptors = store.global_descriptors()
    assert descriptors.shape == (7, 112) and descriptors.dtype == np.float32
    for name, found in zip(store.names, descriptors, strict=True):
        image = decode_image(photos.root / name, max_side=max(SIDES))
        np.testing.assert_array_equal(found, described(extractor, image.pixels))
        np.testing.assert_array_equal(found, store.get(name).global_descriptor)
    assert store.subset(store.names[2:4]).global_descriptors().tolist() == descriptors[2:4].tolist()
    commit, commits = StoreWriter.commit, []

    def stop_at_third(writer: StoreWriter, *args: Any, **kwargs: Any) -> None:
        commits.append(1)
        if len(commits) == 3:
            raise _Stopped
        commit(writer, *args, **kwargs)

    monkeypatch.setattr(StoreWriter, "commit", stop_at_third)
    with pytest.raises(_Stopped):
        extract("stopped")
    monkeypatch.undo()
    assert len(FeatureStore.open(tmp_path / "stopped").pending()) == 4
    done, skipped, failed = extract("stopped")
    assert (done + failed, skipped) == (4, 4)
    assert {file.name: file.read_bytes() for file in (tmp_path / "stopped").iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()
    }


def _stored(path: Path, descriptors: Sequence[np.ndarray | None]) -> FeatureStore:
    nothing = np.zeros(0, np.float32)
    local = LocalFeatures(
        nothing.reshape(0, 2), nothing, nothing, nothing.reshape(0, 0), np.zeros(0, bool)
    )
    images = {
        f"{number}.jpg": ImageFeatures(local, descriptor, (9, 9), f"digest {number}")
        for number, descriptor in enumerate(descriptors)
    }
    with StoreWriter(path, {"a": 1}, shard_size=2) as writer:
        for group in writer.plan(images):
            writer.commit(group, {name: images[name] for name in group.names}, {})
        return writer.store()


def test_a_store_without_global_descriptors_says_so(tmp_path: Path) -> None:
    one = np.ones(4, np.float32)
    with pytest.raises(
        StoreError, match="2 of 2 images have no global descriptor, '0.jpg' for one"
    ):
        _stored(tmp_path / "none", [None, None]).global_descriptors()
    with pytest.raises(StoreError, match="1 of 3 images have no global descriptor, '1.jpg'"):
        _stored(tmp_path / "some", [one, None, one]).global_descriptors()
    with pytest.raises(StoreError, match=r"damaged: holds global descriptors of lengths \[3, 4\]"):
        _stored(tmp_path / "mixed", [one, one[:3]]).global_descriptors()
    with pytest.raises(
        StoreError, match="the global descriptor of '2.jpg' holds values that are not"
    ):
        _stored(tmp_path / "nan", [one, one, one * np.nan]).global_descriptors()
    assert _stored(tmp_path / "empty", []).global_descriptors().shape == (0, 0)
