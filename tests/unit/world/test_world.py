"""The world: its truth is exact, a seed fixes its bytes, it is whole or absent, and it serves as a
benchmark."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tqdm.auto import tqdm

from delfjax.config import ConfigError
from delfjax.datasets.columns import DatasetError
from delfjax.datasets.images import ImageError, decode_image, hash_file
from delfjax.datasets.world_benchmark import (
    CutLandmarks,
    load_world,
    load_world_rehearsal,
    load_world_train,
)
from delfjax.files import Lock, replacing
from delfjax.suite.data import look_alike_families
from delfjax.world import writing
from delfjax.world.census import SPLITS, Census, Frame
from delfjax.world.challenges import KNOBS
from delfjax.world.knobs import PRESETS, WorldConfig, world_config
from delfjax.world.reading import World, correspondences, open_world
from delfjax.world.rendering import render, render_truth, tile_lists
from delfjax.world.scene import MAX_SOLIDS
from delfjax.world.solids import WorldError, corners
from delfjax.world.writing import MANIFEST, PICTURE_SHARE, VISIBLE_SHARE, build_world, read_config

# Photographs of 128 × 96 pixels.
SMALL = world_config(
    "ci",
    landmarks=4,
    train_landmarks=4,
    train_views=2,
    database_views=3,
    distractors=4,
    no_match=2,
    image_side=128,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world") / "small"
    report = build_world(root, SMALL, progress=False)
    assert (report.done, report.skipped) == (Census(SMALL).frame_count, 0)
    return open_world(root)


def digest(root: Path) -> dict[str, str]:
    """Path of every file of a world → digest of its bytes."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_same_configuration_gives_the_same_bytes_with_any_number_of_workers(
    world: World, tmp_path: Path
) -> None:
    build_world(tmp_path / "again", SMALL, workers=1, progress=False)
    assert digest(tmp_path / "again") == digest(world.root)


