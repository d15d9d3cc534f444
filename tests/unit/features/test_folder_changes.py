"""A store follows its folder: healed failures, renamed, deleted and moved photos."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax.datasets.images import DecodedImage
from delfjax.datasets.photo_folder import PhotoFolder, scan_folder
from delfjax.errors import DelfjaxWarning
from delfjax.features.dataset_loop import ExtractionReport, extract_dataset
from delfjax.features.folder_changes import warn_unfinished
from delfjax.features.store import FeatureStore, StoreError, StoreWriter
from tests.unit.features.test_dataset_loop import MeanColours

_BROKEN = b"\xff\xd8 the first bytes of a photo"


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Six photos, two of them in a folder of their own."""
    folder = tmp_path / "album"
    (folder / "trip").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "c", "d", "trip/e", "trip/f")):
        _draw(folder / f"{name}.png", number)
    return folder


def _draw(file: Path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")


@dataclass
class _Run:
    """An extraction, and how many photos the extractor was given."""

    report: ExtractionReport
    extracted: int
    store: FeatureStore


def _extract(folder: Path | PhotoFolder, store: Path) -> _Run:
    extractor = MeanColours()
    photos = scan_folder(folder) if isinstance(folder, Path) else folder
    report = extract_dataset(extractor, photos, store, shard_size=4, progress=False)
    return _Run(report, sum(map(len, extractor.batches)), FeatureStore.open(store))


def _counts(run: _Run) -> dict[str, int]:
    named = {name: getattr(run.report, name) for name in ("done", "failed", "known", "gone")}
    return {name: count for name, count in named.items() if count}


def _bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def _damage(file: Path) -> None:
    file.write_bytes(_BROKEN)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _unmount(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("disk") / file.name)


@pytest.mark.parametrize("damage", [_damage, _empty, _unmount])
def test_a_failure_that_has_healed_is_extracted_and_one_that_has_not_is_skipped(
    album: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(album / "c.png")
    assert _counts(_extract(album, tmp_path / "s")) == {"done": 5, "failed": 1}
    before = _bytes(tmp_path / "s")
    assert _counts(_extract(album, tmp_path / "s")) == {} and _bytes(tmp_path / "s") == before
    (album / "c.png").unlink()
    _draw(album / "c.png", 2)
    healed = _extract(album, tmp_path / "s")
    assert _counts(healed) == {"done": 1} and not healed.store.failures()
    assert _counts(_extract(album, tmp_path / "s")) == {}


def test_a_file_that_is_completed_while_it_is_read_is_read_again_next_time(
    album: Path, tmp_path: Path
) -> None:
    _damage(album / "c.png")

    class Copying(PhotoFolder):
        def read(self, name: str, *, max_side: int) -> DecodedImage:
            try:
                return super().read(name, max_side=max_side)
            finally:
                if name == "c.png":
                    _draw(album / name, 2)

    listed = Copying(album, scan_folder(album).names, scanned=True)
    assert _counts(_extract(listed, tmp_path / "s")) == {"done": 5, "failed": 1}
    assert _counts(_extract(album, tmp_path / "s")) == {"done": 1}


def test_failures_recorded_without_a_digest_are_tried_once_more(
    album: Path, tmp_path: Path
) -> None:
    _damage(album / "c.png")
    with StoreWriter(tmp_path / "s", MeanColours().extraction) as writer:
        (group,) = writer.plan(["c.png"])
        writer.commit(group, {}, {"c.png": "truncated"})
    assert _counts(_extract(album, tmp_path / "s")) == {"done": 5, "failed": 1}
    assert _counts(_extract(album, tmp_path / "s")) == {}


def test_a_deleted_photo_leaves_and_returns_without_being_extracted(
    album: Path, tmp_path: Path
) -> None:
    first = _extract(album, tmp_path / "s").store
    content = (album / "trip/e.png").read_bytes()
    (album / "trip/e.png").unlink()
    left = _extract(album, tmp_path / "s")
    assert _counts(left) == {"gone": 1} and "trip/e.png" not in left.store
    assert left.store.arrays().names == left.store.names and len(left.store) == 5
    (album / "trip/e.png").write_bytes(content)
    back = _extract(album, tmp_path / "s")
    assert (_counts(back), back.extracted) == ({"known": 1}, 0)
    assert back.store.names == first.names
    assert np.array_equal(back.store.arrays().descriptors, first.arrays().descriptors)


def test_a_failure_whose_file_is_deleted_leaves_as_well(album: Path, tmp_path: Path) -> None:
    _damage(album / "c.png")
    _extract(album, tmp_path / "s")
    (album / "c.png").unlink()
    left = _extract(album, tmp_path / "s")
    assert _counts(left) == {"gone": 1} and not left.store.failures()


def test_renamed_moved_and_copied_photos_keep_their_features(album: Path, tmp_path: Path) -> None:
    first = _extract(album, tmp_path / "s").store
    (album / "a.png").rename(album / "trip/ä.png")
    (album / "trip/f.png").rename(album / "f.png")
    shutil.copy(album / "b.png", album / "copy of b.png")
    moved = _extract(album, tmp_path / "s")
    assert (_counts(moved), moved.extracted) == ({"known": 3, "gone": 2}, 0)
    assert moved.store.names == scan_folder(album).names
    for name, old in (("trip/ä.png", "a.png"), ("f.png", "trip/f.png"), ("copy of b.png", "b.png")):
        assert moved.store.content_hash(name) == first.content_hash(old)
        assert np.array_equal(
            moved.store.get(name).local.descriptors, first.get(old).local.descriptors
        )
    before = _bytes(tmp_path / "s")
    assert _counts(_extract(album, tmp_path / "s")) == {} and _bytes(tmp_path / "s") == before


def test_photos_that_swap_their_names_swap_their_features(album: Path, tmp_path: Path) -> None:
    first = _extract(album, tmp_path / "s").store
    (album / "a.png").rename(album / "x")
    (album / "b.png").rename(album / "a.png")
    (album / "x").rename(album / "b.png")
    swapped = _extract(album, tmp_path / "s")
    assert (_counts(swapped), swapped.extracted) == ({"known": 2}, 0)
    assert swapped.store.content_hash("a.png") == first.content_hash("b.png")
    assert swapped.store.content_hash("b.png") == first.content_hash("a.png")


def test_an_old_name_can_be_used_by_a_new_photo(album: Path, tmp_path: Path) -> None:
    _extract(album, tmp_path / "s")
    (album / "a.png").rename(album / "z.png")
    _draw(album / "a.png", 77)
    reused = _extract(album, tmp_path / "s")
    assert (_counts(reused), reused.extracted) == ({"known": 1, "done": 1}, 1)
    assert len(reused.store) == 7 and _counts(_extract(album, tmp_path / "s")) == {}


def test_a_photo_that_leaves_before_it_was_extracted_returns(album: Path, tmp_path: Path) -> None:
    """Its first plan was never carried out, and it was gone in between."""
    _draw(album / "new.png", 50)
    with StoreWriter(tmp_path / "s", MeanColours().extraction, shard_size=4) as writer:
        writer.plan(scan_folder(album).names)
    (album / "a.png").rename(tmp_path / "a.png")
    left = _extract(album, tmp_path / "s")
    assert "a.png" not in left.store and not left.store.failures() and not left.store.pending()
    (tmp_path / "a.png").rename(album / "a.png")
    back = _extract(album, tmp_path / "s")
    assert back.store.names == scan_folder(album).names


def test_a_second_folder_is_refused_and_nothing_changes(album: Path, tmp_path: Path) -> None:
    _extract(album, tmp_path / "s")
    before = _bytes(tmp_path / "s")
    other = tmp_path / "other"
    other.mkdir()
    _draw(other / "a.png", 99)
    for folder in (other, album / "trip", tmp_path):
        message = f"{tmp_path / 's'}: holds the photos of {album}, not those of {folder}; name"
        with pytest.raises(StoreError, match=re.escape(message)):
            _extract(folder, tmp_path / "s")
    assert _bytes(tmp_path / "s") == before


def test_a_folder_is_known_by_another_path(album: Path, tmp_path: Path) -> None:
    _extract(album, tmp_path / "s")
    (tmp_path / "link").symlink_to(album)
    assert _counts(_extract(tmp_path / "link", tmp_path / "s")) == {}
    assert _counts(_extract(album / "trip" / "..", tmp_path / "s")) == {}


def test_a_folder_that_moved_as_a_whole_is_adopted(album: Path, tmp_path: Path) -> None:
    _extract(album, tmp_path / "s")
    moved = album.rename(tmp_path / "moved")
    _draw(moved / "new.png", 50)
    adopted = _extract(moved, tmp_path / "s")
    assert (_counts(adopted), adopted.extracted) == ({"done": 1}, 1)
    assert adopted.store.source is not None and adopted.store.source.root == str(moved)


def test_another_folder_does_not_replace_one_that_is_not_there(album: Path, tmp_path: Path) -> None:
    _extract(album, tmp_path / "s")
    before = _bytes(tmp_path / "s")
    moved = album.rename(tmp_path / "moved")
    for name in ("a.png", "b.png", "c.png", "d.png"):
        _draw(moved / name, 80)
    with pytest.raises(StoreError, match="no longer there, but only 2 of these 6 are in"):
        _extract(moved, tmp_path / "s")
    assert _bytes(tmp_path / "s") == before


def test_a_store_is_not_emptied(album: Path, tmp_path: Path) -> None:
    """The disk that is mounted at the folder may be missing."""
    _extract(album, tmp_path / "s")
    before = _bytes(tmp_path / "s")
    shutil.rmtree(album)
    album.mkdir()
    _draw(album / "placeholder.png", 60)
    with pytest.raises(StoreError, match="none of its 6 photos is left in"):
        _extract(album, tmp_path / "s")
    assert _bytes(tmp_path / "s") == before


def test_a_benchmark_whose_photos_were_all_replaced_is_extracted(
    album: Path, tmp_path: Path
) -> None:
    _extract(PhotoFolder(album, ("a.png", "b.png")), tmp_path / "s")
    (album / "a.png").unlink()
    (album / "b.png").unlink()
    _draw(album / "new.png", 60)
    replaced = _extract(PhotoFolder(album, ("new.png",)), tmp_path / "s")
    assert _counts(replaced) == {"done": 1, "gone": 2} and replaced.store.names == ("new.png",)


def test_photos_behind_a_missing_disk_stay(album: Path, tmp_path: Path) -> None:
    disk = (album / "trip").rename(tmp_path / "disk")
    (album / "trip").symlink_to(disk)
    (album / "d.png").rename(tmp_path / "d.png")
    (album / "d.png").symlink_to(tmp_path / "d.png")
    assert _counts(_extract(album, tmp_path / "s")) == {"done": 6}
    disk.rename(tmp_path / "away")
    (tmp_path / "d.png").unlink()
    assert _counts(_extract(album, tmp_path / "s")) == {}
    assert len(FeatureStore.open(tmp_path / "s")) == 6


def test_photos_in_a_folder_that_cannot_be_listed_stay(album: Path, tmp_path: Path) -> None:
    _extract(album, tmp_path / "s")
    listed = tuple(name for name in scan_folder(album).names if not name.startswith("trip/"))
    photos = PhotoFolder(album, listed, problems=(("trip", "cannot be listed"),), scanned=True)
    assert _counts(_extract(photos, tmp_path / "s")) == {}


def test_a_list_of_photos_removes_only_those_whose_files_are_gone(
    album: Path, tmp_path: Path
) -> None:
    """A benchmark may use a part of a folder."""
    _extract(album, tmp_path / "s")
    (album / "d.png").unlink()
    part = _extract(PhotoFolder(album, ("a.png", "b.png")), tmp_path / "s")
    assert _counts(part) == {"gone": 1} and len(part.store) == 5
    assert part.store.source is not None and part.store.source.scanned


@pytest.mark.parametrize("source", [None, "photos alone"])
def test_a_store_of_an_earlier_version_is_continued(
    album: Path, tmp_path: Path, source: str | None
) -> None:
    _extract(album, tmp_path / "s")
    (tmp_path / "s" / "source.json").unlink()
    if source is not None:
        (tmp_path / "s" / "source.json").write_text(json.dumps({"photos": str(album)}))
    (album / "a.png").rename(album / "z.png")
    continued = _extract(album, tmp_path / "s")
    assert (_counts(continued), continued.extracted) == ({"known": 1, "gone": 1}, 0)
    assert continued.store.names == scan_folder(album).names


def test_a_report_counts_what_was_renamed_and_removed(album: Path, tmp_path: Path) -> None:
    _extract(album, tmp_path / "s")
    (album / "a.png").rename(album / "z.png")
    (album / "b.png").unlink()
    report = _extract(album, tmp_path / "s").report
    assert str(report).startswith(
        "0 done, 4 skipped, 0 failed, 1 recognised by content, 2 gone in "
    )


def test_a_finished_store_is_used_without_a_warning(album: Path, tmp_path: Path) -> None:
    _damage(album / "c.png")
    store = _extract(album, tmp_path / "s").store
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unfinished(store)
        shutil.rmtree(album)
        warn_unfinished(store)


def test_an_unfinished_store_says_what_is_missing_and_the_command_that_finishes_it(
    album: Path, tmp_path: Path
) -> None:
    path = tmp_path / "my store"
    with StoreWriter(path, MeanColours().extraction, shard_size=4) as writer:
        writer.plan(["a.png", "b.png"])
        pending = writer.store()
    with pytest.warns(DelfjaxWarning, match="2 of 2 photos are not extracted yet; run `delfjax e"):
        warn_unfinished(pending)
    store = _extract(album, path).store
    _draw(album / "new.png", 50)
    (album / "a.png").unlink()
    with pytest.warns(
        DelfjaxWarning,
        match=re.escape(
            "1 of 7 photos are not extracted yet, and 1 of its 6 photos have left the folder; run"
            f" `delfjax extract {shlex.quote(str(album))} --store {shlex.quote(str(path))}` again"
        ),
    ):
        warn_unfinished(store)
