"""A folder of every bad input: each is extracted right, or is one recorded failure with its reason;
the rest goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax.config import override, preset
from delfjax.datasets.photo_folder import PhotoFolder, scan_folder
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.extractor import Extractor
from delfjax.features.store import FeatureStore
from delfjax.models.delf import load_delf

_CONFIG = override(
    preset("ci"), ["features.max_side=64", "features.scales=[0.5,1.0]", "features.max_features=40"]
)
_UNICODE = "Zürich 東京 🗼.png"


def _orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def _write_good(root: Path, pixels: np.ndarray) -> None:
    """One scene of at most 16 colours, in every form that holds it without loss, and some that do
    not."""
    photo = Image.fromarray(pixels)
    photo.save(root / "plain.png")
    photo.save(root / _UNICODE)
    shutil.copy(root / "plain.png", root / "duplicate.png")
    (root / "linked.png").symlink_to("plain.png")
    photo.save(root / "actually_png.jpg", format="PNG")
    photo.quantize(16).save(root / "palette.png")
    photo.convert("RGBA").save(root / "opaque.png")
    photo.transpose(Image.Transpose.ROTATE_90).save(root / "turned.png", exif=_orientation(6))
    photo.save(root / "animated.gif", save_all=True, append_images=[photo.rotate(180)], duration=40)
    photo.convert("CMYK").save(root / "cmyk.jpg", quality=95)
    photo.convert("L").save(root / "grey.png")
    grey = np.asarray(photo.convert("L")).astype(np.uint16)
    Image.fromarray(grey * 257).save(root / "deep.png")
    transparent = photo.convert("RGBA")
    transparent.putalpha(128)
    transparent.save(root / "transparent.png")
    Image.new("RGB", (1, 1), "red").save(root / "one.png")
    photo.resize((1, 5000)).save(root / "tall.png")
    photo.resize((5000, 1)).save(root / "wide.jpg")
    photo.resize((12_000, 9_000), Image.Resampling.NEAREST).save(root / "large.jpg")


def _write_broken(root: Path) -> dict[str, str]:
    """Files that are no images; returns what their reasons must contain."""
    whole = (root / "cmyk.jpg").read_bytes()
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "truncated.png").write_bytes((root / "plain.png").read_bytes()[:60])
    (root / "zero.jpg").write_bytes(b"")
    (root / "text.jpg").write_text("not a photograph\n")
    # Not readable by anybody, not even by root: its first page is never mapped.
    (root / "unreadable.jpg").symlink_to("/proc/self/mem")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    return {
        "truncated.jpg": "cannot be decoded: ",
        "truncated.png": "cannot be decoded: ",
        "zero.jpg": "empty file (0 bytes)",
        "text.jpg": "not an image",
        "unreadable.jpg": "cannot be read: ",
        "gone.jpg": "cannot be read: No such file",
        "loop.jpg": "cannot be read: ",
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[PhotoFolder, dict[str, str]]:
    """The folder, and the reasons of the files that must fail."""
    root = tmp_path_factory.mktemp("photos")
    colours = np.random.default_rng(3).integers(0, 256, (16, 3), np.uint8)
    blocks = colours[np.random.default_rng(4).integers(0, 16, (6, 8))]
    _write_good(root, np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1))
    reasons = _write_broken(root)
    (root / "deep").mkdir()
    (root / "deep" / "up").symlink_to(root)
    shutil.copy(root / "one.png", root / "deep" / "one.png")
    return scan_folder(root), reasons


@pytest.fixture(scope="module")
def store(
    photos: tuple[PhotoFolder, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> FeatureStore:
    """The features of that folder, by the real extractor."""
    path = tmp_path_factory.mktemp("stores") / "store"
    extractor = Extractor(_CONFIG, load_delf(_CONFIG))
    report = extract_dataset(extractor, photos[0], path, num_threads=2, progress=False)
    opened = FeatureStore.open(path)
    assert (report.done, report.skipped, report.failed) == (len(opened), 0, len(opened.failures()))
    return opened


def test_every_file_is_extracted_or_a_failure_with_its_reason(
    photos: tuple[PhotoFolder, dict[str, str]], store: FeatureStore
) -> None:
    folder, reasons = photos
    assert set(store.failures()) == set(reasons)
    for name, reason in store.failures().items():
        assert (
            reasons[name] in reason
            and len(reason) < 200
            and "\n" not in reason
            and str(folder.root) not in reason
        )
    assert set(store.names) == set(folder.names) - set(reasons)
    assert len(store) == 18 and "deep/one.png" in store


@pytest.mark.parametrize(
    "name",
    [
        _UNICODE,
        "duplicate.png",
        "linked.png",
        "actually_png.jpg",
        "palette.png",
        "opaque.png",
        "turned.png",
        "animated.gif",
    ],
)
def test_one_scene_has_the_same_features_in_every_lossless_form(
    store: FeatureStore, name: str
) -> None:
    plain, other = store.get("plain.png"), store.get(name)
    assert len(plain.local.scales) > 0 and other.image_size == plain.image_size == (48, 64)
    for field in ("keypoints_yx", "scales", "scores", "descriptors"):
        assert np.array_equal(getattr(other.local, field), getattr(plain.local, field)), field


def test_sixteen_bits_have_the_features_of_eight(store: FeatureStore) -> None:
    grey, deep = store.get("grey.png").local, store.get("deep.png").local
    assert len(grey.scales) > 0 and np.array_equal(grey.descriptors, deep.descriptors)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("one.png", (1, 1)),
        ("tall.png", (5000, 1)),
        ("wide.jpg", (1, 5000)),
        ("large.jpg", (9000, 12_000)),
    ],
)
def test_extreme_sizes_are_kept_and_keypoints_finite(
    store: FeatureStore, name: str, size: tuple[int, int]
) -> None:
    image = store.get(name)
    assert image.image_size == size
    # Images thinner than the smallest level have no feature, which is legal.
    assert (len(image.local.scales) > 0) == (name == "large.jpg")
    assert np.isfinite(image.local.keypoints_yx).all()


def test_keypoints_of_a_reduced_image_are_pixels_of_the_original(store: FeatureStore) -> None:
    """The large file shows the scene of the plain one, 187.5 times as large."""
    plain, large = store.get("plain.png").local, store.get("large.jpg").local
    ratio = np.ptp(np.asarray(large.keypoints_yx), axis=0) / np.ptp(
        np.asarray(plain.keypoints_yx), axis=0
    )
    assert np.allclose(ratio, 187.5, rtol=1e-3)
