"""From photos to answers: calls take paths or loaded objects, load the network once, and return
results that print and plot."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from delfjax.config import DelfConfig, override, preset
from delfjax.datasets.images import ImageError
from delfjax.datasets.photo_folder import FolderError
from delfjax.device import count_compilations
from delfjax.errors import DelfjaxWarning
from delfjax.features import extractor
from delfjax.features.store import FeatureStore, StoreError
from delfjax.models.model_files import override_system
from delfjax.pipeline import photos
from delfjax.pipeline.answers import MissingPhotosError
from delfjax.retrieval.local_index import LocalIndex, LocalIndexError
from delfjax.retrieval.system_index import SystemIndex
from tests.unit.datasets import miniatures

CONFIG = override(
    preset("ci"),
    [
        "features.max_side=128",
        "features.scales=[1.0, 2.0]",
        "reduction.dim=8",
        # Of three photos: with more, nearly every feature votes for each of them.
        "search.neighbours=2",
        "verification.min_evidence=5",
    ],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, textured_image: np.ndarray) -> Path:
    """Two views of one photo, another photo, and a file that is not a photo."""
    root = tmp_path_factory.mktemp("photos") / "album"
    root.mkdir()
    noise = np.random.default_rng(2).integers(0, 256, (12, 16, 3), np.uint8).repeat(8, 0)
    Image.fromarray(textured_image).save(root / "first.png")
    Image.fromarray(textured_image[:, 16:]).save(root / "second.png")
    Image.fromarray(noise.repeat(8, 1)).save(root / "third.png")
    (root / "notes.txt").write_text("x")
    return root


@pytest.fixture(scope="module")
def store(folder: Path) -> FeatureStore:
    place = folder.with_name("store")
    return photos.extract_folder(folder, place, config=CONFIG, progress=False)


@pytest.fixture(scope="module")
def index(store: FeatureStore) -> LocalIndex:
    return photos.build_index(store, config=CONFIG)


def test_two_views_match_by_the_shift_between_them_and_another_photo_does_not(folder: Path) -> None:
    pair = photos.match(str(folder / "first.png"), folder / "second.png", config=CONFIG)
    assert pair.match and pair.photos == (folder / "first.png", folder / "second.png")
    # A cell of the enlarged photo is 8 pixels.
    np.testing.assert_allclose(pair.transform, [[1, 0, -16], [0, 1, 0], [0, 0, 1]], atol=2)
    inliers = int(pair.inlier.sum())
    assert str(pair) == (
        f"match: {inliers} inliers of {len(pair.inlier)} putative matches,"
        f" evidence {pair.evidence:.1f} of 5.0"
    )
    other = photos.match(folder / "first.png", folder / "third.png", config=CONFIG)
    assert not other.match and str(other).startswith("no match: ")


def test_a_second_call_loads_no_network_and_compiles_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = folder / "first.png", folder / "second.png"
    first = photos.match(*pair, config=CONFIG)
    monkeypatch.delattr(extractor, "load_delf")
    stricter = override(CONFIG, ["verification.min_evidence=1000", "seed=3"])
    with count_compilations() as count:
        again = photos.match(*pair, config=CONFIG)
        refused = photos.match(*pair, config=stricter)
    assert count.programs == 0
    np.testing.assert_array_equal(again.inlier, first.inlier)
    assert again.match and not refused.match


def test_features_replace_their_photo_but_have_no_pixels_to_draw(folder: Path) -> None:
    features = photos.extract_photo(folder / "first.png", config=CONFIG)
    pair = photos.match(features, folder / "second.png", config=CONFIG)
    files = photos.match(folder / "first.png", folder / "second.png", config=CONFIG)
    np.testing.assert_array_equal(pair.query_yx, files.query_yx)
    np.testing.assert_array_equal(pair.inlier, files.inlier)
    assert isinstance(files.plot(title="two views"), Figure)
    with pytest.raises(MissingPhotosError, match="made from features"):
        pair.plot()


def test_a_second_extraction_of_a_folder_adds_only_new_photos(folder: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    (album / "a.png").write_bytes((folder / "first.png").read_bytes())
    first = photos.extract_folder(album, tmp_path / "store", config=CONFIG, progress=False)
    shards = {file: file.stat().st_mtime_ns for file in first.path.glob("*.arrow")}
    (album / "b.png").write_bytes((folder / "third.png").read_bytes())
    (album / "c.png").write_bytes(b"no image")
    second = photos.extract_folder(str(album), str(first.path), config=CONFIG, progress=False)
    assert first.names == ("a.png",) and second.names == ("a.png", "b.png")
    assert list(second.failures()) == ["c.png"]
    assert shards.items() <= {f: f.stat().st_mtime_ns for f in first.path.glob("*.arrow")}.items()
    assert photos.open_store(str(first.path)).names == second.names


def test_a_file_that_cannot_be_listed_is_a_warning(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((folder / "first.png").read_bytes())
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"")
    with pytest.warns(UserWarning, match="is left out: file name is not valid UTF-8"):
        held = photos.extract_folder(tmp_path, tmp_path / ".store", config=CONFIG, progress=False)
    assert held.names == ("a.png",)


def test_a_folder_without_photos_and_a_file_that_is_not_a_photo_are_refused(folder: Path) -> None:
    with pytest.raises(FolderError, match="no photos in this folder .1 other files"):
        photos.extract_folder(miniature_without_photos(folder), folder / "never")
    assert not (folder / "never").exists()
    with pytest.raises(ImageError, match="notes.txt: not an image"):
        photos.extract_photo(folder / "notes.txt", config=CONFIG)


def miniature_without_photos(folder: Path) -> Path:
    empty = folder.with_name("empty")
    empty.mkdir(exist_ok=True)
    (empty / "notes.txt").write_text("x")
    return empty


def test_an_index_takes_the_extraction_of_its_store_and_knows_where_the_photos_are(
    store: FeatureStore, index: LocalIndex, folder: Path
) -> None:
    known = photos.build_index(store.path)
    assert known.config == replace(
        DelfConfig(), backbone=CONFIG.backbone, scorer=CONFIG.scorer, features=CONFIG.features
    )
    assert known.photos == index.photos == str(folder)
    assert photos.build_index(store, config=CONFIG, photos="elsewhere").photos == "elsewhere"
    with pytest.raises(LocalIndexError, match="extracted with config"):
        photos.build_index(store, config=DelfConfig())


def test_a_search_ranks_names_and_says_which_match(
    index: LocalIndex, store: FeatureStore, folder: Path, tmp_path: Path
) -> None:
    found = photos.search(index, folder / "first.png")
    assert [photo.image for photo in found] == ["first.png", "second.png", "third.png"]
    assert [photo.rank for photo in found] == [1, 2, 3] and len(found) == 3
    assert found.matches == (found[0], found[1]) and found[0].inliers > found[2].inliers
    lines = str(found).splitlines()
    assert (
        lines[0].split() == ["rank", "inliers", "votes", "evidence", "verdict", "image"]
        and len(lines) == 4
    )
    assert lines[3].split()[4:] == ["no", "match", "third.png"]
    index.save(str(tmp_path / "index"))
    assert photos.search(str(tmp_path / "index"), str(folder / "first.png")) == found
    # The store keeps 16 bits of a descriptor.
    for stored, fresh in zip(photos.search(index, store.get("first.png")), found, strict=True):
        assert stored == replace(fresh, evidence=stored.evidence)
        assert stored.evidence == pytest.approx(fresh.evidence, rel=0.05)
    stricter = override(CONFIG, ["verification.min_evidence=1000"])
    [best] = photos.search(index, folder / "first.png", top=1, config=stricter)
    assert best == replace(found[0], match=False)


def test_a_search_plots_its_results_while_the_photos_exist(
    index: LocalIndex, store: FeatureStore, folder: Path
) -> None:
    found = photos.search(index, folder / "first.png")
    figure = found.plot()
    assert figure.get_suptitle() == "2 of the first 3 results match"
    moved = replace(found, root=folder / "gone")
    with pytest.raises(MissingPhotosError, match="are not at .*gone"):
        moved.plot()
    with pytest.raises(MissingPhotosError, match="are not at a known place"):
        replace(found, root=None).plot()
    with pytest.raises(MissingPhotosError, match="query was given as features"):
        photos.search(index, store.get("first.png")).plot()


@pytest.fixture
def own_index(folder: Path, tmp_path: Path) -> LocalIndex:
    """An index of a copy of the album, which a test may change."""
    album = Path(shutil.copytree(folder, tmp_path / "album"))
    store = photos.extract_folder(album, tmp_path / "store", config=CONFIG, progress=False)
    index = photos.build_index(store, config=CONFIG)
    index.save(tmp_path / "index")
    return photos.open_index(tmp_path / "index")


def test_a_figure_leaves_out_photos_that_are_missing_or_have_changed(
    own_index: LocalIndex, folder: Path
) -> None:
    album = Path(own_index.photos)
    (album / "second.png").unlink()
    (album / "third.png").write_bytes((album / "first.png").read_bytes())
    found = photos.search(own_index, folder / "first.png")
    with pytest.warns(DelfjaxWarning) as warned:
        figure = found.plot()
    assert [str(one.message) for one in warned] == [
        f"{album / 'second.png'}: cannot be read: No such file or directory; the figure leaves it"
        " blank",
        f"{album / 'third.png'}: changed since it was indexed; the figure leaves it blank",
    ]
    notes = [" ".join(text.get_text().split()) for axes in figure.axes for text in axes.texts]
    assert notes == ["cannot be read: No such file or directory", "changed since it was indexed"]
    drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert [len(np.unique(pixels)) == 1 for pixels in drawn] == [False, False, True, True]


def test_an_index_that_does_not_record_its_files_is_drawn_as_they_are(
    own_index: LocalIndex, folder: Path
) -> None:
    file = Path(own_index.photos) / "third.png"
    file.write_bytes((folder / "first.png").read_bytes())
    found = photos.search(replace(own_index, content_hashes=[]), folder / "first.png")
    assert all(not axes.texts for axes in found.plot().axes)


def test_a_photo_that_changed_after_it_was_matched_is_not_drawn_with_old_lines(
    folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "second.png"
    file.write_bytes((folder / "second.png").read_bytes())
    pair = photos.match(folder / "first.png", file, config=CONFIG)
    file.write_bytes((folder / "third.png").read_bytes())
    with pytest.raises(MissingPhotosError, match="second.png: changed since it was matched"):
        pair.plot()


def test_an_index_of_a_part_of_a_folder_warns_of_it(own_index: LocalIndex, tmp_path: Path) -> None:
    album = Path(own_index.photos)
    (album / "fourth.png").write_bytes((album / "first.png").read_bytes())
    (album / "third.png").unlink()
    with pytest.warns(
        DelfjaxWarning, match="1 of 4 photos are not extracted yet, and 1 of its 3 photos have left"
    ):
        photos.build_index(tmp_path / "store", config=CONFIG)


def test_a_labelled_folder_is_scored(tmp_path: Path) -> None:
    root = miniatures.write("folder", tmp_path)
    scores = photos.evaluate(str(root), CONFIG, store=tmp_path / "store", progress=False)
    assert scores.tiers and all(0 <= tier["inliers"] <= 1 for tier in scores.tiers.values())
    assert scores.num_images == len(photos.open_store(tmp_path / "store"))


def test_a_store_of_both_kinds_stays_up_to_date_as_a_whole(folder: Path, tmp_path: Path) -> None:
    own = [
        "global_features.backbone.name=efficientnet_lite0",
        "global_features.backbone.output=conv4",
        "global_features.sides=[128]",
        "global_features.whitening.kind=none",
    ]
    both = override_system(CONFIG, ["system=delf+rmac", *own])
    album = Path(shutil.copytree(folder, tmp_path / "album"))
    place = tmp_path / "store"
    photos.extract_folder(album, place, config=both, progress=False)
    shutil.copy(album / "third.png", album / "fourth.png")
    (album / "first.png").unlink()
    # Whoever names one system does not leave the other part behind.
    store = photos.extract_folder(album, place, config=CONFIG, progress=False)
    index = photos.build_index(store, config=both)
    assert isinstance(index, SystemIndex) and index.pooled is not None
    assert index.pooled.names == index.names == ["fourth.png", "second.png", "third.png"]
    found = photos.search(index, album / "fourth.png", top=2)
    assert [photo.cosine for photo in found] == pytest.approx([1.0, 1.0], abs=1e-5)
    # A part that lacks a photo is refused, as is a system that the store lacks.
    alone = photos.extract_folder(
        album, tmp_path / "alone", config=override_system(both, ["system=rmac"]), progress=False
    )
    with pytest.raises(StoreError, match="holds global descriptors alone"):
        photos.build_index(alone, config=both)
    shutil.copy(album / "third.png", album / "fifth.png")
    photos.extract_folder(album, tmp_path / "part", config=CONFIG, progress=False)
    with pytest.raises(StoreError, match="1 of its photos have no global descriptor"):
        photos.build_index(tmp_path / "part", config=both, pooled=place / "global")
