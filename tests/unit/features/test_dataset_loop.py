"""The dataset loop, over an extractor that is plain NumPy: it batches, overlaps, resumes and
counts."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from delfjax.config import preset
from delfjax.datasets.images import DecodedImage, decode_image
from delfjax.datasets.photo_folder import PhotoFolder, scan_folder
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.store import FeatureStore, StoreError
from delfjax.types import ImageFeatures, LocalFeatures


@dataclass(frozen=True)
class _Pending:
    features: list[ImageFeatures]

    def result(self) -> list[ImageFeatures]:
        return self.features


@dataclass
class MeanColours:
    """The mean colour of each row of an image as its features; notes the batches it was given."""

    batch_size: int = 3
    max_side: int = 32
    in_flight: int = 2
    extraction: dict[str, Any] = field(default_factory=lambda: preset("ci").extraction())
    batches: list[list[str]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def canvas(self, height: int, width: int) -> Hashable:
        return "portrait" if height > width else "landscape"

    def dispatch(self, images: Sequence[DecodedImage]) -> _Pending:
        shapes = {self.canvas(*image.pixels.shape[:2]) for image in images}
        assert 1 <= len(images) <= self.batch_size and len(shapes) == 1
        self.batches.append([image.content_hash for image in images])
        self.threads.add(threading.current_thread().name)
        return _Pending([_mean_colours(image) for image in images])


def _mean_colours(image: DecodedImage) -> ImageFeatures:
    rows = image.pixels.astype(np.float32).mean(axis=1)
    count = len(rows)
    places = np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.float32)
    ones = np.ones(count, np.float32)
    local = LocalFeatures(places, ones, ones, rows, np.ones(count, bool))
    return ImageFeatures(local, None, image.original_size, image.content_hash)


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> PhotoFolder:
    """Fourteen small images, portrait and landscape, and two that are none."""
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(14):
        height, width = (20, 10) if number % 3 == 0 else (10, 20 + number)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(
            root / f"{number:02d}.png"
        )
    (root / "03_broken.jpg").write_bytes(b"no image")
    (root / "99_empty.jpg").write_bytes(b"")
    return scan_folder(root)


def _extract(
    photos: PhotoFolder,
    store: Path,
    *,
    extractor: MeanColours | None = None,
    retry_failed: bool = False,
) -> tuple[int, int, int]:
    report = extract_dataset(
        extractor or MeanColours(),
        photos,
        store,
        shard_size=5,
        num_threads=2,
        retry_failed=retry_failed,
        progress=False,
    )
    assert report.seconds > 0
    return report.done, report.skipped, report.failed


def _bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_every_image_is_stored_under_its_name_and_every_other_file_is_a_failure(
    tmp_path: Path, photos: PhotoFolder
) -> None:
    assert _extract(photos, tmp_path / "s") == (14, 0, 2)
    store = FeatureStore.open(tmp_path / "s")
    assert set(store.names) | set(store.failures()) == set(photos.names)
    assert store.failures()["99_empty.jpg"] == "empty file (0 bytes)"
    assert "not an image" in store.failures()["03_broken.jpg"]
    for name in store.names:
        expected = _mean_colours(decode_image(photos.root / name, max_side=32))
        assert np.array_equal(
            store.get(name).local.descriptors, np.asarray(expected.local.descriptors, np.float16)
        )
        assert store.get(name).image_size == expected.image_size


def test_what_failed_before_is_counted_among_what_is_skipped(
    tmp_path: Path, photos: PhotoFolder
) -> None:
    first, second = (
        extract_dataset(MeanColours(), photos, tmp_path / "s", progress=False) for _ in range(2)
    )
    assert (first.failed, first.failed_before) == (2, 0)
    assert first.counts == "0 skipped, 2 failed"
    assert (second.failed, second.failed_before) == (0, 2)
    assert second.counts == "16 skipped (2 failed before), 0 failed"


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_store_does_not_depend_on_batches_or_threads(
    tmp_path: Path, photos: PhotoFolder, batch_size: int
) -> None:
    _extract(photos, tmp_path / "one", extractor=MeanColours(batch_size=2))
    extract_dataset(
        MeanColours(batch_size=batch_size),
        photos,
        tmp_path / "s",
        shard_size=5,
        num_threads=7,
        progress=False,
    )
    assert _bytes(tmp_path / "s") == _bytes(tmp_path / "one")


def test_batches_are_full_where_a_shard_has_the_images(tmp_path: Path, photos: PhotoFolder) -> None:
    extractor = MeanColours(batch_size=3)
    extract_dataset(extractor, photos, tmp_path / "s", shard_size=100, progress=False)
    # 5 portraits and 9 landscapes.
    assert sorted(len(batch) for batch in extractor.batches) == [2, 3, 3, 3, 3]


def test_the_device_is_fed_from_the_calling_thread_alone(
    tmp_path: Path, photos: PhotoFolder
) -> None:
    extractor = MeanColours()
    _extract(photos, tmp_path / "s", extractor=extractor)
    assert extractor.threads == {threading.current_thread().name}


def test_a_second_run_extracts_nothing(tmp_path: Path, photos: PhotoFolder) -> None:
    _extract(photos, tmp_path / "s")
    before = _bytes(tmp_path / "s")
    extractor = MeanColours()
    assert _extract(photos, tmp_path / "s", extractor=extractor) == (0, 16, 0)
    assert extractor.batches == [] and _bytes(tmp_path / "s") == before


def test_only_new_images_are_extracted_when_some_are_added(
    tmp_path: Path, photos: PhotoFolder, rng: np.random.Generator
) -> None:
    _extract(photos, tmp_path / "s")
    Image.fromarray(rng.integers(0, 256, (10, 10, 3), np.uint8)).save(photos.root / "00_new.png")
    assert _extract(scan_folder(photos.root), tmp_path / "s") == (1, 16, 0)
    assert len(FeatureStore.open(tmp_path / "s")) == 15


def test_a_changed_file_is_extracted_again(tmp_path: Path, photos: PhotoFolder) -> None:
    _extract(photos, tmp_path / "s")
    Image.new("RGB", (6, 4), "red").save(photos.root / "05.png")
    assert _extract(photos, tmp_path / "s") == (1, 15, 0)
    store = FeatureStore.open(tmp_path / "s")
    assert store.get("05.png").image_size == (4, 6) and len(store) == 14
    assert _extract(photos, tmp_path / "s") == (0, 16, 0)


def test_unchanged_failures_are_retried_on_request_alone(
    tmp_path: Path, photos: PhotoFolder
) -> None:
    _extract(photos, tmp_path / "s")
    assert _extract(photos, tmp_path / "s") == (0, 16, 0)
    assert _extract(photos, tmp_path / "s", retry_failed=True) == (0, 14, 2)
    assert list(FeatureStore.open(tmp_path / "s").failures()) == ["03_broken.jpg", "99_empty.jpg"]


def test_files_that_are_gone_are_failures_before_and_kept_after_their_extraction(
    tmp_path: Path, photos: PhotoFolder
) -> None:
    _extract(photos, tmp_path / "s")
    (photos.root / "05.png").unlink()
    missing = PhotoFolder(photos.root, (*photos.names, "never/there.jpg"))
    assert _extract(missing, tmp_path / "s") == (0, 16, 1)
    store = FeatureStore.open(tmp_path / "s")
    assert "05.png" in store
    assert store.failures()["never/there.jpg"] == "cannot be read: No such file or directory"


class _FailsLater(MeanColours):
    """Stops with an error of the device in the sixth batch."""

    def dispatch(self, images: Sequence[DecodedImage]) -> _Pending:
        if len(self.batches) == 5:
            raise RuntimeError("the device is gone")
        return super().dispatch(images)


def test_an_error_of_the_device_stops_the_run_and_the_next_one_finishes_it(
    tmp_path: Path, photos: PhotoFolder
) -> None:
    _extract(photos, tmp_path / "clean")
    with pytest.raises(RuntimeError, match="the device is gone"):
        _extract(photos, tmp_path / "s", extractor=_FailsLater())
    assert 0 < len(FeatureStore.open(tmp_path / "s").pending()) < 16
    _extract(photos, tmp_path / "s")
    assert _bytes(tmp_path / "s") == _bytes(tmp_path / "clean")


def test_a_store_of_another_config_is_refused_before_anything_is_read(
    tmp_path: Path, photos: PhotoFolder
) -> None:
    _extract(photos, tmp_path / "s")
    extractor = MeanColours(extraction=preset("fast").extraction())
    with pytest.raises(StoreError, match="extracted with config"):
        _extract(photos, tmp_path / "s", extractor=extractor)
    assert extractor.batches == []


def test_progress_is_a_bar_that_ends_with_counts(
    tmp_path: Path, photos: PhotoFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    extract_dataset(MeanColours(), photos, tmp_path / "s", shard_size=5)
    shown = capsys.readouterr()
    assert shown.out == ""
    # Spaces clear what a longer line before it has left.
    last = shown.err.splitlines()[-1].rstrip()
    assert (
        last.startswith("extract: 100%")
        and " 16/16 " in last
        and last.endswith(", 0 skipped, 2 failed]")
    )
    extract_dataset(MeanColours(), photos, tmp_path / "s", shard_size=5, progress=False)
    assert capsys.readouterr() == ("", "")
