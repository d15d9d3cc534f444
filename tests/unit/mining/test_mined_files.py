"""Mined landmarks on disk are the earlier or the new ones, however the process ends that writes
them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from delfjax.config import MiningConfig, VerificationConfig
from delfjax.features.reduction import Reduction
from delfjax.mining.mine import MinedLandmarks, MiningError
from delfjax.mining.mined_files import open_landmarks, require_replaceable, save_landmarks
from delfjax.mining.visual_graph import VisualGraph
from tests.kills import kill_at_every_step


def mined(*names: str) -> MinedLandmarks:
    """One landmark of these photos, each of them verified with the next."""
    count = len(names)
    pairs = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    return MinedLandmarks(
        config=MiningConfig(),
        verification=VerificationConfig(),
        reduction=Reduction(np.zeros(4, np.float32), np.eye(4, 2, dtype=np.float32), 0.5, "0123"),
        names=names,
        positions_deg=np.zeros((count, 2)),
        clusters=np.zeros(count, np.int64),
        graph=VisualGraph(pairs, *np.full((2, count - 1), 40)),
        landmarks=np.zeros(count, np.int64),
        centres_deg=np.zeros((1, 2)),
        representatives=np.zeros(1, np.int64),
    )


OLD, NEW = mined("a.jpg", "b.jpg"), mined("a.jpg", "b.jpg", "ç.jpg")


def save_as_version_1(result: MinedLandmarks, folder: Path) -> None:
    """A result as it was written before file names held digests."""
    save_landmarks(result, folder)
    (arrays,) = folder.glob("arrays-*.npz")
    header = json.loads((folder / "landmarks.json").read_text(encoding="utf-8"))
    del header["files"]
    header |= {"version": 1, "arrays": hashlib.sha256(arrays.read_bytes()).hexdigest()}
    (folder / "landmarks.json").write_text(json.dumps(header), encoding="utf-8")
    arrays.rename(folder / "arrays.npz")
    (folder / "writer.lock").unlink()


def assert_same(one: MinedLandmarks, other: MinedLandmarks) -> None:
    assert (one.names, one.config) == (other.names, other.config)
    np.testing.assert_array_equal(one.graph.pairs, other.graph.pairs)
    np.testing.assert_array_equal(one.reduction.projection, other.reduction.projection)


def test_a_result_of_version_1_is_read_replaced_and_checked(tmp_path: Path) -> None:
    save_as_version_1(OLD, tmp_path / "mined")
    assert_same(open_landmarks(tmp_path / "mined"), OLD)
    save_landmarks(NEW, tmp_path / "mined")
    assert_same(open_landmarks(tmp_path / "mined"), NEW)
    assert not (tmp_path / "mined" / "arrays.npz").exists()
    save_as_version_1(OLD, tmp_path / "damaged")
    (tmp_path / "damaged" / "arrays.npz").write_bytes(b"")
    with pytest.raises(MiningError, match=r"arrays\.npz: damaged"):
        open_landmarks(tmp_path / "damaged")


@pytest.mark.parametrize("before", ["nothing", "a result", "a result of version 1"])
def test_a_result_that_is_killed_at_any_step_is_the_earlier_or_the_new_one(
    tmp_path: Path, before: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if before != "nothing":
        save = save_landmarks if before == "a result" else save_as_version_1
        save(OLD, place / "mined")

    def check() -> None:
        require_replaceable(place / "mined")
        if before == "nothing" and not (place / "mined" / "landmarks.json").exists():
            return
        found = open_landmarks(place / "mined")
        assert_same(found, OLD if found.names == OLD.names else NEW)

    kill_at_every_step(
        place,
        setup=(
            "from pathlib import Path\n"
            "from delfjax.mining.mined_files import save_landmarks\n"
            "from tests.unit.mining.test_mined_files import NEW"
        ),
        action="save_landmarks(NEW, Path('mined'))",
        check=check,
    )
    assert_same(open_landmarks(place / "mined"), NEW)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "another"),
        ("version", 3),
        ("version", [1]),
        ("files", None),
        ("files", {"arrays.npz": {"digest": 5, "bytes": []}}),
        ("config", {"radius_m": "far"}),
        ("config", []),
        ("reduction", []),
        ("names", 7),
    ],
)
def test_a_header_with_a_wrong_field_is_refused_in_one_line(
    tmp_path: Path, field: str, value: object
) -> None:
    save_landmarks(OLD, tmp_path / "mined")
    file = tmp_path / "mined" / "landmarks.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(MiningError) as refused:
        open_landmarks(tmp_path / "mined")
    assert str(tmp_path / "mined") in str(refused.value) and "\n" not in str(refused.value)