def test_a_second_builder_says_for_whom_it_waits_and_finds_the_world_finished(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Lock(tmp_path / ".lock")
    first.acquire()
    shown = tqdm.write

    def finish(line: str, **options: Any) -> None:
        shown(line, **options)
        shutil.copytree(world.root, tmp_path, dirs_exist_ok=True)
        first.release()

    monkeypatch.setattr(tqdm, "write", finish)
    report = build_world(tmp_path, SMALL)
    assert (report.done, report.skipped) == (0, Census(SMALL).frame_count)
    waits = f"{tmp_path}: process {os.getpid()} on {socket.gethostname()} is rendering it; waiting"
    assert waits in capsys.readouterr().err


def test_another_seed_gives_other_landmarks_and_other_photographs(world: World) -> None:
    other = Census(dataclasses.replace(SMALL, seed=1))
    assert other.landmark(0).solids != world.census.landmark(0).solids
    frame = other.frame(0)
    assert not np.array_equal(
        render(other.shot(frame)[1].scene).image, render(world.scene(0)[1]).image
    )


def test_a_killed_build_resumes_after_its_last_finished_part(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_PART", 5)
    root = tmp_path / "killed"
    taken = writing.take
    left = 12

    def dies(*args: object, **options: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return taken(*args, **options)

    monkeypatch.setattr(writing, "take", dies)
    with pytest.raises(KeyboardInterrupt):
        build_world(root, SMALL, workers=1, progress=False)
    with pytest.raises(WorldError, match="not finished"):
        open_world(root)
    monkeypatch.setattr(writing, "take", taken)
    report = build_world(root, SMALL, progress=False)
    assert report.skipped == 10
    assert digest(root) == digest(world.root)
    assert build_world(root, SMALL, progress=False).done == 0


@pytest.mark.parametrize("finished", [True, False])
def test_photographs_that_are_missing_or_cut_short_are_taken_again_and_no_others(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    root = tmp_path / "world"
    shutil.copytree(world.root, root)
    if not finished:
        # As a build that was killed before it wrote the manifest.
        (root / "parts").mkdir()
        (root / MANIFEST).rename(root / "parts" / "part-00000000.parquet")
    gone, short, empty, kept = (root / path for path in world.paths[:4])
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-7])
    empty.write_bytes(b"")
    before = kept.stat().st_ino, kept.stat().st_mtime_ns
    taken = []
    take = writing.take

    def counted(census: Census, frame: Frame, **options: Any) -> object:
        taken.append(frame.number)
        return take(census, frame, **options)

    monkeypatch.setattr(writing, "take", counted)
    report = build_world(root, SMALL, progress=False)
    count = Census(SMALL).frame_count
    assert (report.done, report.skipped, report.restored) == (3, count - 3, 3)
    assert sorted(taken) == [0, 1, 2]
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == before
    assert digest(root) == digest(world.root)
    assert build_world(root, SMALL, progress=False).restored == 0


def test_a_manifest_that_was_cut_short_is_made_again(world: World, tmp_path: Path) -> None:
    root = tmp_path / "world"
    shutil.copytree(world.root, root)
    (root / MANIFEST).write_bytes((root / MANIFEST).read_bytes()[:-100])
    build_world(root, SMALL, progress=False)
    assert digest(root) == digest(world.root)


@pytest.mark.slow
def test_a_build_killed_on_two_devices_is_finished_on_one_with_the_same_bytes(
    world: World, tmp_path: Path
) -> None:
    script = (
        "import sys, json; from pathlib import Path;"
        " from delfjax import device; device.use_compilation_cache();"
        " from delfjax.world.writing import build_world;"
        " from delfjax.world.knobs import WorldConfig;"
        " build_world(Path(sys.argv[1]), WorldConfig(**json.loads(sys.argv[2])), progress=False)"
    )
    root = tmp_path / "dead"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", script, str(root), json.dumps(SMALL.plain())]
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 200
        while (
            len(list(root.rglob("*.jpg"))) < 6
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    whole = digest(world.root)
    written = {path.relative_to(root).as_posix() for path in root.rglob("[0-9]*.jpg")}
    # Both devices took photographs, and those written so far are whole and equal the world's.
    assert {int(name[-11:-4]) % 2 for name in written} == {0, 1}
    assert all(digest(root)[name] == whole[name] for name in written)
    build_world(root, SMALL, progress=False)
    assert digest(root) == whole


def test_a_full_disk_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, content: bytes) -> None:
        with replacing(file) as stream:
            stream.write(content[:10])
            raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(writing, "replace_file", full)
    with pytest.raises(OSError, match="No space left"):
        build_world(tmp_path, SMALL, workers=1, progress=False)
    assert not list(tmp_path.rglob("*.jpg")) and not list(tmp_path.rglob("*.tmp"))


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "wheel.jpg").write_bytes(b"a photo")
    (tmp_path / ".draft.tmp").write_bytes(b"somebody's")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WorldError, match="not a world .world.json is missing, but 'parts' is"):
        build_world(tmp_path, SMALL, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_holds_one_world(world: World, tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"holds another world \(seed is 0, not 7\)"):
        build_world(world.root, dataclasses.replace(SMALL, seed=7), progress=False)
    assert read_config(world.root) == SMALL
    with pytest.raises(WorldError, match="no such file"):
        open_world(tmp_path)
    for written, said in (
        ("{", "damaged or not JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "not the description of a world"),
        ('{"version": true, "config": {}}', "not the description of a world"),
        ('{"version": 2, "config": []}', "not the description of a world"),
        # The checks of types that tests run under have words of their own.
        ('{"version": 2, "config": {"landmarks": 2.5}}', "."),
        ('{"version": 2, "config": {"seed": "7"}}', "."),
        ('{"version": 2, "config": {"likeness": null}}', "."),
        ('{"version": 2, "config": {"weather": NaN}}', "a number that is not finite"),
        ('{"version": 2, "config": {"image_side": [256]}}', "."),
        ('{"version": 2, "config": {"more": 1}}', "unexpected keyword argument 'more'"),
    ):
        (tmp_path / "world.json").write_text(written)
        with pytest.raises(WorldError, match=f"world.json: .*{said}"):
            open_world(tmp_path)
    (tmp_path / "world.json").write_text((world.root / "world.json").read_text())
    (tmp_path / MANIFEST).write_bytes(b"PAR1 no more")
    with pytest.raises(WorldError, match="not a parquet file"):
        open_world(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": 1.5}, "scale is 1.5"),
        ({"landmarks": 0}, "landmarks is 0"),
        ({"image_side": 100}, "image_side is 100"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, float], said: str) -> None:
    with pytest.raises(WorldError, match=said):
        world_config("ci", **changes)
    with pytest.raises(ConfigError, match="did you mean 'clutter'"):
        world_config("ci", cluter=0.5)


def test_correspondences_reproject_within_half_a_pixel(world: World) -> None:
    views = [row for row in world.rows("database") if world.frame(int(row)).landmark == 0]
    checked = 0
    for first in views:
        for second in views:
            if first == second:
                continue
            pairs = correspondences(world, int(first), int(second))
            (site1, scene1), (site2, scene2) = world.scene(int(first)), world.scene(int(second))
            assert site1.number == site2.number
            # The surface point of each first pixel projects onto both of the corresponding pixels.
            seen1 = render_truth(scene1)
            y, x = pairs.first_yx.astype(int).T
            points = seen1.points[y, x].astype(np.float64)
            for scene, where in ((scene1, pairs.first_yx), (scene2, pairs.second_yx)):
                projected, depth = scene.camera.project(points)
                assert (depth > 0).all()
                assert np.abs(projected - where).max(initial=0) < 0.5
            # The surface points that the second view sees project back to the pixels of the first,
            # to within the distance of neighbouring pixels.
            seen2 = render_truth(scene2)
            nearest = np.round(pairs.second_yx).astype(int)
            back, _ = scene1.camera.project(
                seen2.points[nearest[:, 0], nearest[:, 1]].astype(np.float64)
            )
            scale = np.linalg.norm(scene1.camera.position) / np.linalg.norm(scene2.camera.position)
            near = np.linalg.norm(back - pairs.first_yx, axis=1)
            assert np.median(near) < 1.5 * max(1, 1 / scale) if len(near) else True
            checked += len(pairs.first_yx)
    assert checked > 300


def test_every_tile_lists_all_solids_that_show_in_it(world: World) -> None:
    _, scene = world.scene(int(world.rows("query")[0]))
    truth = render_truth(scene)
    shapes = corners(scene.solids)
    numbers, counts = tile_lists(shapes, scene.camera)
    assert numbers.shape == ((96 // 32) * (128 // 32), MAX_SOLIDS)
    # Lists that leave nothing out give the same picture.
    everywhere = np.tile(np.arange(MAX_SOLIDS, dtype=np.int32), (len(numbers), 1))
    count = np.full(len(counts), len(scene.solids), np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("delfjax.world.rendering.tile_lists", lambda *_, **__: (everywhere, count))
        complete = render_truth(scene)
    assert np.array_equal(truth.solid, complete.solid) and counts.mean() < 0.7 * len(scene.solids)


def test_masks_and_shares_say_what_the_photograph_shows(world: World) -> None:
    for row in range(len(world.manifest)):
        entry = {
            name: world.manifest[name][row].as_py()
            for name in ("landmarks", "visible", "covers", "rows", "columns")
        }
        assert max(entry["rows"], entry["columns"]) == SMALL.image_side
        assert all(0 < share <= 1 for share in (*entry["visible"], *entry["covers"]))
    row = int(world.rows("query")[0])
    mask = world.mask(row)
    covers = world.manifest["covers"][row].as_py()
    # The manifest counts one of the four rays of each pixel, the mask counts its centre.
    assert mask.mean() == pytest.approx(sum(covers), abs=0.02)


def test_a_landmark_is_cut_out_of_its_photograph(world: World) -> None:
    query, street = int(world.rows("query")[0]), int(world.rows("no_match")[0])
    cuts = CutLandmarks.of(world, [query, street])
    name, other = cuts.names
    assert (
        name == world.paths[query]
        and hash_file(cuts.path(name)) == decode_image(world.root / name, max_side=128).content_hash
    )
    cut, mask = cuts.read(name, max_side=200).pixels, world.truth(query).owner == 1
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(cut.shape[:2]) == 200 and cut.shape[0] / cut.shape[1] == pytest.approx(
        height / width, rel=0.02
    )
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # At the original size, only the surroundings change.
    same = cuts.read(name, max_side=int(max(height, width))).pixels
    whole = decode_image(world.root / name, max_side=128).pixels[
        rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1
    ]
    np.testing.assert_array_equal(same[inside], whole[inside])
    assert (same[~inside] == 127).all()
    with pytest.raises(ImageError, match="shows nothing of its landmark"):
        cuts.read(other, max_side=200)


def test_queries_search_for_landmarks_that_training_never_saw(world: World) -> None:
    dataset, training = load_world(world.root), load_world_train(world.root)
    assert len(dataset.database) == 4 * 3 + 4 and dataset.distractors == 4
    assert len(dataset.queries) == 4 + 2 and len(training.database) == 8
    families = {world.census.family(number) for number in range(4)}
    assert not families & {world.census.family(number) for number in range(4, 8)}
    for query in dataset.queries:
        assert (dataset.root / query.path).is_file()
        if query.path.startswith("no_match"):
            assert not len(query.landmarks) and not len(query.sets["ok"])
            continue
        assert dataset.landmarks is not None
        assert set(dataset.landmarks[query.sets["ok"]]) <= set(range(4))
        subject = int(query.landmarks[0])
        shown = [
            row
            for row in world.rows("database")
            if subject in world.manifest["landmarks"][int(row)].as_py()
        ]
        assert len(query.sets["ok"]) + len(query.sets["junk"]) == len(shown)
    assert training.landmarks is not None and set(training.landmarks) == {0, 1, 2, 3}


def test_look_alikes_are_known_among_the_distractors_too(world: World) -> None:
    dataset = load_world(world.root)
    families = look_alike_families(dataset)
    assert families is not None and len(families) == len(dataset.database)
    subjects = {
        name: int(world.manifest["subject"][row].as_py()) for row, name in enumerate(world.paths)
    }
    for name, family in zip(dataset.database, families, strict=True):
        subject = subjects[name]
        assert family == (world.census.family(subject) if subject >= 0 else -1)
    # Streets show no landmark; one of the strangers looks like a target.
    distractors = families[-dataset.distractors :].tolist()
    assert -1 in distractors
    assert {*distractors} & {world.census.family(number) for number in range(4)}
    assert look_alike_families(dataclasses.replace(dataset, name="folder")) is None


def test_a_rehearsal_asks_for_training_landmarks_some_of_which_it_does_not_hold(
    world: World,
) -> None:
    dataset = load_world_rehearsal(world.root, held=[0, 3], absent=[1], query_views=1)
    training = load_world_train(world.root)
    assert training.landmarks is not None and dataset.landmarks is not None
    views = {
        number: np.array(training.database)[training.landmarks == number].tolist()
        for number in range(4)
    }
    assert [query.path for query in dataset.queries] == [views[number][0] for number in (0, 1, 3)]
    assert list(dataset.database) == [views[0][1], views[3][1]]
    assert dataset.landmarks.tolist() == [0, 3]
    for query, own in zip(dataset.queries, ([0], [], [1]), strict=True):
        assert {*query.sets["ok"].tolist(), *query.sets["junk"].tolist()} == set(own)
    alone = load_world_rehearsal(world.root, held=[0], query_views=1, database_views=0)
    assert not len(alone.database) and len(alone.queries) == 1


@pytest.mark.parametrize(("held", "absent"), [([0, 4], []), ([0, 1], [1]), ([-1], [])])
def test_a_rehearsal_of_other_landmarks_is_refused(
    world: World, held: list[int], absent: list[int]
) -> None:
    with pytest.raises(DatasetError, match="must be different numbers from 0 to 3"):
        load_world_rehearsal(world.root, held=held, absent=absent)


def test_correct_answers_show_enough_of_the_landmark_and_junk_does_not(world: World) -> None:
    dataset = load_world(world.root)
    place = {path: row for row, path in enumerate(world.paths)}
    for query in dataset.queries:
        for label, enough in (("ok", True), ("junk", False)):
            for index in query.sets[label]:
                row = place[dataset.database[index]]
                shown = world.manifest["landmarks"][row].as_py().index(int(query.landmarks[0]))
                visible = world.manifest["visible"][row].as_py()[shown] >= VISIBLE_SHARE
                covers = world.manifest["covers"][row].as_py()[shown] >= PICTURE_SHARE
                assert (visible and covers) == enough


def test_recorded_positions_match_the_cameras_within_the_error_of_a_receiver(world: World) -> None:
    for row in map(int, world.rows("database")):
        frame = world.frame(row)
        place = world.census.place(frame.landmark)
        metres = 111_200 * np.hypot(
            world.manifest["latitude"][row].as_py() - place.latitude,
            (world.manifest["longitude"][row].as_py() - place.longitude)
            * np.cos(np.radians(place.latitude)),
        )
        assert abs(metres - world.manifest["distance_m"][row].as_py()) < 1500


def test_presets_have_their_size_and_disjoint_splits() -> None:
    assert 1300 <= Census(PRESETS["quick"]).frame_count <= 1700
    assert Census(PRESETS["full"]).frame_count >= 100_000
    for config in PRESETS.values():
        census = Census(config)
        numbers: dict[str, set[int]] = {split: set() for split in SPLITS}
        for start in (0, census.frame_count // 2, census.frame_count - 200):
            for frame in census.frames(max(start, 0), start + 200):
                numbers[frame.split].add(frame.landmark)
        assert not numbers["train"] & (numbers["query"] | numbers["database"])
        assert not {n for n in numbers["no_match"] if n >= 0} & (
            numbers["database"] | numbers["distractor"]
        )
        paths = [frame.path for frame in census.frames(0, 3000)]
        assert len(set(paths)) == len(paths)


def test_the_two_landmarks_of_a_pair_agree_on_where_they_stand() -> None:
    census = Census(world_config("quick"))
    pairs = [
        (n, census.shown(f)[1])
        for f in census.frames(720, 780)
        if len(census.shown(f)) == 2
        for n in [f.landmark]
    ]
    assert pairs, "no landmark of the preset has a neighbour"
    for one, other in pairs:
        dx, dy = census.site(one).neighbour_at
        ex, ey = census.site(other).neighbour_at
        assert (dx, dy) == (-ex, -ey)
        first, second = census.place(one), census.place(other)
        metres = 111_200 * np.hypot(
            first.latitude - second.latitude,
            (first.longitude - second.longitude) * np.cos(np.radians(first.latitude)),
        )
        assert metres == pytest.approx(np.hypot(dx, dy), rel=1e-3)


@pytest.mark.parametrize("knob", ["scale", "occlusion", "clutter", "tilt"])
def test_a_knob_changes_what_it_is_named_after(knob: str) -> None:
    assert knob in KNOBS
    easy, hard = (
        dataclasses.replace(WorldConfig(landmarks=12), **{knob: value}) for value in (0.0, 1.0)
    )
    measured = []
    for config in (easy, hard):
        census = Census(config)
        shots = [census.shot(frame) for frame in census.frames() if frame.split == "query"][:24]
        others = np.mean([sum(1 for s in shot.scene.solids if not s.owner) for _, shot in shots])
        spread = {
            "scale": np.std([np.log2(s.height_share) for _, s in shots]),
            "tilt": np.std([s.roll_rad for _, s in shots]),
        }
        measured.append(spread.get(knob, others))
    assert measured[0] < 0.75 * measured[1]


def test_a_photograph_is_the_same_with_and_without_a_named_device(world: World) -> None:
    _, scene = world.scene(0)
    assert np.array_equal(render(scene, device=jax.devices()[0]).image, render(scene).image)
