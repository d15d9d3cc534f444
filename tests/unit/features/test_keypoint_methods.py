"""SIFT and CONGAS: features of any image, that turn with it and are stored like DELF's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax.config import ConfigError, DelfConfig, config_hash, from_dict, to_dict
from delfjax.datasets.images import DecodedImage
from delfjax.features.dataset_loop import ImageExtractor
from delfjax.features.export import export_system
from delfjax.features.extractor import load_extractor
from delfjax.features.local_methods import load_local_extractor
from delfjax.features.shared_pass import SharedPass
from delfjax.features.sift import MissingOpenCVError, SiftExtractor
from delfjax.models.model_files import override_system, weights_of
from delfjax.ops.half_pixel import to_resized_px
from delfjax.pipeline.photos import build_index, extract_folder, match, search
from delfjax.types import ImageFeatures

METHODS = ("congas", "sift")
SMALL = ("features.max_side=128", "features.max_features=60", "reduction.dim=16")


def configured(method: str, *changes: str) -> DelfConfig:
    return override_system(DelfConfig(), [f"system={method}", *SMALL, *changes])


def decoded(pixels: np.ndarray, original: tuple[int, int] | None = None) -> DecodedImage:
    return DecodedImage(pixels, original or (pixels.shape[0], pixels.shape[1]), "digest")


def described(
    extractor: ImageExtractor[ImageFeatures],
    pixels: np.ndarray,
    original: tuple[int, int] | None = None,
) -> ImageFeatures:
    return extractor.dispatch([decoded(pixels, original)]).result()[0]


@pytest.fixture(params=METHODS)
def extractor(request: pytest.FixtureRequest) -> ImageExtractor[ImageFeatures]:
    return load_local_extractor(configured(request.param))


def blots(size: tuple[int, int] = (96, 120), *, count: int = 40, seed: int = 0) -> np.ndarray:
    """An image of blots of several sizes, shapes and colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.full((*size, 3), 120.0)
    for _ in range(count):
        at, angle = rng.uniform((0, 0), size), rng.uniform(0, np.pi)
        widths = rng.uniform(1.5, 6, 2)
        dy, dx = y - at[0], x - at[1]
        along = np.cos(angle) * dx + np.sin(angle) * dy
        across = -np.sin(angle) * dx + np.cos(angle) * dy
        bell = np.exp(-((along / widths[0]) ** 2 + (across / widths[1]) ** 2) / 2)
        image += bell[..., None] * rng.uniform(-90, 90) * np.array([1, 0.9, 1.1])
    return np.clip(image, 0, 255).astype(np.uint8)


def test_features_are_legal(extractor: ImageExtractor[ImageFeatures]) -> None:
    found = described(extractor, blots()).local
    assert 20 <= len(found.scales) <= 60
    assert np.asarray(found.valid).all()
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-4)
    assert (np.diff(found.scores) <= 0).all()
    assert (np.asarray(found.scales) > 0).all()
    assert (np.asarray(found.keypoints_yx) >= -0.5).all()
    assert (np.asarray(found.keypoints_yx) <= np.array([95.5, 119.5])).all()
    assert found.orientations is not None
    angles = np.asarray(found.orientations)
    assert ((angles >= 0) & (angles < 2 * np.pi + 1e-6)).all()
    assert angles.std() > 0.5


