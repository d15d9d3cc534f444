"""Commands that replace a result, killed at every step: the old result or the new one is there
whole, and the same command, run again, leaves nothing of the killed one."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from delfjax.cli import main
from delfjax.config import DelfConfig, override
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.mining import mine
from delfjax.mining.mine import MinedLandmarks, MiningError
from delfjax.mining.mined_files import open_landmarks
from delfjax.mining.visual_graph import ComparedPhotos, PhotoSource, VisualGraph
from delfjax.models.foreign.packaged import packaged_path
from delfjax.models.weights import FORMAT, VERSION, load_weights, save_weights, tensor_digest
from delfjax.retrieval.system_index import open_index
from delfjax.types import ImageFeatures, LocalFeatures
from tests.integration.extraction_process import extract
from tests.integration.test_published_model import RESNET50
from tests.kills import kill_at_every_step
from tests.parity.tensorflow_networks import keras_variables
from tests.unit.models.foreign.tensor_bundles import write_bundle

CONFIG = override(DelfConfig(), ["reduction.dim=8"])
SCORES = """{"dataset": "folder", "config_hash": "0123456789", "results": {},
"tiers": {"easy": {"inliers": 0.5}}}"""


def write_store(folder: Path) -> None:
    """A store of three images with random features."""
    rng = np.random.default_rng(4)
    with StoreWriter(folder, CONFIG.extraction()) as writer:
        for group in writer.plan(["a.jpg", "b.jpg", "c.jpg"]):
            features = {
                name: ImageFeatures(_local(rng), None, (90, 90), "0") for name in group.names
            }
            writer.commit(group, features, {})


def _local(rng: np.random.Generator) -> LocalFeatures:
    rows = rng.normal(size=(40, 16)).astype(np.float32)
    return LocalFeatures(
        keypoints_yx=rng.uniform(0, 90, (40, 2)).astype(np.float32),
        scales=np.ones(40, np.float32),
        scores=np.ones(40, np.float32),
        descriptors=rows / np.linalg.norm(rows, axis=1, keepdims=True),
        valid=np.ones(40, bool),
    )


# What the commands import and make once a process, which each forked one would do anew.
IMPORTS = """
import sys
import delfjax.cli.running, delfjax.mining.mined_files, delfjax.pipeline.photos
import delfjax.models.foreign.delf_release, scipy.spatial
from delfjax.cli import main
from delfjax.config import Config, DelfConfig, override
from delfjax.models.delf import architecture
override(Config(), ["mining.min_photos=3"])
architecture(override(DelfConfig(), ["reduction.dim=8"]).backbone)
"""


def killed(
    place: Path,
    *words: str,
    check: Callable[[], object],
    every: int = 1,
    setup: str = "",
) -> None:
    """Kill a command at every step, or at the first of so many."""
    kill_at_every_step(
        place,
        setup=IMPORTS + setup,
        action=f"sys.exit(main({list(words)!r}))",
        check=check,
        size_limits=(1000,),
        every=every,
        same_bytes=True,
    )


@pytest.mark.slow
def test_index_leaves_the_old_index_or_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "place"
    write_store(place / "store")
    index = ["index", str(place / "store"), "--out", str(place / "index")]
    assert main([*index, "--set", "reduction.dim=8"]) == 0

    def check() -> None:
        assert open_index(place / "index").reduction.projection.shape[1] in (8, 4)

    killed(place, "index", "store", "--out", "index", "--set", "reduction.dim=4", check=check)


@pytest.mark.slow
def test_weights_record_leaves_the_card_with_or_without_the_scores(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    tensors = {"kernel": np.arange(12, dtype=np.float32)}
    save_weights(place / "model.safetensors", tensors, {"name": "attention"})
    (place / "scores.json").write_text(SCORES)

    def check() -> None:
        found, about = load_weights(place / "model.safetensors")
        np.testing.assert_array_equal(found["kernel"], tensors["kernel"])
        assert len(about.get("scores", [])) <= 1

    killed(place, "weights", "record", "model.safetensors", "scores.json", check=check)


@pytest.mark.slow
def test_weights_export_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    model = place / "model.safetensors"
    save_weights(model, {"kernel": np.zeros(3, np.float32)}, {"name": "attention"})

    def check() -> None:
        assert load_weights(model)[1]["name"] in ("attention", "delf")

    killed(place, "weights", "export", "model.safetensors", check=check)


@pytest.mark.slow
def test_an_extraction_loses_nothing_and_follows_its_folder(tmp_path: Path) -> None:
    """Photos are new, renamed, changed and deleted since the first extraction."""
    photos, store = tmp_path / "place" / "photos", tmp_path / "place" / "store"
    photos.mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 90, 20)).save(photos / f"{number}.png")
    extract("histograms", photos, store)
    (photos / "0.png").unlink()
    (photos / "1.png").rename(photos / "renamed.png")
    Image.new("RGB", (40, 30), (5, 5, 250)).save(photos / "2.png")
    (photos / "cut.png").write_bytes((photos / "3.png").read_bytes()[:40])
    Image.new("RGB", (30, 40), (1, 2, 3)).save(photos / "new.png")
    kept = {"3.png", "4.png", "5.png"}

    def check() -> None:
        held = FeatureStore.open(store)
        held.verify()
        assert kept <= set(held.names)
        assert all(held.get(name).local.descriptors.shape == (3, 256) for name in held.names)

    kills = kill_at_every_step(
        tmp_path / "place",
        setup="from pathlib import Path; from tests.integration.extraction_process import extract",
        action="extract('histograms', Path('photos'), Path('store'))",
        check=check,
        size_limits=(100, 2000),
    )
    assert kills > 10
    held = FeatureStore.open(store)
    assert set(held.names) == kept | {"renamed.png", "2.png", "new.png"}
    assert list(held.failures()) == ["cut.png"]


# Photos by the landmark that they show, all at places of their own.
VIEWS = {"arch": 4, "tower": 4, "well": 3}
MINE = ["mine", "store", "--positions", "positions.csv", "--out", "mined"]


def write_views(place: Path) -> list[str]:
    """A store of photos whose landmarks are mined, and their positions; the lines of these."""
    lines = ["path,latitude,longitude"]
    rng = np.random.default_rng(12)
    photos: dict[str, ImageFeatures] = {}
    for number, (landmark, views) in enumerate(VIEWS.items()):
        seen = _local(rng)
        for view in range(views):
            moved = replace(seen, keypoints_yx=seen.keypoints_yx + np.float32(3 * view))
            photos[f"{landmark}/{view}.jpg"] = ImageFeatures(moved, None, (120, 120), f"{view}")
            lines.append(f"{landmark}/{view}.jpg,{number},{view / 1e4}")
    with StoreWriter(place / "store", CONFIG.extraction()) as writer:
        for group in writer.plan(list(photos)):
            writer.commit(group, {name: photos[name] for name in group.names}, {})
    (place / "positions.csv").write_text("\n".join(lines))
    return lines


def graph_of_names(
    source: PhotoSource,
    positions_deg: np.ndarray,
    clusters: np.ndarray,
    *,
    compared: ComparedPhotos,
    **settings: object,
) -> VisualGraph:
    """The graph of photos of which those in the same folder show the same; to compare them takes
    longer."""
    pairs = [
        (first, second)
        for first, second in itertools.combinations(range(len(source.names)), 2)
        if Path(source.names[first]).parent == Path(source.names[second]).parent
    ]
    inliers = np.full(len(pairs), 40, np.int64)
    return VisualGraph(np.array(pairs, np.int64), inliers, inliers)


def landmarks(mined: MinedLandmarks) -> list[list[str]]:
    """The photos of each landmark."""
    return [
        [mined.names[photo] for photo in mined.photos(number)]
        for number in range(len(mined.centres_deg))
    ]


def each(*landmarks: str) -> list[list[str]]:
    """What is mined of these landmarks, the largest first."""
    return [[f"{name}/{view}.jpg" for view in range(VIEWS[name])] for name in landmarks]


@pytest.mark.parametrize(
    ("earlier", "every"),
    [
        ("added to", 4),
        pytest.param("added to", 1, marks=pytest.mark.slow),
        pytest.param("replaced", 1, marks=pytest.mark.slow),
        pytest.param("none", 1, marks=pytest.mark.slow),
    ],
)
def test_mine_leaves_the_old_landmarks_or_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: str, every: int
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(mine, "build_visual_graph", graph_of_names)
    setup = """
