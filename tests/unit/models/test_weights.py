"""Weight files: the report of names that do not fit, and delfjax's own format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from delfjax.models import weights
from delfjax.models.weights import WeightsError

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
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "model.json",
        "model.safetensors",
    ]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    weights.save_weights(one, example(), CONFIG)
    weights.save_weights(two, dict(reversed(example().items())), dict(reversed(CONFIG.items())))
    assert one.read_bytes() == two.read_bytes()
    assert one.with_suffix(".json").read_bytes() == two.with_suffix(".json").read_bytes()


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
    weights.save_weights(path.with_name("other.safetensors"), {"kernel": NUMBERS}, CONFIG)
    path.with_name("other.safetensors").replace(path)


def remove_description(path: Path) -> None:
    path.with_suffix(".json").unlink()


def cut_description(path: Path) -> None:
    path.with_suffix(".json").write_text('{"format": ')


def edit_description(**changed: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        beside = path.with_suffix(".json")
        beside.write_text(json.dumps(json.loads(beside.read_text()) | changed))

    return edit


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (
            damage_tensors,
            r"model\.safetensors: damaged, or not the file that model\.json describes",
        ),
        (truncate_tensors, r"model\.safetensors: damaged or not a safetensors file"),
        (swap_tensors, r"model\.safetensors: damaged, or not the file that model\.json describes"),
        (remove_description, r"model\.json: cannot be read"),
        (cut_description, r"model\.json: damaged or not JSON"),
        (edit_description(version=2), r"model\.json: format version is 2, this delfjax reads 1"),
        (
            edit_description(format="other"),
            r"model\.json: format is 'other', expected 'delfjax-weights'",
        ),
        (edit_description(model="resnet101"), r"model\.json: damaged"),
        (edit_description(config=None), r"model\.json: damaged"),
        (edit_description(digest=None), r"model\.json: damaged"),
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


def test_saving_requires_the_safetensors_suffix_and_a_model_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'.pth'"):
        weights.save_weights(tmp_path / "model.pth", example(), CONFIG)
    with pytest.raises(WeightsError, match="model name"):
        weights.save_weights(tmp_path / "model.safetensors", example(), {"stride_layout": "he"})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_safetensors_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.safetensors: no such file"):
        weights.read_safetensors(tmp_path / "absent.safetensors")