@pytest.mark.parametrize(
    "image",
    [
        np.full((40, 50, 3), 99, np.uint8),
        np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.full((3, 128, 3), 7, np.uint8),
        blots((64, 64), count=1),
        np.tile(blots((16, 16), count=3), (6, 7, 1)),
    ],
    ids=["blank", "16 px", "1 px", "a strip", "hardly an extremum", "a repeated texture"],
)
def test_any_image_has_legal_features(
    extractor: ImageExtractor[ImageFeatures], image: np.ndarray
) -> None:
    found = described(extractor, image).local
    for part in vars(found).values():
        assert np.isfinite(np.asarray(part, np.float64)).all()
        assert len(part) == len(found.scales) <= 60
    assert described(extractor, image).local.descriptors.tobytes() == found.descriptors.tobytes()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_features_turn_with_the_image(extractor: ImageExtractor[ImageFeatures], turns: int) -> None:
    """Every feature of a turned image lies where it was, as large, turned as far, and its
    descriptor is the same."""
    # Every second pixel, and every second of those, and so on, are the same from either end.
    image = blots((97, 97))
    before = described(extractor, image).local
    after = described(extractor, np.ascontiguousarray(np.rot90(image, turns))).local
    assert before.orientations is not None
    assert after.orientations is not None
    # Where the pixels of the turned image were.
    y, x = np.asarray(after.keypoints_yx, np.float64).T
    for _ in range(turns):
        y, x = x, 96 - y
    apart = np.hypot(
        y[:, None] - np.asarray(before.keypoints_yx)[None, :, 0],
        x[:, None] - np.asarray(before.keypoints_yx)[None, :, 1],
    )
    cosine = np.asarray(after.descriptors) @ np.asarray(before.descriptors).T
    best = np.argmax(np.where(apart < 0.5, cosine, -1), axis=1)
    rows = np.arange(len(best))
    same = (apart[rows, best] < 0.5) & (cosine[rows, best] > 0.95)
    assert same.mean() > 0.85
    # np.rot90 turns against the clock; angles run from x towards y, with the clock.
    turned = np.asarray(after.orientations) - np.asarray(before.orientations)[best]
    residual = np.angle(np.exp(1j * (turned + turns * np.pi / 2)))[same]
    assert np.median(np.abs(residual)) < 0.02
    np.testing.assert_allclose(
        np.asarray(after.scales)[same], np.asarray(before.scales)[best][same], rtol=0.05
    )


def test_positions_are_pixels_of_the_original(extractor: ImageExtractor[ImageFeatures]) -> None:
    image = blots()
    here = described(extractor, image).local
    there = described(extractor, image, (960, 1200)).local
    np.testing.assert_allclose(
        to_resized_px(np.asarray(there.keypoints_yx), 0.1), here.keypoints_yx, atol=1e-3
    )
    np.testing.assert_array_equal(there.scales, here.scales)


