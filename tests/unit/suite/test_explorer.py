"""The view of search results: each control changes only its own part, and a bad file never raises
in a callback."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ipywidgets import Widget
from PIL import Image

from delfjax.config import override
from delfjax.features.reduction import Reduction
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.retrieval.local_index import LocalIndex
from delfjax.suite.explorer import Explorer, ExplorerError
from tests.unit.suite.tiny_collection import CONFIG, NAMES, TRUTH, write_collection

Collection = tuple[FeatureStore, LocalIndex]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("collection")


@pytest.fixture(scope="module")
def collection(folder: Path) -> Collection:
    return write_collection(folder)


@pytest.fixture
def photos(folder: Path, collection: Collection, tmp_path: Path) -> Path:
    """A copy of the photos that a test may damage."""
    return Path(shutil.copytree(folder / "photos", tmp_path / "photos"))


@pytest.fixture
def explorer(collection: Collection, photos: Path) -> Iterator[Explorer]:
    store, index = collection
    view = Explorer(index, store, photos, truth=TRUTH)
    yield view
    Widget.close_all()


def shown(view: Explorer) -> dict[str, bytes]:
    """The bytes of every picture in the view."""
    places = {f"result {rank}": thumbnail for rank, thumbnail in enumerate(view.thumbnails)}
    places |= {"matches": view.correspondences, "keypoints": view.keypoints}
    return {name: place.value for name, place in places.items()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in after if before[name] != after[name]}


def test_the_view_starts_with_the_first_photo_and_its_best_result(explorer: Explorer) -> None:
    assert explorer.query.value == NAMES[0]
    assert [hit.name for hit in explorer.hits[:2]] == ["bridge/view 1.png", "bridge/view 2.png"]
    first, second, third = (button.description for button in explorer.results[:3])
    # The features that the views share by construction, and perhaps a chance match or two.
    assert re.fullmatch(r"1 · 3[2-5] inliers ✓", first) and re.fullmatch(
        r"2 · 2[4-7] inliers ✓", second
    )
    assert re.fullmatch(r"3 · \d inliers ✗", third)
    assert explorer.results[0].button_style == "primary"
    assert all(Image.open(io.BytesIO(data)).format == "PNG" for data in shown(explorer).values())
    assert explorer.message.value == ""


def test_another_query_shows_its_own_list(explorer: Explorer) -> None:
    before = shown(explorer)
    explorer.query.value = "tower/view 0.png"
    assert [button.tooltip for button in explorer.results[:2]] == [
        "tower/view 1.png",
        "tower/view 2.png",
    ]
    assert changed(before, shown(explorer)) >= {"result 0", "result 1", "matches", "keypoints"}
    assert "tower/view 0.png" not in [hit.name for hit in explorer.hits]


def test_a_click_on_a_result_changes_only_the_matches_shown(
    explorer: Explorer,
) -> None:
    before = shown(explorer)
    explorer.results[1].click()
    assert changed(before, shown(explorer)) == {"matches"}
    assert [button.button_style for button in explorer.results[:2]] == ["", "primary"]
    explorer.results[0].click()
    assert shown(explorer) == before


def test_sliders_change_only_the_keypoints(explorer: Explorer) -> None:
    before = shown(explorer)
    explorer.top.value = 5
    fewer = shown(explorer)
    assert changed(before, fewer) == {"keypoints"}
    explorer.least.value = 0.99
    assert changed(fewer, shown(explorer)) == {"keypoints"}


def test_an_unchanged_part_is_not_drawn_again(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    for name in ("plot_keypoints", "plot_correspondences", "plot_thumbnail"):
        original = getattr(explorer, f"_{name}")
        monkeypatch.setattr(
            explorer, f"_{name}", lambda *a, _n=name, _f=original: drawn.append(_n) or _f(*a)
        )
    explorer.top.value = 7
    explorer.results[0].click()
    assert drawn == ["plot_keypoints"]
    explorer.query.value = NAMES[3]
    assert (
        drawn.count("plot_keypoints"),
        drawn.count("plot_correspondences"),
        drawn.count("plot_thumbnail"),
    ) == (2, 1, 6)


def test_a_result_can_become_the_query(explorer: Explorer) -> None:
    explorer.narrow.value = "view 0"
    assert explorer.query.options == ("bridge/view 0.png", "tower/view 0.png")
    explorer.again.click()
    assert explorer.query.value == "bridge/view 1.png"
    assert explorer.query.options == NAMES
    assert explorer.hits[0].name in TRUTH["bridge/view 1.png"]


def test_a_part_of_a_name_narrows_the_queries(explorer: Explorer) -> None:
    explorer.narrow.value = "TOWER"
    assert explorer.query.options == NAMES[3:]
    assert explorer.query.value == NAMES[3] and explorer.hits[0].name == "tower/view 1.png"
    explorer.narrow.value = "nothing like it"
    assert (
        "no photo&#x27;s name contains" in explorer.message.value
        and explorer.query.options == NAMES[3:]
    )
    explorer.narrow.value = ""
    assert (
        explorer.query.options == NAMES
        and explorer.query.value == NAMES[3]
        and explorer.message.value == ""
    )


def test_without_truth_there_are_no_verdicts(collection: Collection, photos: Path) -> None:
    store, index = collection
    view = Explorer(index, store, photos, truth={NAMES[1]: TRUTH[NAMES[1]]})
    assert view.results[0].description.endswith("inliers")
    view.query.value = NAMES[1]
    assert view.results[0].description.endswith("✓")


def test_the_photos_are_found_through_the_index(collection: Collection) -> None:
    store, index = collection
    assert Explorer(index, store, shown=2).message.value == ""


def test_a_missing_photo_is_one_line_and_the_others_are_shown(
    explorer: Explorer, photos: Path
) -> None:
    explorer.query.value = NAMES[3]
    (photos / NAMES[1]).rename(photos / "aside")
    explorer.query.value = NAMES[0]
    assert (
        explorer.message.value.count("⚠") == 1
        and "view 1.png: cannot be read" in explorer.message.value
    )
    assert explorer.correspondences.layout.display == "none"
    explorer.results[1].click()
    assert explorer.correspondences.layout.display is None
    # A restored photo is shown again.
    (photos / "aside").rename(photos / NAMES[1])
    explorer.query.value = NAMES[2]
    explorer.query.value = NAMES[0]
    assert explorer.message.value == "" and explorer.correspondences.layout.display is None


def test_a_missing_folder_is_one_line(collection: Collection, tmp_path: Path) -> None:
    store, index = collection
    view = Explorer(index, store, tmp_path / "nowhere")
    assert view.message.value.count("⚠") == 1 and "nowhere is not a folder" in view.message.value
    assert view.results[0].tooltip == NAMES[1]
    view.results[1].click()
    view.top.value = 3
    assert view.message.value.count("⚠") == 1
    assert view._repr_mimebundle_()["image/png"]


def test_a_damaged_store_is_one_line(
    folder: Path, collection: Collection, photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "store", tmp_path / "store")
    shard = next((tmp_path / "store").glob("shard-*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    view = Explorer(collection[1], FeatureStore.open(tmp_path / "store"), photos)
    assert (
        view.hits == () and view.message.value.count("⚠") == 1 and shard.name in view.message.value
    )
    view.again.click()
    view.results[0].click()
    assert view._repr_mimebundle_()["image/png"]


def test_only_the_shortlist_has_matches_to_show(collection: Collection, photos: Path) -> None:
    store, index = collection
    view = Explorer(
        index,
        store,
        photos,
        config=override(CONFIG, ["search.shortlist=1", "search.crowded_cosine=1"]),
    )
    view.results[1].click()
    assert (
        view.correspondences.layout.display == "none" and "search.shortlist" in view.message.value
    )


def test_a_reader_without_widgets_gets_a_picture(explorer: Explorer) -> None:
    bundle = explorer._repr_mimebundle_()
    assert (
        bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.widget.model_id
    )
    first = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert first.format == "PNG" and np.asarray(first).std() > 10
    explorer.results[1].click()
    assert explorer._repr_mimebundle_()["image/png"] != bundle["image/png"]


def test_a_large_photo_is_shown_smaller_with_its_keypoints_in_place(
    collection: Collection, photos: Path
) -> None:
    """Keypoints are in pixels of the original, but drawn on a smaller copy."""
    store, index = collection
    view = Explorer(index, store, photos)
    before = view.keypoints.value
    assert view._photo(NAMES[0], 60).pixels.shape == (45, 60, 3)
    assert view.keypoints.value == before


def test_a_store_of_other_features_is_refused(collection: Collection, tmp_path: Path) -> None:
    store, index = collection
    other = replace(
        index,
        reduction=Reduction(index.reduction.mean, index.reduction.projection, 1.0, "0123456789"),
    )
    with pytest.raises(ExplorerError, match="built from a store with config 0123456789"):
        Explorer(other, store)
    with StoreWriter(tmp_path / "empty", CONFIG.extraction()) as writer:
        empty = writer.store()
    with pytest.raises(ExplorerError, match="holds no photo"):
        Explorer(index, empty)


def test_a_photo_that_has_changed_is_not_drawn_with_old_matches(
    explorer: Explorer, photos: Path
) -> None:
    explorer.query.value = NAMES[3]
    shutil.copy(photos / NAMES[0], photos / NAMES[1])
    explorer.query.value = NAMES[0]
    assert "view 1.png: changed since it was extracted" in explorer.message.value
    assert explorer.correspondences.layout.display == "none"
