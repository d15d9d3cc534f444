"""Weight files: the report of names that do not fit, and delfjax's own format."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from delfjax.models import weights
from delfjax.models.weights import WeightsError
from tests.kills import kill_at_every_step

NUMBERS = np.arange(12, dtype=np.float32)


def test_the_report_lists_every_name_that_does_not_fit() -> None:
    expected = {"a": (1,), "b": (2, 3), "c": (4,), "d": (5,)}
    report = weights.match_report(expected, {"b": (3, 2), "d": (5,), "y": (), "z": (6,)})
    assert report.unexpected == (("y", ()), ("z", (6,)))
    assert report.missing == (("a", (1,)), ("c", (4,)))
    assert report.misshapen == (("b", (2, 3), (3, 2)),)
    assert not report.fits
    assert str(report).splitlines() == [
        "2 unexpected, 2 missing, 1 misshapen tensors",
        "  unexpected  y ()",
        "  unexpected  z (6,)",
        "  missing     a (1,)",
        "  missing     c (4,)",
        "  misshapen   b (3, 2), expected (2, 3)",
    ]
    assert weights.match_report(expected, dict(reversed(expected.items()))).fits


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({}, "missing     a"),
        ({"a": np.zeros(2), "b": np.zeros(2)}, "unexpected  b"),
        ({"a": np.zeros(3)}, "misshapen   a"),
    ],
)
def test_any_name_that_does_not_fit_is_an_error(found: dict[str, np.ndarray], named: str) -> None:
    with pytest.raises(WeightsError, match=rf"model\.pth: does not fit(.|\n)*{named}"):
        weights.require_match({"a": (2,)}, found, source="model.pth")


# Our own format.

CONFIG = {"name": "resnet50", "stride_layout": "v1.5"}


def example() -> dict[str, np.ndarray]:
    return {
        "kernel": NUMBERS.reshape(3, 4),
        "transposed": NUMBERS.reshape(3, 4).T,
        "counter": np.array(3, np.int64),
        "half": NUMBERS.astype(np.float16),
        "empty": np.zeros((0, 4), np.float32),
    }


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "model.safetensors"
    weights.save_weights(path, example(), CONFIG)
    read, config = weights.load_weights(path)
    assert config == CONFIG
    assert read.keys() == example().keys()
    for name, array in example().items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    # Nothing temporary is left behind.
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    weights.save_weights(one, example(), CONFIG)
    weights.save_weights(two, dict(reversed(example().items())), dict(reversed(CONFIG.items())))
    assert one.read_bytes() == two.read_bytes()


def test_bfloat16_tensors_are_widened_on_the_way(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    weights.save_weights(tmp_path / "own.safetensors", {"x": values}, CONFIG)
    assert weights.load_weights(tmp_path / "own.safetensors")[0]["x"].dtype == np.float32
    safetensors.numpy.save_file({"x": values}, tmp_path / "foreign.safetensors")
    read = weights.read_safetensors(tmp_path / "foreign.safetensors")
    np.testing.assert_array_equal(read["x"], values.astype(np.float32), strict=True)


@pytest.mark.parametrize("change", ["value", "name", "shape", "dtype"])
def test_the_digest_sees_any_change(change: str) -> None:
    before = {"x": np.zeros((2, 3), np.float32)}
    changes: dict[str, dict[str, np.ndarray]] = {
        "value": {"x": np.eye(2, 3, dtype=np.float32)},
        "name": {"y": before["x"]},
        "shape": {"x": before["x"].reshape(3, 2)},
        "dtype": {"x": before["x"].astype(np.int32)},
    }
    assert weights.tensor_digest(before) == weights.tensor_digest(
        {"x": np.zeros((2, 3), np.float32)}
    )
    assert weights.tensor_digest(before) != weights.tensor_digest(changes[change])


def damage_tensors(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate_tensors(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def swap_tensors(path: Path) -> None:
    as_pair(path)
    path.write_bytes(safetensors.numpy.save({"kernel": NUMBERS}))


def describe(path: Path, description: str | None) -> None:
    """Exchange the description inside a file."""
    metadata = None if description is None else {"delfjax": description}
    tensors = safetensors.numpy.load_file(path)
    path.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))


def as_pair(path: Path) -> None:
    """Move the description into a file beside the tensors, as earlier versions wrote it."""
    about = weights.read_description(path)
    path.with_suffix(".json").write_text(json.dumps(about, indent=2))
    describe(path, None)


def remove_description(path: Path) -> None:
    describe(path, None)


def cut_description(path: Path) -> None:
    describe(path, '{"format": ')


def nest_description(path: Path) -> None:
    describe(path, "[" * 100_000)


def edit_description(**changed: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        describe(path, json.dumps(weights.read_description(path) | changed))

    return edit


def edit_pair(**changed: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        as_pair(path)
        beside = path.with_suffix(".json")
        beside.write_text(json.dumps(json.loads(beside.read_text()) | changed))

    return edit


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (
            damage_tensors,
            r"model\.safetensors: damaged, or not the file that its description is about",
        ),
        (truncate_tensors, r"model\.safetensors: damaged or not a safetensors file"),
        (swap_tensors, r"model\.safetensors: damaged, or not the file that its description"),
        (remove_description, r"model\.json: cannot be read"),
        (cut_description, r"model\.safetensors: its description: damaged or not JSON"),
        (nest_description, r"model\.safetensors: its description: damaged or not JSON"),
        (edit_description(version=2), r"model\.safetensors: format version is 2, this .* reads 1"),
        (
            edit_description(format="other"),
            r"model\.safetensors: format is 'other', expected 'delfjax-weights'",
        ),
        (edit_description(model="resnet101"), r"model\.safetensors: damaged"),
        (edit_description(config=None), r"model\.safetensors: damaged"),
        (edit_description(digest=None), r"model\.safetensors: damaged"),
        (edit_pair(version=2), r"model\.json: format version is 2, this delfjax reads 1"),
        (edit_pair(config=None), r"model\.json: damaged"),
    ],
)
def test_damaged_swapped_or_foreign_weights_are_refused_by_name(
    harm: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    weights.save_weights(path, example(), CONFIG)
    harm(path)
    with pytest.raises(WeightsError, match=named):
        weights.load_weights(path)


def test_a_pair_of_an_earlier_version_is_read_and_becomes_one_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights.save_weights(path, example(), CONFIG)
    one = path.read_bytes()
    as_pair(path)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".safetensors"]
    tensors, config = weights.load_weights(path)
    weights.save_weights(path, tensors, config)
    assert path.read_bytes() == one and [*tmp_path.iterdir()] == [path]


def test_a_json_file_that_describes_no_weights_stays(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"tiers": {}}')
    weights.save_weights(tmp_path / "model.safetensors", example(), CONFIG)
    assert (tmp_path / "model.json").read_text() == '{"tiers": {}}'
    assert weights.load_weights(tmp_path / "model.safetensors")[1] == CONFIG


@pytest.mark.parametrize("before", ["nothing", "a file", "a pair"])
def test_weights_that_are_killed_at_any_step_are_the_old_or_the_new_ones(
    tmp_path: Path, before: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = place / "model.safetensors"
    old, new = {"kernel": NUMBERS}, {"kernel": NUMBERS + 1}
    if before != "nothing":
        weights.save_weights(path, old, {**CONFIG, "of": "old"})
    if before == "a pair":
        as_pair(path)

    def check() -> None:
        if before == "nothing" and not path.exists():
            return
        tensors, config = weights.load_weights(path)
        expected = old if config["of"] == "old" else new
        np.testing.assert_array_equal(tensors["kernel"], expected["kernel"])

    kill_at_every_step(
        place,
        setup="import numpy as np\nfrom delfjax.models.weights import save_weights",
        action=(
            "save_weights('model.safetensors', {'kernel': np.arange(1, 13, dtype=np.float32)},"
            " {'name': 'resnet50', 'of': 'new'})"
        ),
        check=check,
    )
    assert weights.load_weights(path)[1]["of"] == "new" and [*place.iterdir()] == [path]


def test_readers_of_weights_that_are_being_replaced_get_one_of_them_whole(tmp_path: Path) -> None:
    path, ended = tmp_path / "model.safetensors", threading.Event()
    made = [{"kernel": NUMBERS + number} for number in range(2)]
    weights.save_weights(path, made[0], {**CONFIG, "number": 0})

    def write() -> None:
        while not ended.is_set():
            for number in range(2):
                weights.save_weights(path, made[number], {**CONFIG, "number": number})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            tensors, config = weights.load_weights(path)
            assert np.array_equal(tensors["kernel"], made[config["number"]]["kernel"])
    finally:
        ended.set()
        writer.join()


def test_saving_requires_the_safetensors_suffix_and_a_model_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'.pth'"):
        weights.save_weights(tmp_path / "model.pth", example(), CONFIG)
    with pytest.raises(WeightsError, match="model name"):
        weights.save_weights(tmp_path / "model.safetensors", example(), {"stride_layout": "he"})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_safetensors_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.safetensors: no such file"):
        weights.read_safetensors(tmp_path / "absent.safetensors")


def test_a_digest_of_control_characters_is_refused_in_printable_text(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    weights.save_weights(file, {"kernel": np.zeros(3, np.float32)}, {"name": "attention"})
    about = json.dumps({**weights.read_description(file), "digest": "\x1b[2J"})
    tensors = {"kernel": np.zeros(3, np.float32)}
    file.write_bytes(safetensors.numpy.save(tensors, metadata={"delfjax": about}))
    with pytest.raises(WeightsError, match=r"expected '\\x1b\[2J'") as refused:
        weights.load_weights(file)
    assert str(refused.value).isprintable()