def test_an_image_among_others_on_a_larger_canvas_has_the_features_it_has_alone() -> None:
    """Batches and canvases change nothing: a batch of three, padded to four, on several devices."""
    script = """
import jax, numpy as np
from delfjax.config import DelfConfig
from delfjax.datasets.images import DecodedImage
from delfjax.features.congas import CongasExtractor
from delfjax.models.model_files import override_system, weights_of
config = override_system(
    DelfConfig(), ["system=congas", "features.max_side=128", "features.max_features=60"]
)
sharded = CongasExtractor(config)
single = CongasExtractor(config, devices=jax.local_devices()[:1])
assert (sharded.batch_size, single.batch_size) == (4, 1)
rng = np.random.default_rng(0)
coarse = rng.integers(0, 256, (3, 13, 16, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
images = [
    DecodedImage(np.ascontiguousarray(pixels[: 100 - 3 * k, : 120 - k]), (100 - 3 * k, 120 - k), "")
    for k, pixels in enumerate(coarse)
]
for ours, image in zip(sharded.dispatch(images).result(), images, strict=True):
    alone = single.dispatch([image]).result()[0].local
    assert len(alone.scales) > 20
    for name, value in vars(alone).items():
        np.testing.assert_allclose(getattr(ours.local, name), value, atol=1e-4, err_msg=name)
print("equal")
"""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "XLA_FLAGS": flags},
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of blots."""
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(3):
        Image.fromarray(blots((120, 120), count=150, seed=number)).save(root / f"{number}.png")
    return root


@pytest.mark.parametrize("method", METHODS)
def test_a_turned_photo_is_found_and_explained(method: str, folder: Path, tmp_path: Path) -> None:
    config = configured(method, "verification.min_spread=0.1", "verification.threshold_px=3.0")
    store = extract_folder(folder, tmp_path / "store", config=config, progress=False)
    assert store.get("1.png").local.orientations is not None
    index = build_index(store, config=config)
    index.save(tmp_path / "index")
    turned = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(np.rot90(blots((120, 120), count=150, seed=1)))).save(
        turned
    )
    found = search(tmp_path / "index", turned, config=config)
    assert found.photos[0].image == "1.png"
    assert found.photos[0].inliers > 10
    pair = match(turned, folder / "1.png", config=config)
    assert pair.inlier.sum() > 10
    # A quarter turn: x becomes y.
    assert abs(pair.transform[0, 0]) < 0.1
    assert abs(abs(pair.transform[0, 1]) - 1) < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_stores_settings_suffice_to_search_it(method: str, folder: Path, tmp_path: Path) -> None:
    """Without a config, an index of a store knows what made it and how its features match."""
    store = extract_folder(folder, tmp_path / "s", config=configured(method), progress=False)
    index = build_index(tmp_path / "s")
    assert index.config.features.method == method
    assert index.config.verification.max_rotation_deg == 180
    assert store.config == index.config.extraction()
    assert set(store.config) == {"features", method}


def test_settings_of_other_methods_change_no_hash() -> None:
    delf = DelfConfig()
    assert config_hash(override_system(delf, ["sift.sigma=2.0"])) == config_hash(delf)
    sift = configured("sift")
    assert config_hash(override_system(sift, ["congas.sigma=2.0"])) == config_hash(sift)
    assert config_hash(override_system(sift, ["sift.sigma=2.0"])) != config_hash(sift)
    assert config_hash(sift) != config_hash(delf)
    # Configs of a time when there was no other method.
    plain = to_dict(delf)
    del plain["features"]["method"], plain["sift"], plain["congas"]
    assert config_hash(plain) == config_hash(delf)
    assert from_dict(DelfConfig, plain) == delf


def test_a_name_sets_what_suits_its_features_unless_they_stay_the_same() -> None:
    delf = DelfConfig()
    sift = override_system(delf, ["system=sift"])
    assert (sift.reduction.dim, sift.verification.max_rotation_deg) == (128, 180)
    assert sift.reduction.dim % sift.index.pq_subvectors == 0
    assert override_system(sift, ["system=delf"]) == delf
    both = override_system(delf, ["system=sift", "system=congas"])
    assert both == override_system(sift, ["system=congas"]) == configured_plainly("congas")
    # What was chosen for the features stays.
    chosen = override_system(sift, ["reduction.dim=64"])
    assert override_system(chosen, ["system=sift+qe"]).reduction.dim == 64
    assert override_system(delf, ["reduction.dim=64", "system=delf"]).reduction.dim == 64


def configured_plainly(method: str) -> DelfConfig:
    return override_system(DelfConfig(), [f"system={method}"])


@pytest.mark.parametrize("method", METHODS)
def test_what_is_about_a_network_is_refused_for_other_features(method: str, tmp_path: Path) -> None:
    config = configured(method)
    said = f"features.method is '{method}'"
    with pytest.raises(ConfigError, match=said):
        load_extractor(config)
    with pytest.raises(ConfigError, match=said):
        SharedPass({"": config})
    with pytest.raises(ConfigError, match=said):
        export_system(tmp_path / "out.safetensors", config)
    assert weights_of(config) == {}


def test_every_wavelength_of_congas_has_a_number_of_places() -> None:
    with pytest.raises(ConfigError, match="3 wavelengths but 2 places"):
        override_system(DelfConfig(), ["congas.places=[4,2]"])


def test_sift_without_opencv_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingOpenCVError, match=r"^SIFT needs OpenCV.*delfjax\[sift\]'`$"):
        SiftExtractor(configured("sift"))


def test_root_sift_is_the_square_root_of_the_normalised_histogram() -> None:
    image = blots()
    plain = described(load_local_extractor(configured("sift", "sift.root=false")), image).local
    root = described(load_local_extractor(configured("sift")), image).local
    histogram = np.asarray(plain.descriptors, np.float64)
    expected = np.sqrt(histogram / histogram.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(root.descriptors, expected, atol=1e-6)


Change = Callable[[np.ndarray], np.ndarray]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "change",
    [lambda image: image // 2 + 60, lambda image: 255 - (255 - image) // 2],
    ids=["half the contrast", "brighter"],
)
def test_brightness_and_contrast_hardly_matter(method: str, change: Change) -> None:
    extractor = load_local_extractor(configured(method))
    first, second = (described(extractor, image).local for image in (blots(), change(blots())))
    apart = np.linalg.norm(
        np.asarray(first.keypoints_yx)[:, None] - np.asarray(second.keypoints_yx)[None], axis=-1
    )
    cosine = np.asarray(first.descriptors) @ np.asarray(second.descriptors).T
    # Of the features of less contrast, which are fewer.
    assert 10 < len(second.scales) <= len(first.scales)
    assert (np.where(apart < 0.7, cosine, 0).max(axis=0) > 0.95).mean() > 0.8