from delfjax.mining import mine
from tests.integration.test_killed_commands import graph_of_names
mine.build_visual_graph = graph_of_names
"""
    lines = write_views(place)
    monkeypatch.chdir(place)
    command = [*MINE, "--set", "reduction.dim=8"]
    old: list[list[str]] | None = None
    if earlier == "added to":
        (place / "positions.csv").write_text("\n".join(lines[: 1 + VIEWS["arch"]]))
        assert main(command) == 0
        (place / "positions.csv").write_text("\n".join(lines))
        old = each("arch")
        command = [*MINE, "--add", "--set", "reduction.dim=8"]
    elif earlier == "replaced":
        assert main([*command, "--set", "mining.min_photos=4"]) == 0
        old = each("arch", "tower")

    def check() -> None:
        try:
            found = landmarks(open_landmarks(place / "mined"))
        except MiningError as error:
            assert old is None and "no mined landmarks here" in str(error)
        else:
            assert found in (old, each("arch", "tower", "well"))

    killed(place, *command, check=check, every=every, setup=setup)
    assert landmarks(open_landmarks(place / "mined")) == each("arch", "tower", "well")


@pytest.mark.parametrize(
    ("kind", "every"),
    [
        ("backbone", 7),
        pytest.param("backbone", 1, marks=pytest.mark.slow),
        pytest.param("published model", 1, marks=pytest.mark.slow),
    ],
)
def test_weights_convert_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, rng: np.random.Generator, kind: str, every: int
) -> None:
    """The old one has its description beside it, as earlier versions wrote it."""
    place = tmp_path / "place"
    place.mkdir()
    if kind == "backbone":
        shutil.copy(packaged_path("efficientnet_lite0"), place / "lite0.pth")
        command = ["weights", "convert", "lite0.pth", "--out", "out/model.safetensors"]
        name = "efficientnet_lite0"
    else:
        write_bundle(
            place / "saved" / "variables" / "variables", keras_variables(RESNET50, rng, coded=True)
        )
        command = ["weights", "convert", "saved", "--out", "out/model.safetensors"]
        name = "delf"
    (place / "out").mkdir()
    out = place / "out" / "model.safetensors"
    tensors = {"kernel": np.arange(5, dtype=np.float32)}
    save_file(tensors, out)
    about = {"format": FORMAT, "version": VERSION, "model": "old", "config": {"name": "old"}}
    (place / "out" / "model.json").write_text(
        json.dumps({**about, "digest": tensor_digest(tensors)})
    )

    def check() -> None:
        assert load_weights(out)[1]["name"] in ("old", name)

    killed(place, *command, check=check, every=every)
    assert load_weights(out)[1]["name"] == name
    assert [file.name for file in out.parent.iterdir()] == [out.name]
