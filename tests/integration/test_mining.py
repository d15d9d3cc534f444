"""A tiny world is mined at once and in two parts, saved and opened, and mined by the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delfjax import cli
from delfjax.config import DelfConfig, FeaturesConfig, MiningConfig, VerificationConfig
from delfjax.datasets.photo_folder import PhotoFolder
from delfjax.evaluation.mining_scores import score_mining
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.extractor import Extractor
from delfjax.features.store import FeatureStore
from delfjax.mining.mine import MinedLandmarks, MiningError, mine_landmarks
from delfjax.mining.mined_files import open_landmarks, save_landmarks
from delfjax.models.delf import load_delf
from delfjax.world.knobs import WorldConfig
from delfjax.world.reading import World, open_world
from delfjax.world.writing import build_world

# Compiling the extractor and extracting a world takes over a minute.
pytestmark = pytest.mark.slow

CONFIG = DelfConfig(
    features=FeaturesConfig(max_side=256, max_features=300, scales=(0.7071, 1.0, 1.4142)),
    verification=VerificationConfig(threshold_px=10.0),
)
MINING = MiningConfig(max_features=300, shortlist=3)
WORLD = WorldConfig(
    landmarks=4,
    family_size=2,
    database_views=6,
    distractors=6,
    train_landmarks=0,
    train_views=0,
    query_views=0,
    no_match=0,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("mining") / "world"
    build_world(root, WORLD, progress=False)
    return open_world(root)


@pytest.fixture(scope="module")
def store(world: World) -> FeatureStore:
    path = world.root.parent / "store"
    photos = PhotoFolder(world.root, tuple(sorted(world.paths)))
    extract_dataset(Extractor(CONFIG, load_delf(CONFIG)), photos, path, progress=False)
    return FeatureStore.open(path)


@pytest.fixture(scope="module")
def positions(world: World) -> dict[str, tuple[float, float]]:
    columns = (world.manifest[name].to_pylist() for name in ("path", "latitude", "longitude"))
    return {path: (latitude, longitude) for path, latitude, longitude in zip(*columns, strict=True)}


@pytest.fixture(scope="module")
def whole(store: FeatureStore, positions: dict[str, tuple[float, float]]) -> MinedLandmarks:
    return mine_landmarks(store, positions, config=CONFIG, mining=MINING, progress=False)


def _assert_same(first: MinedLandmarks, second: MinedLandmarks) -> None:
    assert first.names == second.names
    for name in ("positions_deg", "clusters", "landmarks", "centres_deg", "representatives"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for name in ("pairs", "votes", "inliers"):
        np.testing.assert_array_equal(getattr(first.graph, name), getattr(second.graph, name))


def test_the_landmarks_of_the_world_are_found(world: World, whole: MinedLandmarks) -> None:
    subject = np.asarray(world.manifest["subject"])
    row = {path: number for number, path in enumerate(world.paths)}
    own = np.array([subject[row[name]] for name in whole.names])
    shown = world.manifest["landmarks"].to_pylist()
    scores = score_mining(whole.landmarks, own, [shown[row[name]] for name in whole.names])
    assert scores.purity >= 0.9
    assert scores.recall >= 0.5


@pytest.mark.parametrize("step", [2, 3])
def test_adding_photos_gives_the_same_as_mining_all_at_once(
    store: FeatureStore, positions: dict[str, tuple[float, float]], whole: MinedLandmarks, step: int
) -> None:
    """With three photos to a shortlist, new photos push old ones out."""
    some = {name: place for number, (name, place) in enumerate(positions.items()) if number % step}
    options = {"config": CONFIG, "mining": MINING, "progress": False}
    part = mine_landmarks(store, some, reduction=whole.reduction, **options)
    assert len(whole.graph.pairs) > len(part.graph.pairs) > 0
    _assert_same(mine_landmarks(store, positions, known=part, **options), whole)


def test_adding_nothing_compares_nothing(
    store: FeatureStore,
    positions: dict[str, tuple[float, float]],
    whole: MinedLandmarks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("delfjax.mining.visual_graph.verify", None)
    monkeypatch.setattr("delfjax.mining.visual_graph._votes", None)
    _assert_same(
        mine_landmarks(store, positions, config=CONFIG, mining=MINING, known=whole, progress=False),
        whole,
    )


def test_an_earlier_result_that_does_not_fit_is_refused(
    store: FeatureStore, positions: dict[str, tuple[float, float]], whole: MinedLandmarks
) -> None:
    first = min(positions)
    options = {"config": CONFIG, "mining": MINING, "known": whole, "progress": False}
    with pytest.raises(MiningError, match=f"{first}: has another position"):
        mine_landmarks(store, {**positions, first: (0.0, 0.0)}, **options)
    with pytest.raises(MiningError, match=f"{first}: was mined before and has no features"):
        mine_landmarks(
            store, {name: place for name, place in positions.items() if name != first}, **options
        )
    with pytest.raises(MiningError, match="other settings"):
        mine_landmarks(store, positions, **{**options, "mining": MiningConfig()})
    with pytest.raises(MiningError, match="not on the globe"):
        mine_landmarks(store, {**positions, first: (91.0, 0.0)}, **options)


def test_a_saved_result_opens_unchanged_and_damage_is_detected(
    tmp_path: Path, whole: MinedLandmarks
) -> None:
    save_landmarks(whole, tmp_path / "mined")
    _assert_same(open_landmarks(tmp_path / "mined"), whole)
    (file,) = (tmp_path / "mined").glob("arrays-*.npz")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(MiningError, match="damaged"):
        open_landmarks(tmp_path / "mined")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(MiningError, match="exists and is not a folder of mined landmarks"):
        save_landmarks(whole, tmp_path / "photos")


def test_the_command_mines_adds_and_names_what_is_wrong(
    tmp_path: Path,
    store: FeatureStore,
    positions: dict[str, tuple[float, float]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [
        "path,latitude,longitude",
        *(f"{name},{place[0]!r},{place[1]!r}" for name, place in positions.items()),
    ]
    file = tmp_path / "positions.csv"
    command = [
        "mine",
        str(store.path),
        "--positions",
        str(file),
        "--out",
        str(tmp_path / "mined"),
        "--set",
        "mining.shortlist=3",
        "--set",
        "min_photos=3",
    ]
    file.write_text("\n".join(lines[:20]))
    assert cli.main(command) == 0
    file.write_text("\n".join(lines))
    assert cli.main([*command, "--add"]) == 0
    assert f"of {len(positions)} photos" in capsys.readouterr().err
    file.write_text("\n".join([*lines, f"{min(positions)},1,2"]))
    assert cli.main(command) == 1
    file.write_text("path,latitude,longitude\na.jpg,north,2")
    assert cli.main(command) == 1
    said = capsys.readouterr().err.splitlines()
    assert "repeated" in said[0] and "line 2" in said[1]
